"""Losses of the margins between the scores of classes: of one target each, and of several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.adjoint import fold_batch, unfold_batch
from torchbp.autograd.function import ExplicitFunction, one_pass, save

_aten = torch.ops.aten
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else getattr(loss, reduction)()


def _share(g: Tensor, rows: int, reduction: str) -> Tensor:
    """Return the cotangent of every row's loss, as a column, from that of their reduction."""
    if reduction == "none":
        return g.unsqueeze(1)
    return g / max(rows, 1) if reduction == "mean" else g


class MultiMargin(ExplicitFunction):
    """y = (w[t] / C) sum over j != t of max(0, margin - x_t + x_j)^p for a row of C scores, p 1 or 2.

    With h_j = (w[t] / C) p max(0, margin - x_t + x_j)^(p-1) where that is positive and j != t, gx = g (h - e_t sum h).
    Saved: x, the target and the weights w of the classes, which get no gradient.
    """

    @staticmethod
    def forward(x: Tensor, target: Tensor, weight: Tensor | None, p: int, margin: float, reduction: str) -> Tensor:
        if x.shape[0] == 0:  # where ATen leaves the result as it was allocated
            return _reduced(x.new_zeros(0), reduction)
        try:
            return _aten.multi_margin_loss(x, target, p, margin, weight, _REDUCTIONS[reduction])
        except RuntimeError:
            _check_range(target, 0, x.shape[1], "multi_margin_loss")  # with the value, which ATen does not tell
            raise

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, target, weight, ctx.p, ctx.margin, ctx.reduction = inputs
        save(ctx, (x, target, weight), (x, target, weight))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, target, weight = ctx.saved_tensors
        if one_pass() and x.numel():
            kind = _REDUCTIONS[ctx.reduction]
            gx = _aten.multi_margin_loss_backward(g, x, target, ctx.p, ctx.margin, weight, kind)
            return gx, *(None,) * 5
        gx = _share(g, x.shape[0], ctx.reduction) * _multi_margin_slope(x, target, weight, ctx.p, ctx.margin)
        return gx, *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_others: Any) -> Tensor:
        x, target, weight = ctx.saved_tensors
        return _reduced((t * _multi_margin_slope(x, target, weight, ctx.p, ctx.margin)).sum(1), ctx.reduction)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        if in_dims[2] is None:
            x, target, *options, reduction = args
            x, target = (fold_batch(t, d, info.batch_size) for t, d in zip((x, target), in_dims, strict=False))
            losses = unfold_batch(MultiMargin.call(x, target, *options, "none"), info.batch_size)
            return losses if reduction == "none" else getattr(losses, reduction)(1), 0
        each = [
            MultiMargin.call(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return torch.stack(each), 0


def _check_range(target: Tensor, low: int, high: int, op: str) -> None:
    """Raise if a class is not from ``low`` to ``high`` - 1; a compiled program leaves that to the operator."""
    if torch.compiler.is_compiling() or target.numel() == 0:
        return
    for value in (int(target.min()), int(target.max())):
        if not low <= value < high:
            raise RuntimeError(f"{op}(): target must be from {low} to {high - 1}, got {value}")


def _multi_margin_slope(x: Tensor, target: Tensor, weight: Tensor | None, p: int, margin: float) -> Tensor:
    """Return the derivative of every row's loss by its scores, in differentiable steps."""
    place = target.unsqueeze(1)
    own = torch.zeros_like(x, dtype=torch.bool).scatter(1, place, True)
    z = margin - x.gather(1, place) + x
    h = torch.where((z > 0) & ~own, 2 * z if p == 2 else 1.0, 0.0).to(x.dtype) / max(x.shape[1], 1)
    if weight is not None:
        h = h * weight[place]
    return h.scatter_add(1, place, -h.sum(1, keepdim=True))


def multi_margin(x: Tensor, target: Tensor, weight: Tensor | None, p: int, margin: float, reduction: str) -> Tensor:
    """Return (w[t] / C) sum over j != t of max(0, margin - x_t + x_j)^p for x (N, C) and target (N), reduced.

    Keeps all three.

    Raises:
        RuntimeError: if a target is not a class.
    """
    return MultiMargin.call(x, target, weight, p, margin, reduction)


class MultilabelMargin(ExplicitFunction):
    """y = (1 / C) sum over targets k and other classes j of max(0, 1 - x_k + x_j) for a row of C scores.

    With m_kj = 1 / C where 1 - x_k + x_j is positive: gx_j = g sum over k of m_kj, and gx_k = -g sum over j of m_kj.
    A row's targets end at its first -1. Which classes are targets is an output too. Saved: x, targets, and that.
    """

    @staticmethod
    def forward(x: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():  # ATen's decomposition counts class 0 for the entries after the first -1
            z, active, _ = _multilabel_margins(x, target)
            losses = (z * active).sum((1, 2)) / max(x.shape[1], 1)
            return _reduced(losses, reduction), _targets(target)[1].to(x.dtype)
        if x.shape[0] == 0:
            return _reduced(x.new_zeros(0), reduction), x.new_zeros(x.shape)
        try:
            return _aten.multilabel_margin_loss_forward(x, target, _REDUCTIONS[reduction])
        except RuntimeError:
            _check_range(target, -1, x.shape[1], "multilabel_margin_loss")  # with the value
            raise

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, target, ctx.reduction = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        save(ctx, (x, target, output[1]), (x, target))

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _own: Any) -> tuple[Any, ...]:
        if g is None:
            return None, None, None
        x, target, own = ctx.saved_tensors
        if one_pass() and x.numel() and not torch.compiler.is_compiling():
            return _aten.multilabel_margin_loss_backward(g, x, target, _REDUCTIONS[ctx.reduction], own), None, None
        return _share(g, x.shape[0], ctx.reduction) * _multilabel_slope(x, target), None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_others: Any) -> tuple[Tensor, None]:
        x, target = ctx.saved_tensors
        return _reduced((t * _multilabel_slope(x, target)).sum(1), ctx.reduction), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        x, target, reduction = args
        x, target = (fold_batch(t, d, info.batch_size) for t, d in zip((x, target), in_dims, strict=False))
        losses, own = (unfold_batch(t, info.batch_size) for t in MultilabelMargin.call(x, target, "none"))
        return (losses if reduction == "none" else getattr(losses, reduction)(1), own), (0, 0)


def _targets(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return which entries are targets, and which classes they name."""
    valid = (target >= 0).long().cumprod(1)
    named = torch.zeros_like(target).scatter_add(1, target * valid, valid)
    return valid.bool(), named > 0


def _multilabel_margins(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return 1 - x_k + x_j for every entry k of the targets and class j, where it counts, and the entries' classes."""
    valid, own = _targets(target)
    place = torch.where(valid, target, 0)
    z = 1 - x.gather(1, place).unsqueeze(2) + x.unsqueeze(1)
    return z, (z > 0) & valid.unsqueeze(2) & ~own.unsqueeze(1), place


def _multilabel_slope(x: Tensor, target: Tensor) -> Tensor:
    """Return the derivative of every row's loss by its scores; it is constant between kinks."""
    _, active, place = _multilabel_margins(x, target)
    m = active.to(x.dtype) / max(x.shape[1], 1)
    return m.sum(1).scatter_add(1, place, -m.sum(2))


def multilabel_margin(x: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Return (1 / C) sum over targets k and other classes j of max(0, 1 - x_k + x_j), reduced; x, target (N, C).

    Keeps both, and which classes are targets.

    Raises:
        RuntimeError: if a target is neither a class nor -1.
    """
    return MultilabelMargin.call(x, target, reduction)[0]
