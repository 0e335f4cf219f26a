"""Whole models with the C library's default allocator and with ``torchbp.allocator.keep_freed_memory()``.

Every measurement is a process of its own: the default, kept without and with huge pages, in turn over several rounds;
the medians over the rounds are compared. The layers are stock PyTorch's unless ``--layers torchbp``.

    python benchmarks/allocator.py [--threads 2] [--rounds 3] [--steps 12] [--models vgg lenet]
        [--layers torch] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import Flatten, Module, Sequential

from torchbp import allocator

SETTINGS = ("default", "kept", "kept, huge pages")
WARM_UP = 3


def vgg(nn: Any) -> tuple[Module, Tensor]:
    """A small VGG on 16 images of 112x112."""
    layers: list[Module] = []
    for one, other, pool in ((3, 32, False), (32, 32, True), (32, 64, True), (64, 128, True)):
        layers += [nn.Conv2d(one, other, 3, padding=1), nn.BatchNorm2d(other), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return Sequential(*layers, nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(128, 10)), torch.randn(16, 3, 112, 112)


class Residual(Module):
    """A basic block of ResNet-18: two convolutions with batch norm, added to the input."""

    def __init__(self, nn: Any, channels: int) -> None:
        """Make a block that keeps ``channels``."""
        super().__init__()
        one, other = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.body = Sequential(one, nn.BatchNorm2d(channels), nn.ReLU(), other, nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + body(x))."""
        result: Tensor = self.relu(x + self.body(x))
        return result


def resnet_block(nn: Any) -> tuple[Module, Tensor]:
    """Two residual blocks of 64 channels on 16 maps of 56x56."""
    blocks = (Residual(nn, 64), Residual(nn, 64))
    return Sequential(*blocks, nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(64, 10)), torch.randn(16, 64, 56, 56)


def lenet(nn: Any) -> tuple[Module, Tensor]:
    """LeNet-5 on 256 images of 28x28."""
    features = (nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh())
    head = (nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))
    return Sequential(*features, nn.AvgPool2d(2), Flatten(), *head), torch.randn(256, 1, 28, 28)


MODELS: dict[str, Callable[[Any], tuple[Module, Tensor]]] = {"vgg": vgg, "resnet-block": resnet_block, "lenet": lenet}


def measure(model: str, setting: str, layers: str, threads: int, steps: int) -> dict[str, float]:
    """Train in this process; return the median step's milliseconds, page faults per step, and sizes in MiB."""
    if setting != "default" and not allocator.keep_freed_memory(huge_pages=setting != "kept"):
        sys.exit(f"freed memory cannot be kept here: {allocator.unavailable()}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, images = MODELS[model](importlib.import_module(f"{layers}.nn"))
    labels = torch.randint(10, (len(images),))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    times = []
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            faults = getrusage(RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    usage = getrusage(RUSAGE_SELF)
    return {
        "ms": median(times[WARM_UP:]) * 1e3,
        "faults": (usage.ru_minflt - faults) / steps,
        "peak": usage.ru_maxrss / 1024,
        "resident": _resident(),
        "released": (allocator.release_freed_memory(), _resident())[1],
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Read the options, start the processes, print a table."""
    parser = argparse.ArgumentParser(description="Whole models with the default allocator and with kept memory.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--layers", choices=("torch", "torchbp"), default="torch")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SETTING"), help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.layers, options.threads, options.steps)))
        return

    found: dict[str, dict[str, list[dict[str, float]]]] = {
        model: {setting: [] for setting in SETTINGS} for model in options.models
    }
    for _ in range(options.rounds):
        for model in options.models:
            for setting in SETTINGS:
                command = [sys.executable, __file__, "--one", model, setting, "--layers", options.layers]
                command += ["--threads", str(options.threads), "--steps", str(options.steps)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[model][setting].append(json.loads(done.stdout))
    print(f"torch {torch.__version__}, {options.layers}.nn, {options.threads} threads, {options.rounds} rounds")
    print("| model | allocator | default / this | faults a step | peak MiB | resident MiB | after release MiB |")
    print("|---|---|---|---|---|---|---|")
    for model, settings in found.items():
        for setting, runs in settings.items():
            # Each round's ratio is of neighbouring processes.
            gain = median(a["ms"] / b["ms"] for a, b in zip(settings["default"], runs, strict=True))
            sizes = " | ".join(f"{median(r[name] for r in runs):.0f}" for name in ("faults", "peak", "resident"))
            print(f"| {model} | {setting} | {gain:.2f} | {sizes} | {median(r['released'] for r in runs):.0f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
