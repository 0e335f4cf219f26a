"""``torchbp train``: one network with ``torch.nn`` and with ``torchbp.nn``, step by step side by side."""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from torchbp import allocator
from torchbp.cli.compare import LayerComparison, compare_layers
from torchbp.cli.data import CLASSES, Digits, load, shifted
from torchbp.cli.errors import InputError
from torchbp.cli.models import MODELS
from torchbp.cli.output import progress, require_writable
from torchbp.testing import saved_bytes

# Under bfloat16 the parameters stay in float32, and autocast chooses what runs in bfloat16.
PARAMETER_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_TEST_BATCH = 500


@dataclass(frozen=True)
class Settings:
    """The options of ``torchbp train``."""

    data: str
    root: Path | None
    model: str
    side: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    seed: int
    threads: int | None
    dtype: str
    default_allocator: bool
    plot: Path | None
    json: Path | None

    def autocast(self) -> torch.autocast:
        """The context every forward runs in."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16")


@dataclass
class Side:
    """One side of the comparison: its network, its optimiser and what it has measured."""

    network: Module
    loss: Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    saved_bytes: int = 0
    test_accuracy: float = 0.0

    def step(self, images: Tensor, labels: Tensor, autocast: torch.autocast) -> None:
        """One step of stochastic gradient descent on one mini-batch."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with autocast:
            loss = self.loss(self.network(images), labels)
        loss.backward()
        self.optimizer.step()
        self.step_seconds.append(time.perf_counter() - start)
        self.schedule.step()
        self.losses.append(loss.item())


def run(settings: Settings) -> None:
    """Train as ``settings`` say, then print the tables, write the JSON and draw the losses.

    Raises:
        InputError: an option, an output path or a data file is wrong; all are looked at before training.
    """
    _check_outputs(settings)
    with _memory(settings):
        _run(settings)


def _memory(settings: Settings) -> AbstractContextManager[object]:
    """Keep freed memory for both sides, unless the settings or the platform say otherwise."""
    return nullcontext() if settings.default_allocator else allocator.keep_freed_memory()


def _run(settings: Settings) -> None:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    digits = load(settings.data, settings.root, settings.seed)
    count = len(digits.train_images)
    if settings.batch_size > count:
        raise InputError(f"--batch-size {settings.batch_size} is larger than the {count} training images")
    digits = digits.to(PARAMETER_DTYPES[settings.dtype])

    sides = build_sides(settings, digits.image_size, steps=settings.epochs * _steps(settings, digits))
    layers = measure(settings, digits, sides)
    train(settings, digits, sides)
    for side in sides.values():
        side.test_accuracy = accuracy(side.network, digits, settings)
    _report(settings, digits, layers, sides)


def train(settings: Settings, digits: Digits, sides: dict[str, Side]) -> None:
    """Train every side on the same mini-batches, all sides on one batch before the next."""
    turns = list(sides.values())
    epoch_steps = _steps(settings, digits)
    with progress("losses") as bar:
        task = bar.add_task("", total=settings.epochs * epoch_steps, losses="")
        for step, (images, labels) in enumerate(mini_batches(settings, digits)):
            for side in turns:
                side.step(images, labels, settings.autocast())
            turns.reverse()  # the side that goes first finds colder caches
            losses = "  ".join(f"{name} {side.losses[-1]:.4f}" for name, side in sides.items())
            epoch = f"epoch {step // epoch_steps + 1}/{settings.epochs}"
            bar.update(task, advance=1, description=epoch, losses=losses)


def mini_batches(settings: Settings, digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    """The mini-batches of all epochs: a new order each, images moved a little, no incomplete batch."""
    generator = torch.Generator().manual_seed(settings.seed)
    used = _steps(settings, digits) * settings.batch_size
    pixels = digits.image_size // 28
    for _ in range(settings.epochs):
        order = torch.randperm(len(digits.train_images), generator=generator)
        for chosen in order[:used].split(settings.batch_size):
            yield shifted(digits.train_images[chosen], pixels, generator), digits.train_labels[chosen]


def build_sides(settings: Settings, image_size: int, steps: int) -> dict[str, Side]:
    """The sides asked for, with equal initial weights; the learning rate falls to zero along a cosine."""
    sides: dict[str, Side] = {}
    for name in ("torch", "torchbp") if settings.side == "both" else (settings.side,):
        nn = importlib.import_module(f"{name}.nn")
        torch.manual_seed(settings.seed)
        network = MODELS[settings.model](nn, image_size, CLASSES).to(PARAMETER_DTYPES[settings.dtype])
        for other in sides.values():
            network.load_state_dict(other.network.state_dict())
        optimizer = torch.optim.SGD(network.parameters(), settings.lr, settings.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        sides[name] = Side(network, nn.CrossEntropyLoss(), optimizer, schedule)
    return sides


def measure(settings: Settings, digits: Digits, sides: dict[str, Side]) -> list[LayerComparison]:
    """Compare the untrained sides on the first mini-batch, and count what a whole step keeps for backward."""
    images, labels = next(mini_batches(settings, digits))
    for side in sides.values():
        network = copy.deepcopy(side.network)

        def forward(network: Module = network, loss: Module = side.loss) -> Tensor:
            with settings.autocast():
                result: Tensor = loss(network(images), labels)
            return result

        side.saved_bytes = saved_bytes(forward, exclude=network.parameters())
    networks = {name: side.network for name, side in sides.items()}
    losses = {name: side.loss for name, side in sides.items()}
    return compare_layers(networks, losses, images, labels, settings.autocast)


@torch.no_grad()
def accuracy(network: Module, digits: Digits, settings: Settings) -> float:
    """Share of the test images whose largest logit is their label's."""
    network.eval()
    right = 0
    batches = zip(digits.test_images.split(_TEST_BATCH), digits.test_labels.split(_TEST_BATCH), strict=True)
    for images, labels in batches:
        with settings.autocast():
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(digits.test_labels)


def _steps(settings: Settings, digits: Digits) -> int:
    return len(digits.train_images) // settings.batch_size


def _check_outputs(settings: Settings) -> None:
    if settings.root is not None and settings.data != "mnist":
        raise InputError("--root is read only with --data mnist")
    if settings.plot is not None:
        from torchbp.cli.plot import image_format

        image_format(settings.plot)
        require_writable("--plot", settings.plot)
    if settings.json is not None and str(settings.json) != "-":
        require_writable("--json", settings.json)
        if settings.json == settings.plot:
            raise InputError(f"--json and --plot both name {settings.plot}")


def _report(settings: Settings, digits: Digits, layers: list[LayerComparison], sides: dict[str, Side]) -> None:
    from torchbp.cli import report
    from torchbp.cli.output import console, write_json

    if settings.plot is not None:
        from torchbp.cli.plot import plot_losses

        title = f"{settings.model} on {settings.data}, seed {settings.seed}, {settings.dtype}"
        plot_losses(settings.plot, {f"{name}.nn": side.losses for name, side in sides.items()}, title)
    if settings.json is not None:
        write_json(report.as_dict(settings, digits, layers, sides), settings.json)
    if str(settings.json) != "-":
        report.print_tables(console(), settings, digits, layers, sides)
