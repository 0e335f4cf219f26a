"""Losses of classes."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, as_number, autocast_to, check_tensors
from torchbp.nn.functional.pointwise_loss import reduced, reduction_of


def _class_weight(op: str, weight: Tensor | None, classes: int) -> None:
    if weight is None:
        return
    check_tensors(op, weight=weight)
    if tuple(weight.shape) != (classes,):
        raise RuntimeError(f"{op}(): weight must have one value per class, {(classes,)}, got {tuple(weight.shape)}")


def _class_indices(op: str, target: Tensor, input: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the targets as int64 and the weight without its gradient."""
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"{op}(): target must hold class indices, int64 or uint8, got {target.dtype}")
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(f"{op}(): weight must have input's dtype {input.dtype}, got {weight.dtype}")
    return target if target.dtype == torch.int64 else target.long(), None if weight is None else weight.detach()


def _samples(op: str, input: Tensor, target: Tensor, probabilities: bool) -> tuple[Tensor, Tensor, bool]:
    """Return input as (N, C, *), target with a batch too, and whether it was added."""
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    if input.dim() == 0:
        error = ValueError if op == "nll_loss" else RuntimeError
        raise error(f"{op}(): input must have at least one dimension, got shape ()")
    unbatched = input.dim() == 1
    if unbatched and not probabilities and target.shape == (1,):
        target = target.squeeze(0)
    expected = tuple(input.shape) if probabilities else (*input.shape[:1], *input.shape[2:])
    if unbatched and not probabilities:
        expected = ()
    if tuple(target.shape) != expected:
        shapes = f"input {tuple(input.shape)}, target {tuple(target.shape)}"
        if target.shape[:1] != input.shape[:1]:
            raise ValueError(f"{op}(): target must have input's batch size and shape {expected}, got {shapes}")
        raise RuntimeError(f"{op}(): target must have shape {expected}, got {shapes}")
    return (input.unsqueeze(0), target.unsqueeze(0), True) if unbatched else (input, target, False)


@replayable
@autocast_to("float32")
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood -weight[t] x[t]; the mean divides by the sum of the weights.

    Shapes: input (N, C, *) or (C) of log-probabilities, target (N, *) or () of class indices, weight (C).

    Args:
        input: log-probabilities.
        target: class indices; one equal to ``ignore_index`` contributes nothing.
        weight: per class; it gets no gradient.
        size_average: deprecated, see ``reduction``.
        ignore_index: a target to leave out.
        reduce: deprecated, see ``reduction``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        IndexError: if a target is not a class.
        RuntimeError, ValueError: if a shape, dtype or the reduction does not fit.
    """
    op = "nll_loss"
    reduction = reduction_of(op, size_average, reduce, reduction)
    check_tensors(op, input=input, target=target)
    x, t, unbatched = _samples(op, input, target, probabilities=False)
    _class_weight(op, weight, x.shape[1])
    ignore_index = as_int(op, "ignore_index", ignore_index)
    t, weight = _class_indices(op, t, x, weight)
    loss = autograd.loss.negative_log_likelihood(x, t, weight, ignore_index, reduction)
    return loss.squeeze(0) if reduction == "none" and unbatched else loss


@replayable
@autocast_to("float32")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of softmax(x) with classes or class probabilities.

    With q = log_softmax(x) along the class dimension and s = label_smoothing: for class indices t,
    -(1 - s) weight[t] q[t] - (s / C) sum over c of weight[c] q[c], and the mean divides by the sum of
    weight[t]; for probabilities p, -sum over c of weight[c] ((1 - s) p[c] + s / C) q[c], and the mean divides
    by the number of samples.

    Shapes: input (N, C, *) or (C); target (N, *) or () of class indices, or probabilities shaped as input;
    weight (C).

    Raises:
        IndexError: if a target is not a class.
        RuntimeError, ValueError: if a shape, dtype, the reduction or ``label_smoothing`` (0 to 1) does not fit.
    """
    op = "cross_entropy"
    reduction = reduction_of(op, size_average, reduce, reduction)
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    ignore_index = as_int(op, "ignore_index", ignore_index)
    label_smoothing = as_number(op, "label_smoothing", label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"{op}(): label_smoothing must be between 0 and 1, got {label_smoothing}")
    probabilities = target.is_floating_point() and target.shape == input.shape
    x, t, unbatched = _samples(op, input, target, probabilities)
    classes = x.shape[1]
    _class_weight(op, weight, classes)
    if probabilities:
        q = autograd.softmax.log_softmax(x, 1)
        if ignore_index >= 0:
            raise RuntimeError(f"{op}(): ignore_index is not supported for probabilities, got {ignore_index}")
        p = t if label_smoothing == 0 else t * (1 - label_smoothing) + label_smoothing / classes
        fixed = None if weight is None else weight.detach()
        dtype = functools.reduce(torch.promote_types, (v.dtype for v in (q, p, fixed) if v is not None))
        q, p, fixed = q.to(dtype), p.to(dtype), None if fixed is None else fixed.to(dtype)
        loss = autograd.loss.negative_expectation(q, p, fixed)
        if reduction == "mean":
            return loss.sum() / (x.numel() / classes if classes else 0)
        return loss.squeeze(0) if reduction == "none" and unbatched else reduced(loss, reduction)
    t, weight = _class_indices(op, t, x, weight)
    loss = autograd.loss.cross_entropy(x, t, weight, ignore_index, label_smoothing, reduction)
    return loss.squeeze(0) if reduction == "none" and unbatched else loss
