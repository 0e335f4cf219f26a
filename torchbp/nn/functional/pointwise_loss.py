"""Losses of every element, weighted and reduced. Deprecated arguments stand for a reduction, as in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_number, autocast_to, check_flag, check_tensors, warn


def reduction_of(op: str, size_average: bool | None, reduce: bool | None, reduction: str, *further: str) -> str:
    """Return the reduction that the arguments mean, ``"none"``, ``"mean"``, ``"sum"`` or one of the further ones."""
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum", *further):
        names = ", ".join(repr(name) for name in ("none", "mean", *further))
        raise ValueError(f"{op}(): reduction must be {names} or 'sum', got {reduction!r}")
    return reduction


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the losses, their mean or their sum."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Return the dtype of a result of both; Dynamo does not trace torch.result_type."""
    if (a.dim() == 0) == (b.dim() == 0):
        return torch.promote_types(a.dtype, b.dtype)
    return torch.result_type(a, b)


def broadcast(op: str, **given: Tensor) -> list[Tensor]:
    """Return the tensors in the shape that they broadcast to.

    Raises:
        RuntimeError: if there is none.
    """
    shapes = {tuple(t.shape) for t in given.values()}
    if len(shapes) == 1:
        return list(given.values())
    try:
        return list(torch.broadcast_tensors(*given.values()))
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(t.shape)}" for name, t in given.items())
        raise RuntimeError(f"{op}(): {' and '.join(given)} must broadcast to one shape, got {found}") from None


def expanded(op: str, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor expanded to a shape that it must not enlarge."""
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise RuntimeError(
            f"{op}(): {name} must broadcast to input's shape {tuple(shape)}, got {tuple(tensor.shape)}"
        ) from None


def _alike(op: str, input: Tensor, target: Tensor, stacklevel: int = 3) -> None:
    if input.shape != target.shape:
        warn(
            f"{op}(): input and target have different shapes, {tuple(input.shape)} and {tuple(target.shape)}, "
            "and are broadcast",
            stacklevel=stacklevel,
        )


def _same_shape(op: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ValueError(f"{op}(): target must have input's shape {tuple(input.shape)}, got {tuple(target.shape)}")


def _matched(op: str, input: Tensor, target: Tensor, refuses: type[Exception] | None = None) -> tuple[Tensor, Tensor]:
    """Return both in one dtype and shape; with ``refuses`` the dtype must be real and floating-point."""
    if input.dtype == target.dtype and input.shape == target.shape and input.is_floating_point():
        return input, target
    dtype = common_dtype(input, target)
    if refuses is not None and not dtype.is_floating_point:
        raise refuses(f"{op}(): input must be real and floating-point, got {input.dtype}, target {target.dtype}")
    x, t = broadcast(op, input=input.to(dtype), target=target.to(dtype))
    return x, t


def _no_booleans(op: str, **given: Tensor) -> None:
    for name, tensor in given.items():
        if tensor.dtype == torch.bool:
            raise RuntimeError(f"{op}(): {name} must not be bool, got {tensor.dtype}")


def _no_mean_of_integers(op: str, dtype: torch.dtype, reduction: str) -> None:
    if reduction == "mean" and not (dtype.is_floating_point or dtype.is_complex):
        raise RuntimeError(f"{op}(): input must be floating-point for a mean, got {dtype}")


def _weight(op: str, weight: Tensor, x: Tensor, t: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight of the given shape, and the operands, in one dtype and shape."""
    if weight.shape != torch.Size(shape):
        raise ValueError(f"{op}(): weight must have shape {tuple(shape)}, got {tuple(weight.shape)}")
    dtype = torch.promote_types(x.dtype, weight.dtype)
    return weight.to(dtype if not dtype.is_complex else dtype.to_real()).expand(x.shape), x.to(dtype), t.to(dtype)


def _weighted(loss: Callable[..., Tensor], op: str, weight: Tensor | None, given: Tensor, *operands: Any) -> Tensor:
    """Return a loss (x, t, reduction) with a weight of the given tensor's shape; a mean divides by its sum."""
    x, t, reduction = operands
    if weight is None:
        if torch._C._is_any_autocast_enabled():  # the built-in casts without a weight only
            loss = autocast_to("float32")(loss)
        return loss(x, t, reduction)
    w, x, t = _weight(op, weight, x, t, given.shape)
    if reduction != "mean":
        return loss(x, t, reduction, w)
    return loss(x, t, "sum", w) / weight.sum()


@replayable
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return (x - t)², its mean or its sum.

    Shapes: input and target alike, or broadcast with a warning; weight as input, multiplies the squares, and the
    mean divides by its sum.

    Raises:
        ValueError: if ``reduction`` is unknown or weight does not fit.
        RuntimeError: if input and target do not broadcast.
        NotImplementedError: if input and target are integers.
    """
    op = "mse_loss"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    _alike(op, input, target)
    x, t = _matched(op, input, target)
    if not (x.is_floating_point() or x.is_complex()):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {input.dtype}")
    return _weighted(autograd.pointwise_loss.squared_error, op, weight, input, x, t, reduction)


@replayable
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return |x - t|, its mean or its sum; the derivative at 0 is 0.

    Shapes: input and target alike, or broadcast with a warning; weight as input, multiplies the distances, and the
    mean divides by its sum.

    Raises:
        ValueError: if ``reduction`` is unknown or weight does not fit.
        RuntimeError: if input and target do not broadcast, one is bool, or integers are to be averaged.
    """
    op = "l1_loss"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    _alike(op, input, target)
    _no_booleans(op, input=input, target=target)
    x, t = _matched(op, input, target)
    if weight is None:
        _no_mean_of_integers(op, x.dtype, reduction)
    return _weighted(autograd.pointwise_loss.absolute_error, op, weight, input, x, t, reduction)


@replayable
@autocast_to("float32")
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return d² / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - t; its mean or its sum.

    Girshick, "Fast R-CNN" (2015). For beta = 0 it is l1_loss. Shapes: alike, or broadcast with a warning.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if input and target do not broadcast, or beta is negative.
        NotImplementedError: if input and target are integers or complex.
    """
    op = "smooth_l1_loss"
    check_tensors(op, input=input, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    beta = as_number(op, "beta", beta)
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    _alike(op, input, target, 4)  # past the autocast wrapper
    x, t = _matched(op, input, target, NotImplementedError)
    if beta < 0:
        raise RuntimeError(f"{op}(): beta must not be negative, got {beta}")
    return autograd.pointwise_loss.smooth_absolute_error(x, t, reduction, float(beta))


@replayable
@autocast_to("float32")
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Return d² / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - t; its mean or its sum.

    Huber, "Robust estimation of a location parameter" (1964). Shapes: input and target alike, or broadcast with a
    warning; weight as input, multiplies the losses.

    Raises:
        ValueError: if ``reduction`` is unknown or weight does not fit.
        RuntimeError: if input and target do not broadcast, or delta is not positive.
        NotImplementedError: if input and target are integers or complex.
    """
    op = "huber_loss"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, None, None, reduction)
    delta = as_number(op, "delta", delta)
    _alike(op, input, target, 4)  # past the autocast wrapper
    x, t = _matched(op, input, target, NotImplementedError)
    if not input.is_floating_point():
        raise RuntimeError(f"{op}(): input must be floating-point where target is, got {input.dtype}")
    if not delta > 0:
        raise RuntimeError(f"{op}(): delta must be positive, got {delta}")
    dtype = input.dtype
    if weight is not None:
        weight, x, t = _weight(op, weight, x, t, input.shape)
        dtype = torch.promote_types(dtype, weight.dtype)
    return autograd.pointwise_loss.huber(x, t, reduction, float(delta), weight).to(dtype)


@replayable
@autocast_to("float32")
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return the divergence t (log t - x) of a target distribution from log-probabilities x, reduced.

    Kullback and Leibler (1951). With ``log_target`` the target is a logarithm too: exp(t) (t - x). ``"batchmean"``
    divides the sum by the batch size, ``"mean"`` by the number of elements. Shapes: alike, or broadcast.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if input and target do not broadcast, or one is not floating-point.
    """
    op = "kl_div"
    check_tensors(op, input=input, target=target)
    check_flag(op, "log_target", log_target)
    if size_average is None and reduce is None and reduction == "mean":
        warn(
            f"{op}(): reduction 'mean' divides by the number of elements; 'batchmean' divides by the batch size, which "
            "is the mathematical definition",
            stacklevel=3,  # past the autocast wrapper
        )
    reduction = reduction_of(op, size_average, reduce, reduction, "batchmean")
    for name, tensor in (("input", input), ("target", target)):
        if not tensor.is_floating_point():
            raise RuntimeError(f"{op}(): {name} must be real and floating-point, got {tensor.dtype}")
    x, t = _matched(op, input, target)
    kind = "sum" if reduction == "batchmean" else reduction
    loss = autograd.pointwise_loss.divergence(x, t, kind, log_target)
    return loss / input.shape[0] if reduction == "batchmean" and input.dim() else loss


@replayable
@autocast_to("float32")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of counts t under Poisson distributions, its mean or its sum.

    exp(x) - t x where x is the logarithm of the rate, x - t log(x + eps) without ``log_input``; ``full`` adds log t!
    by Stirling's formula, t log t - t + log(2π t) / 2, where t > 1. Shapes: alike, or broadcast.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit.
    """
    op = "poisson_nll_loss"
    check_tensors(op, input=input, target=target)
    check_flag(op, "log_input", log_input)
    check_flag(op, "full", full)
    reduction = reduction_of(op, size_average, reduce, reduction)
    eps = as_number(op, "eps", eps)
    x, t = _matched(op, input, target)
    _no_booleans(op, **{"input and target": x})
    return autograd.pointwise_loss.poisson(x, t, reduction, log_input, full, eps)


@replayable
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood (log v + (x - t)² / v) / 2 of targets t under normal distributions, reduced.

    Nix and Weigend, "Estimating the mean and variance of the target probability distribution" (1994). v is var, at
    least eps, through which gradients pass as if it were var; ``full`` adds log(2π) / 2.

    Shapes: input and target alike, or broadcast; var as input, or without its last dimension, or of size one along
    one dimension, or a float.

    Raises:
        ValueError: if a variance is negative, var's shape does not fit or ``reduction`` is unknown.
        RuntimeError: if input and target do not broadcast.
        TypeError: if var is neither a tensor nor a float.
    """
    op = "gaussian_nll_loss"
    check_tensors(op, input=input, target=target)
    if isinstance(var, float):
        if var < 0:
            raise ValueError(f"{op}(): var must not be negative, got {var}")
        var = torch.full_like(input, var) if input.is_floating_point() else input.new_full(input.shape, var)
    check_tensors(op, var=var)
    eps = as_number(op, "eps", eps)
    if var.shape != input.shape:
        others = [b for a, b in zip(input.shape, var.shape, strict=False) if a != b]
        if input.shape[:-1] == var.shape:
            var = var.unsqueeze(-1)
        elif input.dim() != var.dim() or sum(others) != 1:
            raise ValueError(
                f"{op}(): var must have input's shape {tuple(input.shape)}, that without the last dimension, or a size "
                f"of one, got {tuple(var.shape)}"
            )
    reduction = reduction_of(op, None, None, reduction)
    dtype = torch.promote_types(common_dtype(input, target), var.dtype)
    x, t, v = (tensor.to(dtype) for tensor in broadcast(op, input=input, target=target, var=var))
    return autograd.pointwise_loss.gaussian(x, t, v, reduction, eps, full)


@replayable
@autocast_to("float32")
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return -w (t log x + (1 - t) log(1 - x)), its mean or its sum; no logarithm is below -100.

    Shapes: input and target alike, weight broadcasts to them.

    Raises:
        ValueError: if the shapes differ or ``reduction`` is unknown.
        RuntimeError: if the dtypes differ, weight does not fit, or an element is not between 0 and 1.
        NotImplementedError: if the dtype is not real and floating-point.
    """
    op = "binary_cross_entropy"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    _same_shape(op, input, target)
    if input.dtype != target.dtype:
        raise RuntimeError(f"{op}(): target must have input's dtype {input.dtype}, got {target.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    if weight is not None:
        weight = expanded(op, "weight", weight, input.shape).to(input.dtype)
    return autograd.pointwise_loss.binary_cross_entropy(input, target, reduction, weight)


@replayable
@autocast_to("float32")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return -w (p t log σ(x) + (1 - t) log σ(-x)) with p = pos_weight, its mean or its sum.

    Shapes: input and target alike, weight and pos_weight broadcast to them.

    Raises:
        ValueError: if the shapes differ or ``reduction`` is unknown.
        RuntimeError: if weight or pos_weight does not fit, or target is not floating-point.
        NotImplementedError: if input is not real and floating-point.
    """
    op = "binary_cross_entropy_with_logits"
    check_tensors(op, "weight", "pos_weight", input=input, target=target, weight=weight, pos_weight=pos_weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    _same_shape(op, input, target)
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    if not target.is_floating_point():
        raise RuntimeError(f"{op}(): target must be real and floating-point, got {target.dtype}")
    x, t = _matched(op, input, target)
    if weight is not None:
        weight = expanded(op, "weight", weight, input.shape).to(x.dtype)
    if pos_weight is not None:
        pos_weight = expanded(op, "pos_weight", pos_weight, input.shape).to(x.dtype)
    return autograd.pointwise_loss.logistic(x, t, reduction, weight, pos_weight).to(target.dtype)


@replayable
@autocast_to("float32")
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return log(1 + exp(-t x)) for targets of 1 and -1, its mean or its sum. Shapes: alike, or broadcast.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit or input is not floating-point.
        NotImplementedError: if input or target is complex.
    """
    op = "soft_margin_loss"
    check_tensors(op, input=input, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    if input.is_complex() or target.is_complex():
        raise NotImplementedError(f"{op}(): input must be real, got {input.dtype}, target {target.dtype}")
    if not input.is_floating_point():
        raise RuntimeError(f"{op}(): input must be floating-point, got {input.dtype}")
    x, t = _matched(op, input, target)
    return autograd.pointwise_loss.soft_margin(x, t, reduction).to(input.dtype)


@replayable
@autocast_to("float32")
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the distance x where t = 1 and max(0, margin - x) where t = -1, its mean or its sum.

    Any other target counts as both. Shapes: alike, or broadcast. The target gets no gradient.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit, input is bool, or integers are to be averaged.
        NotImplementedError: if input is complex.
    """
    op = "hinge_embedding_loss"
    check_tensors(op, input=input, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    margin = as_number(op, "margin", margin)
    _no_booleans(op, input=input)
    if input.is_complex():
        raise NotImplementedError(f"{op}(): input must be real, got {input.dtype}")
    x, t = broadcast(op, input=input, target=target.detach())
    if not (x.is_floating_point() or isinstance(margin, int)):
        x = x.to(torch.get_default_dtype())
    _no_mean_of_integers(op, input.dtype, reduction)
    return autograd.pointwise_loss.hinge_embedding(x, t, reduction, margin).to(input.dtype)


@replayable
@autocast_to("float32")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin - t (x1 - x2)), its mean or its sum. Shapes: as many dimensions, and they broadcast.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit.
    """
    op = "margin_ranking_loss"
    check_tensors(op, input1=input1, input2=input2, target=target)
    reduction = reduction_of(op, size_average, reduce, reduction)
    margin = float(as_number(op, "margin", margin))
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            f"{op}(): input1, input2 and target must have as many dimensions, got {tuple(input1.shape)}, "
            f"{tuple(input2.shape)} and {tuple(target.shape)}"
        )
    given = {"input1": input1, "input2": input2, "target": target}
    _no_booleans(op, **given)
    dtype = torch.promote_types(torch.promote_types(input1.dtype, input2.dtype), target.dtype)
    if dtype.is_complex:
        raise NotImplementedError(f"{op}(): input1 must be real, got {dtype}")
    a, b, t = (v.to(dtype) for v in broadcast(op, **given))
    return autograd.pointwise_loss.ranking(a, b, t, reduction, margin)


@replayable
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the mean over the classes of -w (t log σ(x) + (1 - t) log σ(-x)), its mean or its sum.

    Shapes: input (*, C), target alike, weight broadcasts; the losses are (*).

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if the shapes do not fit, or target is bool.
        IndexError: if input has no dimension.
        NotImplementedError: if input is not real and floating-point.
    """
    op = "multilabel_soft_margin_loss"
    check_tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = reduction_of(op, size_average, reduce, reduction)
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    _no_booleans(op, target=target)
    if input.dim() == 0:
        raise IndexError(f"{op}(): input must have at least one dimension, got shape ()")
    given = (
        {"input": input, "target": target} if weight is None else {"input": input, "target": target, "weight": weight}
    )
    dtype = functools.reduce(torch.promote_types, (v.dtype for v in given.values()))
    x, t, *rest = (v.to(dtype) for v in broadcast(op, **given))
    classes, mean = input.shape[-1], reduction == "mean"
    if x.shape == input.shape and reduction != "none" and x.numel():
        loss = autograd.pointwise_loss.logistic_of_class(x, t, reduction, *rest)
        return loss if mean else loss / classes
    losses = autograd.pointwise_loss.logistic_of_class(x, t, "none", *rest)
    return reduced(losses.sum(input.dim() - 1) / classes, reduction)
