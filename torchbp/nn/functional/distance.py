"""Distances and similarities."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, as_number, autocast_to, check_flag, check_tensors
from torchbp.nn.functional.pointwise_loss import broadcast, common_dtype


@replayable
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """Return ‖x1 - x2 + eps‖_p along the last dimension, for any p, inf included; p = 0 counts what differs from 0.

    Where several elements are largest for p = inf, each has its share of the gradient.

    Shapes: x1 and x2 (*, D), broadcast; output (*), or (*, 1) with ``keepdim``.

    Raises:
        RuntimeError: if the shapes do not fit.
    """
    op = "pairwise_distance"
    check_tensors(op, x1=x1, x2=x2)
    check_flag(op, "keepdim", keepdim)
    dtype = common_dtype(x1, x2)
    if dtype == torch.bool:
        raise RuntimeError(f"{op}(): x1 and x2 must not be bool, got {dtype}")
    a, b = broadcast(op, x1=x1.to(dtype), x2=x2.to(dtype))
    if not (dtype.is_floating_point or dtype.is_complex):  # the difference of integers is one
        a = (a - b).to(torch.get_default_dtype())
        b = torch.zeros_like(a)
    return autograd.distance.distance(a, b, float(as_number(op, "p", p)), float(as_number(op, "eps", eps)), keepdim)


def _cosine_dtype(op: str, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    dtype = common_dtype(x1, x2)
    if not dtype.is_floating_point:
        raise RuntimeError(f"{op}(): x1 and x2 must be floating-point, got {x1.dtype} and {x2.dtype}")
    a, b = broadcast(op, x1=x1.to(dtype), x2=x2.to(dtype))
    return a, b


@replayable
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return <x1, x2> / (max(|x1|, eps) max(|x2|, eps)) along ``dim``.

    A length that is raised to eps counts as constant times its derivative, as in the built-in.

    Shapes: x1 and x2 broadcast; output has the shape that they broadcast to, without ``dim``.

    Raises:
        RuntimeError: if the shapes do not fit or neither is floating-point.
        IndexError: if there is no such dimension.
    """
    op = "cosine_similarity"
    check_tensors(op, x1=x1, x2=x2)
    dim = as_int(op, "dim", dim)
    eps = float(as_number(op, "eps", eps))
    a, b = _cosine_dtype(op, x1, x2)
    dimensions = max(a.dim(), 1)
    if not -dimensions <= dim < dimensions:
        raise IndexError(f"{op}(): dim must be from {-dimensions} to {dimensions - 1}, got {dim}")
    return autograd.distance.cosine(a, b, dim, eps)


_MODES = {"use_mm_for_euclid_dist_if_necessary": None, "use_mm_for_euclid_dist": 1, "donot_use_mm_for_euclid_dist": 2}


@replayable
@autocast_to("float32")
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Tensor:
    """Return ‖x1[..., i] - x2[..., j]‖_p for all pairs of rows: (*, P, R) from (*, P, M) and (*, R, M).

    p = 0 counts the elements that differ. Where several elements are largest for p = inf, each has the gradient. It is
    torch.cdist, with derivatives of any order.

    Raises:
        ValueError: if ``compute_mode`` is unknown.
        RuntimeError: if the shapes or dtypes do not fit, or p is negative.
    """
    op = "cdist"
    check_tensors(op, x1=x1, x2=x2)
    if compute_mode not in _MODES:
        raise ValueError(f"{op}(): compute_mode must be one of {', '.join(map(repr, _MODES))}, got {compute_mode!r}")
    p = float(as_number(op, "p", p))
    if x1.dim() < 2 or x2.dim() < 2 or x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(
            f"{op}(): x1 and x2 must have shapes (*, P, M) and (*, R, M), got {tuple(x1.shape)} and {tuple(x2.shape)}"
        )
    if not (x1.dtype == x2.dtype and x1.is_floating_point()):
        raise RuntimeError(f"{op}(): x1 and x2 must have one floating-point dtype, got {x1.dtype} and {x2.dtype}")
    if not p >= 0:
        raise RuntimeError(f"{op}(): p must not be negative, got {p}")
    try:
        lead = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    except RuntimeError:
        raise RuntimeError(
            f"{op}(): the batches of x1 and x2 must broadcast, got {tuple(x1.shape)} and {tuple(x2.shape)}"
        ) from None
    a, b = (x.expand(*lead, *x.shape[-2:]) if x.shape[:-2] != lead else x for x in (x1, x2))
    return autograd.distance.pair_distances(a, b, p, _MODES[compute_mode])


@replayable
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Return ‖x_i - x_j‖_p for every pair i < j of rows of x (N, M), as (N (N - 1) / 2); p = 0 counts differences.

    Raises:
        RuntimeError: if input is no floating-point matrix or p is negative.
    """
    op = "pdist"
    check_tensors(op, input=input)
    p = float(as_number(op, "p", p))
    if input.dim() != 2:
        raise RuntimeError(f"{op}(): input must be a matrix, got shape {tuple(input.shape)}")
    if not input.is_floating_point():
        raise RuntimeError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    if not p >= 0:
        raise RuntimeError(f"{op}(): p must not be negative, got {p}")
    return autograd.distance.own_distances(input, p)
