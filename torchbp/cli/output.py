"""What every command prints with: consoles, progress bars, JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from torchbp.cli.errors import InputError

_PIPED_WIDTH = 100


def console(*, stderr: bool = False) -> Console:
    """A console 100 columns wide where the output is not a terminal (``COLUMNS`` overrides it)."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made = Console(stderr=stderr, highlight=False, width=_PIPED_WIDTH)
    return made


def progress(*fields: str) -> Progress:
    """A progress bar on stderr, none where stderr is not a terminal; ``fields`` are shown after the bar."""
    target = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in fields),
        TimeRemainingColumn(),
        console=target,
        transient=True,
        disable=not target.is_terminal,
    )


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose other columns are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=True)
    return made


def write_json(results: Any, path: Path | None) -> None:
    """Write ``results`` as JSON to ``path``, or to stdout where ``path`` is None or ``-``.

    JSON has no NaN and no infinity: they are written as null.
    """
    text = json.dumps(_finite(results), indent=2, allow_nan=False) + "\n"
    if path is None or str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        path.write_text(text, encoding="utf-8")


def require_writable(option: str, path: Path) -> None:
    """Raise InputError unless a file can be written at ``path``, which is left as it was."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {error.strerror}") from error
    if not existed:
        with contextlib.suppress(OSError):
            path.unlink()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
