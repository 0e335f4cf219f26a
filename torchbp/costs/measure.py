"""Multiply-adds and times of a call: forward, the gradients of inputs and of parameters, and the backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from torchbp.costs.calls import Call, tensors_of
from torchbp.costs.graph import nodes_of
from torchbp.costs.multiply_adds import MultiplyAdds
from torchbp.costs.timing import in_turn
from torchbp.ops.registry import memory_format_of

_SECONDS = 0.005  # rounds are added until a call has been timed for so long


@dataclass(frozen=True)
class Figures:
    """Multiply-adds, or seconds; None for what there is not.

    Attributes:
        forward: of the forward pass.
        input_gradient: of the gradient of the inputs alone.
        weight_gradient: of the gradient of the parameters alone.
        backward: of the gradients that the model's own backward pass asks for, both at once.
    """

    forward: float
    input_gradient: float | None
    weight_gradient: float | None
    backward: float | None

    def __add__(self, other: Figures) -> Figures:
        """Add what there is."""
        return Figures(**{name: _sum(getattr(self, name), getattr(other, name)) for name in FIGURES})

    def __mul__(self, count: int) -> Figures:
        """Return the figures of so many calls."""
        return Figures(**{name: _times(getattr(self, name), count) for name in FIGURES})

    def without(self, others: Figures) -> Figures:
        """Return what is left of forward and backward; a gradient's own figures add up to nothing that is run."""
        backward = None if self.backward is None else self.backward - (others.backward or 0)
        return Figures(self.forward - others.forward, None, None, backward)


FIGURES = tuple(field.name for field in fields(Figures))


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _times(value: Any, count: int) -> Any:
    return None if value is None else value * count


@dataclass(frozen=True)
class Cost:
    """What a layer costs, or a model.

    Attributes:
        multiply_adds: of all calls, as they are computed.
        saved_bytes: what it keeps for the backward pass and no layer before has kept; no parameters, no buffers.
        seconds: of all calls; None if no time was taken.
    """

    multiply_adds: Figures
    saved_bytes: int
    seconds: Figures | None

    def __add__(self, other: Cost) -> Cost:
        """Add two."""
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        return Cost(self.multiply_adds + other.multiply_adds, self.saved_bytes + other.saved_bytes, seconds)

    def __mul__(self, count: int) -> Cost:
        """Return the cost of so many calls."""
        seconds = None if self.seconds is None else self.seconds * count
        return Cost(self.multiply_adds * count, self.saved_bytes * count, seconds)

    def without(self, others: Cost) -> Cost:
        """Return what is left beside the cost of others."""
        seconds = None if self.seconds is None or others.seconds is None else self.seconds.without(others.seconds)
        return Cost(self.multiply_adds.without(others.multiply_adds), self.saved_bytes - others.saved_bytes, seconds)


class _Run:
    """A module on the arguments of one call, for one figure, as often as one likes."""

    def __init__(self, module: Module, call: Call, figure: str) -> None:
        self.module, self.call, self.figure = module, call, figure
        self.trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
        self.wanted = frozenset() if figure == "weight_gradient" else call.wanted
        if figure == "input_gradient":
            self.wanted = call.differentiable()
        self.outputs: list[Tensor] = []
        devices = {tensor.device.type for tensor in (*tensors_of(call.arguments), *module.parameters())}
        self.synchronized = bool(devices - {"cpu", "meta"})

    def prepare(self) -> None:
        """Ask for the gradients of the figure and no others, as with frozen layers; run forward if it is not timed."""
        self.outputs = []
        torch.clear_autocast_cache()  # else the weights would be cast once for all runs
        for parameter, trainable in self.trainable:
            parameter.requires_grad_(trainable and self.figure != "input_gradient")
        self.args, self.kwargs, leaves = self.call.fresh(self.wanted, copied=self.call.in_place)
        if self.figure != "forward":
            self.outputs = [tensor for tensor in tensors_of(self._forward()) if tensor.requires_grad]
            self.cotangents = [torch.ones_like(tensor) for tensor in self.outputs]
            self.roots = leaves + [parameter for parameter, _ in self.trainable if parameter.requires_grad]
        self._finish()

    def possible(self) -> bool:
        """Prepare, and tell whether there is such a gradient."""
        try:
            self.prepare()
        except RuntimeError:  # the model may refuse an input that requires a gradient, where it got none that does
            if self.wanted == self.call.wanted:
                raise
            return False
        return self.figure == "forward" or bool(self.outputs and self.roots and not _crashes(self.outputs))

    def __call__(self) -> object:
        """Do what the figure is of."""
        if self.figure == "forward":
            result = self._forward()
        else:
            outputs, self.outputs = self.outputs, []
            result = torch.autograd.grad(outputs, self.roots, self.cotangents, allow_unused=True)
        self._finish()
        return result

    def finish(self) -> None:
        """Leave the parameters as they were found."""
        self.outputs = []
        for parameter, trainable in self.trainable:
            parameter.requires_grad_(trainable)

    def _forward(self) -> Any:
        return self.call.run(self.module, self.args, self.kwargs)

    def _finish(self) -> None:
        if self.synchronized:
            torch.accelerator.synchronize()


def _crashes(outputs: Sequence[Tensor]) -> bool:
    """Tell whether PyTorch's group norm is to write the gradient of a channels-last input that wants none.

    It does so for the sake of its weight's gradient, and ends the process.
    """
    return any(
        node.name() == "NativeGroupNormBackward0"
        and node.next_functions[0][0] is None
        and memory_format_of(node._saved_input) != torch.contiguous_format
        for node in nodes_of(outputs)
    )


def measure(modules: Mapping[str, Module], call: Call, *, time: bool, rounds: int | None) -> dict[str, Cost]:
    """Measure ``modules``, which do the same, on the arguments of ``call``, and time them in turn."""
    counted: dict[str, dict[str, Any]] = {name: dict.fromkeys(FIGURES) for name in modules}
    taken: dict[str, dict[str, Any]] = {name: dict.fromkeys(FIGURES) for name in modules}
    with torch.set_grad_enabled(call.records):
        for figure in FIGURES:
            runs = {name: _Run(module, call, figure) for name, module in modules.items()}
            try:
                able = {name: run for name, run in runs.items() if run.possible()}
                for name, run in able.items():
                    with MultiplyAdds() as counter:
                        run()
                    counted[name][figure] = counter.total
                if time and able:
                    preparations = {name: run.prepare for name, run in able.items()}
                    for name, timing in in_turn(able, rounds, prepare=preparations, least=_SECONDS).items():
                        taken[name][figure] = timing.median
            finally:
                for run in runs.values():
                    run.finish()
    return {name: Cost(Figures(**counted[name]), 0, Figures(**taken[name]) if time else None) for name in modules}
