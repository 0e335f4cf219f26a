"""The forms in which inputs and gradients arrive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.properties.values import paired
from torchbp.testing.subject import Subject, gradients_of, tensors

_SUBSETS = 16


def _strided(t: Tensor) -> Tensor:
    return torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0]


def _reversed_strides(t: Tensor) -> Tensor:
    order = list(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def _channels_last(t: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats[t.dim()]) if t.dim() in formats else t


def layouts(subject: Subject) -> None:
    """Non-contiguous and channels-last inputs, and expanded, permuted and zero gradients, change nothing.

    And the backward pass is linear: large and tiny gradients give large and tiny ones.
    """
    expected = [t.detach() for t in subject.differentiated(*subject.fresh())]
    g = subject.cotangents(expected)
    gradients = subject.gradients(subject.fresh(), g)

    def arranged(change: Callable[[Tensor], Tensor]) -> list[Any]:
        return [
            change(t.detach()).requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t for t in subject.fresh()
        ]

    changes = (("strided", _strided), ("reversed", _reversed_strides), ("channels-last", _channels_last))
    for name, change in () if subject.random else changes:  # random numbers are drawn in the order of memory
        inputs = arranged(change)
        everything = subject.call(*inputs)
        outputs = [everything[i] for i in subject.wanted_outputs]
        for number, (a, e, allowed) in enumerate(zip(outputs, expected, subject.output_tolerances(), strict=True)):
            require_close(f"{subject.output_name(number)}, {name} inputs", a, e, allowed)
        if subject.reference is not None and subject.layout and name == "channels-last" and _four(subject):
            for what, a, e in paired(subject, everything, tensors(subject.reference(*arranged(change)))):
                if a.stride() != e.stride():
                    raise Failure(f"{what}, {name} inputs: strides {a.stride()}, expected {e.stride()}")
        found = gradients_of(outputs, inputs, [change(t) for t in g])
        _compare(subject, found, gradients, f"{name} inputs and gradient")
    for name, odd in (
        ("expanded", [t.new_full((), 0.5).expand(t.shape) for t in g]),
        ("zero", [torch.zeros_like(t) for t in g]),
        ("partly expanded", [t[:1].expand(t.shape) if t.dim() and t.shape[0] else t for t in g]),
    ):
        actual = subject.gradients(subject.fresh(), odd)
        dense = [t.clone(memory_format=torch.contiguous_format) for t in odd]
        _compare(subject, actual, subject.gradients(subject.fresh(), dense), f"{name} gradient")
    for factor in (2.0**12, 2.0**-12):  # a power of two: the bits are the same
        scaled = subject.gradients(subject.fresh(), [t * factor for t in g])
        _compare(subject, [t / factor for t in scaled], gradients, f"gradient times {factor:g}, that divided again")


def _four(subject: Subject) -> bool:
    """Tell whether some input has the four dimensions of a batch of images."""
    return any(isinstance(t, Tensor) and t.dim() == 4 for t in subject.inputs)


def _compare(subject: Subject, actual: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    for i, a, e, allowed in zip(subject.differentiable(), actual, expected, subject.gradient_tolerances(), strict=True):
        require_close(f"gradient of {subject.name(i)}, {what}", a, e, allowed)


def undefined_gradients(subject: Subject) -> None:
    """Outputs that nothing uses, and gradients that are undefined, count as zero gradients.

    Undefined ones arrive as None where a Function calls ``ctx.set_materialize_grads(False)``.
    """
    inputs = subject.fresh()
    outputs = subject.differentiated(*inputs)
    wanted = [inputs[i] for i in subject.differentiable()]
    g = subject.cotangents(outputs)
    every = range(len(outputs))
    subsets = itertools.chain.from_iterable(itertools.combinations(every, n) for n in range(1, len(outputs)))
    for used in itertools.islice(subsets, _SUBSETS):
        inputs = subject.fresh()
        outputs = subject.differentiated(*inputs)
        alone = gradients_of([outputs[i] for i in used], inputs, [g[i] for i in used])
        zeros = [g[i] if i in used else torch.zeros_like(g[i]) for i in every]
        names = " and ".join(subject.output_name(i) for i in used)
        _compare(subject, alone, subject.gradients(subject.fresh(), zeros), f"only {names} used")
    del outputs
    inputs = subject.fresh()
    outputs = [y for y in subject.differentiated(*inputs) if y.requires_grad]
    if not outputs:
        return
    wanted = [inputs[i] for i in subject.differentiable()]
    # What gradcheck does: a node whose backward hands on gradients that are undefined, all of them or one.
    for defined in [(), *((i,) for i in every if len(outputs) > 1 and i < len(outputs))]:
        undefined: list[Tensor] = [torch._C._functions.UndefinedGrad()(y) for y in outputs]  # type: ignore[misc]
        ones = [torch.ones_like(y) for y in outputs]
        mixed = [y if i in defined else u for i, (y, u) in enumerate(zip(outputs, undefined, strict=True))]
        zeros = [t if i in defined else torch.zeros_like(t) for i, t in enumerate(ones)]
        actual, expected = (
            [torch.zeros_like(t) if a is None else a for t, a in zip(wanted, found, strict=True)]
            for found in (
                torch.autograd.grad(ys, wanted, gs, allow_unused=True, retain_graph=True)
                for ys, gs in ((mixed, ones), (outputs, zeros))
            )
        )
        what = "undefined gradients of the other outputs" if defined else "undefined gradient"
        _compare(subject, actual, expected, what)
