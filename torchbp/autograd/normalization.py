"""Batch normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.function import ExplicitFunction, save


def _per_channel(v: Tensor, like: Tensor) -> Tensor:
    """View a vector over channels so that it broadcasts along dimension 1."""
    return v.view(1, -1, *[1] * (like.dim() - 2))


def _channel_sum(t: Tensor) -> Tensor:
    return t.sum([d for d in range(t.dim()) if d != 1])


def _fold(t: Tensor | None, dim: int | None, channel: int, size: int) -> Tensor | None:
    """Fold a mapped dimension of ``size`` into the channels, expanded where it is absent."""
    if t is None:
        return None
    t = t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.movedim(0, channel).flatten(channel, channel + 1)


class BatchNorm(ExplicitFunction):
    """y = (x - m) r w + b per channel, with batch mean m, biased variance v and r = (v + eps)^(-1/2).

    Outputs y, m and v, all differentiable: the statistics that backward reads are outputs, not hidden
    intermediates, so second derivatives flow through them. With n elements per channel, h = gy w, and
    dm = mean(dx), dv = 2 mean((x - m) dx), dr = -r³ dv / 2::

        gx = r h + (gm - r sum(h)) / n + (x - m) (2 gv - r³ sum(h (x - m))) / n
        gw = sum(gy (x - m) r),  gb = sum(gy)

    Saved: x, w, m, v. (Ioffe and Szegedy, 2015.)
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return ops.normalization.batch_norm(x, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.eps = inputs
        ctx.set_materialize_grads(False)
        ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias)]
        need_x, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        kept = x if need_x or need_weight else None
        save(ctx, (kept, weight if need_x else None, *output[1:]), (x, weight, *output[1:]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None) -> tuple[Any, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        if gy is not None and gm is None and gv is None and not torch.is_grad_enabled():
            if x is None:
                return None, None, _channel_sum(gy).to(ctx.dtypes[1]) if need_bias else None, None
            whole = ops.normalization.batch_norm_gradients(gy, x, weight, mean, variance, ctx.eps)
            return (
                whole[0] if need_x else None,
                whole[1].to(ctx.dtypes[0]) if need_weight else None,
                whole[2].to(ctx.dtypes[1]) if need_bias else None,
                None,
            )
        gx: Tensor | None = None
        gw: Tensor | None = None
        gb: Tensor | None = None
        if gy is not None and need_bias:
            gb = _channel_sum(gy).to(ctx.dtypes[1])
        if not (need_x or need_weight) or (gy is None and gm is None and gv is None):
            return None, None, gb, None
        inverse = torch.rsqrt(variance + ctx.eps)
        centred = x - _per_channel(mean, x).to(x.dtype)
        if gy is not None and need_weight:
            gw = (_channel_sum(gy * centred) * inverse).to(ctx.dtypes[0])
        if need_x:
            n = x.numel() // max(1, x.shape[1])
            constant, slope = gm, None if gv is None else 2 * gv
            if gy is not None:
                h = gy if weight is None else gy * _per_channel(weight, x)
                sum_h, sum_hc = _channel_sum(h), _channel_sum(h * centred)
                constant = -inverse * sum_h if constant is None else constant - inverse * sum_h
                cubed = inverse * inverse * inverse
                slope = -cubed * sum_hc if slope is None else slope - cubed * sum_hc
                gx = h * _per_channel(inverse, x).to(h.dtype)
            for part in (
                None if constant is None else _per_channel(constant / n, x).expand_as(x),
                None if slope is None else _per_channel(slope / n, x).to(x.dtype) * centred,
            ):
                if part is not None:
                    gx = part.to(x.dtype) if gx is None else gx + part.to(x.dtype)
        return gx, gw, gb, None

    @staticmethod
    def jvp(
        ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, _eps: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        centred = x - _per_channel(mean, x)
        n = x.numel() // max(1, x.shape[1])
        ty = torch.zeros_like(x)
        tm, tv = torch.zeros_like(mean), torch.zeros_like(variance)
        if tx is not None:
            tm = _channel_sum(tx) / n
            tv = 2 * _channel_sum(centred * tx) / n
            tr = -0.5 * inverse * inverse * inverse * tv
            ty = (tx - _per_channel(tm, x)) * _per_channel(inverse, x) + centred * _per_channel(tr, x)
            if weight is not None:
                ty = ty * _per_channel(weight, x)
        if tw is not None:
            ty = ty + centred * _per_channel(inverse * tw, x)
        if tb is not None:
            ty = ty + _per_channel(tb, x)
        return ty, tm, tv

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Statistics are per channel, so the mapped dimension folds into the channels."""
        size = info.batch_size
        folded = (_fold(t, d, c, size) for t, d, c in zip((x, weight, bias), in_dims, (1, 0, 0), strict=False))
        y, mean, variance = BatchNorm.call(*folded, eps)
        channels = y.shape[1] // size
        unfolded = y.unflatten(1, (size, channels)).movedim(1, 0)
        return (unfolded, mean.view(size, channels), variance.view(size, channels)), (0, 0, 0)


class ChannelAffine(ExplicitFunction):
    """y = (x - m) r w + b per channel, with m and r = (v + eps)^(-1/2) given: evaluation mode.

    gx = gy w r; gw = sum(gy (x - m) r); gb = sum(gy). The statistics are constants here. Saved: x only if
    the gradient of w is wanted, w only if that of x is, and m, v.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, mean, variance, ctx.eps = inputs
        need_x, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        kept = (x if need_weight else None, weight if need_x else None)
        save(ctx, (*kept, mean, variance), (x, weight, mean, variance))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        inverse = torch.rsqrt(variance + ctx.eps)
        gx = gw = None
        if need_x:
            scale = inverse if weight is None else inverse * weight
            gx = gy * _per_channel(scale, gy).to(gy.dtype)
        if need_weight:
            gw = _channel_sum(gy * (x - _per_channel(mean, x).to(x.dtype))) * inverse
        return gx, gw, _channel_sum(gy) if need_bias else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, *_statistics: Any) -> Tensor:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        scale = inverse if weight is None else inverse * weight
        ty = torch.zeros_like(x) if tx is None else tx * _per_channel(scale, x)
        if tw is not None:
            ty = ty + (x - _per_channel(mean, x)) * _per_channel(inverse * tw, x)
        if tb is not None:
            ty = ty + _per_channel(tb, x)
        return ty

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        """Everything is per channel, so the mapped dimension folds into the channels."""
        size = info.batch_size
        folded = (_fold(t, d, c, size) for t, d, c in zip(args, in_dims, (1, 0, 0, 0, 0), strict=False))
        y = ChannelAffine.call(*folded, args[5])
        return y.unflatten(1, (size, y.shape[1] // size)).movedim(1, 0), 0


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise x (N, C, *) over all but C with the batch's own statistics.

    Returns y, the mean and the biased variance, each differentiable.
    """
    return BatchNorm.call(x, weight, bias, eps)


def channel_affine(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Normalise x (N, C, *) with given statistics, which get no gradient."""
    return ChannelAffine.call(x, weight, bias, mean, variance, eps)
