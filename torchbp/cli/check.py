"""``torchbp check``: every layer against every property, on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from torchbp.cli.errors import require_known
from torchbp.cli.output import console, progress, table, write_json

if TYPE_CHECKING:
    from torchbp.testing import LayerCase

_TABLE_WIDTH = 100
_COLUMN_MARGIN = 2  # a space and the divider


@dataclass(frozen=True)
class Outcome:
    """What one case of a layer showed for one property: ``pass``, ``fail`` or ``skip``."""

    layer: str
    case: str
    property: str
    status: str
    detail: str


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
        "counts": {status: counts[status] for status in ("pass", "fail", "skip")},
        "properties": list(properties),
        "results": [asdict(outcome) for outcome in outcomes],
    }


def _print(target: Console, outcomes: Sequence[Outcome], properties: Sequence[str]) -> None:
    marks = {"pass": "✓", "fail": "✗", "skip": "–"}
    if target.options.ascii_only:
        marks = {"pass": "ok", "fail": "FAIL", "skip": "-"}
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
    summary = f"passed: {counts['pass']}, failed: {counts['fail']}, do not apply: {counts['skip']}"
    target.print(f"layers: {len(layers)}, cases: {cases}, {summary}")


def _cell(counts: Counter[str], marks: dict[str, str]) -> str:
    if counts["fail"]:
        return f"{marks['fail']} {counts['fail']}/{counts['fail'] + counts['pass']}"
    return f"{marks['pass']} {counts['pass']}" if counts["pass"] else marks["skip"]


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
