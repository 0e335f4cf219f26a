"""What a call costs inside explicit(): microseconds over the same call outside, for small tensors.

    python benchmarks/interception.py [--calls 20000] [--repeats 7] [--models GPT-2 ViT]

A call that the block answers is compared to torchbp's own function, a call that it leaves to the built-in outside.
With ``--models`` a training step of models of tests/real_models.py, at their ordinary size, is timed instead: as it is,
converted, in a block, and both.
"""

from __future__ import annotations

import argparse
import sys
import timeit
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as builtin
from rich.console import Console
from rich.table import Table
from torchbp.bench.timing import in_turn

import torchbp
import torchbp.nn.functional as F
from torchbp.autograd.product import matrix_product

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from real_models import MODELS

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


def calls_table(calls: int, repeats: int) -> Table:
    """Time every pair in turn; return the best of the repeats."""
    table = Table("call", "outside, µs", "inside, µs", "more, µs", title="Calls inside explicit()")
    for name, (inside, outside) in pairs().items():
        count = calls // 10 if "conv" in name else calls
        found = []
        for _ in range(repeats):
            bare = microseconds(outside, count)
            with torchbp.explicit() as seen:
                found.append((bare, microseconds(inside, count)))
            assert bool(seen.explicit) == (inside is not outside), f"{name}: {seen}"
        bare, in_block = (min(times) for times in zip(*found, strict=True))
        table.add_row(name, f"{bare:.2f}", f"{in_block:.2f}", f"{in_block - bare:.2f}")
    return table


def step(name: str, converted: bool, explicit: bool) -> Call:
    """Return a training step of a model in float32."""
    row = MODELS[name]
    model, batch = row.build(torch.float32, ordinary=True), row.inputs(torch.float32, ordinary=True)
    if converted:
        torchbp.convert(model)

    def run() -> None:
        model.zero_grad()
        with torchbp.explicit() if explicit else nullcontext():
            row.step(model, batch).backward()

    return run


def models_table(names: list[str], rounds: int) -> Table:
    """Time a step of each model in four ways, in turn; return the medians."""
    ways = {"as it is": (0, 0), "converted": (1, 0), "in explicit()": (0, 1), "both": (1, 1)}
    table = Table("model", *[f"{way}, ms" for way in ways], title="A training step, float32")
    for name in names:
        times = in_turn({way: step(name, bool(a), bool(b)) for way, (a, b) in ways.items()}, rounds)
        table.add_row(name, *[f"{1e3 * times[way].median:.0f}" for way in ways])
    return table


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=[name for name, row in MODELS.items() if row.ordinary])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.models:
        Console().print(models_table(options.models, options.repeats))
    else:
        Console().print(calls_table(options.calls, options.repeats))


if __name__ == "__main__":
    main()
