"""What the examples share: tables and matrices as plain text, grids as pictures, one command line."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

FORWARD = "tab:blue"
BACKWARD = "tab:red"


def number(value: float, digits: int = 4) -> str:
    """Return ``value`` with ``digits`` decimals; a zero never carries a minus sign."""
    text = f"{float(value):.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 4) -> str:
    """Return a table: floats with ``digits`` decimals and right-aligned, text left-aligned."""
    rows = [list(row) for row in rows]
    right = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))]
    cells = [
        [number(c, digits) if isinstance(c, float) else f"{c:,}" if isinstance(c, int) else c for c in row]
        for row in rows
    ]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def matrix(title: str, values: Any, digits: int = 2) -> str:
    """Return a matrix (nested lists or a tensor) under its title, columns aligned."""
    values = values.tolist() if hasattr(values, "tolist") else values
    rows = [[number(v, digits) for v in row] for row in values]
    width = max(len(c) for row in rows for c in row)
    return "\n".join([title, *(" ".join(c.rjust(width) for c in row) for row in rows)])


def beside(*blocks: str, gap: int = 4) -> str:
    """Return text blocks next to each other, the first on the left."""
    split = [block.split("\n") for block in blocks]
    height = max(map(len, split))
    widths = [max(map(len, lines)) for lines in split]
    padded = [lines + [""] * (height - len(lines)) for lines in split]
    joined = (
        (" " * gap).join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in zip(*padded, strict=True)
    )
    return "\n".join(row.rstrip() for row in joined)


def grid(ax: Any, values: Any, title: str, digits: int = 0, boxes: Sequence[tuple] = ()) -> None:
    """Draw a matrix on a matplotlib axis; zeros grey, each box a (row, column, height, width, colour)."""
    from matplotlib.patches import Rectangle

    values = values.tolist() if hasattr(values, "tolist") else values
    largest = max(abs(v) for row in values for v in row) or 1.0
    ax.imshow([[v / largest for v in row] for row in values], cmap="PuOr_r", vmin=-2.0, vmax=2.0)
    for r, row in enumerate(values):
        for c, v in enumerate(row):
            ax.text(c, r, number(v, digits), ha="center", va="center", color="black" if v else "0.6")
    height, width = len(values), len(values[0])
    ax.set_xticks([c - 0.5 for c in range(1, width)], labels=[])
    ax.set_yticks([r - 0.5 for r in range(1, height)], labels=[])
    ax.grid(color="0.8")
    ax.tick_params(length=0)
    for r, c, h, w, colour in boxes:
        shape = Rectangle((c - 0.46, r - 0.46), w - 0.08, h - 0.08, fill=False, ec=colour, lw=2.5, zorder=3)
        ax.add_patch(shape)
    ax.set_title(title, fontsize=10)


def save(fig: Any, path: str, dpi: int = 90) -> None:
    """Write a matplotlib figure as a PNG of 64 colours, a third of the usual size."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    Image.open(buffer).convert("RGB").quantize(64).save(path, format="PNG", optimize=True)


def run(main: Callable[[], None], plot: Callable[[str], None]) -> None:
    """Print the example, or draw its picture where the command line says ``--plot FILE``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", metavar="FILE", help="write the picture to FILE instead of printing")
    file = parser.parse_args().plot
    if file:
        plot(file)
    else:
        main()
