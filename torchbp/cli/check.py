"""``torchbp check``: every layer, or a function of the user's, against every property, on this machine."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from torchbp.cli.errors import InputError, require_known
from torchbp.cli.output import console, progress, table, write_json
from torchbp.cli.target import load

if TYPE_CHECKING:
    from torchbp.testing import LayerCase

_TABLE_WIDTH = 100
_COLUMN_MARGIN = 2  # a space and the divider


@dataclass(frozen=True)
class Outcome:
    """What one case of a layer showed for one property: ``pass``, ``fail`` or ``not applicable``."""

    layer: str
    case: str
    property: str
    status: str
    detail: str


@dataclass(frozen=True)
class Target:
    """A function of the user's to check.

    Attributes:
        where: ``module:expression`` or ``file.py:expression``.
        inputs: texts of the inputs.
        reference: as ``where``, or None.
        skip: texts ``name=reason``.
        dtypes: names of dtypes to compare the value in.
        batched: places of the inputs with a batch as their first dimension.
        strict: whether a refusal is a failure.
        compile: whether to run the properties of torch.compile.
        seed: of all draws.
    """

    where: str
    inputs: Sequence[str]
    reference: str | None = None
    skip: Sequence[str] = ()
    dtypes: Sequence[str] = ()
    batched: Sequence[int] = ()
    strict: bool = False
    compile: bool = True
    seed: int = 0


def run_target(target: Target, properties: Sequence[str], *, as_json: bool) -> int:
    """Check a function of the user's, print the report, return the exit code.

    Raises:
        InputError: the function, an input or a property cannot be had.
    """
    import torch

    from torchbp import testing

    require_known("property", properties, [*testing.PROPERTIES, *testing.GROUPS])
    skip = dict(_named_reason(text) for text in target.skip)
    require_known("skip", list(skip), [*testing.PROPERTIES, *testing.GROUPS])
    if not target.inputs:
        raise InputError('--inputs: none given; try --inputs "randn(2, 3)"')
    function = _load("the function", target.where)
    reference = None if target.reference is None else _load("--reference", target.reference)
    with progress() as bar:
        bar.add_task(f"checking {target.where}", total=None)
        try:
            report = testing.check(
                function,
                ", ".join(target.inputs),
                reference=reference,
                properties=list(properties) or None,
                skip=skip,
                dtypes=[getattr(torch, name) for name in target.dtypes] or (torch.float64, torch.float32),
                batched=tuple(target.batched),
                strict=target.strict,
                compile=target.compile,
                seed=target.seed,
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"{target.where}: {error}") from error
    if as_json:
        write_json(report.as_dict(), None)
    else:
        out = console()
        out.print(report)
        for result in report.failures[:1]:
            out.print(f"{result.property} again:\n\n{result.snippet}", markup=False, soft_wrap=True)
    return 0 if report.passed else 1


def _named_reason(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not (equals and reason.strip()):
        raise InputError(f'--skip {text}: must be a property and a reason, e.g. --skip "vmap=not needed"')
    return name.strip(), reason.strip()


def _load(what: str, where: str) -> Any:
    """Return the function, or the constructed module, that an expression means."""
    found = load(what, where)
    from torch.nn import Module

    if inspect.isclass(found) and issubclass(found, Module):
        raise InputError(f"{what} {where}: is a class; construct it, e.g. {where}(...)")
    if not callable(found):
        raise InputError(f"{what} {where}: is no function but {type(found).__name__}")
    return found


def run(layers: Sequence[str], properties: Sequence[str], *, as_json: bool) -> int:
    """Check ``layers`` for ``properties`` (all of them where empty), print the outcome, return the exit code.

    Raises:
        InputError: a layer or a property is unknown.
    """
    from torchbp import testing

    cases = testing.layer_cases()
    known = list(dict.fromkeys(case.layer for case in cases))
    require_known("layer", layers, known)
    require_known("property", properties, list(testing.PROPERTIES))
    chosen = [case for case in cases if not layers or case.layer in layers]
    columns = [name for name in testing.PROPERTIES if not properties or name in properties]

    outcomes = _check(chosen, columns)
    failed = any(outcome.status == "fail" for outcome in outcomes)
    if as_json:
        write_json(_as_dict(outcomes, columns), None)
    else:
        _print(console(), outcomes, columns)
    return 1 if failed else 0


def _check(cases: Sequence[LayerCase], properties: Sequence[str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with progress("case") as bar:
        task = bar.add_task("checking", total=len(cases) * len(properties), case="")
        for case in cases:
            for name in properties:
                bar.update(task, case=f"{case.name}: {name}")
                outcomes.append(_outcome(case, name))
                bar.advance(task)
    return outcomes


def _outcome(case: LayerCase, name: str) -> Outcome:
    try:
        results = case.check([name]).results
    except Exception as error:  # a layer that cannot be checked has not been proved
        return Outcome(case.layer, case.name, name, "fail", f"{type(error).__name__}: {error}")
    for result in results:
        if result.property == name:
            return Outcome(case.layer, case.name, name, result.status, result.detail)
    return Outcome(case.layer, case.name, name, "fail", "the check reported nothing for this property")


def _as_dict(outcomes: Sequence[Outcome], properties: Sequence[str]) -> dict[str, Any]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "passed": counts["fail"] == 0,
        "counts": {status: counts[status] for status in ("pass", "fail", "not applicable")},
        "properties": list(properties),
        "results": [asdict(outcome) for outcome in outcomes],
    }


def _print(target: Console, outcomes: Sequence[Outcome], properties: Sequence[str]) -> None:
    marks = {"pass": "✓", "fail": "✗", "not applicable": "–"}
    if target.options.ascii_only:
        marks = {"pass": "ok", "fail": "FAIL", "not applicable": "-"}
    layers = list(dict.fromkeys(outcome.layer for outcome in outcomes))
    counted: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        counted.setdefault((outcome.layer, outcome.property), Counter())[outcome.status] += 1
    columns = {name: [_cell(counted[layer, name], marks) for layer in layers] for name in properties}

    for group in _groups(columns, first=max(map(len, layers))):
        shown = table("", "layer", *(name.replace("_", "\n") for name in group))
        for layer, *cells in zip(layers, *(columns[name] for name in group), strict=True):
            shown.add_row(layer, *cells)
        target.print(shown)
    for outcome in outcomes:
        if outcome.status == "fail":
            text = f"{marks['fail']} {outcome.case}, {outcome.property}: {outcome.detail}"
            target.print(text, markup=False, soft_wrap=True)
    counts = Counter(outcome.status for outcome in outcomes)
    cases = len({outcome.case for outcome in outcomes})
    summary = f"passed: {counts['pass']}, failed: {counts['fail']}, do not apply: {counts['not applicable']}"
    target.print(f"layers: {len(layers)}, cases: {cases}, {summary}")


def _cell(counts: Counter[str], marks: dict[str, str]) -> str:
    if counts["fail"]:
        return f"{marks['fail']} {counts['fail']}/{counts['fail'] + counts['pass']}"
    return f"{marks['pass']} {counts['pass']}" if counts["pass"] else marks["not applicable"]


def _groups(columns: Mapping[str, Sequence[str]], first: int) -> Iterable[list[str]]:
    """The names of ``columns`` in groups that fit the table's width beside a first column of ``first``."""
    group: list[str] = []
    used = 0
    for name, cells in columns.items():
        width = max(map(len, [*cells, *name.split("_")])) + _COLUMN_MARGIN
        if not group or used + width > _TABLE_WIDTH:
            if group:
                yield group
            group, used = [], 1 + first + _COLUMN_MARGIN
        group.append(name)
        used += width
    yield group
