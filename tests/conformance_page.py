"""Write docs/conformance.md: every module and function that PyTorch keeps cases for, and what torchbp makes of them.

    python tests/conformance_page.py [--only NAME]     (make conformance)

The cases are those of test_conformance.py, all of them and in float64: values, first derivatives and, where the
built-in has them, second ones. With ``--only`` the rows whose names contain it are printed and nothing is written.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from test_conformance import (
    FUNCTIONS,
    REFUSED,
    Case,
    builtin_function,
    comparable,
    derivatives,
    equal,
    functional,
    order_of,
    placed,
    tolerance_of,
)
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves

import torchbp.nn as nn
from torchbp.costs.graph import built_in_nodes
from torchbp.nn import functional as F

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"
PREFIX = "nn.functional."
NAMED = 4  # so many built-in nodes of an entry are named
# Nodes that compute nothing: views, copies, casts, and what puts tensors together or takes them apart.
MOVES = {
    *("AccumulateGrad", "Alias", "AsStrided", "Cat", "Clone", "Conj", "Copy", "CopyBackwards", "CopySlices", "Detach"),
    *("Diagonal", "Expand", "Narrow", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes"),
    *("Squeeze", "Stack", "T", "ToCopy", "Transpose", "Unbind", "Unflatten", "UnsafeSplit", "UnsafeView", "Unsqueeze"),
    *("View", "ViewAsComplex", "ViewAsReal"),
}


def functions() -> list[tuple[str, OpInfo]]:
    """Return the entries of torch.nn.functional in PyTorch's operator database, with a name for each."""
    found = []
    for op in op_db:
        if op.name.startswith(PREFIX):
            name = op.name.removeprefix(PREFIX)
            found.append((f"{name} ({op.variant_test_name})" if op.variant_test_name else name, op))
    return sorted(found, key=lambda pair: pair[0])


def modules() -> list[tuple[str, ModuleInfo]]:
    return sorted(((info.name.removeprefix("nn."), info) for info in module_db), key=lambda pair: pair[0])


def has(name: str) -> bool:
    """Tell whether a function, or a module, is torchbp's own."""
    return name.partition(" ")[0] in (FUNCTIONS if name[0].islower() else nn.explicit_layers())


# --------------------------------------------------------------------------------------------------
# What a graph consists of


def computing_nodes(output: Any) -> set[str]:
    """Return the names of the built-in nodes that do more than move data."""
    names = built_in_nodes([t for t in tree_leaves(output) if isinstance(t, torch.Tensor)])
    return {name for name in names if name.removesuffix("Backward") not in MOVES}


def graph_of(case: Case) -> set[str] | None:
    """Return the built-in nodes of a call, or None if nothing is recorded."""
    flat, structure = case.fresh()
    flat = [t.clone() if isinstance(t, torch.Tensor) and t.requires_grad else t for t in flat]  # in place needs no leaf
    whole = case.process
    outputs: list[Any] = []
    case.process = lambda output: outputs.append(output) or whole(output)
    try:
        case.call(flat, structure)
    finally:
        case.process = whole
    leaves = [t for t in tree_leaves(outputs) if isinstance(t, torch.Tensor)]
    return computing_nodes(leaves) if any(t.requires_grad for t in leaves) else None


# --------------------------------------------------------------------------------------------------
# Rows


@dataclass
class Row:
    """An entry: whose it is, how many samples there are, what is wrong with them, what its graphs consist of."""

    name: str
    ours: bool
    samples: int = 0
    refused: int = 0
    failed: int = 0
    recorded: bool = False
    nodes: frozenset[str] = frozenset()

    @property
    def counts(self) -> bool:
        """Tell whether torchbp has it: all samples that it takes pass, and no built-in computes a derivative."""
        return self.ours and self.samples > 0 and not self.failed and not self.nodes

    def __str__(self) -> str:
        if not self.samples:
            return f"| {self.name} | {'torchbp' if self.ours else 'torch'} | 0 | | not of a CPU |"
        verdict = "all" if not self.failed else f"{self.failed} fail"
        if self.refused:
            verdict += f", {self.refused} refused"
        graph = ", ".join(f"`{node}`" for node in sorted(self.nodes)[:NAMED])
        if len(self.nodes) > NAMED:
            graph += f" and {len(self.nodes) - NAMED} more"
        if not graph:
            graph = ("torchbp's Functions" if self.ours else "no computation") if self.recorded else "no gradient"
        return (
            f"| {self.name} | {'torchbp' if self.ours else 'torch'} | {self.samples} | "
            f"{verdict if self.ours else ''} | {graph} |"
        )


def judged(row: Row, pairs: Iterable[tuple[Case, Case | None, int]]) -> Row:
    """Fill a row in from its calls: ours, the built-in's unless that is the same, and the order to compare to."""
    nodes: set[str] = set()
    for mine, theirs, order in pairs:
        row.samples += 1
        if theirs is not None:
            try:
                equal(
                    derivatives(mine, order),
                    derivatives(theirs, order),
                    row.name,
                    tolerance_of(row.name.partition(" ")[0]),
                )
            except Exception:
                row.failed += 1
        found = graph_of(mine)
        if found is not None:
            row.recorded = True
            nodes |= found
    row.nodes = frozenset(nodes)
    return row


def function_row(name: str, op: OpInfo) -> Row:
    plain, row = op.name.removeprefix(PREFIX), Row(name, has(name))
    given = sorted(op.supported_dtypes("cpu"), key=lambda dtype: (dtype != torch.float64, str(dtype)))[:1]
    differentiable = op.supports_autograd and set(given) <= op.supported_backward_dtypes("cpu")

    def pairs() -> Iterator[tuple[Case, Case | None, int]]:
        for sample in (s for dtype in given for s in op.sample_inputs("cpu", dtype, requires_grad=differentiable)):
            arguments = ((sample.input, *sample.args), sample.kwargs)
            if plain in REFUSED and REFUSED[plain][0](arguments[0]):
                row.samples, row.refused = row.samples + 1, row.refused + 1
                continue
            order = order_of(plain, op, arguments[0]) if differentiable else 0
            process = sample.output_process_fn_grad
            if row.ours:
                both = (placed(getattr(F, plain), plain), placed(builtin_function(plain), plain))
                mine, theirs = (Case(function, arguments, process) for function in both)
                yield mine, theirs, order
            else:
                yield Case(op.op, arguments, process), None, 0

    return judged(row, pairs())


def module_row(name: str, info: ModuleInfo) -> Row:
    row = Row(name, has(name))
    places = (nn, torch.nn) if row.ours else (torch.nn,)

    def made(place: Any, given: Any, training: bool) -> torch.nn.Module:
        torch.manual_seed(5)
        made = functools.reduce(getattr, info.name.split(".")[1:], place)
        module = made(*given.constructor_input.args, **given.constructor_input.kwargs)
        return module.to(torch.float64).train(training)

    def pairs() -> Iterator[tuple[Case, Case | None, int]]:
        for training in (True, False):
            for given in info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
            ):
                if given.forward_input is None:
                    continue
                args, kwargs = given.forward_input.args, given.forward_input.kwargs
                layers = [made(place, given, training) for place in places]
                for layer in layers:
                    if any(map(torch.nn.parameter.is_lazy, [*layer.parameters(), *layer.buffers()])):
                        layer(*args, **kwargs)
                parameters = {key for key, _ in layers[0].named_parameters()}
                state = {k: v.detach().requires_grad_(k in parameters) for k, v in layers[0].state_dict().items()}
                cases = [Case(functional(layer), ((state, *args), kwargs)) for layer in layers]
                yield cases[0], cases[1] if row.ours else None, order_of(name, info, ())

    return judged(row, pairs())


# --------------------------------------------------------------------------------------------------
# The page

HEAD = """# PyTorch's own cases

Written by `make conformance`, never by hand. PyTorch's test suite keeps samples for its modules (`common_modules`) and
for the functions of `torch.nn.functional` (`common_methods_invocations`). This is what became of every one of them,
with torch {version}, on a CPU, in float64.

- *whose*: torchbp has the name, or hands out torch's own.
- *samples*, of a module in training and in evaluation mode; *pass*: value, first and second derivatives equal the
  built-in's. What torchbp refuses, or differs in, is in [differences.md](differences.md).
- *derivatives by*: torchbp's Functions, beside views, copies and casts, or the built-in nodes of the graph, by name.

| | in PyTorch's database | torchbp's | with every sample that it takes right, and no built-in node |
|---|---|---|---|
{totals}
"""
TABLE = "| {what} | whose | samples | pass | derivatives by |\n|---|---|---|---|---|\n"


def total(what: str, rows: list[Row]) -> str:
    return f"| {what} | {len(rows)} | {sum(row.ours for row in rows)} | {sum(row.counts for row in rows)} |"


def page(module_rows: list[Row], function_rows: list[Row]) -> str:
    totals = "\n".join((total("modules", module_rows), total("functions", function_rows)))
    parts = [HEAD.format(version=torch.__version__.partition("+")[0], totals=totals)]
    for title, what, rows in (("Modules", "module", module_rows), ("Functions", "function", function_rows)):
        parts.append(f"## {title}\n\n" + TABLE.format(what=what) + "\n".join(map(str, rows)) + "\n")
    return "\n".join(parts)


def rows(only: str = "") -> tuple[list[Row], list[Row]]:
    """Return the rows of all modules and of all functions whose names contain a text."""
    before = torch.get_default_dtype()
    with comparable():
        found = (
            [module_row(name, info) for name, info in modules() if only in name],
            [function_row(name, op) for name, op in functions() if only in name],
        )
    torch.set_default_dtype(before)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of the rows to print")
    arguments = parser.parse_args()
    found = rows(arguments.only)
    if arguments.only:
        print(*found[0], *found[1], sep="\n")
        return
    PAGE.write_text(page(*found), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
