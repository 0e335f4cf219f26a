"""Losses of every element: l(a, b, ...) of operands of one shape, weighted, and their mean or sum.

One table declares them. A slope is the derivative by one operand, a differentiable expression in the operands it
reads, so every order follows, and what is kept follows from what the wanted slopes read. ``forward`` and
``gradient`` are operators of the same values in fewer passes, used where no higher derivative is asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as builtin

from torchbp import ops
from torchbp.autograd.function import ExplicitFunction, conjugate, one_pass, save

_aten = torch.ops.aten
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_NAMES = tuple(_REDUCTIONS)


@dataclass(frozen=True)
class Slope:
    """The derivative of a loss by one operand.

    Attributes:
        of: ``(*operands, *parameters) -> dl``, in differentiable steps.
        reads: the places of the operands that it reads; it gets None for the others.
    """

    of: Callable[..., Tensor]
    reads: tuple[int, ...]


@dataclass(frozen=True)
class PointwiseLoss:
    """A loss of every element, with parameters.

    Attributes:
        name: of the loss.
        value: ``(*operands, *parameters) -> l``.
        slopes: one for each operand, None where there is no derivative.
        odd: whether the slope by the second operand is :func:`_opposite` to that by the first, as for functions of
            a - b.
        real: whether the loss of complex operands is real, its slopes then being what a gradient is multiplied by;
            other losses are holomorphic.
        forward: ``(*operands, reduction, *parameters) -> y``, in one pass; optional.
        gradient: ``(g, *operands, reduction, *parameters) -> `` the first operand's gradient, in one pass; optional.
    """

    name: str
    value: Callable[..., Tensor]
    slopes: tuple[Slope | None, ...]
    odd: bool = False
    real: bool = False
    forward: Callable[..., Tensor] | None = None
    gradient: Callable[..., Tensor] | None = None
    title: str = field(init=False)

    def __post_init__(self) -> None:
        """Say what graphs and profiles call it."""
        words = self.name.replace(",", "").replace("_", " ").split()
        object.__setattr__(self, "title", "".join(word.capitalize() for word in words) + "Loss")


class PointwiseLossMap(ExplicitFunction):
    """y = w l(a, b, ...) elementwise, their mean or their sum.

    Backward: g_a = g w dl/da for each operand, g_w = g l, with g divided by the number of elements for a mean.
    Saved: the operands that the wanted slopes read, and w.
    """

    named_by_first = True

    @staticmethod
    def forward(
        loss: PointwiseLoss, parameters: tuple[Any, ...], reduction: str, weight: Tensor | None, *operands: Tensor
    ) -> Tensor:
        if weight is None and loss.forward is not None:
            return loss.forward(*operands, _REDUCTIONS[reduction], *parameters)
        value = loss.value(*operands, *parameters)
        return _reduced(value if weight is None else value * weight, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.loss, ctx.parameters, ctx.reduction, weight, *operands = inputs
        wanted = ctx.needs_input_grad[4:]
        reads = _read(ctx.loss, wanted, ctx.needs_input_grad[3])
        kept = [operand if read else None for operand, read in zip(operands, reads, strict=True)]
        save(ctx, (weight if any(wanted) else None, *kept), (weight, *operands))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        weight, *operands = ctx.saved_tensors
        loss, parameters, reduction = ctx.loss, ctx.parameters, ctx.reduction
        need_weight, wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[4:]
        if not loss.real:
            operands = [None if t is None else conjugate(t) for t in operands]
        gradients: list[Tensor | None] = [None] * len(operands)
        places = [i for i, own in enumerate(wanted) if own and loss.slopes[i] is not None]
        share = scaled = None
        first: Tensor | None = None
        if loss.gradient is not None and weight is None and places and (places[0] == 0 or loss.odd) and one_pass():
            first = loss.gradient(g, *operands, _REDUCTIONS[reduction], *parameters)
        for i in places:
            opposite = i == 1 and loss.odd
            if first is not None and (i == 0 or opposite):
                gradients[i] = -first if opposite else first
                continue
            if scaled is None:
                share = _share(g, operands, reduction)
                scaled = share if weight is None else share * weight
            first_slope = loss.slopes[0] if opposite else loss.slopes[i]
            product = scaled * first_slope.of(*operands, *parameters)
            gradients[i] = -product if opposite else product
            first = product if i == 0 else first
        if not need_weight:
            return None, None, None, None, *gradients
        share = _share(g, operands, reduction)
        return None, None, None, share * loss.value(*operands, *parameters), *gradients

    @staticmethod
    def jvp(ctx: Any, _loss: Any, _parameters: Any, _reduction: Any, tw: Tensor | None, *tangents: Any) -> Tensor:
        weight, *operands = ctx.saved_tensors
        loss, parameters = ctx.loss, ctx.parameters
        total: Tensor | None = None
        for slope, tangent in zip(loss.slopes, tangents, strict=True):
            if tangent is None or slope is None:
                continue
            moved = slope.of(*operands, *parameters)
            moved = (moved.conj() * tangent).real if loss.real and moved.is_complex() else moved * tangent
            total = moved if total is None else total + moved
        if total is None:
            total = torch.zeros_like(loss.value(*operands, *parameters))
        if weight is not None:
            total = total * weight
        if tw is not None:
            total = total + tw * loss.value(*operands, *parameters)
        return _reduced(total, ctx.reduction)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        loss: PointwiseLoss,
        parameters: tuple[Any, ...],
        reduction: str,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, int]:
        each = [
            t if t is None else (t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0))
            for t, dim in zip(tensors, in_dims[3:], strict=True)
        ]
        losses = PointwiseLossMap.call(loss, parameters, "none", *each)
        if reduction != "none" and losses.dim() > 1:
            losses = getattr(losses.flatten(1), reduction)(1)
        return losses, 0


@functools.cache
def _read(loss: PointwiseLoss, wanted: tuple[bool, ...], weight: bool) -> tuple[bool, ...]:
    """Tell which operands the gradients that are wanted read."""
    slopes = [slope for slope, own in zip(loss.slopes, wanted, strict=True) if own and slope is not None]
    return tuple(weight or any(i in slope.reads for slope in slopes) for i in range(len(wanted)))


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else getattr(loss, reduction)()


def _share(g: Tensor, operands: list[Any], reduction: str) -> Tensor:
    """Return the cotangent of every loss from that of their reduction."""
    if reduction != "mean":
        return g
    return g / max(next(t.numel() for t in operands if t is not None), 1)


# --------------------------------------------------------------------------------------------------
# The table, in the order of its functions below. d = x - t.

_BOTH = (0, 1)


def _opposite(slope: Slope) -> tuple[Slope, Slope]:
    """Return the slopes by two operands of which the loss reads the difference."""
    return slope, Slope(lambda *given: -slope.of(*given), slope.reads)


def _of_difference(name: str, real: bool = False) -> PointwiseLoss:
    """Return a loss of d = x - t, with at most one parameter."""
    value, slope = ops.loss.DIFFERENCES[name]

    def forward(x: Tensor, t: Tensor, reduction: int, parameter: float = 0.0) -> Tensor:
        return ops.loss.difference_loss(x, t, name, parameter, _NAMES[reduction])

    def gradient(g: Tensor, x: Tensor, t: Tensor, reduction: int, parameter: float = 0.0) -> Tensor:
        return ops.loss.difference_loss_gradient(g, x, t, name, parameter, _NAMES[reduction])

    return PointwiseLoss(
        name,
        lambda x, t, p=0.0: value(x - t, p),
        _opposite(Slope(lambda x, t, p=0.0: slope(x - t, p), _BOTH)),
        odd=True,
        real=real,
        forward=forward,
        gradient=gradient,
    )


_SQUARED = _of_difference("squared")
_ABSOLUTE = _of_difference("absolute", real=True)
_SMOOTH_L1 = _of_difference("smooth_l1")
_HUBER = _of_difference("huber")
# t / t is 1; it is NaN where the built-in's derivative is: at 0, where t log t has none, and at infinity.
_DIVERGENCE = PointwiseLoss(
    "divergence",
    lambda x, t: torch.xlogy(t, t) - t * x,
    (Slope(lambda x, t: -t, (1,)), Slope(lambda x, t: t.log() + t / t - x, _BOTH)),
)
_DIVERGENCE_OF_LOG = PointwiseLoss(
    "divergence of a logarithm",
    lambda x, t: t.exp() * (t - x),
    (Slope(lambda x, t: -t.exp(), (1,)), Slope(lambda x, t: t.exp() * (t - x + 1), _BOTH)),
)


def _stirling(t: Tensor) -> Tensor:
    """log t! by Stirling's formula, and 0 where t <= 1."""
    return torch.where(t <= 1, 0, t * t.log() - t + 0.5 * (2 * math.pi * t).log())


def _stirling_slope(t: Tensor) -> Tensor:
    large = torch.where(t <= 1, 1, t)
    return torch.where(t <= 1, 0, large.log() + 0.5 / large)


def _poisson(log_input: bool, full: bool) -> PointwiseLoss:
    def value(x: Tensor, t: Tensor, eps: float) -> Tensor:
        loss = x.exp() - t * x if log_input else x - t * (x + eps).log()
        return loss + _stirling(t) if full else loss

    def by_target(x: Tensor, t: Tensor, eps: float) -> Tensor:
        slope = -x if log_input else -(x + eps).log()
        return slope + _stirling_slope(t) if full else slope

    by_input = (lambda x, t, eps: x.exp() - t) if log_input else (lambda x, t, eps: 1 - t / (x + eps))
    return PointwiseLoss("poisson", value, (Slope(by_input, _BOTH), Slope(by_target, _BOTH if full else (0,))))


_POISSON = {(log_input, full): _poisson(log_input, full) for log_input in (True, False) for full in (True, False)}
_LEAST_LOG = -100.0


def _binary_gradient(g: Tensor, x: Tensor, t: Tensor, reduction: int) -> Tensor:
    return _aten.binary_cross_entropy_backward(g, x, t, None, reduction)


_BINARY = PointwiseLoss(
    "binary",
    lambda x, t: _aten.binary_cross_entropy(x, t, None, 0),
    (
        Slope(lambda x, t: (x - t) / ((1 - x) * x).clamp(min=1e-12), _BOTH),
        Slope(lambda x, t: (1 - x).log().clamp(min=_LEAST_LOG) - x.log().clamp(min=_LEAST_LOG), (0,)),
    ),
    forward=lambda x, t, reduction: _aten.binary_cross_entropy(x, t, None, reduction),
    gradient=_binary_gradient,
)
_LOGISTIC = PointwiseLoss(
    "logistic",
    lambda x, t: (1 - t) * x - builtin.logsigmoid(x),
    (Slope(lambda x, t: torch.sigmoid(x) - t, _BOTH), Slope(lambda x, t: -x, (0,))),
    forward=lambda x, t, reduction: _aten.binary_cross_entropy_with_logits(x, t, None, None, reduction),
    gradient=lambda g, x, t, reduction: torch.sigmoid(x).sub_(t) * _share(g, [x], _NAMES[reduction]),
)


def _weighted_logistic_gradient(g: Tensor, x: Tensor, t: Tensor, p: Tensor, reduction: int) -> Tensor:
    positive = p * t
    slope = (positive + 1).sub_(t).mul_(torch.sigmoid(x)).sub_(positive)
    return slope * _share(g, [x], _NAMES[reduction])


def _soft_margin_gradient(g: Tensor, x: Tensor, t: Tensor, reduction: int) -> Tensor:
    return (t * x).neg_().sigmoid_().mul_(t) * -_share(g, [x], _NAMES[reduction])


# The same, finite where one of both terms is and the other has no weight.
_LOGISTIC_OF_CLASS = replace(
    _LOGISTIC,
    name="logistic of a class",
    forward=None,
    value=lambda x, t: -(t * builtin.logsigmoid(x) + (1 - t) * builtin.logsigmoid(-x)),
)
# p weighs the positive answers: log σ(x) counts q = 1 + (p - 1) t times.
_LOGISTIC_WEIGHTED = PointwiseLoss(
    "weighted logistic",
    lambda x, t, p: (1 - t) * x - ((p - 1) * t + 1) * builtin.logsigmoid(x),
    (
        Slope(lambda x, t, p: (p * t + 1 - t) * torch.sigmoid(x) - p * t, (0, 1, 2)),
        Slope(lambda x, t, p: -x - (p - 1) * builtin.logsigmoid(x), (0, 2)),
        Slope(lambda x, t, p: -t * builtin.logsigmoid(x), (0, 1)),
    ),
    forward=lambda x, t, p, reduction: _aten.binary_cross_entropy_with_logits(x, t, None, p, reduction),
    gradient=_weighted_logistic_gradient,
)
_SOFT_MARGIN = PointwiseLoss(
    "soft margin",
    lambda x, t: torch.logaddexp(-(x * t), x.new_zeros(())),
    (
        Slope(lambda x, t: -t * torch.sigmoid(-t * x), _BOTH),
        Slope(lambda x, t: -x * torch.sigmoid(-t * x), _BOTH),
    ),
    gradient=_soft_margin_gradient,
)
_HINGE_EMBEDDING = PointwiseLoss(
    "hinge embedding",
    lambda x, t, margin: torch.where(t != 1, (margin - x).clamp(min=0), 0) + torch.where(t != -1, x, 0),
    (
        Slope(lambda x, t, margin: (t != -1).to(x.dtype) - ((t != 1) & (margin - x >= 0)).to(x.dtype), _BOTH),
        None,
    ),
)
_COSINE_EMBEDDING = PointwiseLoss(
    "cosine embedding",
    lambda c, t, margin: torch.where(t == 1, 1 - c, 0) + torch.where(t == -1, (c - margin).clamp(min=0), 0),
    (
        Slope(lambda c, t, margin: ((t == -1) & (c - margin >= 0)).to(c.dtype) - (t == 1).to(c.dtype), _BOTH),
        None,
    ),
)


def _excess(difference: Tensor, margin: float) -> Tensor:
    """Return where margin + difference is not negative, as a factor: the derivative of its positive part."""
    return (margin + difference >= 0).to(difference.dtype)


_RANKING = PointwiseLoss(
    "ranking",
    lambda a, b, t, margin: (-t * (a - b) + margin).clamp(min=0),
    (
        *_opposite(Slope(lambda a, b, t, margin: -t * _excess(-t * (a - b), margin), (0, 1, 2))),
        Slope(lambda a, b, t, margin: (b - a) * _excess(-t * (a - b), margin), (0, 1, 2)),
    ),
    odd=True,
)
_TRIPLET = PointwiseLoss(
    "triplet",
    lambda d, n, margin: (margin + d - n).clamp(min=0),
    _opposite(Slope(lambda d, n, margin: _excess(d - n, margin), _BOTH)),
    odd=True,
)


def _first_share(a: Tensor, b: Tensor) -> Tensor:
    """Return the derivative of min(a, b) by a; equal arguments share it."""
    return (a < b).to(a.dtype) + 0.5 * (a == b).to(a.dtype)


# min(n, s) takes the place of n.
_TRIPLET_SWAPPED = PointwiseLoss(
    "triplet, swapped",
    lambda d, n, s, margin: (margin + d - torch.minimum(n, s)).clamp(min=0),
    (
        Slope(lambda d, n, s, margin: _excess(d - torch.minimum(n, s), margin), (0, 1, 2)),
        Slope(lambda d, n, s, margin: -_excess(d - torch.minimum(n, s), margin) * _first_share(n, s), (0, 1, 2)),
        Slope(lambda d, n, s, margin: -_excess(d - torch.minimum(n, s), margin) * _first_share(s, n), (0, 1, 2)),
    ),
)


def _floored(v: Tensor, eps: float) -> Tensor:
    """Return max(v, eps), with derivative 1 everywhere: the built-in raises the variance without recording it."""
    return v.clamp(min=eps) if one_pass() else torch.where(v < eps, v - v.detach() + eps, v)


def _gaussian_value(x: Tensor, t: Tensor, v: Tensor, eps: float, constant: float) -> Tensor:
    if not torch.compiler.is_compiling() and bool((v < 0).any()):
        raise ValueError(f"gaussian_nll_loss(): var must not be negative, got {float(v.min())}")
    v = v.clamp(min=eps)
    loss = 0.5 * (v.log() + (x - t).square() / v)
    return loss + constant if constant else loss


def _gaussian_by_variance(x: Tensor, t: Tensor, v: Tensor, eps: float, _constant: float) -> Tensor:
    v = _floored(v, eps)
    ratio = (x - t) / v
    return 0.5 * (1 / v - ratio * ratio)


_GAUSSIAN = PointwiseLoss(
    "gaussian",
    _gaussian_value,
    (
        *_opposite(Slope(lambda x, t, v, eps, _: (x - t) / _floored(v, eps), (0, 1, 2))),
        Slope(_gaussian_by_variance, (0, 1, 2)),
    ),
    odd=True,
)


# --------------------------------------------------------------------------------------------------
# The functions. Operands have one shape; a weight multiplies every loss; reductions are none, mean and sum.


def _apply(
    loss: PointwiseLoss, parameters: tuple[Any, ...], reduction: str, weight: Tensor | None, *operands: Tensor
) -> Tensor:
    return PointwiseLossMap.call(loss, parameters, reduction, weight, *operands)


def squared_error(x: Tensor, t: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """Return (x - t)². Keeps both."""
    return _apply(_SQUARED, (), reduction, weight, x, t)


def absolute_error(x: Tensor, t: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """Return |x - t|; the derivative at 0 is 0. Keeps both."""
    return _apply(_ABSOLUTE, (), reduction, weight, x, t)


def smooth_absolute_error(x: Tensor, t: Tensor, reduction: str, beta: float) -> Tensor:
    """Return d² / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - t (Girshick 2015). Keeps both."""
    return _apply(_SMOOTH_L1, (beta,), reduction, None, x, t)


def huber(x: Tensor, t: Tensor, reduction: str, delta: float, weight: Tensor | None = None) -> Tensor:
    """Return d² / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - t (Huber 1964). Keeps both."""
    return _apply(_HUBER, (delta,), reduction, weight, x, t)


def divergence(x: Tensor, t: Tensor, reduction: str, log_target: bool) -> Tensor:
    """Return t (log t - x), or exp(t) (t - x) for the logarithm of a target. Keeps t, and x for t's gradient."""
    return _apply(_DIVERGENCE_OF_LOG if log_target else _DIVERGENCE, (), reduction, None, x, t)


def poisson(x: Tensor, t: Tensor, reduction: str, log_input: bool, full: bool, eps: float) -> Tensor:
    """Return exp(x) - t x, or x - t log(x + eps), ``full`` with Stirling's log t! where t > 1. Keeps both."""
    return _apply(_POISSON[log_input, full], (eps,), reduction, None, x, t)


def gaussian(x: Tensor, t: Tensor, variance: Tensor, reduction: str, eps: float, full: bool) -> Tensor:
    """Return (log v + (x - t)² / v) / 2 with v = max(variance, eps), ``full`` with log(2π) / 2. Keeps all three.

    The derivative by the variance is that by v, also below eps.

    Raises:
        ValueError: if a variance is negative.
    """
    constant = 0.5 * math.log(2 * math.pi) if full else 0.0
    return _apply(_GAUSSIAN, (eps, constant), reduction, None, x, t, variance)


def binary_cross_entropy(x: Tensor, t: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """Return -t log x - (1 - t) log(1 - x), no logarithm below -100. Keeps x, and t for x's gradient.

    Raises:
        RuntimeError: if an element of x or t is not between 0 and 1.
    """
    return _apply(_BINARY, (), reduction, weight, x, t)


def logistic(
    x: Tensor, t: Tensor, reduction: str, weight: Tensor | None = None, positive_weight: Tensor | None = None
) -> Tensor:
    """Return -p t log σ(x) - (1 - t) log σ(-x), with p the weight of positive answers. Keeps x, p, and t for x."""
    if positive_weight is None:
        return _apply(_LOGISTIC, (), reduction, weight, x, t)
    return _apply(_LOGISTIC_WEIGHTED, (), reduction, weight, x, t, positive_weight)


def logistic_of_class(x: Tensor, t: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """Return -t log σ(x) - (1 - t) log σ(-x), each logarithm taken. Keeps x, and t for x's gradient."""
    return _apply(_LOGISTIC_OF_CLASS, (), reduction, weight, x, t)


def soft_margin(x: Tensor, t: Tensor, reduction: str) -> Tensor:
    """Return log(1 + exp(-t x)). Keeps both."""
    return _apply(_SOFT_MARGIN, (), reduction, None, x, t)


def hinge_embedding(x: Tensor, t: Tensor, reduction: str, margin: float) -> Tensor:
    """Return x where t = 1, max(0, margin - x) where t = -1, their sum elsewhere. Keeps both."""
    return _apply(_HINGE_EMBEDDING, (margin,), reduction, None, x, t)


def cosine_embedding(cosine: Tensor, t: Tensor, reduction: str, margin: float) -> Tensor:
    """Return 1 - c where t = 1, max(0, c - margin) where t = -1, else 0, of cosines c. Keeps both."""
    return _apply(_COSINE_EMBEDDING, (margin,), reduction, None, cosine, t)


def ranking(a: Tensor, b: Tensor, t: Tensor, reduction: str, margin: float) -> Tensor:
    """Return max(0, margin - t (a - b)); the derivative at 0 is that above. Keeps all three."""
    return _apply(_RANKING, (margin,), reduction, None, a, b, t)


def triplet(positive: Tensor, negative: Tensor, swapped: Tensor | None, reduction: str, margin: float) -> Tensor:
    """Return max(0, margin + d - n) of distances, with min(n, s) in place of n if s is given. Keeps all."""
    if swapped is None:
        return _apply(_TRIPLET, (margin,), reduction, None, positive, negative)
    return _apply(_TRIPLET_SWAPPED, (margin,), reduction, None, positive, negative, swapped)
