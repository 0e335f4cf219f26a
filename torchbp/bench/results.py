"""What the benchmark found: written to JSON and CSV, read again, and two runs compared."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torchbp.bench.peers import is_ours
from torchbp.costs.timing import Timing

OK, WRONG, FAILED = "ok", "wrong", "failed"

Timings = Mapping[str, Timing]


@dataclass
class CaseResult:
    """One case under one setting.

    Attributes:
        status: ``ok``; ``wrong``, a result of torchbp's is off by more than rounding; ``failed``, it raised or
            ended the process. The last two are not timed.
        detail: what was wrong, or why a built-in peer is missing.
        errors: by peer and tensor, the largest error against float64 relative to the largest value.
        saved_bytes: by library, what a step keeps for backward without the parameters.
        floors: by figure, the least seconds; see :mod:`torchbp.bench.floor`.
        timings: by figure and peer.
    """

    case: str
    family: str
    allocator: str
    threads: int
    dtype: str
    status: str = OK
    detail: str = ""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    saved_bytes: dict[str, int] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    timings: dict[str, dict[str, Timing]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseResult:
        """The inverse of ``dataclasses.asdict``; a number written as null was not finite."""
        timings = {
            figure: {peer: Timing(**timing) for peer, timing in peers.items()}
            for figure, peers in values["timings"].items()
        }
        errors = {
            peer: {name: math.inf if error is None else error for name, error in found.items()}
            for peer, found in values["errors"].items()
        }
        return cls(**{**values, "timings": timings, "errors": errors})


@dataclass(frozen=True)
class Resident:
    """Peak resident size of a fresh process that runs three steps of a case, and its size before them, in bytes."""

    case: str
    peer: str
    allocator: str
    threads: int
    before: int
    peak: int


@dataclass
class Results:
    """One run of the benchmark.

    Attributes:
        machine: what it ran on; see :mod:`torchbp.bench.machine`.
        command: what was typed.
        complete: false where the run was interrupted.
        left_out: layers of the suite that torchbp.nn takes from torch.nn.
        notes: what could not be measured, and why.
        cases: one entry for each case and setting.
        resident: peak resident sizes.
    """

    machine: dict[str, str]
    command: str
    complete: bool = False
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cases: list[CaseResult] = field(default_factory=list)
    resident: list[Resident] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; times in seconds, memory in bytes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Results:
        """The inverse of :meth:`to_dict`."""
        cases = [CaseResult.from_dict(case) for case in values["cases"]]
        resident = [Resident(**entry) for entry in values["resident"]]
        return cls(**{**values, "cases": cases, "resident": resident})


@dataclass(frozen=True)
class Row:
    """One timing, as a line of the CSV file; times in seconds.

    ``ratio`` is the median of the best built-in peer over this median: above 1 this one is faster.
    """

    family: str
    case: str
    allocator: str
    threads: int
    dtype: str
    figure: str
    peer: str
    median: float
    low: float
    high: float
    rounds: int
    floor: float
    ratio: float


@dataclass(frozen=True)
class Change:
    """A ratio of torchbp's that differs between two runs by more than the spread of either."""

    row: Row
    old_ratio: float
    new_ratio: float

    @property
    def faster(self) -> bool:
        """Whether the newer ratio is the better one."""
        return self.new_ratio > self.old_ratio


def best_builtin(timings: Timings) -> tuple[str, Timing]:
    """Return the name and the timing of the built-in peer with the smallest median."""
    return min(
        ((name, timing) for name, timing in timings.items() if not is_ours(name)), key=lambda entry: entry[1].median
    )


def ratio(timings: Timings, peer: str) -> float:
    """Return the best built-in median over the median of ``peer``: above 1 ``peer`` is faster."""
    return best_builtin(timings)[1].median / timings[peer].median


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of ``values``, all positive and at least one."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def rows(results: Results) -> list[Row]:
    """Return every timing of ``results`` as a row."""
    return [
        Row(
            result.family,
            result.case,
            result.allocator,
            result.threads,
            result.dtype,
            figure,
            peer,
            timing.median,
            timing.low,
            timing.high,
            timing.rounds,
            result.floors[figure],
            ratio(timings, peer),
        )
        for result in results.cases
        for figure, timings in result.timings.items()
        for peer, timing in timings.items()
    ]


def write_csv(results: Results, path: Path) -> None:
    """Write :func:`rows` to ``path``, a line each under the names of the fields."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in fields(Row))
        writer.writerows([getattr(row, column.name) for column in fields(Row)] for row in rows(results))


def read(path: Path) -> Results:
    """Read what ``--json`` wrote.

    Raises:
        ValueError: the file is something else.
    """
    try:
        return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("holds no results of torchbp bench") from error


def read_rows(path: Path) -> list[Row]:
    """Read the timings of a file that ``--csv`` or ``--json`` wrote.

    Raises:
        ValueError: the file is something else.
    """
    if path.suffix.lower() != ".csv":
        return rows(read(path))
    types = {"threads": int, "rounds": int, **dict.fromkeys(("median", "low", "high", "floor", "ratio"), float)}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames != [column.name for column in fields(Row)]:
                raise ValueError("other columns")
            return [Row(**{name: types.get(name, str)(value) for name, value in line.items()}) for line in lines]
    except (ValueError, TypeError) as error:
        raise ValueError("holds no results of torchbp bench") from error


def compare(old: Sequence[Row], new: Sequence[Row]) -> tuple[list[Change], int]:
    """Return the ratios of torchbp's that changed, the largest change first, and how many were compared.

    Times of two runs mean nothing beside each other, ratios do. A ratio has changed if the ranges that the quartiles
    of both sides span do not overlap.
    """
    before, after = _ratio_ranges(old), _ratio_ranges(new)
    both = [key for key in after if key in before]
    changes = []
    for key in both:
        (old_row, old_low, old_high), (new_row, new_low, new_high) = before[key], after[key]
        if new_low > old_high or new_high < old_low:
            changes.append(Change(new_row, old_row.ratio, new_row.ratio))
    changes.sort(key=lambda change: -abs(math.log(change.new_ratio / change.old_ratio)))
    return changes, len(both)


_Key = tuple[str, str, int, str, str]


def _ratio_ranges(found: Sequence[Row]) -> dict[tuple[_Key, str], tuple[Row, float, float]]:
    groups: dict[_Key, list[Row]] = {}
    for row in found:
        groups.setdefault((row.case, row.allocator, row.threads, row.dtype, row.figure), []).append(row)
    ranges = {}
    for key, group in groups.items():
        best = min((row for row in group if not is_ours(row.peer)), key=lambda row: row.median)
        for row in group:
            if is_ours(row.peer):
                ranges[key, row.peer] = (row, best.low / row.high, best.high / row.low)
    return ranges
