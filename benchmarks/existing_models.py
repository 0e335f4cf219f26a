"""A training step of models of other packages, as they come and converted, at ordinary small sizes.

    python benchmarks/existing_models.py [--only NAME] [--threads 1] [--rounds 5] [--keep-memory] [--markdown]

The gradients of a step are compared in float64 first; then, from the same weights in float32, steps (gradients set to
none, forward, backward, SGD) are timed in turn, and what one keeps for its backward pass is counted. ``--keep-memory``
has freed memory kept, for both sides. Needs the extra ``models``.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torchbp.bench.timing import in_turn

import torchbp
from torchbp.testing import saved_bytes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from real_models import MODELS, RealModel

COLUMNS = ("model", "converted", "torch, ms", "torchbp, ms", "ratio", "torch keeps, MiB", "torchbp keeps, MiB")


def step(row: RealModel, model: nn.Module, batch: dict[str, Any]) -> Callable[[], None]:
    """Return a training step."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def run() -> None:
        optimizer.zero_grad()
        row.step(model, batch).backward()
        optimizer.step()

    return run


def check(name: str, row: RealModel) -> torchbp.ConversionReport:
    """Compare the gradients of a step in float64, where rounding hides nothing; return what was converted."""
    theirs, batch = row.build(torch.float64, ordinary=True), row.inputs(torch.float64, ordinary=True)
    mine = copy.deepcopy(theirs)
    report = torchbp.convert(mine)
    for model in (theirs, mine):
        row.step(model, batch).backward()
    found, expected = ([p.grad for p in model.parameters() if p.grad is not None] for model in (mine, theirs))
    error = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    error /= max(float(b.abs().max()) for b in expected)
    if error > 1e-9:
        raise AssertionError(f"{name}: gradients differ by {error} of the largest")
    return report


def measured(name: str, row: RealModel, rounds: int | None) -> list[str]:
    """Return the cells of a model's line."""
    report = check(name, row)
    theirs, batch = row.build(torch.float32, ordinary=True), row.inputs(torch.float32, ordinary=True)
    mine = copy.deepcopy(theirs)
    torchbp.convert(mine)
    kept = [
        saved_bytes(lambda model=model: row.step(model, batch), exclude=model.parameters()) for model in (theirs, mine)
    ]
    times = in_turn({"torch": step(row, theirs, batch), "torchbp": step(row, mine, batch)}, rounds)
    torch_ms, torchbp_ms = (1e3 * times[side].median for side in ("torch", "torchbp"))
    cells = [name, f"{len(report)} of {report.total}", f"{torch_ms:.0f}", f"{torchbp_ms:.0f}"]
    return [*cells, f"{torch_ms / torchbp_ms:.2f}", *(f"{count / 2**20:.1f}" for count in kept)]


def main() -> None:
    """Measure and print every model that has an ordinary size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of the models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None, help="how often each step is timed")
    parser.add_argument("--keep-memory", action="store_true", help="torchbp.allocator.keep_freed_memory() first")
    parser.add_argument("--markdown", action="store_true", help="print the lines of a Markdown table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep_memory:
        torchbp.allocator.keep_freed_memory()
    warnings.simplefilter("ignore")
    table = Table(*COLUMNS, title=f"{options.threads} threads, float32")
    for name, row in MODELS.items():
        if row.ordinary is not None and options.only in name:
            cells = measured(name, row, options.rounds)
            table.add_row(*cells)
            if options.markdown:
                print(f"| {' | '.join(cells)} |", flush=True)
    if not options.markdown:
        Console().print(table)


if __name__ == "__main__":
    main()
