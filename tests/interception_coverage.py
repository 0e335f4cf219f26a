"""Print whose nodes the graphs of real models consist of: converted, in a block of explicit(), or both.

    python tests/interception_coverage.py [--only NAME]

The models are those of real_models.py at their tiny size. Counted are the built-in nodes that compute: neither views,
copies, casts nor what puts tensors together. The table is in docs/interception.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import warnings
from collections import Counter

import torch
from conformance_page import MOVES
from real_models import MODELS, RealModel

import torchbp
from torchbp.costs.graph import built_in_nodes


def built_in(loss: torch.Tensor) -> Counter[str]:
    """Return how often each kind of built-in node computes a part of a loss."""
    found = {name.removesuffix("Backward"): count for name, count in built_in_nodes([loss]).items()}
    return Counter({name: count for name, count in found.items() if name not in MOVES})


def left(row: RealModel, converted: bool, explicit: bool) -> Counter[str]:
    """Return the built-in nodes of a model's loss."""
    model, batch = row.build(), row.inputs()
    if converted:
        torchbp.convert(model)
    with torchbp.explicit() if explicit else contextlib.nullcontext():
        return built_in(row.step(model, batch))


def line(name: str, row: RealModel) -> str:
    counts = [left(row, converted, explicit) for converted, explicit in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert counts[2] == counts[3]
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts[2].most_common())
    return f"| {name} | {' | '.join(str(count.total()) for count in counts[:3])} | {kinds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of the models")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    print("| model | as it is | converted | in explicit() | which |\n|---|---|---|---|---|")
    for name, row in MODELS.items():
        if only in name and importlib.util.find_spec(row.package) is not None:
            print(line(name, row), flush=True)


if __name__ == "__main__":
    main()
