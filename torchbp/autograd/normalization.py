"""Normalisation by mean and variance, by the root mean square, by neighbouring channels, and by a norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.function import ExplicitFunction, conjugate, save
from torchbp.ops.registry import memory_format_of


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


def _count(x: Tensor, dims: list[int] | tuple[int, ...]) -> int:
    return max(1, math.prod([x.shape[d] for d in dims]))


def _gradients(
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor,
    eps: float,
    dims: list[int] | tuple[int, ...],
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    need_x: bool,
    need_weight: bool,
    count: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x, and of the weight before it is summed, from those of y, mean and variance.

    The statistics run over ``dims``; they and the weight broadcast against x. In the statistics' dtype. Without a mean,
    zero stands for it and the variance is the mean square. Statistics that run further than x does, over ``count``
    elements, have ``total`` add up what is theirs.
    """
    gy, gm, gv = cotangents
    inverse, centred = torch.rsqrt(variance + eps), x.to(variance.dtype)
    if mean is not None:
        centred = centred - mean
    gy = None if gy is None else gy.to(variance.dtype)
    gx: Tensor | None = None
    gw = gy * (centred * inverse) if gy is not None and need_weight else None
    if need_x:
        constant, slope = gm, None if gv is None else 2 * gv
        if gy is not None:
            h = gy if weight is None else gy * weight.to(variance.dtype)
            if mean is not None:
                sum_h = h.sum(dims, keepdim=True)
                constant = -inverse * sum_h if constant is None else constant - inverse * sum_h
            sum_hc, cubed = (h * centred).sum(dims, keepdim=True), inverse * inverse * inverse
            slope = -cubed * sum_hc if slope is None else slope - cubed * sum_hc
            gx = h * inverse
        if total is not None:
            both = [torch.zeros_like(variance) if t is None else t for t in (constant, slope)]
            constant, slope = total(torch.stack(both)).unbind()
        n = _count(x, dims) if count is None else count.to(variance.dtype)
        if constant is not None:
            gx = (constant / n).expand_as(x) if gx is None else gx + constant / n
        if slope is not None:
            gx = (slope / n) * centred if gx is None else gx + (slope / n) * centred
    return gx, gw


def _tangents(
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor,
    eps: float,
    dims: list[int] | tuple[int, ...],
    tx: Tensor | None,
    tw: Tensor | None,
    tb: Tensor | None,
    count: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tangents of y, in the statistics' dtype, mean and variance; arguments as for _gradients."""
    inverse, centred = torch.rsqrt(variance + eps), x.to(variance.dtype)
    if mean is not None:
        centred = centred - mean
    ty = torch.zeros_like(centred)
    tm, tv = torch.zeros_like(variance), torch.zeros_like(variance)
    if tx is not None:
        tx = tx.to(variance.dtype)
        n = _count(x, dims) if count is None else count.to(variance.dtype)
        if mean is not None:
            tm = tx.sum(dims, keepdim=True) / n
        tv = 2 * (centred * tx).sum(dims, keepdim=True) / n
        if total is not None:
            tm, tv = total(torch.stack([tm, tv])).unbind()
        ty = (tx - tm) * inverse + centred * (-0.5 * inverse * inverse * inverse * tv)
        if weight is not None:
            ty = ty * weight.to(variance.dtype)
    if tw is not None:
        ty = ty + centred * (inverse * tw)
    if tb is not None:
        ty = ty + tb
    return ty, tm, tv


def _keep(
    ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: tuple[Tensor, ...], *of_x: Tensor
) -> None:
    """Save x, the statistics, the weight and what else the gradient of x reads, as far as a gradient reads them."""
    ctx.set_materialize_grads(False)
    ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias)]
    need_x, need_weight = ctx.needs_input_grad[:2]
    kept = (x, *statistics) if need_x or need_weight else (None,) * 3
    further = (weight, *of_x)
    save(ctx, (*kept, *(further if need_x else (None,) * len(further))), (x, *statistics, *further))


def _channel_gradients(
    ctx: Any,
    saved: tuple[Any, ...],
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    *further: Any,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias where the statistics are per channel; ``further`` as _gradients'."""
    x, mean, variance, weight = saved
    gy, gm, gv = cotangents
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    gb = _channel_sum(gy).to(ctx.dtypes[1]) if gy is not None and need_bias else None
    if x is None or (gy is None and gm is None and gv is None):
        return None, None, gb
    weight, gm, gv = (None if t is None else _per_channel(t, x) for t in (weight, gm, gv))
    statistics = (_per_channel(mean, x), _per_channel(variance, x), ctx.eps, _all_but_channels(x))
    gx, gw = _gradients(x, weight, *statistics, (gy, gm, gv), need_x, need_weight, *further)
    return None if gx is None else gx.to(x.dtype), None if gw is None else _channel_sum(gw).to(ctx.dtypes[0]), gb


def _channel_tangents(
    ctx: Any, saved: tuple[Any, ...], tangents: tuple[Tensor | None, Tensor | None, Tensor | None], *further: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tangents of y, mean and variance where the statistics are per channel; ``further`` as _tangents'."""
    x, mean, variance, weight = saved
    tx, tw, tb = tangents
    weight, tw, tb = (None if t is None else _per_channel(t, x) for t in (weight, tw, tb))
    statistics = (_per_channel(mean, x), _per_channel(variance, x), ctx.eps, _all_but_channels(x))
    ty, tm, tv = _tangents(x, weight, *statistics, tx, tw, tb, *further)
    return ty.to(x.dtype), tm.reshape(-1), tv.reshape(-1)


def _fold_into_channels(size: int, in_dims: tuple[Any, ...], tensors: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Fold a mapped dimension of x and of vectors over channels into the channels."""
    return [_fold(t, dim, 1 if i == 0 else 0, size) for i, (t, dim) in enumerate(zip(tensors, in_dims, strict=False))]


def _unfold_from_channels(y: Tensor, size: int) -> Tensor:
    return y.unflatten(1, (size, y.shape[1] // size)).movedim(1, 0)


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
        _keep(ctx, x, weight, bias, output[1:])

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None) -> tuple[Any, ...]:
        x, mean, variance, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        if x is not None and gy is not None and gm is None and gv is None and not torch.is_grad_enabled():
            whole = ops.normalization.batch_norm_gradients(gy, x, weight, mean, variance, ctx.eps, need_x)
            return (
                whole[0] if need_x else None,
                whole[1].to(ctx.dtypes[0]) if need_weight else None,
                whole[2].to(ctx.dtypes[1]) if need_bias else None,
                None,
            )
        return *_channel_gradients(ctx, ctx.saved_tensors, (gy, gm, gv)), None

    @staticmethod
    def jvp(
        ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, _eps: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _channel_tangents(ctx, ctx.saved_tensors, (tx, tw, tb))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Statistics are per channel, so the mapped dimension folds into the channels."""
        size = info.batch_size
        y, *statistics = BatchNorm.call(*_fold_into_channels(size, in_dims, (x, weight, bias)), eps)
        return (_unfold_from_channels(y, size), *(t.view(size, -1) for t in statistics)), (0, 0, 0)


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
        y = ChannelAffine.call(*_fold_into_channels(info.batch_size, in_dims, args[:5]), args[5])
        return _unfold_from_channels(y, info.batch_size), 0


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
        _keep(ctx, x, weight, bias, output[1:])

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None) -> tuple[Any, ...]:
        x, mean, variance, weight = ctx.saved_tensors
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
        x, mean, variance, weight = ctx.saved_tensors
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


class RMSNorm(ExplicitFunction):
    """y = x r w, with the mean square q of each row and r = (q + eps)^(-1/2).

    x is read as rows of n elements, by ``sizes``; w belongs to the elements of a row. Outputs y and q, both
    differentiable, since backward reads q. With h = gy w and dq = 2 mean(x dx)::

        gx = r h + x (2 gq - r³ sum(h x)) / n,  gw = sum over rows of gy x r

    It is layer normalisation about zero. The map is holomorphic: complex x takes conj(x), conj(w) and conj(q) in
    these, and real w beside it the real part of gw. Saved: x, w, q. (Zhang and Sennrich, 2019.)
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, sizes: tuple[int, int], eps: float) -> tuple[Tensor, Tensor]:
        return ops.normalization.rms_norm(x, sizes, weight, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, ctx.sizes, ctx.eps = inputs
        ctx.set_materialize_grads(False)
        ctx.dtype = None if weight is None else weight.dtype
        save(ctx, (x, weight if ctx.needs_input_grad[0] else None, output[1]), (x, weight, output[1]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gq: Tensor | None) -> tuple[Any, ...]:
        x, weight, square = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        if gy is not None and gq is None and not torch.is_grad_enabled():
            wanted = (need_x, need_weight)
            whole = ops.normalization.rms_norm_gradients(gy, x, ctx.sizes, weight, square, ctx.eps, *wanted)
            return whole[0] if need_x else None, _as(whole[1], ctx.dtype) if need_weight else None, None, None
        if gy is None and gq is None:
            return None, None, None, None
        rows, square = conjugate(x.reshape(ctx.sizes)), conjugate(square)
        weight = None if weight is None else conjugate(weight)
        gy, gq = None if gy is None else gy.reshape(ctx.sizes), None if gq is None else gq.unsqueeze(1)
        gradients = (gy, None, gq)
        gx, gw = _gradients(rows, weight, None, square.unsqueeze(1), ctx.eps, (1,), gradients, need_x, need_weight)
        return (
            None if gx is None else gx.to(x.dtype).reshape(x.shape),
            None if gw is None else _as(gw.sum(0), ctx.dtype),
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None, *_rest: Any) -> tuple[Tensor | None, Tensor | None]:
        x, weight, square = ctx.saved_tensors
        tx = None if tx is None else tx.reshape(ctx.sizes)
        rows, square = x.reshape(ctx.sizes), square.unsqueeze(1)
        ty, _, tq = _tangents(rows, weight, None, square, ctx.eps, (1,), tx, tw, None)
        return ty.to(x.dtype).reshape(x.shape), tq.squeeze(1)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        weight: Tensor | None,
        sizes: tuple[int, int],
        eps: float,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The mapped dimension folds into the rows; mapped weights multiply their rows afterwards."""
        size, (rows, elements) = info.batch_size, sizes
        x = x.unsqueeze(0).expand(size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        mapped = None if weight is None or in_dims[1] is None else weight.movedim(in_dims[1], 0).unsqueeze(1)
        folded = (size * rows, elements)
        y, square = RMSNorm.call(x.reshape(folded), weight if mapped is None else None, folded, eps)
        if mapped is not None:
            y = y.view(size, rows, elements) * mapped.to(y.dtype)
        return (y.view(x.shape), square.view(size, rows)), (0, 0)


@dataclass(frozen=True)
class AllReduce(LinearMap):
    """y = the sum of x over the processes of a group: symmetric, as each y depends on all x.

    The loss that is differentiated is the sum of those of the processes. Without a group to talk to it is the identity.
    """

    folds_batch = True

    group: Any

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Add up."""
        x = x.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(x, group=self.group)
        return x

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Add up."""
        return self.forward(g)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, biased variance and number of the elements per channel of all processes.

        Each process puts its own into a row of its own, in double; they are joined by Chan's formula.
        """
        processes, rank = 1, 0
        if distributed.is_available() and distributed.is_initialized():
            processes, rank = distributed.get_world_size(self.group), distributed.get_rank(self.group)
        kind, channels = ops.normalization.statistics_dtype(x.dtype), x.shape[1]
        rows = torch.zeros(processes, 2 * channels + 1, dtype=torch.float64, device=x.device)
        if x.numel() > 0:
            variance, mean = torch.var_mean(x.to(kind), _all_but_channels(x), correction=0)
            rows[rank] = torch.cat([mean, variance, mean.new_full((1,), x.numel() // channels)])
        means, variances, counts = self.forward(rows).split([channels, channels, 1], 1)
        count = counts.sum()
        share = counts / count.clamp(min=1)
        mean = (means * share).sum(0)
        variance = ((variances + (means - mean).square()) * share).sum(0)
        return mean.to(kind), variance.to(kind), count


class SyncBatchNorm(ExplicitFunction):
    """BatchNorm with m and v over the batches of all processes of a group; N elements per channel altogether.

    Where the sums of BatchNorm's gradients stand, those over all processes do: with A the sum over the processes::

        gx = r h + A(gm - r sum(h)) / N + (x - m) A(2 gv - r³ sum(h (x - m))) / N
        gw = sum(gy (x - m) r),  gb = sum(gy)  of this process

    A is its own adjoint, so derivatives of any order follow, as long as all processes take the same ones. Outputs
    y, m, v and N, the first three differentiable. Saved: x, w, m, v, N.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, sums: AllReduce
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = sums.moments(x)
        y = ops.normalization.channel_affine(x, weight, bias, mean, variance, eps)
        return y, mean, variance, count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.eps, ctx.sums = inputs
        ctx.mark_non_differentiable(output[3])
        _keep(ctx, x, weight, bias, output[1:3], output[3])

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gm: Tensor | None, gv: Tensor | None, _number: Any) -> tuple[Any, ...]:
        *saved, count = ctx.saved_tensors
        return *_channel_gradients(ctx, saved, (gy, gm, gv), count, lambda t: linear_map(ctx.sums, t)), None, None

    @staticmethod
    def jvp(
        ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None, *_rest: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        *saved, count = ctx.saved_tensors
        return *_channel_tangents(ctx, saved, (tx, tw, tb), count, lambda t: linear_map(ctx.sums, t)), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        sums: AllReduce,
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        """As for BatchNorm, the mapped dimension folds into the channels."""
        size = info.batch_size
        y, *statistics, count = SyncBatchNorm.call(*_fold_into_channels(size, in_dims, (x, weight, bias)), eps, sums)
        return (_unfold_from_channels(y, size), *(t.view(size, -1) for t in statistics), count), (0, 0, 0, None)


@dataclass(frozen=True)
class ChannelWindows(LinearMap):
    """y[n, c, *] = the sum of x[n, k, *] over c - before <= k <= c + after, over ``divisor``.

    ``last`` says that channels are the last in memory: it is no matter of the result.
    """

    folds_batch = True

    before: int
    after: int
    divisor: int
    last: bool

    def _as_image(self, x: Tensor) -> Tensor:
        """Return x with one axis of channels and one of positions."""
        if self.last:
            x = x.movedim(1, -1)
            return x.reshape(x.shape[0], 1, math.prod(x.shape[1:-1]), x.shape[-1])
        return x.reshape(x.shape[0], 1, x.shape[1], math.prod(x.shape[2:]))

    def _as_before(self, y: Tensor, x: Tensor) -> Tensor:
        return y.reshape(x.movedim(1, -1).shape).movedim(-1, 1) if self.last else y.reshape(x.shape)

    @property
    def _geometry(self) -> tuple[Any, ...]:
        size = self.before + self.after + 1
        window, padding = ((1, size), (0, self.before)) if self.last else ((size, 1), (self.before, 0))
        return window, (1, 1), padding, False, True, self.divisor

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Average."""
        image = self._as_image(x)
        y = ops.pooling.average_pool(image, *self._geometry)
        # The padding is as much after as before, so windows of even size are one too many.
        return self._as_before(y.narrow(3, 0, image.shape[3]).narrow(2, 0, image.shape[2]), x)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Spread."""
        image = self._as_image(g)
        further = self.before - self.after
        wide = torch.nn.functional.pad(image, (0, further) if self.last else (0, 0, 0, further)) if further else image
        return self._as_before(ops.pooling.average_pool_adjoint(wide, image.shape[2:], *self._geometry), g)


class LocalResponseNorm(ExplicitFunction):
    """y = x s^(-b), s = k + a A(x²), with A the averages over windows of neighbouring channels.

    ds = 2 a A(x dx), so::

        gx = gy s^(-b) - 2 a b x Aᵀ(gy x s^(-b-1))
        ty = tx s^(-b) - 2 a b x s^(-b-1) A(x tx)

    Saved: x; s is computed again. (Krizhevsky, Sutskever and Hinton, 2012.)
    """

    @staticmethod
    def forward(x: Tensor, windows: ChannelWindows, alpha: float, beta: float, k: float) -> Tensor:
        return x / _response(x, windows, alpha, k, windows.forward).pow(beta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.windows, ctx.alpha, ctx.beta, ctx.k = inputs
        save(ctx, (x,), (x,))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        scale, ratio = _responses(x, ctx)
        spread = linear_map(ctx.windows.transposed, gy * ratio)
        return gy * scale - (2 * ctx.alpha * ctx.beta) * (x * spread), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, *_rest: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        scale, ratio = _responses(x, ctx)
        return tx * scale - (2 * ctx.alpha * ctx.beta) * (ratio * linear_map(ctx.windows, x * tx))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *options: Any) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        return LocalResponseNorm.call(x.flatten(0, 1), *options).view(x.shape), 0


def _response(
    x: Tensor, windows: ChannelWindows, alpha: float, k: float, average: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return s."""
    return average(x * x) * alpha + k


def _responses(x: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
    """Return s^(-b) and x s^(-b-1)."""
    s = _response(x, ctx.windows, ctx.alpha, ctx.k, lambda t: linear_map(ctx.windows, t))
    scale = s.pow(-ctx.beta)
    return scale, x * scale / s


class Normalize(ExplicitFunction):
    """y = x / m, m = max(n, eps), with the p-norm n of x over ``dims``.

    Outputs y and n, both differentiable, since backward reads n. With the slope dn/dx = sgn(x) (|x| / n)^(p-1),
    for p = infinity sgn(x) over their number where |x| = n, and [.] one where true, else zero::

        gx = gy / m + (gn - [n >= eps] Re sum(gy conj(x)) / m²) dn/dx

    Where n = 0 the slope is zero, as for p = 0. Saved: x, n.
    """

    @staticmethod
    def forward(x: Tensor, p: float, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(x, p, dims, keepdim=True)
        return x / norm.clamp_min(eps), norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, *ctx.options = inputs
        ctx.set_materialize_grads(False)
        save(ctx, (x, output[1]), (x, output[1]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gn: Tensor | None) -> tuple[Any, ...]:
        (x, norm), (p, dims, eps) = ctx.saved_tensors, ctx.options
        if gy is not None and gn is None and p == 2 and not (torch.is_grad_enabled() or x.is_complex()):
            divisor, product = norm.clamp_min(eps), (gy * x).sum(dims, keepdim=True)
            along = torch.where(norm >= eps, product / (divisor * divisor * norm), 0)
            return torch.addcmul(gy / divisor, x, along, value=-1), None, None, None
        slope = _norm_slope(x, norm, p, dims)
        if gy is None:
            return gn * slope if gn is not None else None, None, None, None
        divisor = norm.clamp_min(eps)
        product = _real(gy * conjugate(x)).sum(dims, keepdim=True)
        along = (-product / (divisor * divisor)).masked_fill(~(norm >= eps), 0)
        return gy / divisor + (along if gn is None else gn + along) * slope, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
        (x, norm), (p, dims, eps) = ctx.saved_tensors, ctx.options
        divisor = norm.clamp_min(eps)
        tn = _real(tx * conjugate(_norm_slope(x, norm, p, dims))).sum(dims, keepdim=True)
        return tx / divisor - x * (tn.masked_fill(~(norm >= eps), 0) / (divisor * divisor)), tn

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, p: float, dims: tuple[int, ...], eps: float
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return Normalize.call(x.movedim(in_dims[0], 0), p, tuple(d + 1 for d in dims), eps), (0, 0)


def _real(t: Tensor) -> Tensor:
    return t.real if t.is_complex() else t


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient in the dtype of what it belongs to: of what is real, the real part."""
    return (t if dtype.is_complex else _real(t)).to(dtype)


def _norm_slope(x: Tensor, norm: Tensor, p: float, dims: tuple[int, ...]) -> Tensor:
    """Return the derivative of the p-norm by x, zero where it has none."""
    if p == 0:
        return torch.zeros_like(x)
    if math.isinf(p):
        largest = (x.abs() == norm) | (x.isnan() & norm.isnan())
        return x.sgn() * (largest / largest.sum(dims, keepdim=True)).to(norm.dtype)
    if p == 1:
        return x.sgn()
    nowhere = norm == 0
    divisor = norm.masked_fill(nowhere, 1)  # under the mask, or the derivative would be NaN times zero
    if p == 2:
        return (x / divisor).masked_fill(nowhere, 0)
    zero = x == 0
    powers = (x.abs().masked_fill(zero, 1) / divisor).pow(p - 1)
    return (x.sgn() * powers).masked_fill(zero | nowhere, 0)


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


def rms_norm(x: Tensor, weight: Tensor | None, sizes: tuple[int, int], eps: float) -> Tensor:
    """Divide each row of x, read by ``sizes``: rows and elements, by its root mean square; weigh its elements."""
    return RMSNorm.call(x, weight, sizes, eps)[0]


def sync_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise x (N, C, *) over all but C with the statistics of the batches of all processes of a group.

    Returns y, the mean and the biased variance, each differentiable, and the number of elements per channel.
    """
    return SyncBatchNorm.call(x, weight, bias, eps, AllReduce(group))


def local_response_norm(x: Tensor, before: int, after: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return x (k + alpha/size sum of x²)^(-beta), (N, C, *), with the sum over so many channels before and after."""
    windows = ChannelWindows(before, after, size, memory_format_of(x) != torch.contiguous_format)
    return LocalResponseNorm.call(x, windows, alpha, beta, k)


def normalize(x: Tensor, p: float, dims: tuple[int, ...], eps: float) -> Tensor:
    """Return x over its p-norm over ``dims``, or over eps where that is larger."""
    return Normalize.call(x, p, dims, eps)[0]
