"""Kinks and ties: what gradient is used where there is no derivative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.differences import Kink, real
from torchbp.testing.differences import kinks as kinks_at
from torchbp.testing.properties.values import reference_gradients
from torchbp.testing.subject import NotApplicable, Subject, gradients_of, size_of

_LIMIT = 12


def kinks(subject: Subject) -> str:
    """At a kink or a tie the gradient lies between the slopes of both sides, and equals the reference's.

    Kinks are looked for at the inputs as they were given, at zero, and where all elements of an input are equal.
    """
    seen: list[str] = []
    for where, inputs in _points(subject):
        found = [kink for kink in kinks_at(subject, inputs, _LIMIT) if not kink.jump]
        if not found:
            continue
        seen.append(f"{where}: {_judge(subject, inputs, found, where)}")
    if not seen:
        raise NotApplicable("no kink at the inputs, at zero or at equal elements")
    return "; ".join(seen)


def _points(subject: Subject) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "inputs", subject.inputs if subject.given is None else subject.given
    for where, fill in (("zero", 0.0), ("equal elements", 0.5)):
        for i in subject.differentiable():
            tensor = subject.inputs[i]
            if tensor.is_complex():
                continue
            moved = (*subject.inputs[:i], torch.full_like(tensor, fill), *subject.inputs[i + 1 :])
            try:
                finite = all(bool(t.isfinite().all()) for t in subject.differentiated(*subject.fresh(inputs=moved)))
            except Exception:  # outside the function's domain
                continue
            if finite:
                yield f"{where} in {subject.name(i)}", moved


def _judge(subject: Subject, inputs: tuple[Any, ...], found: list[Kink], where: str) -> str:
    rows: dict[tuple[int, int], list[Tensor]] = {}
    places = subject.differentiable()
    used: set[str] = set()
    for kink in found:
        key = kink.output, kink.element
        if key not in rows:
            leaves = subject.fresh(inputs=inputs)
            outputs = subject.differentiated(*leaves)
            one_hot = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in outputs]
            real(one_hot[kink.output])[kink.element] = 1
            rows[key] = gradients_of(outputs, leaves, one_hot)
        slope = float(real(rows[key][places.index(kink.place)])[kink.flat])
        low, high = sorted((kink.below, kink.above))
        room = 1e-3 * (1 + high - low)
        if not low - room <= slope <= high + room:
            raise Failure(
                f"{where}: the gradient of {subject.output_name(kink.output)} by {subject.name(kink.place)}"
                f"{list(kink.index)} is {slope:.6g}, outside the slopes {kink.below:.6g} and {kink.above:.6g}"
            )
        used.add(f"{slope:.3g} of {kink.below:.3g} to {kink.above:.3g}")
    _compare(subject, inputs, where)
    few = sorted(used)
    return f"subgradient {', '.join(few[:3])}{' and more' if len(few) > 3 else ''}"


def _compare(subject: Subject, inputs: tuple[Any, ...], where: str) -> None:
    leaves = subject.fresh(inputs=inputs)
    outputs = subject.differentiated(*leaves)
    cotangents = subject.cotangents(outputs)
    try:
        _, expected = reference_gradients(subject, subject.fresh(inputs=inputs), cotangents)
    except NotApplicable:
        return
    for i, a, e in zip(subject.differentiable(), gradients_of(outputs, leaves, cotangents), expected, strict=True):
        size = size_of(e)
        name = f"gradient of {subject.name(i)} at a kink ({where})"
        require_close(name, a, e, subject.tolerance(subject.condition * max(size, 1.0)), message="not the reference's")
