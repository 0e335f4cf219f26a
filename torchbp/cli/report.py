"""The results of ``torchbp train`` as tables and as JSON."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import torch
from rich.console import Console

from torchbp import allocator
from torchbp.cli.compare import LayerComparison
from torchbp.cli.data import CLASSES, Digits
from torchbp.cli.info import version
from torchbp.cli.output import table
from torchbp.cli.train import Settings, Side

_DIFFERENCES = ("output", "input", "weight", "bias")


def as_dict(
    settings: Settings, digits: Digits, layers: list[LayerComparison], sides: dict[str, Side]
) -> dict[str, Any]:
    """Everything ``torchbp train`` measured, in JSON's types; seconds and bytes throughout."""
    return {
        "versions": {"torchbp": version(), "torch": torch.__version__, "python": platform.python_version()},
        "settings": {
            **asdict(settings),
            **{name: _text(getattr(settings, name)) for name in ("root", "plot", "json")},
            "threads": torch.get_num_threads(),
        },
        "data": {
            "training_images": len(digits.train_images),
            "test_images": len(digits.test_images),
            "image_size": digits.image_size,
            "classes": CLASSES,
        },
        "allocator": {"keeps_freed_memory": allocator.keeps_freed_memory(), "unavailable": allocator.unavailable()},
        "layers": [asdict(layer) for layer in layers],
        "largest_difference": largest_difference(layers),
        "sides": {
            name: {
                "test_accuracy": side.test_accuracy,
                "losses": side.losses,
                "median_step_seconds": median(side.step_seconds),
                "saved_bytes": side.saved_bytes,
            }
            for name, side in sides.items()
        },
        **ratios(sides),
    }


def ratios(sides: dict[str, Side]) -> dict[str, float | None]:
    """``torchbp.nn`` over ``torch.nn``: median step time, bytes kept for backward; None with one side."""
    if len(sides) == 1:
        return {"step_time_ratio": None, "saved_bytes_ratio": None}
    ours, theirs = sides["torchbp"], sides["torch"]
    return {
        "step_time_ratio": median(ours.step_seconds) / median(theirs.step_seconds),
        "saved_bytes_ratio": ours.saved_bytes / theirs.saved_bytes,
    }


def largest_difference(layers: list[LayerComparison]) -> float | None:
    """The largest relative difference of any layer's output or gradient; None with one side."""
    return max((value for layer in layers for value in layer.differences.values()), default=None)


def print_tables(
    console: Console,
    settings: Settings,
    digits: Digits,
    layers: list[LayerComparison],
    sides: dict[str, Side],
) -> None:
    """Print the differences, the cost of every layer, and the summary."""
    if len(sides) == 2:
        _print_differences(console, layers)
    _print_costs(console, layers, list(sides))
    _print_summary(console, settings, digits, sides)
    for name, side in sides.items():
        diverged = next((at for at, loss in enumerate(side.losses, 1) if not math.isfinite(loss)), None)
        if diverged:
            console.print(f"{name}.nn: the loss is not finite from step {diverged} on; lower --lr.")
    console.print(f"Allocator of both sides: {_allocator(settings)}", soft_wrap=True, markup=False)
    if settings.plot is not None:
        console.print(f"Loss curves: {settings.plot}", soft_wrap=True, markup=False)


def _print_differences(console: Console, layers: list[LayerComparison]) -> None:
    shown = table(
        "Largest relative difference of torchbp.nn from torch.nn",
        "layer",
        "class",
        "output",
        *(f"{name}\ngradient" for name in _DIFFERENCES[1:]),
    )
    for layer in layers:
        values = (layer.differences.get(name) for name in _DIFFERENCES)
        shown.add_row(layer.name, layer.kind, *("-" if value is None else f"{value:.1e}" for value in values))
    console.print(shown)


def _print_costs(console: Console, layers: list[LayerComparison], names: list[str]) -> None:
    shown = table(
        "Time of one batch, ms; kept for backward without parameters, KiB",
        "layer",
        *(f"{what}\n{name}" for what in ("forward", "backward", "kept") for name in names),
    )
    for layer in layers:
        costs = [layer.costs[name] for name in names]
        shown.add_row(
            layer.name,
            *(f"{cost.forward_seconds * 1e3:.3f}" for cost in costs),
            *(f"{cost.backward_seconds * 1e3:.3f}" for cost in costs),
            *(f"{cost.saved_bytes / 1024:.1f}" for cost in costs),
        )
    console.print(shown)


def _print_summary(console: Console, settings: Settings, digits: Digits, sides: dict[str, Side]) -> None:
    title = f"{settings.model} on {settings.data}, {len(digits.test_images)} test images"
    both = len(sides) == 2
    shown = table(title, "", *sides, *(["torchbp / torch"] if both else []))
    steps = len(digits.train_images) // settings.batch_size
    ratio = {name: "" if value is None else f"{value:.2f}" for name, value in ratios(sides).items()}
    rows = [
        ("test accuracy", [f"{side.test_accuracy:.2%}" for side in sides.values()], ""),
        ("mean loss, last epoch", [f"{fmean(side.losses[-steps:]):.4f}" for side in sides.values()], ""),
        (
            "median step, ms",
            [f"{median(side.step_seconds) * 1e3:.3f}" for side in sides.values()],
            ratio["step_time_ratio"],
        ),
        (
            "kept for backward in a step, KiB",
            [f"{side.saved_bytes / 1024:.1f}" for side in sides.values()],
            ratio["saved_bytes_ratio"],
        ),
    ]
    for name, values, compared in rows:
        shown.add_row(name, *values, *([compared] if both else []))
    console.print(shown)


def _allocator(settings: Settings) -> str:
    if allocator.keeps_freed_memory():
        return "keeps freed memory (--default-allocator to leave it alone)"
    return "the default" if settings.default_allocator else f"the default, because {allocator.unavailable()}"


def _text(path: object) -> str | None:
    return None if path is None else str(path)
