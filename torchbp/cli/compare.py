"""The same layers of two networks side by side: differences, times, bytes kept for backward."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import Flatten, Module

from torchbp.testing import saved_bytes
from torchbp.testing.measure import relative_difference

Values = dict[str, Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]

WARM_UP_ROUNDS = 2
TIMED_ROUNDS = 9


@dataclass
class Cost:
    """What one layer of one side costs: median seconds, and the bytes its backward keeps."""

    forward_seconds: float
    backward_seconds: float
    saved_bytes: int


@dataclass
class LayerComparison:
    """One layer: how far its two sides are apart, and what each costs.

    ``differences`` has the keys ``output``, ``input``, ``weight`` and ``bias``, the last three for gradients;
    those the layer does not have are left out, and with a single side there are none at all.
    """

    name: str
    kind: str
    differences: dict[str, float]
    costs: dict[str, Cost] = field(default_factory=dict)


def compare_layers(
    networks: Mapping[str, Module],
    losses: Mapping[str, Module],
    images: Tensor,
    labels: Tensor,
    autocast: Autocast,
) -> list[LayerComparison]:
    """Compare ``networks`` (one or two sides, equal weights) and ``losses``, layer by layer on one batch.

    The first side runs on ``images`` once, which records the input of each of its layers. Every layer then
    runs by itself on that input, on both sides, and backward starts from the same normally distributed
    gradient. Neither the networks nor the random state are changed.
    """
    # Batch norm moves its running statistics in every forward, so copies run here.
    networks = copy.deepcopy(dict(networks))
    first = next(iter(networks))
    inputs = _recorded_inputs(networks[first], images, autocast)
    layers = {name: {side: networks[side].get_submodule(name) for side in networks} for name in inputs}
    with torch.no_grad(), autocast():
        inputs["loss"] = (networks[first](images), labels)
    layers["loss"] = dict(losses)
    return [_compare_layer(name, sides, inputs[name], autocast) for name, sides in layers.items()]


def _recorded_inputs(network: Module, images: Tensor, autocast: Autocast) -> dict[str, tuple[Tensor, ...]]:
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def record(name: str) -> Callable[[Module, tuple[Tensor, ...]], None]:
        def hook(module: Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[name] = arguments

        return hook

    handles = [
        module.register_forward_pre_hook(record(name))
        for name, module in network.named_modules()
        if not list(module.children()) and not isinstance(module, Flatten)
    ]
    with torch.no_grad(), autocast():
        network(images)
    for handle in handles:
        handle.remove()
    return inputs


def _compare_layer(
    name: str, sides: Mapping[str, Module], inputs: tuple[Tensor, ...], autocast: Autocast
) -> LayerComparison:
    runs = {side: _LayerRun(layer, inputs, autocast) for side, layer in sides.items()}
    values = {side: run.values() for side, run in runs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in runs}
    for round_number in range(WARM_UP_ROUNDS + TIMED_ROUNDS):
        # The side that goes first finds colder caches: take turns.
        for side in list(runs)[:: -1 if round_number % 2 else 1]:
            timed = runs[side].timed()
            if round_number >= WARM_UP_ROUNDS:
                seconds[side].append(timed)

    differences = {}
    if len(values) == 2:
        expected, found = values.values()
        differences = {key: relative_difference(found[key], expected[key]) for key in expected}
    costs = {}
    for side, run in runs.items():
        forward, backward = zip(*seconds[side], strict=True)
        costs[side] = Cost(median(forward), median(backward), run.saved_bytes())
    return LayerComparison(name, type(next(iter(sides.values()))).__name__, differences, costs)


class _LayerRun:
    """One layer with the input and the incoming gradient it is to be run on."""

    def __init__(self, layer: Module, inputs: tuple[Tensor, ...], autocast: Autocast) -> None:
        self.layer = layer
        self.autocast = autocast
        self.inputs = tuple(tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs)
        named = {"input": self.inputs[0], **dict(layer.named_parameters())}
        self.names, self.roots = list(named), list(named.values())
        with torch.no_grad():
            output = self.forward()
        generator = torch.Generator().manual_seed(0)
        # The same numbers in every precision, so that sides and dtypes can be compared.
        self.grad_output = torch.randn(output.shape, generator=generator).to(output.dtype)

    def forward(self) -> Tensor:
        with self.autocast():
            output: Tensor = self.layer(*self.inputs)
        return output

    def values(self) -> Values:
        output = self.forward()
        gradients = torch.autograd.grad(output, self.roots, self.grad_output)
        return {"output": output.detach(), **dict(zip(self.names, gradients, strict=True))}

    def timed(self) -> tuple[float, float]:
        start = time.perf_counter()
        output = self.forward()
        middle = time.perf_counter()
        torch.autograd.grad(output, self.roots, self.grad_output)
        return middle - start, time.perf_counter() - middle

    def saved_bytes(self) -> int:
        return saved_bytes(self.forward, exclude=self.layer.parameters())
