"""The picture ``torchbp train`` leaves: both loss curves and the distance between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure

from torchbp.cli.errors import InputError

_FORMATS = ("png", "pdf", "svg")
# The first side is drawn wide and pale, the second thin and dark on top: equal curves are both seen.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#f4a259", "linewidth": 4.0},
    {"color": "#1d3557", "linewidth": 1.2},
)


def image_format(path: Path) -> str:
    """The format ``path`` asks for by its ending, ``png`` where it has none.

    Raises:
        InputError: the format is none of png, pdf and svg.
    """
    wanted = path.suffix[1:].lower() or "png"
    if wanted not in _FORMATS:
        raise InputError(f"--plot {path}: format {wanted!r} is none of {', '.join(_FORMATS)}")
    return wanted


def plot_losses(path: Path, losses: Mapping[str, Sequence[float]], title: str) -> None:
    """Draw the loss of every step and its running mean for each side; for two sides their difference too."""
    figure = Figure(figsize=(8, 6 if len(losses) == 2 else 4), layout="constrained")
    if len(losses) == 2:
        curves, distance = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        apart = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
        distance.plot(range(1, len(apart) + 1), apart, color="#6c757d", linewidth=0.8)
        if any(value > 0 for value in apart):
            distance.set_yscale("log")
        distance.set_ylabel("difference")
        bottom = distance
    else:
        curves = bottom = figure.subplots()
    for (name, values), style in zip(losses.items(), _STYLES, strict=False):
        steps = numpy.arange(1, len(values) + 1)
        window = max(1, len(values) // 40)
        means = numpy.convolve(values, numpy.full(window, 1 / window), mode="valid")
        curves.plot(steps, values, color=style["color"], linewidth=0.5, alpha=0.4)
        curves.plot(steps[window - 1 :], means, label=f"{name}, mean of {window} steps", **style)
    curves.set_title(title)
    curves.set_ylabel("loss")
    curves.set_ylim(bottom=0)
    curves.legend()
    curves.grid(alpha=0.3)
    bottom.set_xlabel("step")
    figure.savefig(path, format=image_format(path), dpi=150)
