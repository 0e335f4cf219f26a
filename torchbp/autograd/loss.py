"""Losses of class indices and of class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, fold_batch, linear_map, unfold_batch
from torchbp.autograd.contraction import Einsum, contract
from torchbp.autograd.function import ExplicitFunction, save
from torchbp.autograd.softmax import softmax
from torchbp.ops.loss import sample_weight


@dataclass(frozen=True)
class NegativePick(LinearMap):
    """y[n, *] = -weight[target[n, *]] x[n, target[n, *], *]: a linear map of the log-probabilities x (N, C, *).

    The adjoint puts -weight g at the target's place. Ignored targets give and get zero. The fixed tensors are
    target and, optionally, the weight of each class.
    """

    classes: int
    ignore_index: int

    def _place(self, target: Tensor) -> Tensor:
        return target.where(target != self.ignore_index, 0).unsqueeze(1)

    def forward(self, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Pick."""
        weights = sample_weight(target, weight, self.ignore_index, x.dtype)
        picked = x.gather(1, self._place(target)).squeeze(1)
        return torch.where(target != self.ignore_index, -weights * picked, 0)

    def adjoint(self, g: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Put back."""
        weights = sample_weight(target, weight, self.ignore_index, g.dtype)
        shape = (g.shape[0], self.classes, *g.shape[1:])
        # An ignored target gets zero even where g is infinite (the mean over no targets at all).
        back = torch.where(target != self.ignore_index, -g * weights, 0)
        return g.new_zeros(shape).scatter(1, self._place(target), back.unsqueeze(1))


def _fixed(target: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
    return (target,) if weight is None else (target, weight)


def _reduced(loss: Tensor, total: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.sum() / total if reduction == "mean" else loss.sum()


def _cotangents(g: Tensor, total: Tensor | None, target: Tensor, reduction: str) -> Tensor:
    """Return the cotangents of the losses, one per sample, from that of their reduction."""
    return (g / total if reduction == "mean" else g).expand(target.shape)  # type: ignore[operator]


def _vmap_class_loss(
    cls: type[ExplicitFunction], info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Batch a loss (x, target, weight, ..., ignore_index, reduction): fold the batch into the samples."""
    x, target, weight, *options, reduction = args
    size = info.batch_size
    if in_dims[2] is not None:
        each = [
            cls.call(*(t if d is None else t.select(d, i) for t, d in zip(args, in_dims, strict=True)))
            for i in range(size)
        ]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(each[0])
    x, target = (fold_batch(t, d, size) for t, d in zip((x, target), in_dims, strict=False))
    loss, _, *normalizer = cls.call(x, target, weight, *options, "none")
    loss, target = unfold_batch(loss, size), unfold_batch(target, size)
    rest = tuple(range(1, loss.dim()))
    kind = normalizer[0].dtype if normalizer else loss.dtype
    total = sample_weight(target, weight, options[0], kind).sum(rest)
    if reduction != "none":
        loss = loss.sum(rest)
    if reduction == "mean":
        loss = loss / total.to(loss.dtype)
    return (loss, total, *(unfold_batch(t, size, 1) for t in normalizer)), (0,) * (2 + len(normalizer))


class NegativeLogLikelihood(ExplicitFunction):
    """y = -weight[t] x[t] per sample, their sum, or their mean by weight: a linear map of x, see NegativePick.

    The second output is the total weight of the targets that are not ignored. Saved: target, weight, and for a
    mean that total.
    """

    @staticmethod
    def forward(
        x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
    ) -> tuple[Tensor, Tensor]:
        return ops.loss.nll_loss(x, target, weight, ignore_index, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, target, weight, ctx.ignore_index, ctx.reduction = inputs
        ctx.map = NegativePick(x.shape[1], ctx.ignore_index)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        kept = (target, weight, output[1] if ctx.reduction == "mean" else None)
        save(ctx, kept, kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _total: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        target, weight, total = ctx.saved_tensors
        if not torch.is_grad_enabled():
            options = (ctx.map.classes, ctx.ignore_index, ctx.reduction)
            return ops.loss.nll_loss_gradient(g, target, weight, total, *options), None, None, None, None
        g = _cotangents(g, total, target, ctx.reduction)
        return linear_map(ctx.map.transposed, g, *_fixed(target, weight)), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_others: Any) -> tuple[Tensor, None]:
        target, weight, total = ctx.saved_tensors
        return _reduced(linear_map(ctx.map, t, *_fixed(target, weight)), total, ctx.reduction), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _vmap_class_loss(NegativeLogLikelihood, info, in_dims, args)


def negative_log_likelihood(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """Return -weight[target] x[target] for x (N, C, *), target (N, *) and weight (C), reduced.

    The mean divides by the sum of weight[target]. Keeps target and weight.
    """
    return NegativeLogLikelihood.call(x, target, weight, ignore_index, reduction)[0]


class CrossEntropy(ExplicitFunction):
    """y = -(1 - s) w[t] q[t] - (s / C) sum over c of w[c] q[c] per sample, with q = log softmax(x).

    With p = softmax(x), dq_c/dx_j = δ_cj - p_j, so for the cotangent g of a sample::

        gx_j = a p_j - (g s / C) w[j] - δ_jt g (1 - s) w[t],   a = g (1 - s) w[t] + (g s / C) sum(w)

    and nothing where the target is ignored. The further outputs are the total weight of the other targets, by
    which a mean divides, and the maximum m and log sum exp(x - m) of each sample, from which backward has p in the
    pass that writes gx. Saved: x, target, w, those, and for a mean the total weight.
    """

    @staticmethod
    def forward(
        x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        return ops.loss.cross_entropy(x, target, weight, ignore_index, smoothing, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, target, weight, *ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        kept = (x, target, weight, output[1] if ctx.options[2] == "mean" else None)
        save(ctx, (*kept, output[2]), kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_others: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 6
        x, target, weight, total, normalizer = ctx.saved_tensors
        if torch.is_grad_enabled():
            g = _cotangents(g, total, target, ctx.options[2])
            return _cross_entropy_slope(g, x, target, weight, *ctx.options[:2]), *(None,) * 5
        gx = ops.loss.cross_entropy_gradient(g, x, target, weight, total, normalizer, *ctx.options)
        return gx, *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_others: Any) -> tuple[Tensor, None, None]:
        x, target, weight, total = ctx.saved_tensors
        ones = torch.ones_like(x[:, 0])
        slope = _cross_entropy_slope(ones, x, target, weight, *ctx.options[:2])
        return _reduced((slope * t).sum(1), total, ctx.options[2]), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _vmap_class_loss(CrossEntropy, info, in_dims, args)


def _cross_entropy_slope(
    g: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> Tensor:
    """Return gx of CrossEntropy in differentiable steps, for one cotangent per sample."""
    classes = x.shape[1]
    # An ignored target gets zero even where g is infinite (the mean over no targets at all).
    g = g.masked_fill(target == ignore_index, 0)
    pick = g * (1 - smoothing)
    a = pick * sample_weight(target, weight, ignore_index, g.dtype)
    back = linear_map(NegativePick(classes, ignore_index).transposed, pick, *_fixed(target, weight))
    if smoothing == 0:
        return softmax(x, 1) * a.unsqueeze(1) + back
    share = g * (smoothing / max(classes, 1))
    weights = x.new_ones(classes) if weight is None else weight
    spread = (a + share * weights.sum()).unsqueeze(1)
    per_class = weights.view(-1, *[1] * (x.dim() - 2))
    return softmax(x, 1) * spread - share.unsqueeze(1) * per_class + back


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, reduction: str
) -> Tensor:
    """Return the cross-entropy of softmax(x) with class indices, reduced; x (N, C, *), target (N, *), weight (C).

    Keeps x, target, weight, and two numbers per sample.
    """
    return CrossEntropy.call(x, target, weight, ignore_index, smoothing, reduction)[0]


_WEIGHTED = Einsum("nck,nck,c->nk")


def negative_expectation(x: Tensor, probability: Tensor, weight: Tensor | None) -> Tensor:
    """Return -sum over c of weight[c] probability[n, c, *] x[n, c, *], (N, *); x and probability (N, C, *)."""
    shape = (x.shape[0], *x.shape[2:])
    flat = [t.reshape(*t.shape[:2], -1) if t.dim() > 2 else t.unsqueeze(-1) for t in (x, probability)]
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    return -contract(_WEIGHTED, 3, *flat, weight).reshape(shape)
