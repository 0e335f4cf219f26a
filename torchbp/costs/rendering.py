"""The table of a report: for rich, as text, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from torchbp.costs.report import CostReport, Row

if TYPE_CHECKING:
    from rich.console import Group

_NOTHING = "–"
_FIGURES = {"forward": "forward", "input_gradient": "∂input", "weight_gradient": "∂weight", "backward": "backward"}
_NOTE = "before → after conversion, one number where both are the same; *: converted"
_BEFORE, _AFTER = "#f4a259", "#1d3557"


@dataclass(frozen=True)
class _Column:
    """Cells, one for each row of a table; ``values`` are the numbers before and after, for bars."""

    title: str
    cells: list[str]
    group: str = ""
    values: list[tuple[float | None, float | None]] = field(default_factory=list)
    numeric: bool = True


def _rows(report: CostReport) -> list[Row]:
    if report.elsewhere is None:
        return list(report.rows)
    return [*report.rows, report.elsewhere, report.total]


def _named(rows: list[Row]) -> _Column:
    return _Column("layer", [row.name + (f" ×{row.calls}" if row.calls > 1 else "") for row in rows], numeric=False)


def _described(rows: list[Row]) -> list[_Column]:
    shapes = [", ".join("×".join(map(str, shape)) or "scalar" for shape in row.output_shapes) for row in rows]
    return [
        _Column("type", [row.type + ("*" if row.converted else "") for row in rows], numeric=False),
        _Column("output", shapes, numeric=False),
        _Column("parameters", [_short(row.parameters) for row in rows]),
    ]


def _numbers(rows: list[Row], title: str, group: str, get: attrgetter[Any], shown: Callable[[float], str]) -> _Column:
    values = [(get(row.before), get(row.after)) for row in rows]
    cells = []
    for pair in values:
        before, after = (_NOTHING if value is None else shown(value) for value in pair)
        cells.append(before if before == after else f"{before} → {after}")
    return _Column(title, cells, group, values)


def _kept(rows: list[Row]) -> _Column:
    return _numbers(rows, "kept for backward", "", attrgetter("saved_bytes"), _binary)


def _products(rows: list[Row]) -> list[_Column]:
    return [
        _numbers(rows, title, "multiply-adds", attrgetter(f"multiply_adds.{name}"), _short)
        for name, title in _FIGURES.items()
    ]


def _times(rows: list[Row]) -> list[_Column]:
    if rows[0].before.seconds is None:
        return []
    return [
        _numbers(rows, title, "milliseconds", attrgetter(f"seconds.{name}"), _milliseconds)
        for name, title in _FIGURES.items()
    ]


def _short(count: float) -> str:
    """Return a number with three digits, and a letter for the power of a thousand."""
    for letter in ("", "k", "M", "G", "T"):
        if abs(count) < 999.5 or letter == "T":
            break
        count /= 1000
    return f"{count:.0f}{letter}" if not letter or abs(count) >= 99.95 else f"{count:.3g}{letter}"


def _binary(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.1f} {unit}"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if abs(value) >= least), 3)
    return f"{value:.{digits}f}"


def _title(report: CostReport) -> str:
    return f"{report.total.type}, torch {report.torch}, {report.threads} thread{'s' if report.threads > 1 else ''}"


def _missing(package: str, error: ImportError) -> ImportError:
    message = f"the table needs {package}, install it with: pip install torchbp[cli]"
    return ModuleNotFoundError(message, name=error.name)


def table(report: CostReport) -> Group:
    """Return the tables: shapes and memory; multiply-adds; times, if there are any."""
    try:
        from rich import box
        from rich.console import Group
        from rich.table import Table
    except ImportError as error:
        raise _missing("rich", error) from error
    rows = _rows(report)
    tables: list[Any] = []
    for columns in ([*_described(rows), _kept(rows)], _products(rows), _times(rows)):
        if not columns:
            continue
        title = columns[0].group or _title(report)
        made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns = [_named(rows), *columns]
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.numeric else "left"
            made.add_column(column.title, justify=justify, overflow="fold")
        for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
            made.add_row(*cells, end_section=number == len(report.rows) - 1)
        tables.append(made)
    return Group(*tables, _NOTE)


def text(report: CostReport) -> str:
    """Return the tables as text, as wide as they are."""
    shown = table(report)
    from rich.console import Console

    console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(shown, markup=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def draw(report: CostReport, path: str | PathLike[str]) -> None:
    """Write one table of all columns as a picture, with bars behind the numbers: before, and after below."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _missing("matplotlib", error) from error
    rows = _rows(report)
    columns = [_named(rows), *_described(rows), *_products(rows), _kept(rows), *_times(rows)]
    widths = [max(map(len, [*column.cells, column.title, column.group])) + 3 for column in columns]
    width, height = sum(widths), len(rows) + 4
    figure = Figure(figsize=(0.085 * width, 0.2 * height))
    axes = figure.add_axes((0.01, 0, 0.98, 1), xlim=(0, width), ylim=(len(rows) + 1, -3.3))
    axes.set_axis_off()
    style: dict[str, Any] = {"family": "monospace", "fontsize": 9, "verticalalignment": "center"}
    axes.text(0, -2.6, _title(report), weight="bold", **style)
    axes.text(0, len(rows) + 0.3, _NOTE, **style)
    left = 0.0
    for column, wide in zip(columns, widths, strict=True):
        place: dict[str, Any] = {"x": left, "horizontalalignment": "left"}
        if column.numeric:
            place = {"x": left + wide - 2, "horizontalalignment": "right"}
        axes.text(y=-1.4, s=f"{column.group}\n{column.title}", weight="bold", **style, **place)
        for y, cell in enumerate(column.cells):
            axes.text(y=y, s=cell, **style, **place)
        layers = column.values[: len(report.rows)]
        most = max([value for pair in layers for value in pair if value is not None], default=0) or 1
        for side, (color, shift) in enumerate(((_BEFORE, -0.22), (_AFTER, 0.22))):
            lengths = [(wide - 1.5) * (pair[side] or 0) / most for pair in layers]
            axes.barh([y + shift for y in range(len(layers))], lengths, 0.4, left, color=color, alpha=0.3, linewidth=0)
        left += wide
    for edge in (-0.6, len(report.rows) - 0.5):
        axes.axhline(edge, color="black", linewidth=0.6)
    figure.savefig(path, format="png", dpi=100)
