"""``check``: every property of a differentiable function, as a report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from torchbp.testing.properties import PROPERTIES, Skip, Subject
from torchbp.testing.report import Report, Result


def run_property(subject: Subject, name: str) -> Result:
    """Run one property and turn what it raises into a result."""
    start = time.perf_counter()
    try:
        PROPERTIES[name](subject)
    except Skip as reason:
        return Result(name, "skip", str(reason), time.perf_counter() - start)
    except Exception as error:  # whatever the function under test raises is its failure
        lines = str(error).strip().splitlines() or [""]
        where = "" if isinstance(error, AssertionError) else f" ({_origin(error)})"
        return Result(name, "fail", f"{type(error).__name__}: {lines[0][:300]}{where}", time.perf_counter() - start)
    return Result(name, "pass", "", time.perf_counter() - start)


def _origin(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"


def select(properties: Sequence[str] | None, skip: Mapping[str, str]) -> list[str]:
    """Return the names to run, in order.

    Raises:
        ValueError: if a name is unknown, or a skipped one has no reason.
    """
    for name in [*(properties or ()), *skip]:
        if name not in PROPERTIES:
            raise ValueError(f"unknown property {name!r}; there are {', '.join(PROPERTIES)}")
    for name, reason in skip.items():
        if not reason:
            raise ValueError(f"skip[{name!r}] must give a reason, got {reason!r}")
    return [name for name in PROPERTIES if properties is None or name in properties]


def check_subject(
    name: str, subject: Subject, properties: Sequence[str] | None = None, skip: Mapping[str, str] | None = None
) -> Report:
    """Run properties on a subject; see :func:`check`."""
    left_out = dict(skip or {})
    report = Report(name)
    for one in select(properties, left_out):
        report.results.append(Result(one, "skip", left_out[one]) if one in left_out else run_property(subject, one))
    return report


def check(
    function: Callable[..., Tensor],
    inputs: Tensor | Sequence[Tensor],
    *,
    reference: Callable[..., Tensor] | None = None,
    properties: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
    small: bool | None = None,
    saved: Callable[..., int] | None = None,
    batched: Sequence[int] = (),
    layout: bool = True,
) -> Report:
    """Prove a differentiable function: value, derivatives to third order, transforms, layouts, memory.

    Args:
        function: maps tensors to one tensor; an ``nn.Module``, a layer of your own, anything callable.
        inputs: one tensor or several; floating-point ones are differentiated and taken in float64.
        reference: another way to compute the same, to compare with (a built-in, say).
        properties: names of ``torchbp.testing.PROPERTIES`` to run; all by default.
        skip: properties to leave out, each with its reason.
        small: whether to take third derivatives and Hessians; by default up to 200 elements.
        saved: ``(*inputs) -> bytes`` that the backward pass may keep, inputs in float32.
        batched: places of the inputs whose first dimension is a batch (then an empty batch is tried).
        layout: whether the strides of results must equal the reference's.

    Returns:
        A report; ``report.raise_if_failed()`` turns it into an assertion.

    Raises:
        TypeError: if an input is not a tensor.
        ValueError: if there is no floating-point input, or a property is unknown.
    """
    tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"inputs[{i}] must be a Tensor, got {type(tensor).__name__}")
    if not any(t.is_floating_point() for t in tensors):
        raise ValueError(f"inputs must hold a floating-point tensor, got {[str(t.dtype) for t in tensors]}")
    wide = tuple(t.detach().to(torch.float64) if t.is_floating_point() else t for t in tensors)
    few = sum(t.numel() for t in wide if t.is_floating_point()) <= 200
    subject = Subject(function, wide, reference, few if small is None else small, saved, tuple(batched), layout)
    name = getattr(function, "__name__", type(function).__name__)
    return check_subject(name, subject, properties, skip)
