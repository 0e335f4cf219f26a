"""Weight gradients of every sample apart: one grouped kernel under vmap, against a loop over the samples.

    python benchmarks/per_sample_gradients.py [--threads 1] [--rounds 15]

Each row checks that all four ways agree, then times them in turn and prints medians, and their ratios to
torchbp's ``vmap(grad(...))``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as builtin
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import grad, vmap

import torchbp.nn.functional as F

# Batch, input channels, output channels, image size, kernel size.
SHAPES = ((64, 1, 6, 28, 5), (64, 6, 16, 14, 5), (128, 3, 16, 32, 3), (32, 16, 32, 16, 3), (32, 64, 64, 8, 3))


def ways(x: Tensor, w: Tensor, padding: int) -> dict[str, Callable[[], Tensor]]:
    """Return the four ways to the gradients of a sum of squares, one gradient per sample."""

    def gradient(place: ModuleType) -> Callable[[Tensor, Tensor], Tensor]:
        return grad(lambda w, one: place.conv2d(one[None], w, padding=padding).square().sum())

    return {
        "torchbp, vmap": lambda: vmap(gradient(F), in_dims=(None, 0))(w, x),
        "torchbp, loop": lambda: torch.stack([gradient(F)(w, one) for one in x]),
        "torch, vmap": lambda: vmap(gradient(builtin), in_dims=(None, 0))(w, x),
        "torch, loop": lambda: torch.stack([gradient(builtin)(w, one) for one in x]),
    }


def seconds(call: Callable[[], Tensor]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure every shape and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("batch, channels, image, kernel", title=f"Per-sample weight gradients, {options.threads} threads")
    for batch, channels, outputs, size, kernel in SHAPES:
        x, w = torch.randn(batch, channels, size, size), torch.randn(outputs, channels, kernel, kernel)
        calls = ways(x, w, kernel // 2)
        if len(table.columns) == 1:
            for name in calls:
                table.add_column(name, justify="right")
        expected = calls["torch, loop"]()
        for name, call in calls.items():
            error = float((call() - expected).abs().max() / expected.abs().max())
            assert error < 1e-5, f"{name}: relative error {error}"
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.rounds):
            for name, call in calls.items():
                times[name].append(seconds(call))
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = medians["torchbp, vmap"]
        cells = [f"{1e3 * median:.1f} ms ({median / best:.2f})" for median in medians.values()]
        table.add_row(f"{batch}, {channels} → {outputs}, {size}², {kernel}²", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
