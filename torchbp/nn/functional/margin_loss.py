"""Losses with margins: between the scores of classes, and between distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_number, autocast_to, check_flag, check_tensors
from torchbp.nn.functional.distance import pairwise_distance
from torchbp.nn.functional.pointwise_loss import broadcast, reduction_of

_EPSILON = 9.999999960041972e-13  # 1e-12 in float32: what the built-in adds to the squares of lengths


def _rows(op: str, input: Tensor, target: Tensor) -> Tensor:
    """Return input as (N, C)."""
    if not (input.dim() <= 2 and 0 not in input.shape[1:] and (input.dim() == 2 or input.numel())):
        raise RuntimeError(f"{op}(): input must have shape (N, C) or (C) with C > 0, got {tuple(input.shape)}")
    if target.dtype != torch.int64:
        raise RuntimeError(f"{op}(): target must hold classes as int64, got {target.dtype}")
    if input.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f"{op}(): input must be float32 or float64, got {input.dtype}")
    return input if input.dim() == 2 else input.reshape(1, -1)


@replayable
@autocast_to("float32")
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return (w[t] / C) sum over j != t of max(0, margin - x_t + x_j)^p, its mean or its sum.

    Shapes: input (N, C) or (C), target (N) or (), weight (C); it gets no gradient.

    Raises:
        ValueError: if ``reduction`` is unknown, p is not 1 or 2, or weight is no vector.
        RuntimeError: if a shape or dtype does not fit, or a target is not a class.
        NotImplementedError: if input is neither float32 nor float64.
    """
    op = "multi_margin_loss"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    margin = as_number(op, "margin", margin)
    if p not in (1, 2):
        raise ValueError(f"{op}(): p must be 1 or 2, got {p!r}")
    if weight is not None and weight.dim() != 1:
        raise ValueError(f"{op}(): weight must be a vector, got shape {tuple(weight.shape)}")
    x = _rows(op, input, target)
    if not (target.dim() <= 1 and target.numel() == x.shape[0]):
        raise RuntimeError(f"{op}(): target must have shape {(x.shape[0],)}, got {tuple(target.shape)}")
    if weight is not None and (weight.shape[0] != x.shape[1] or weight.dtype != x.dtype):
        raise RuntimeError(
            f"{op}(): weight must have shape {(x.shape[1],)} and input's dtype {x.dtype}, "
            f"got {tuple(weight.shape)} and {weight.dtype}"
        )
    fixed = None if weight is None else weight.detach()
    loss = autograd.margin_loss.multi_margin(x, target.reshape(-1), fixed, int(p), float(margin), reduction)
    return loss.reshape(target.shape) if reduction == "none" else loss


@replayable
@autocast_to("float32")
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return (1 / C) sum over targets k and other classes j of max(0, 1 - x_k + x_j), its mean or its sum.

    Shapes: input (N, C) or (C), target alike; a row's targets end at its first -1.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if a shape or dtype does not fit, or a target is neither a class nor -1.
        NotImplementedError: if input is neither float32 nor float64.
    """
    op = "multilabel_margin_loss"
    check_tensors(op, input=input, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    x = _rows(op, input, target)
    if target.shape != input.shape:
        raise RuntimeError(f"{op}(): target must have input's shape {tuple(input.shape)}, got {tuple(target.shape)}")
    loss = autograd.margin_loss.multilabel_margin(x, target.reshape(x.shape), reduction)
    return loss.squeeze(0) if reduction == "none" and input.dim() < 2 else loss


@replayable
@autocast_to("float32")
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return 1 - c where t = 1 and max(0, c - margin) where t = -1, its mean or its sum.

    c = <x1, x2> / sqrt((<x1, x1> + 1e-12) (<x2, x2> + 1e-12)). Shapes: input1 and input2 (N, D) and target (N), or
    (D) and (). The target gets no gradient.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit, or input1 or input2 is complex.
    """
    op = "cosine_embedding_loss"
    check_tensors(op, input1=input1, input2=input2, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    margin = float(as_number(op, "margin", margin))
    shapes = f"got input1 {tuple(input1.shape)}, input2 {tuple(input2.shape)} and target {tuple(target.shape)}"
    if target.dim() > 1 or not input1.dim() == input2.dim() == target.dim() + 1:
        raise RuntimeError(f"{op}(): shapes must be (N, D), (N, D) and (N), or (D), (D) and (), {shapes}")
    dtype = torch.promote_types(input1.dtype, input2.dtype)
    if dtype.is_complex:
        raise RuntimeError(f"{op}(): input1 and input2 must be real, got {input1.dtype} and {input2.dtype}")
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    a, b = broadcast(op, input1=input1.to(dtype), input2=input2.to(dtype))
    cosine, t = broadcast(op, input=autograd.distance.cosine(a, b, -1, _EPSILON, added=True), target=target.detach())
    return autograd.pointwise_loss.cosine_embedding(cosine, t, reduction, margin)


def _positive_margin(op: str, margin: float) -> float:
    margin = as_number(op, "margin", margin)
    if not margin > 0:
        raise ValueError(f"{op}(): margin must be greater than 0, got {margin}")
    return margin


def _triplet(
    op: str,
    distance: Callable[[Tensor, Tensor], Tensor],
    three: tuple[Tensor, Tensor, Tensor],
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    """Return the loss of the distances from anchor to positive and to negative."""
    anchor, positive, negative = three
    if not anchor.dim() == positive.dim() == negative.dim():
        raise RuntimeError(
            f"{op}(): anchor, positive and negative must have as many dimensions, got {tuple(anchor.shape)}, "
            f"{tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    given = {"positive": distance(anchor, positive), "negative": distance(anchor, negative)}
    if swap:
        given["swapped"] = distance(positive, negative)
    d, n, *swapped = broadcast(op, **given)
    return autograd.pointwise_loss.triplet(d, n, swapped[0] if swapped else None, reduction, margin)


@replayable
@autocast_to("float32")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin + d(a, p) - d(a, n)) with d(x, y) = ‖x - y + eps‖_p, its mean or its sum.

    ``swap`` takes the smaller of d(a, n) and d(p, n) (Balntas, Riba, Ponsa and Mikolajczyk, "Learning local feature
    descriptors with triplets and shallow convolutional neural networks", 2016). Shapes: (N, D) or (D), broadcast.

    Raises:
        ValueError: if ``reduction`` is unknown or the margin is not positive.
        RuntimeError: if the shapes do not fit.
    """
    op = "triplet_margin_loss"
    check_tensors(op, anchor=anchor, positive=positive, negative=negative)
    check_flag(op, "swap", swap)
    reduction = reduction_of(op, size_average, reduce, reduction)
    margin = _positive_margin(op, margin)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return _triplet(op, distance, (anchor, positive, negative), margin, swap, reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin + d(a, p) - d(a, n)) for a distance d, by default pairwise_distance; its mean or sum.

    ``swap`` takes the smaller of d(a, n) and d(p, n). Shapes: the three have as many dimensions; the loss has the
    shape that the distances broadcast to.

    Raises:
        ValueError: if ``reduction`` is unknown or the margin is not positive.
        RuntimeError: if the shapes do not fit.
    """
    op = "triplet_margin_with_distance_loss"
    check_tensors(op, anchor=anchor, positive=positive, negative=negative)
    reduction = reduction_of(op, None, None, reduction)
    margin = _positive_margin(op, margin)
    distance = pairwise_distance if distance_function is None else distance_function
    return _triplet(op, distance, (anchor, positive, negative), margin, swap, reduction)
