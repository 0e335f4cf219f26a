"""Number formats, large and tiny values, values that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.properties.values import paired, reference_gradients, reference_of
from torchbp.testing.subject import NotApplicable, Subject, gradients_of, is_differentiable, size_of, tensors

_FLOAT32 = torch.finfo(torch.float32)


def _narrowed(subject: Subject, factor: float = 1.0) -> list[Any]:
    """Return inputs that float32 can hold, in float64."""
    return [
        (t * factor).to(torch.complex64 if t.is_complex() else torch.float32).to(t.dtype) if is_differentiable(t) else t
        for t in subject.inputs
    ]


def _results(subject: Subject, function: Callable[..., Any], inputs: list[Any], g: Sequence[Tensor]) -> list[Tensor]:
    """Return outputs and gradients."""
    outputs = tensors(function(*inputs))
    if len(outputs) > len(g):
        outputs = [outputs[i] for i in subject.wanted_outputs]
    outputs = outputs[: len(g)]
    cotangents = [c.to(y.dtype) for c, y in zip(g, outputs, strict=True)]
    return [*outputs, *gradients_of(outputs, inputs, cotangents)]


def _names(subject: Subject) -> list[str]:
    names = [subject.output_name(i) for i in range(len(subject.wanted_outputs))]
    return names + [f"gradient of {subject.name(i)}" for i in subject.differentiable()]


def _ulps(results: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Return each result's largest error, in units of the last place of its largest element."""
    worst = []
    for result, truth in zip(results, exact, strict=True):
        if not truth.numel():
            worst.append(0.0)
            continue
        scale = max(size_of(truth), float(_FLOAT32.tiny))
        worst.append(size_of(result.detach().to(truth.dtype) - truth.detach()) / (scale * _FLOAT32.eps))
    return worst


def float32(subject: Subject) -> str:
    """float32 results are as near to float64 as rounding allows, or as the reference's.

    The report gives the errors in units in the last place.
    """
    inputs = _narrowed(subject)
    outputs = subject.differentiated(*subject.fresh(inputs=inputs))
    g = [c.to(torch.complex64 if c.is_complex() else torch.float32) for c in subject.cotangents(outputs)]
    exact = _results(subject, subject.call, subject.fresh(inputs=inputs), g)
    own = _results(subject, subject.call, subject.fresh(torch.float32, inputs=inputs), g)
    for name, result in zip(_names(subject), own, strict=True):
        if result.dtype not in (torch.float32, torch.complex64):
            raise Failure(f"{name}: dtype {result.dtype}, expected torch.float32")
    theirs = [0.0] * len(own)
    if subject.reference is not None:
        try:
            other = _results(subject, subject.reference, subject.fresh(torch.float32, inputs=inputs), g)
            if len(other) == len(exact):
                theirs = _ulps(other, exact)
        except Exception:  # a reference that has no float32 allows nothing
            pass
    errors = _ulps(own, exact)
    allowances = [*subject.output_tolerances(torch.float32), *subject.gradient_tolerances(torch.float32)]
    for name, result, truth, error, allowed, reference in zip(
        _names(subject), own, exact, errors, allowances, theirs, strict=True
    ):
        if error > 2 * reference:
            require_close(f"{name} in float32", result.detach().to(truth.dtype), truth, allowed)
    text = ", ".join(f"{name} {error:.1f}" for name, error in zip(_names(subject), errors, strict=True))
    return f"units in the last place: {text}"


def magnitudes(subject: Subject) -> str:
    """float32 results of large and tiny inputs are finite, and not zero, where the true ones are float32 numbers.

    Inputs are scaled by 10⁴ and 10⁻⁴, and, where the reference is right there too, by 10¹⁵ and 10⁻¹⁵. The truth is
    the reference's in float64, or without one the function's own.
    """
    tried = []
    for factor in (1e4, 1e-4, 1e15, 1e-15):
        inputs = _narrowed(subject, factor)
        try:
            outputs = subject.differentiated(*subject.fresh(inputs=inputs))
            g = [c.to(torch.complex64 if c.is_complex() else torch.float32) for c in subject.cotangents(outputs)]
            truths = _results(subject, subject.call, subject.fresh(inputs=inputs), g)
        except Exception:  # values that the function does not take
            continue
        reference = _reference_results(subject, inputs, g, len(truths))
        if reference is None and not 1e-10 < factor < 1e10:
            continue
        theirs: list[Tensor] | None = None
        if reference is not None:
            truths, theirs = reference
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = _results(subject, subject.call, subject.fresh(torch.float32, inputs=inputs), g)
        tried.append(f"{factor:g}")
        for number, (name, result, truth) in enumerate(zip(_names(subject), own, truths, strict=True)):
            other = None if theirs is None else theirs[number].detach()
            _require_range(f"{name} of inputs times {factor:g}", result.detach(), truth.detach(), other)
    if not tried:
        raise NotApplicable("the function takes none of the magnitudes")
    return f"inputs times {', '.join(tried)}"


def _reference_results(
    subject: Subject, inputs: list[Any], g: Sequence[Tensor], count: int
) -> tuple[list[Tensor], list[Tensor]] | None:
    """Return the reference's results in float64 and float32; None if it does not have them all."""
    if subject.reference is None:
        return None
    try:
        wide, narrow = (
            _results(subject, subject.reference, subject.fresh(dtype, inputs=inputs), g)
            for dtype in (torch.float64, torch.float32)
        )
    except Exception:
        return None
    return (wide, narrow) if len(wide) == len(narrow) == count else None


def _require_range(name: str, result: Tensor, truth: Tensor, reference: Tensor | None) -> None:
    """Fail where a result is not finite, or vanishes, though the truth is an ordinary float32 number."""
    size = truth.abs()
    ordinary = truth.isfinite() & (size < _FLOAT32.max / 16) & ((size > _FLOAT32.tiny * 16) | (size == 0))
    wrong = ordinary & (~result.isfinite() | ((result == 0) & (size > _FLOAT32.tiny * 16)))
    scale = size_of(truth)
    # An element that vanishes beside its largest neighbour has cancelled.
    wrong = wrong & (~result.isfinite() | (size > _FLOAT32.eps * scale))
    if reference is not None:
        wrong = wrong & reference.isfinite() & ((reference != 0) | ~result.isfinite())
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        raise Failure(f"{name}{list(place)}: {result[place].item():g} in float32, {truth[place].item():g} in float64")


def nonfinite(subject: Subject) -> str:
    """NaN and infinity in an input give NaN and infinity where the reference gives them, in value and gradient."""
    reference = reference_of(subject)
    count = 0
    for i in subject.differentiable():
        if subject.inputs[i].numel() == 0:
            continue
        for odd in (torch.nan, torch.inf, -torch.inf):
            changed = subject.inputs[i].clone()
            changed[(0,) * changed.dim()] = odd
            inputs = [*subject.inputs[:i], changed, *subject.inputs[i + 1 :]]
            try:
                expected = tensors(reference(*subject.fresh(inputs=inputs)))
            except Exception:  # refused: nothing to compare with
                continue
            where = f"{odd} in {subject.name(i)}"
            mine = subject.fresh(inputs=inputs)
            got = subject.call(*mine)
            for name, a, e in paired(subject, got, expected):
                _require_places(f"{name}, {where}", a.detach(), e.detach())
            chosen = [got[k] for k in subject.wanted_outputs]
            g = [torch.ones_like(t) for t in chosen]
            try:
                _, wanted = reference_gradients(subject, subject.fresh(inputs=inputs), g)
            except NotApplicable:
                wanted = []
            for k, a, e in zip(subject.differentiable(), gradients_of(chosen, mine, g), wanted, strict=False):
                _require_places(f"gradient of {subject.name(k)}, {where}", a, e)
            count += 1
    if not count:
        raise NotApplicable("the reference takes no value that is not finite")
    return f"{count} inputs"


def _require_places(name: str, got: Tensor, expected: Tensor) -> None:
    if not is_differentiable(got) or not is_differentiable(expected):
        return
    for what, test in (("NaN", torch.isnan), ("infinity", torch.isinf)):
        a, b = test(got), test(expected)
        if not torch.equal(a, b):
            place = tuple((a != b).nonzero()[0].tolist())
            raise Failure(
                f"{name}{list(place)}: {got[place].item():g}, the reference gives {expected[place].item():g} ({what})"
            )


def autocast(subject: Subject) -> None:
    """Under bfloat16 autocast the output has the reference's dtype and the gradients their inputs'."""
    reference = reference_of(subject)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            wanted = [t.dtype for t in tensors(reference(*subject.fresh(torch.bfloat16)))]
        except (NotImplementedError, TypeError, RuntimeError):  # which takes no bfloat16 at all
            wanted = []
        if wanted:
            narrow = [t.dtype for t in subject.call(*subject.fresh(torch.bfloat16))]
            if narrow[: len(wanted)] != wanted and [narrow[i] for i in subject.wanted_outputs] != wanted:
                raise Failure(f"output for bfloat16 inputs: {narrow}, expected {wanted}")
        inputs = subject.fresh(torch.float32)
        outputs, expected = subject.call(*inputs), tensors(reference(*subject.fresh(torch.float32)))
    if not any(t.requires_grad for t in expected):
        raise NotApplicable("the reference is not PyTorch's")
    pairs = paired(subject, outputs, expected)
    for name, a, e in pairs:
        if a.dtype != e.dtype:
            raise Failure(f"{name}: dtype {a.dtype}, expected {e.dtype}")
        if a.numel() == 0 or not is_differentiable(a):
            continue
        wide = torch.complex128 if a.is_complex() else torch.float64
        size = max(size_of(e), 1e-3)
        require_close(f"{name} under autocast", a.detach().to(wide), e.detach().to(wide), 0.05 * size)
    differentiable = [t for t in outputs if t.requires_grad]
    if not differentiable:
        return
    loss = sum((t.abs() if t.is_complex() else t).float().sum() for t in differentiable)
    leaves = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)  # type: ignore[arg-type]
    for t, a in zip(leaves, gradients, strict=True):
        if a is not None and a.dtype != t.dtype:
            raise Failure(f"gradient dtype {a.dtype} for an input of {t.dtype}")
