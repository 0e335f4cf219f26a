"""Write docs/real-models.md: what becomes of models of other packages when they are converted.

    python tests/real_models_page.py [--only NAME]     (make models)

The models are those of real_models.py at their tiny size, the comparison that of test_real_models.py. With ``--only``
the rows whose names contain it are printed and nothing is written.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch
from real_models import MODELS, RealModel
from test_real_models import gradients, in_float32, relative_difference, relative_error

import torchbp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "real-models.md"
NOTHING = " computes nothing"
HEAD = """# Models of other packages, converted

Written by `make models`, never by hand, with torch {torch}, {packages}.
Each model is built from a small configuration with random weights and converted by `torchbp.convert`; nothing of it is
changed otherwise.

- *converted*: the layers that became torchbp's, of all modules without children that compute something.
- *float64*: the largest difference of any parameter's gradient, by the largest entry of that gradient plus 1e-4 of the
  largest entry of all (a bias before a normalisation, say, has a gradient that is zero but for rounding).
- *float32*: the error of all gradients together, PyTorch's and torchbp's, against float64.
- *left*: the classes that were left. They compute by functions: [use-it-in-your-model.md](use-it-in-your-model.md).

timm and pytorchcv have no rows: they require torchvision, which replaces a torch without CUDA by one with it.

| model | of | converted | float64 | float32: PyTorch | torchbp | left |
|---|---|---|---|---|---|---|
"""


def line(name: str, row: RealModel) -> str:
    theirs, batch = row.build(), row.inputs()
    mine = copy.deepcopy(theirs)
    report = torchbp.convert(mine)
    double, _ = relative_difference(*(gradients(row, model, batch)[1] for model in (mine, theirs)))
    exact, theirs, mine, wide, batch = in_float32(row)
    sought = gradients(row, exact, wide)[1]
    single = [relative_error(gradients(row, model, batch)[1], sought) for model in (theirs, mine)]
    computing = [reason for reason in report.left.values() if not reason.endswith(NOTHING)]
    kinds = Counter(reason.partition(" overrides")[0].rpartition(".")[2] for reason in computing)
    left = ", ".join(f"{count} `{kind}`" for kind, count in kinds.most_common())
    cells = [name, row.package, f"{len(report)} of {len(report) + len(computing)}"]
    cells += [f"{value:.0e}" for value in (double, *single)]
    return f"| {' | '.join([*cells, left])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of the rows to print")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for name, row in MODELS.items():
        if arguments.only in name:
            lines.append(line(name, row))
            print(lines[-1], file=sys.stderr)
    if not arguments.only:
        packages = sorted({row.package.replace("_", "-") for row in MODELS.values()})
        head = HEAD.format(
            torch=torch.__version__.partition("+")[0], packages=", ".join(f"{p} {version(p)}" for p in packages)
        )
        PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
