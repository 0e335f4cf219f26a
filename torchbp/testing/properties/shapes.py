"""Shapes at the edge: an empty batch, no batch, dimensions of size one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.properties.values import paired, reference_gradients
from torchbp.testing.subject import NotApplicable, Refused, Subject, gradients_of, is_differentiable, size_of, tensors


def empty_batch(subject: Subject) -> None:
    """A batch of size zero gives the reference's shape, and gradients of zeros."""
    inputs = _given(subject, "empty_batch")
    if inputs is None:
        inputs = [t[:0] if i in subject.batched else t for i, t in enumerate(_plain(subject))]
    _compare(subject, inputs, "empty batch")


def unbatched(subject: Subject) -> None:
    """Without the batch dimension the result is the reference's, or without one that of a batch of one."""
    inputs = _given(subject, "unbatched")
    if inputs is None:
        inputs = [t[0] if i in subject.batched else t for i, t in enumerate(_plain(subject))]
    if _refused(subject, inputs):
        raise NotApplicable("the reference takes no input without a batch")
    _compare(subject, inputs, "unbatched")
    if subject.reference is None and subject.batched:
        single = subject.fresh(inputs=[t[:1] if i in subject.batched else t for i, t in enumerate(_plain(subject))])
        pairs = zip(subject.call(*subject.fresh(inputs=inputs)), subject.call(*single), strict=True)
        for number, (a, e) in enumerate(pairs):
            allowed = subject.tolerance(8 * subject.condition * size_of(e)) if is_differentiable(a) else 0.0
            require_close(f"output {number}, unbatched", a.unsqueeze(0), e, allowed)


def size_one(subject: Subject) -> str:
    """Dimensions of size one give the reference's result: a batch of one, and every size narrowed to one.

    Sizes that occur several times are narrowed together; what the reference does not take is passed over.
    """
    given = subject.shapes("size_one") if subject.shapes is not None else None
    if given is not None:
        _compare(subject, _leaves(given), "size one")
        return ""
    if subject.reference is None:
        raise NotApplicable("no reference and no shapes given")
    tried = []
    for what, inputs in _narrowed(subject):
        if not _refused(subject, inputs):
            _compare(subject, inputs, what)
            tried.append(what)
    if not tried:
        raise NotApplicable("the reference takes no narrower inputs")
    return ", ".join(tried)


def _plain(subject: Subject) -> list[Any]:
    return [t.detach() if isinstance(t, Tensor) else t for t in subject.inputs]


def _leaves(inputs: Sequence[Any]) -> list[Any]:
    return [t.detach().double() if is_differentiable(t) and not t.is_complex() else t for t in inputs]


def _given(subject: Subject, kind: str) -> list[Any] | None:
    """Return the inputs of a kind that the subject's shapes give, None where its batch is to be cut.

    Raises:
        NotApplicable: if there is neither.
    """
    if subject.shapes is not None:
        inputs = subject.shapes(kind)
        if inputs is not None:
            return _leaves(inputs)
    if not subject.batched:
        raise NotApplicable("no batch dimension declared, no shapes given")
    return None


def _narrowed(subject: Subject) -> Iterator[tuple[str, list[Any]]]:
    if subject.batched:
        yield "a batch of one", [t[:1] if i in subject.batched else t for i, t in enumerate(_plain(subject))]
    sizes = sorted({size for i in subject.differentiable() for size in subject.inputs[i].shape if size > 1})
    for size in sizes:
        narrow = []
        for t in _plain(subject):
            if isinstance(t, Tensor):
                for dim, own in enumerate(t.shape):
                    t = t.narrow(dim, 0, 1) if own == size else t
            narrow.append(t)
        yield f"sizes {size} as 1", narrow


def _refused(subject: Subject, inputs: Sequence[Any]) -> bool:
    if subject.reference is None:
        return False
    try:
        outputs = tensors(subject.reference(*subject.fresh(inputs=inputs)))
        return not all(bool(t.isfinite().all()) for t in outputs if is_differentiable(t))
    except Exception:
        return True


def _compare(subject: Subject, inputs: Sequence[Any], what: str) -> None:
    """Compare value and gradients with the reference's; without one, only that they can be had, in the right shape."""
    leaves = subject.fresh(inputs=inputs)
    try:
        everything = subject.call(*leaves)
    except Exception as error:
        raise Refused(f"{what}: the function raises {type(error).__name__}: {str(error)[:200]}") from error
    outputs = [everything[i] for i in subject.wanted_outputs]
    g = subject.cotangents(outputs)
    gradients = gradients_of(outputs, leaves, g)
    for i, a in zip(subject.differentiable(), gradients, strict=True):
        if a.shape != leaves[i].shape or not bool(a.isfinite().all()):
            raise Failure(f"gradient of {subject.name(i)}, {what}: {tuple(a.shape)}, or not finite")
        if what == "empty batch" and bool(a.any()):
            raise Failure(f"gradient of {subject.name(i)}, {what}: not zero")
    if subject.reference is None:
        return
    again = subject.fresh(inputs=inputs)
    # Another shape, other sums: the relative tolerance is what carries over.
    for name, a, e in paired(subject, everything, tensors(subject.reference(*again))):
        require_close(f"{name}, {what}", a, e, subject.tolerance(8 * subject.condition * size_of(e)))
    try:
        _, expected = reference_gradients(subject, subject.fresh(inputs=inputs), g)
    except NotApplicable:
        return
    for i, a, e in zip(subject.differentiable(), gradients, expected, strict=True):
        allowed = subject.tolerance(8 * subject.condition * max(size_of(e), 1.0))
        require_close(f"gradient of {subject.name(i)}, {what}", a, e, allowed)
