"""What is checked: a function of tensors with a point to check it at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

#: Roundings that a result may have suffered, in units of the last place, before it counts as different.
ROUNDINGS = 16
_PROBES = 4


class NotApplicable(Exception):
    """Raised by a property that does not apply, with the reason."""


class Refused(NotApplicable):
    """Raised where a function openly refuses what a property asks of it; a failure of a strict subject."""


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        function: maps tensors to a tensor, or to several.
        inputs: its arguments; floating-point tensors are differentiated, in float64; what is no tensor is passed on.
        reference: another way to compute the same, differentiable by PyTorch or not; optional.
        small: whether the inputs are few enough for element-wise finite differences of high order and Hessians.
        saved: the bytes that the backward pass may keep, given the inputs; optional.
        batched: whether the inputs at these places have a batch as their first dimension.
        layout: whether the results' strides must equal the reference's.
        strict: whether it is a failure, not a property that does not apply, to refuse forward mode, ``vmap``,
            a second derivative or the like.
        names: what to call the inputs.
        dtypes: the dtypes in which the value is compared.
        inplace: places of the inputs that the function is declared to modify.
        shapes: ``kind -> inputs`` for the kinds ``"empty_batch"``, ``"unbatched"`` and ``"size_one"``, None where
            there is none; optional.
        seed: decides all that is drawn.
        given: the inputs as they came, if they sat on a kink and were drawn anew.
        random: whether the function draws from PyTorch's global generator; it is then seeded for every call, so
            that one and the same function is differentiated.
    """

    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    reference: Callable[..., Any] | None = None
    small: bool = True
    saved: Callable[..., int] | None = None
    batched: tuple[int, ...] = ()
    layout: bool = True
    strict: bool = True
    names: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)
    inplace: tuple[int, ...] = ()
    shapes: Callable[[str], Sequence[Any] | None] | None = None
    seed: int = 0
    given: tuple[Any, ...] | None = None
    random: bool = False

    def differentiable(self) -> list[int]:
        """Return the places of the floating-point inputs."""
        return [i for i, t in enumerate(self.inputs) if is_differentiable(t)]

    def name(self, place: int) -> str:
        """Return what to call an input."""
        return self.names[place] if place < len(self.names) else f"input {place}"

    def fresh(
        self,
        dtype: torch.dtype | None = None,
        grad: Sequence[int] | None = None,
        inputs: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Return new leaf copies of the inputs, strides kept, gradients wanted at ``grad`` (default: all)."""
        copies: list[Any] = []
        for i, one in enumerate(self.inputs if inputs is None else inputs):
            if not isinstance(one, Tensor):
                copies.append(one)
                continue
            copy = one.detach().clone(memory_format=torch.preserve_format)
            if is_differentiable(one):
                if dtype is not None:
                    copy = copy.to(dtype.to_complex() if one.is_complex() else dtype)
                copy.requires_grad_(grad is None or i in grad)
            copies.append(copy)
        return copies

    def call(self, *inputs: Any) -> list[Tensor]:
        """Return every tensor among the results; inputs that are declared to be modified are copied first."""
        handed = [t.clone() if i in self.inplace else t for i, t in enumerate(inputs)]
        return tensors(seeded(self.function, self.seed)(*handed) if self.random else self.function(*handed))

    @cached_property
    def wanted_outputs(self) -> list[int]:
        """The places of the floating-point results that are differentiated.

        Those that require a gradient; if none does, all.
        """
        outputs = self.call(*self.fresh())
        places = [i for i, t in enumerate(outputs) if is_differentiable(t)]
        return [i for i in places if outputs[i].requires_grad] or places

    def differentiated(self, *inputs: Any) -> list[Tensor]:
        """Return the results that are differentiated."""
        outputs = self.call(*inputs)
        return [outputs[i] for i in self.wanted_outputs]

    def output_name(self, number: int) -> str:
        """Return what to call a differentiated result."""
        return "output" if len(self.wanted_outputs) == 1 else f"output {self.wanted_outputs[number]}"

    def gradients(
        self,
        inputs: Sequence[Any],
        cotangents: Sequence[Tensor] | None = None,
        function: Callable[..., Any] | None = None,
    ) -> list[Tensor]:
        """Return the gradients of those inputs that want one, zeros where there is none."""
        outputs = self.differentiated(*inputs) if function is None else tensors(function(*inputs))
        if function is not None and len(outputs) > len(self.wanted_outputs):
            outputs = [outputs[i] for i in self.wanted_outputs]
        return gradients_of(outputs, inputs, self.cotangents(outputs) if cotangents is None else cotangents)

    def cotangents(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return a fixed gradient for each output, in its own layout."""
        return [draw_like(t.detach(), self.seed + 1 + i) for i, t in enumerate(outputs)]

    @cached_property
    def terms(self) -> int:
        """How many terms a sum over the inputs can have."""
        return max((t.numel() for t in self.inputs if isinstance(t, Tensor)), default=1)

    @cached_property
    def scales(self) -> tuple[list[float], list[float]]:
        """How large each output, and each gradient, is, rounding errors of the inputs included.

        To the largest element is added how far the result moves, relative to the perturbation, when every input
        is perturbed by a random relative amount: the root of the sum of (dy/dx · x)², found by finite
        differences, so that it does not depend on the function's own derivatives. What is computed in the best
        possible way from inputs of n elements differs by about eps · sqrt(n) times this.
        """
        step = 2.0**-20
        places = self.differentiable()

        def at(signs: Sequence[Tensor] | None, sign: int) -> list[Tensor]:
            inputs = self.fresh()
            if signs is not None:
                with torch.no_grad():
                    for i, s in zip(places, signs, strict=True):
                        inputs[i].mul_(1 + sign * step * s)
            outputs = self.differentiated(*inputs)
            return [t.detach() for t in (*outputs, *gradients_of(outputs, inputs, cotangents))]

        outputs = self.differentiated(*self.fresh())
        cotangents = self.cotangents(outputs)
        count = len(outputs)
        base = at(None, 0)
        squares = [torch.zeros_like(t, dtype=torch.float64) for t in base]
        for probe in range(_PROBES):
            generator = torch.Generator().manual_seed(self.seed + 17 + probe)
            signs = [
                torch.randint(0, 2, self.inputs[i].shape, generator=generator, dtype=torch.float64) * 2 - 1
                for i in places
            ]
            for square, up, down in zip(squares, at(signs, 1), at(signs, -1), strict=True):
                if up.shape == square.shape == down.shape:
                    square += ((up - down) / (2 * step)).abs().double().nan_to_num(0, 0, 0) ** 2 / _PROBES
        sizes = [size_of(t) + size_of(s) ** 0.5 for t, s in zip(base, squares, strict=True)]
        return sizes[:count], sizes[count:]

    @cached_property
    def condition(self) -> float:
        """How much larger than a gradient its rounding errors are, in units of the last place: 1 at best."""
        largest = 1.0
        inputs = self.fresh()
        for gradient, scale in zip(self.gradients(inputs), self.scales[1], strict=True):
            size = size_of(gradient)
            if size:
                largest = max(largest, min(scale / size, 1e6))
        return largest

    def tolerance(self, scale: float, dtype: torch.dtype = torch.float64) -> float:
        """Return by how much two ways of computing a result of this scale may differ."""
        return ROUNDINGS * torch.finfo(dtype).eps * math.sqrt(max(self.terms, 1)) * scale

    def output_tolerances(self, dtype: torch.dtype = torch.float64) -> list[float]:
        """Return by how much two ways of computing each output may differ."""
        return [self.tolerance(scale, dtype) for scale in self.scales[0]]

    def gradient_tolerances(self, dtype: torch.dtype = torch.float64) -> list[float]:
        """Return by how much two ways of computing each gradient may differ, one for each differentiable input."""
        return [self.tolerance(scale, dtype) for scale in self.scales[1]]


def is_differentiable(value: Any) -> bool:
    """Tell whether a value is a floating-point or complex tensor."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors in what a function returned."""
    if isinstance(result, Tensor):
        return [result]
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


# Of drawing functions. Nobody else starts there: were it a user's own torch.manual_seed(0), a backward pass that draws
# again would draw the numbers of the forward pass, and pass for right.
_DRAWING = 0x6472_6177


def seeded(function: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Return a function that draws the same numbers in every call, and leaves the global generator as it was."""

    def call(*args: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_DRAWING + seed)
            return function(*args)

    return call


def gradients_of(outputs: Sequence[Tensor], inputs: Sequence[Any], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of the inputs that require one, zeros where there is none."""
    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not wanted or not pairs:
        return [torch.zeros_like(t) for t in wanted]
    found = torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(t) if a is None else a for t, a in zip(wanted, found, strict=True)]


def draw_like(tensor: Tensor, seed: int) -> Tensor:
    """Return normal draws in the shape, dtype and layout of a tensor."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    return torch.empty_like(tensor).copy_(torch.randn(tensor.shape, generator=generator, dtype=dtype))


def size_of(tensor: Tensor) -> float:
    """Return the largest absolute value among the finite elements; 0 where there is none."""
    return float(tensor.detach().abs().double().nan_to_num(0, 0, 0).max()) if tensor.numel() else 0.0
