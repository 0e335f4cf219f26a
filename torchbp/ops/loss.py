"""Losses with their reductions, as raw operators without gradient.

Scores are (N, C, *), targets (N, *) of int64, class weights (C); ``reduction`` is none, mean or sum. A mean over
classes divides by the sum of the weights of the targets that are not ignored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchbp.ops.normalization import statistics_dtype
from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _check(op, input_size, target):
    expected = (*input_size[:1], *input_size[2:])
    torch._check(
        len(input_size) >= 2 and tuple(target.shape) == expected,
        lambda: f"{op}: target must have shape {expected} for input {tuple(input_size)}, got {tuple(target.shape)}",
    )


def _fake_losses(input, target, reduction):
    return torch.empty(target.shape if reduction == "none" else (), dtype=input.dtype, device=input.device)


def _fake_total(input):
    return torch.empty((), dtype=statistics_dtype(input.dtype), device=input.device)


def _fake_cross_entropy(input, target, weight, ignore_index, label_smoothing, reduction):
    _check("cross_entropy", input.shape, target)
    total = _fake_total(input)
    return _fake_losses(input, target, reduction), total, total.new_empty((2, *target.shape))


def _fake_cross_entropy_gradient(
    grad_output, input, target, weight, total_weight, normalizer, ignore_index, label_smoothing, reduction
):
    return torch.empty(input.shape, dtype=input.dtype, device=input.device)


def _fake_nll(input, target, weight, ignore_index, reduction):
    _check("nll_loss", input.shape, target)
    return _fake_losses(input, target, reduction), _fake_total(input)


def _fake_nll_gradient(grad_output, target, weight, total_weight, classes, ignore_index, reduction):
    return grad_output.new_empty((target.shape[0], classes, *target.shape[1:]))


def _fake_difference(input, target, loss, parameter, reduction):
    dtype = input.dtype.to_real() if loss == "absolute" else input.dtype
    return torch.empty_like(input, dtype=dtype) if reduction == "none" else input.new_empty((), dtype=dtype)


def _fake_difference_gradient(grad_output, input, target, loss, parameter, reduction):
    return torch.empty_like(input)


# --------------------------------------------------------------------------------------------------
# Composite formulas


def sample_weight(target: Tensor, weight: Tensor | None, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """Return weight[target], 1 without a weight, and 0 where the target is ignored."""
    kept = target != ignore_index
    if weight is None:
        return kept.to(dtype)
    return torch.where(kept, weight[target.where(kept, 0)], 0).to(dtype)


def _check_targets(op, target, classes, ignore_index):
    bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if target.device.type == "cpu" and bool(bad.any()):
        raise IndexError(f"{op}(): Target {int(target[bad][0])} is out of bounds: there are {classes} classes")


def _reduced(loss, total, reduction):
    if reduction == "none":
        return loss
    return loss.sum() / total if reduction == "mean" else loss.sum()


def _cotangents(grad_output, total, target, reduction):
    g = grad_output / total if reduction == "mean" else grad_output
    return g.expand(target.shape)


def _per_class(weight, x):
    return x.new_ones(()) if weight is None else weight.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def _composite_cross_entropy(input, target, weight, ignore_index, label_smoothing, reduction):
    x, classes = input.to(statistics_dtype(input.dtype)), input.shape[1]
    _check_targets("cross_entropy", target, classes, ignore_index)
    if x.numel() == 0:
        total = x.new_zeros(())
        return (
            _reduced(input.new_zeros(target.shape), total.to(input.dtype), reduction),
            total,
            x.new_zeros((2, *target.shape)),
        )
    maximum = x.amax(1)
    shifted = x - maximum.unsqueeze(1)
    log_sum = shifted.exp().sum(1).log()
    kept = target != ignore_index
    q = shifted - log_sum.unsqueeze(1)
    weights = sample_weight(target, weight, ignore_index, x.dtype)
    loss = -weights * q.gather(1, target.where(kept, 0).unsqueeze(1)).squeeze(1)
    if label_smoothing > 0:
        smooth = (q * _per_class(weight, q)).sum(1)
        loss = (1 - label_smoothing) * loss - label_smoothing / classes * smooth
    total = weights.sum()
    loss = _reduced(loss.masked_fill(~kept, 0), total, reduction).to(input.dtype)
    return loss, total, torch.stack([maximum, log_sum])


def _composite_cross_entropy_gradient(
    grad_output, input, target, weight, total_weight, normalizer, ignore_index, label_smoothing, reduction
):
    if input.numel() == 0:
        return torch.empty(input.shape, dtype=input.dtype, device=input.device)
    x, classes = input.to(normalizer.dtype), input.shape[1]
    kept = target != ignore_index
    g = _cotangents(grad_output.to(x.dtype), total_weight, target, reduction).masked_fill(~kept, 0)
    pick = g * (1 - label_smoothing) * sample_weight(target, weight, ignore_index, x.dtype)
    p = ((x - normalizer[0].unsqueeze(1)) - normalizer[1].unsqueeze(1)).exp()
    share = g * (label_smoothing / classes)
    spread = pick + share * (classes if weight is None else weight.sum().to(x.dtype))
    gx = p * spread.unsqueeze(1)
    if label_smoothing > 0:
        gx = gx - share.unsqueeze(1) * _per_class(weight, x)
    gx = gx.scatter_add(1, target.where(kept, 0).unsqueeze(1), -pick.unsqueeze(1))
    return gx.to(input.dtype).contiguous()


def _composite_nll(input, target, weight, ignore_index, reduction):
    _check_targets("nll_loss", target, input.shape[1], ignore_index)
    x, kept = input.to(statistics_dtype(input.dtype)), target != ignore_index
    weights = sample_weight(target, weight, ignore_index, x.dtype)
    loss = x.new_zeros(target.shape)
    if x.numel() > 0:
        picked = x.gather(1, target.where(kept, 0).unsqueeze(1)).squeeze(1)
        loss = torch.where(kept, -weights * picked, 0)
    total = weights.sum()
    return _reduced(loss, total, reduction).to(input.dtype), total


def _composite_nll_gradient(grad_output, target, weight, total_weight, classes, ignore_index, reduction):
    kept = target != ignore_index
    g = _cotangents(grad_output.to(statistics_dtype(grad_output.dtype)), total_weight, target, reduction)
    weights = sample_weight(target, weight, ignore_index, g.dtype)
    # An ignored target gets zero even where g is infinite (the mean over no targets at all).
    back = torch.where(kept, -g * weights, 0)
    zeros = g.new_zeros((target.shape[0], classes, *target.shape[1:]))
    if zeros.numel() > 0:
        zeros = zeros.scatter(1, target.where(kept, 0).unsqueeze(1), back.unsqueeze(1))
    return zeros.to(grad_output.dtype)


# Losses of d = x - t and their derivatives, differentiable steps in d with a parameter p.
DIFFERENCES: dict[str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "squared": (lambda d, p: d * d, lambda d, p: 2 * d),
    "absolute": (lambda d, p: d.abs(), lambda d, p: d.sgn() if d.is_complex() else d.sign()),
    "smooth_l1": (
        lambda d, p: torch.where(d.abs() < p, 0.5 / p * d * d, d.abs() - 0.5 * p),
        lambda d, p: (d / p).clamp(-1, 1),
    ),
    "huber": (
        lambda d, p: torch.where(d.abs() <= p, 0.5 * d * d, p * (d.abs() - 0.5 * p)),
        lambda d, p: d.clamp(-p, p),
    ),
}


def _composite_difference(input, target, loss, parameter, reduction):
    value = DIFFERENCES[loss][0](input - target, parameter)
    return value if reduction == "none" else getattr(value, reduction)()


def _composite_difference_gradient(grad_output, input, target, loss, parameter, reduction):
    g = grad_output / input.numel() if reduction == "mean" else grad_output
    return DIFFERENCES[loss][1](input - target, parameter) * g


_cross_entropy = register(
    "cross_entropy", fake=_fake_cross_entropy, composite=_composite_cross_entropy, flops=flops_none
)
_cross_entropy_gradient = register(
    "cross_entropy_gradient",
    fake=_fake_cross_entropy_gradient,
    composite=_composite_cross_entropy_gradient,
    flops=flops_none,
)
_nll = register("nll_loss", fake=_fake_nll, composite=_composite_nll, flops=flops_none)
_nll_gradient = register(
    "nll_loss_gradient", fake=_fake_nll_gradient, composite=_composite_nll_gradient, flops=flops_none
)
_difference = register("difference_loss", fake=_fake_difference, composite=_composite_difference, flops=flops_none)
_difference_gradient = register(
    "difference_loss_gradient",
    fake=_fake_difference_gradient,
    composite=_composite_difference_gradient,
    flops=flops_none,
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the total weight, and per sample the maximum m of the scores and log sum exp(x - m).

    Raises:
        IndexError: if a target is not a class.
    """
    call = _cross_entropy if input.dtype in KERNEL_DTYPES else _composite_cross_entropy
    return call(input, target, weight, ignore_index, label_smoothing, reduction)


def cross_entropy_gradient(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    total_weight: Tensor | None,
    normalizer: Tensor,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    """Return the gradient of the scores."""
    call = _cross_entropy_gradient if input.dtype in KERNEL_DTYPES else _composite_cross_entropy_gradient
    return call(grad_output, input, target, weight, total_weight, normalizer, ignore_index, label_smoothing, reduction)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Return -weight[t] x[t], reduced, and the total weight.

    Raises:
        IndexError: if a target is not a class.
    """
    call = _nll if input.dtype in KERNEL_DTYPES else _composite_nll
    return call(input, target, weight, ignore_index, reduction)


def nll_loss_gradient(
    grad_output: Tensor,
    target: Tensor,
    weight: Tensor | None,
    total_weight: Tensor | None,
    classes: int,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """Return the gradient of the log-probabilities: -weight[t] g at the target, else 0."""
    call = _nll_gradient if grad_output.dtype in KERNEL_DTYPES else _composite_nll_gradient
    return call(grad_output, target, weight, total_weight, classes, ignore_index, reduction)


def difference_loss(input: Tensor, target: Tensor, loss: str, parameter: float, reduction: str) -> Tensor:
    """Return the loss of x - t, one of ``DIFFERENCES``, reduced."""
    call = _difference if input.dtype in KERNEL_DTYPES else _composite_difference
    return call(input, target, loss, parameter, reduction)


def difference_loss_gradient(
    grad_output: Tensor, input: Tensor, target: Tensor, loss: str, parameter: float, reduction: str
) -> Tensor:
    """Return g times the loss's derivative, g divided by the number of elements for a mean."""
    call = _difference_gradient if input.dtype in KERNEL_DTYPES else _composite_difference_gradient
    return call(grad_output, input, target, loss, parameter, reduction)
