"""Batch, layer and group normalisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.function import ExplicitFunction, save


def _per_channel(v: Tensor, like: Tensor) -> Tensor:
    """View a vector over channels so that it broadcasts along dimension 1."""
    return v.view(1, -1, *[1] * (like.dim() - 2))


def _all_but_channels(t: Tensor) -> list[int]:
    return [d for d in range(t.dim()) if d != 1]


def _channel_sum(t: Tensor) -> Tensor:
    return t.sum(_all_but_channels(t))


def _fold(t: Tensor | None, dim: int | None, channel: int, size: int) -> Tensor | None:
    """Fold a mapped dimension of ``size`` into the channels, expanded where it is absent."""
    if t is None:
        return None
    t = t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.movedim(0, channel).flatten(channel, channel + 1)


def _gradients(
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    dims: list[int] | tuple[int, ...],
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x, and of the weight before it is summed, from those of y, mean and variance.

    The statistics run over ``dims``; they and the weight broadcast against x. In the statistics' dtype.
    """
    gy, gm, gv = cotangents
    inverse, centred = torch.rsqrt(variance + eps), x.to(mean.dtype) - mean
    gy = None if gy is None else gy.to(mean.dtype)
    gx: Tensor | None = None
    gw = gy * (centred * inverse) if gy is not None and need_weight else None
    if need_x:
        n = max(1, math.prod([x.shape[d] for d in dims]))
        constant, slope = gm, None if gv is None else 2 * gv
        if gy is not None:
            h = gy if weight is None else gy * weight.to(mean.dtype)
            sum_h, sum_hc = h.sum(dims, keepdim=True), (h * centred).sum(dims, keepdim=True)
            constant = -inverse * sum_h if constant is None else constant - inverse * sum_h
            cubed = inverse * inverse * inverse
            slope = -cubed * sum_hc if slope is None else slope - cubed * sum_hc
            gx = h * inverse
        if constant is not None:
            gx = (constant / n).expand_as(x) if gx is None else gx + constant / n
        if slope is not None:
            gx = (slope / n) * centred if gx is None else gx + (slope / n) * centred
    return gx, gw


def _tangents(
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    dims: list[int] | tuple[int, ...],
    tx: Tensor | None,
    tw: Tensor | None,
    tb: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tangents of y, in the statistics' dtype, mean and variance; all arguments broadcast against x."""
    inverse, centred = torch.rsqrt(variance + eps), x.to(mean.dtype) - mean
    n = max(1, math.prod([x.shape[d] for d in dims]))
    ty = torch.zeros_like(centred)
    tm, tv = torch.zeros_like(mean), torch.zeros_like(variance)
    if tx is not None:
        tx = tx.to(mean.dtype)
        tm = tx.sum(dims, keepdim=True) / n
        tv = 2 * (centred * tx).sum(dims, keepdim=True) / n
        ty = (tx - tm) * inverse + centred * (-0.5 * inverse * inverse * inverse * tv)
        if weight is not None:
            ty = ty * weight.to(mean.dtype)
    if tw is not None:
        ty = ty + centred * (inverse * tw)
    if tb is not None:
        ty = ty + tb
    return ty, tm, tv


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
        kept = (x, weight if need_x else None, *output[1:]) if need_x or need_weight else (None,) * 4
        save(ctx, kept, (x, weight, *output[1:]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None) -> tuple[Any, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        if x is not None and gy is not None and gm is None and gv is None and not torch.is_grad_enabled():
            whole = ops.normalization.batch_norm_gradients(gy, x, weight, mean, variance, ctx.eps, need_x)
            return (
                whole[0] if need_x else None,
                whole[1].to(ctx.dtypes[0]) if need_weight else None,
                whole[2].to(ctx.dtypes[1]) if need_bias else None,
                None,
            )
        gb = _channel_sum(gy).to(ctx.dtypes[1]) if gy is not None and need_bias else None
        if x is None or (gy is None and gm is None and gv is None):
            return None, None, gb, None
        weight, gm, gv = (None if t is None else _per_channel(t, x) for t in (weight, gm, gv))
        statistics = (_per_channel(mean, x), _per_channel(variance, x))
        gx, gw = _gradients(x, weight, *statistics, ctx.eps, _all_but_channels(x), (gy, gm, gv), need_x, need_weight)
        return (
            None if gx is None else gx.to(x.dtype),
            None if gw is None else _channel_sum(gw).to(ctx.dtypes[0]),
            gb,
            None,
        )

    @staticmethod
    def jvp(
        ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, _eps: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, mean, variance = ctx.saved_tensors
        weight, tw, tb = (None if t is None else _per_channel(t, x) for t in (weight, tw, tb))
        statistics = (_per_channel(mean, x), _per_channel(variance, x))
        ty, tm, tv = _tangents(x, weight, *statistics, ctx.eps, _all_but_channels(x), tx, tw, tb)
        return ty.to(x.dtype), tm.reshape(-1), tv.reshape(-1)

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

    gx = gy w r; gw = sum(gy (x - m) r); gb = sum(gy). The statistics are constants here. Saved: x and m only if
    the gradient of w is wanted, w only if that of x is, v if either is.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        return ops.normalization.channel_affine(x, weight, bias, mean, variance, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, mean, variance, ctx.eps = inputs
        ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias)]
        need_x, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        of_weight = (x, mean) if need_weight else (None, None)
        kept = (of_weight[0], weight if need_x else None, of_weight[1], variance if need_x or need_weight else None)
        save(ctx, kept, (x, weight, mean, variance))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        gx = gw = gb = None
        if not torch.is_grad_enabled():
            if need_x or need_weight:
                gx, gw, gb = ops.normalization.channel_affine_gradients(gy, x, weight, mean, variance, ctx.eps, need_x)
            if need_bias and x is None:
                gb = _channel_sum(gy)
            gx = gx if need_x else None
        else:
            wide = gy.to(ops.normalization.statistics_dtype(gy.dtype))
            if need_x or need_weight:
                inverse = torch.rsqrt(variance.to(wide.dtype) + ctx.eps)
            if need_x:
                scale = inverse if weight is None else inverse * weight
                gx = (wide * _per_channel(scale, gy)).to(gy.dtype)
            if need_weight:
                gw = _channel_sum(wide * (x - _per_channel(mean, x))) * inverse
            if need_bias:
                gb = _channel_sum(wide)
        return (
            gx,
            gw.to(ctx.dtypes[0]) if gw is not None and need_weight else None,
            gb.to(ctx.dtypes[1]) if gb is not None and need_bias else None,
            None,
            None,
            None,
        )

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
        return ty.to(x.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        """Everything is per channel, so the mapped dimension folds into the channels."""
        size = info.batch_size
        folded = (_fold(t, d, c, size) for t, d, c in zip(args, in_dims, (1, 0, 0, 0, 0), strict=False))
        y = ChannelAffine.call(*folded, args[5])
        return y.unflatten(1, (size, y.shape[1] // size)).movedim(1, 0), 0


class GroupNorm(ExplicitFunction):
    """y = (x - m) r w + b, with mean m, biased variance v and r = (v + eps)^(-1/2) of each group of each sample.

    x is read as x[n][k][c][p], by ``sizes``: samples, groups, channels of a group, positions of a channel. m and v
    run over c and p, w and b belong to (k, c). Layer normalisation is the case of one group and one position.
    Outputs y, m and v, all differentiable, since backward reads m and v. With e = channels · positions elements
    per group, h = gy w, and dm = mean(dx), dv = 2 mean((x - m) dx), dr = -r³ dv / 2::

        gx = r h + (gm - r sum_cp(h)) / e + (x - m) (2 gv - r³ sum_cp(h (x - m))) / e
        gw = sum_np(gy (x - m) r),  gb = sum_np(gy)

    Saved: x, w, m, v. (Ba, Kiros and Hinton, 2016; Wu and He, 2018.)
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: tuple[int, ...], eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return ops.normalization.group_norm(x, sizes, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.sizes, ctx.eps = inputs
        ctx.set_materialize_grads(False)
        ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias)]
        need_x, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        kept = (x, weight if need_x else None, *output[1:]) if need_x or need_weight else (None,) * 4
        save(ctx, kept, (x, weight, *output[1:]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None) -> tuple[Any, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        sizes = ctx.sizes
        if x is not None and gy is not None and gm is None and gv is None and not torch.is_grad_enabled():
            wanted = (need_x, need_weight or need_bias)
            whole = ops.normalization.group_norm_gradients(gy, x, sizes, weight, mean, variance, ctx.eps, *wanted)
            return (
                whole[0] if need_x else None,
                whole[1].to(ctx.dtypes[0]) if need_weight else None,
                whole[2].to(ctx.dtypes[1]) if need_bias else None,
                None,
                None,
            )
        gb = None
        if gy is not None and need_bias:
            gb = gy.reshape(sizes).sum((0, 3)).reshape(-1).to(ctx.dtypes[1])
        if x is None or (gy is None and gm is None and gv is None):
            return None, None, gb, None, None
        gy = None if gy is None else gy.reshape(sizes)
        weight = None if weight is None else weight.view(1, sizes[1], sizes[2], 1)
        gm, gv = (None if t is None else t[:, :, None, None] for t in (gm, gv))
        statistics = (mean[:, :, None, None], variance[:, :, None, None])
        gx, gw = _gradients(x.reshape(sizes), weight, *statistics, ctx.eps, (2, 3), (gy, gm, gv), need_x, need_weight)
        return (
            None if gx is None else gx.to(x.dtype).reshape(x.shape),
            None if gw is None else gw.sum((0, 3)).reshape(-1).to(ctx.dtypes[0]),
            gb,
            None,
            None,
        )

    @staticmethod
    def jvp(
        ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, *_rest: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, mean, variance = ctx.saved_tensors
        sizes = ctx.sizes
        weight, tw, tb = (None if t is None else t.view(1, sizes[1], sizes[2], 1) for t in (weight, tw, tb))
        mean, variance = mean[:, :, None, None], variance[:, :, None, None]
        tx = None if tx is None else tx.reshape(sizes)
        ty, tm, tv = _tangents(x.reshape(sizes), weight, mean, variance, ctx.eps, (2, 3), tx, tw, tb)
        return ty.to(x.dtype).reshape(x.shape), tm[:, :, 0, 0], tv[:, :, 0, 0]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        sizes: tuple[int, ...],
        eps: float,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The mapped dimension folds into the samples, or into the groups if the parameters are mapped too."""
        size, (samples, groups, channels, positions) = info.batch_size, sizes
        x = x.unsqueeze(0).expand(size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        shape = x.shape
        if all(t is None or d is None for t, d in zip((weight, bias), in_dims[1:3], strict=True)):
            folded = x.reshape(size * samples, groups * channels, positions)
            y, mean, variance = GroupNorm.call(folded, weight, bias, (size * samples, *sizes[1:]), eps)
            statistics = (t.view(size, samples, groups) for t in (mean, variance))
            return (y.view(shape), *statistics), (0, 0, 0)
        weight, bias = (_fold(t, d, 0, size) for t, d in zip((weight, bias), in_dims[1:3], strict=True))
        folded = x.reshape(size, samples, -1).movedim(0, 1).reshape(samples, size * groups * channels, positions)
        y, mean, variance = GroupNorm.call(folded, weight, bias, (samples, size * groups, channels, positions), eps)
        y = y.view(samples, size, groups * channels * positions).movedim(1, 0).reshape(shape)
        return (y, *(t.view(samples, size, groups) for t in (mean, variance))), (0, 1, 1)


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


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: tuple[int, ...], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each group of each sample of x, read by ``sizes``: samples, groups, channels, positions.

    Weight and bias are vectors over groups and channels. Returns y, and the mean and the biased variance of shape
    (samples, groups), each differentiable.
    """
    return GroupNorm.call(x, weight, bias, sizes, eps)
