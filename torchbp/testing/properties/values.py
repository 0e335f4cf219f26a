"""The value and its gradient against a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.subject import NotApplicable, Subject, gradients_of, is_differentiable, tensors


def reference_of(subject: Subject) -> Callable[..., Any]:
    """Return the reference, or raise NotApplicable."""
    if subject.reference is None:
        raise NotApplicable("no reference given")
    return subject.reference


def paired(subject: Subject, got: Sequence[Tensor], expected: Sequence[Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    """Return names, results and expected results side by side; a reference may leave out later results.

    Raises:
        Failure: if the reference has more results than the function.
    """
    if len(expected) == len(subject.wanted_outputs) != len(got):
        got = [got[i] for i in subject.wanted_outputs]
    if len(expected) > len(got):
        raise Failure(f"{len(got)} results, the reference has {len(expected)}")
    names = ["output"] if len(got) == 1 else [f"output {i}" for i in range(len(got))]
    return list(zip(names, got, expected, strict=False))


def reference_gradients(
    subject: Subject, inputs: Sequence[Any], cotangents: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the reference's results and gradients.

    Raises:
        NotApplicable: if the reference is not differentiable.
    """
    outputs = tensors(reference_of(subject)(*inputs))
    if len(outputs) > len(cotangents):
        outputs = [outputs[i] for i in subject.wanted_outputs]
    if len(outputs) < len(cotangents):
        raise NotApplicable("the reference has fewer results than the function")
    if not any(t.requires_grad for t in outputs) and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        raise NotApplicable("the reference is not differentiable")
    return outputs, gradients_of(outputs, inputs, cotangents)


def value(subject: Subject) -> str:
    """The value equals the reference's, in every dtype asked for, up to rounding; in float64 the strides too.

    The reference computes in float64 from the rounded inputs.
    """
    reference = reference_of(subject)
    found = []
    for dtype in subject.dtypes:
        inputs = subject.fresh(dtype)
        exact = subject.fresh(torch.float64, inputs=[t.detach() if isinstance(t, Tensor) else t for t in inputs])
        got, expected = subject.call(*inputs), tensors(reference(*exact))
        largest = 0.0
        for number, (name, a, e) in enumerate(paired(subject, got, expected)):
            if is_differentiable(a) and is_differentiable(e):
                if (a.dtype.to_complex() if a.is_complex() else a.dtype) != (
                    dtype.to_complex() if a.is_complex() else dtype
                ):
                    raise Failure(f"{name}: dtype {a.dtype} for inputs of {dtype}")
                scale = max(subject.scales[0], default=0.0)
                if len(subject.scales[0]) == len(got):
                    scale = subject.scales[0][number]
                allowed = subject.tolerance(scale, dtype)
                same = a.to(torch.complex128 if a.is_complex() else torch.float64)
                largest = max(largest, require_close(f"{name} in {_short(dtype)}", same, e, allowed))
            else:
                require_close(name, a, e, 0.0)
            if subject.layout and dtype == torch.float64 and a.stride() != e.stride():
                raise Failure(f"{name}: strides {a.stride()}, expected {e.stride()}")
        found.append(f"{_short(dtype)} {largest:.1e}")
    return f"largest difference: {', '.join(found)}"


def gradient(subject: Subject) -> str:
    """Every gradient equals the reference's in float64, up to rounding."""
    inputs = subject.fresh()
    outputs = subject.differentiated(*inputs)
    cotangents = subject.cotangents(outputs)
    _, expected = reference_gradients(subject, subject.fresh(), cotangents)
    actual = gradients_of(outputs, inputs, cotangents)
    largest = 0.0
    for i, a, e, allowed in zip(subject.differentiable(), actual, expected, subject.gradient_tolerances(), strict=True):
        largest = max(largest, require_close(f"gradient of {subject.name(i)}", a, e, allowed))
    return f"largest difference: {largest:.1e}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
