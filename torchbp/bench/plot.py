"""Results as pictures: ratios, and times over the floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from torchbp.bench.peers import FIGURES, FORWARD, STEP, TORCHBP
from torchbp.bench.report import Group, by_family, cases_of, label, preferred_groups, ratios, times_over_floor
from torchbp.bench.results import Results, geometric_mean

_COLORS = ("#1d3557", "#457b9d", "#8ab6c9", "#f4a259")

_TICKS = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]


def plot(results: Results, directory: Path) -> list[tuple[str, Path]]:
    """Draw ``ratios.png`` and ``floors.png`` in ``directory``, made if need be; return captions and paths."""
    directory.mkdir(parents=True, exist_ok=True)
    shown = preferred_groups(results)
    pictures = []
    for caption, name, draw in (
        ("Best built-in time over torchbp's, geometric mean and worst case", "ratios.png", _ratios),
        ("Time over floor, geometric mean", "floors.png", _floors),
    ):
        figure = Figure(figsize=(5.5 * max(len(shown), 1), 7), layout="constrained")
        figure.suptitle(caption)
        if shown:
            axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
            for one, group in zip(axes, shown, strict=True):
                draw(one, results, group)
        figure.savefig(directory / name, dpi=80)
        pictures.append((caption, directory / name))
    return pictures


def _ratios(axes: Axes, results: Results, group: Group) -> None:
    families = by_family(cases_of(results, group))
    bars = {figure: [ratios(members, figure, TORCHBP.name) for members in families.values()] for figure in FIGURES}
    _draw(axes, group, list(families), bars, worst=True)
    axes.set_xlabel("above 1: torchbp is faster; dot: worst")


def _floors(axes: Axes, results: Results, group: Group) -> None:
    families = by_family(cases_of(results, group))
    bars = {
        f"{figure}, {name}": [times_over_floor(members, figure, ours=ours) for members in families.values()]
        for figure in (FORWARD, STEP)
        for name, ours in (("torchbp", True), ("best built-in", False))
    }
    _draw(axes, group, list(families), bars, worst=False)
    axes.set_xlabel("1: the speed of the machine")


def _draw(axes: Axes, group: Group, names: Sequence[str], bars: dict[str, list[list[float]]], *, worst: bool) -> None:
    """Horizontal bars that start at 1: a place for each of ``names`` from the top, in it one for each of ``bars``."""
    height = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = [place + (index - (len(bars) - 1) / 2) * height for place in range(len(names))]
        present = [(place, found) for place, found in zip(places, values, strict=True) if found]
        color = _COLORS[index % len(_COLORS)]
        if not present:
            continue
        beyond = [geometric_mean(found) - 1 for _, found in present]
        axes.barh([place for place, _ in present], beyond, height, left=1, color=color, label=name)
        if worst:
            lowest = [min(found) for _, found in present]
            axes.plot(lowest, [place for place, _ in present], ".", color="black", markersize=3)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in _TICKS if low <= tick <= high], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(label(group), fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
