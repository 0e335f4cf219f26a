"""``torchbp cost``: what a model of the user's costs, layer by layer, before and after conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Module

import torchbp
from torchbp.cli.errors import InputError
from torchbp.cli.output import console, progress, require_writable, write_json
from torchbp.cli.target import load
from torchbp.testing import draw_inputs


@dataclass(frozen=True)
class Settings:
    """The options of ``torchbp cost``."""

    where: str
    inputs: Sequence[str]
    keywords: Sequence[str]
    include: Sequence[str]
    exclude: Sequence[str]
    evaluation: bool
    time: bool
    rounds: int | None
    threads: int | None
    seed: int
    json: Path | None
    png: Path | None


def run(settings: Settings) -> None:
    """Measure the model, print the tables or the JSON, write the files.

    Raises:
        InputError: the model cannot be had or does not run on the inputs, or a file cannot be written.
    """
    printed = str(settings.json) == "-"
    for option, path in (("--json", settings.json), ("--png", settings.png)):
        if path is not None and not (option == "--json" and printed):
            require_writable(option, path)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = _model(settings.where).train(not settings.evaluation)
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.get_default_dtype())
    with progress() as bar:
        bar.add_task(f"measuring {settings.where}", total=None)
        try:
            report = torchbp.cost(
                model,
                *(draw_inputs(", ".join(settings.inputs), settings.seed, dtype) if settings.inputs else ()),
                kwargs=dict(_keyword(text, settings.seed, dtype) for text in settings.keywords),
                include=list(settings.include) or None,
                exclude=list(settings.exclude) or None,
                time=settings.time,
                rounds=settings.rounds,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{settings.where}: {error}") from error
    if settings.json is not None:
        write_json(report.as_dict(), settings.json)
    if settings.png is not None:
        report.to_png(settings.png)
    if not printed:
        console().print(report, markup=False)


def _model(where: str) -> Module:
    """Return the model that an expression means, or that the function or class it means makes."""
    found = load("the model", where)
    if not isinstance(found, Module) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise InputError(f"the model {where}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Module):
        raise InputError(f"the model {where}: is no torch.nn.Module but {type(found).__name__}")
    return found


def _keyword(text: str, seed: int, dtype: torch.dtype) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name.strip().isidentifier() and equals and value.strip()):
        raise InputError(f'--keyword {text}: must be a name and a value, e.g. --keyword "mask=ones(2, 8)"')
    (drawn,) = draw_inputs(f"({value.strip()}),", seed, dtype)
    return name.strip(), drawn
