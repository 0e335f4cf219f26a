"""What a call costs inside explicit(): microseconds over the same call outside, for small tensors.

    python benchmarks/interception.py [--calls 20000] [--repeats 7]

A call that the block answers is compared to torchbp's own function, a call that it leaves to the built-in outside.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable

import torch
import torch.nn.functional as builtin
from rich.console import Console
from rich.table import Table

import torchbp
import torchbp.nn.functional as F
from torchbp.autograd.product import matrix_product

Call = Callable[[], object]


def pairs() -> dict[str, tuple[Call, Call]]:
    """Return by name what is called inside the block, and what outside does the same."""
    x, w = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    image, kernel = torch.randn(1, 1, 8, 8, requires_grad=True), torch.randn(1, 1, 3, 3, requires_grad=True)
    same: dict[str, Call] = {
        "x.dim()": lambda: x.dim(),
        "x.shape": lambda: x.shape,
        "x + w": lambda: x + w,
        "x.view(16)": lambda: x.view(16),
        "torch.exp(x)": lambda: torch.exp(x),
    }
    return {
        "x.relu()": (lambda: x.relu(), lambda: F.relu(x)),
        "F.relu(x)": (lambda: builtin.relu(x), lambda: F.relu(x)),
        "x.softmax(-1)": (lambda: x.softmax(-1), lambda: F.softmax(x, -1)),
        "F.linear(x, w)": (lambda: builtin.linear(x, w), lambda: F.linear(x, w)),
        "x @ w": (lambda: x @ w, lambda: matrix_product(x, w)),
        "F.conv2d(image, kernel)": (lambda: builtin.conv2d(image, kernel), lambda: F.conv2d(image, kernel)),
        **{name: (call, call) for name, call in same.items()},
    }


def microseconds(call: Call, calls: int) -> float:
    """Return how long one call takes."""
    return 1e6 * timeit.timeit(call, number=calls) / calls


def main() -> None:
    """Time every pair in turn, and print the best of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("call", "outside, µs", "inside, µs", "more, µs", title="Calls inside explicit()")
    for name, (inside, outside) in pairs().items():
        calls = options.calls // 10 if "conv" in name else options.calls
        found = []
        for _ in range(options.repeats):
            bare = microseconds(outside, calls)
            with torchbp.explicit() as seen:
                found.append((bare, microseconds(inside, calls)))
            assert bool(seen.explicit) == (inside is not outside), f"{name}: {seen}"
        bare, in_block = (min(times) for times in zip(*found, strict=True))
        table.add_row(name, f"{bare:.2f}", f"{in_block:.2f}", f"{in_block - bare:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
