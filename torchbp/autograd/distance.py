"""Distances: p-norms of differences, row by row and of all pairs, and the cosine of the angle between vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.function import ExplicitFunction, one_pass, save

_aten = torch.ops.aten


def _transposed_norm(g: Tensor, delta: Tensor, d: Any, p: float, all_ties: bool) -> Tensor:
    """Return g ∂d/∂δ for d = ‖δ‖_p along the last dimension, which d and g have with size one.

    ∂d/∂δ = sgn(δ) (|δ| / d)^(p-1), and 0 where d = 0 (or δ = 0 and p < 1). For p = inf it is sgn(δ) at the largest
    elements, which share it, unless ``all_ties`` have it whole; for p = 0, which counts, it is 0.
    """
    if p == 0:
        return torch.zeros_like(delta) * g
    sign = delta.sgn() if delta.is_complex() else delta.sign()
    if p == 1:
        return g * sign
    if math.isinf(p):
        largest = (delta.abs() == d) | (delta.abs().isnan() & d.isnan())
        share = largest.to(d.dtype)
        return g * sign * (share if all_ties else share / share.sum(-1, keepdim=True))
    zero = d == 0
    positive = d.masked_fill(zero, 1)
    if p == 2:
        return (g / positive).masked_fill(zero, 0) * delta
    ratio = delta.abs() / positive
    if p < 1:
        zero = zero | (delta == 0)
        ratio = ratio.masked_fill(zero, 1)
    return g * (sign * ratio.pow(p - 1)).masked_fill(zero, 0)


def _pushed_norm(tangent: Tensor, delta: Tensor, d: Tensor, p: float, all_ties: bool) -> Tensor:
    """Return the tangent of d for that of δ, with the last dimension of size one."""
    slope = _transposed_norm(torch.ones_like(d), delta, d, p, all_ties)
    product = (slope.conj() * tangent).real if slope.is_complex() else slope * tangent
    return product.sum(-1, keepdim=True)


def _batched(info: Any, dims: tuple[int | None, ...], *tensors: Tensor) -> list[Tensor]:
    """Return the tensors with the mapped dimension first."""
    return [
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=True)
    ]


class Distance(ExplicitFunction):
    """y = ‖a - b + eps‖_p along the last dimension.

    With δ = a - b + eps, ga = g sgn(δ) (|δ| / y)^(p-1) and gb = -ga; see _transposed_norm. Saved: a, b, and y unless p
    is 0 or 1.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, p: float, eps: float, keepdim: bool, all_ties: bool) -> Tensor:
        return torch.pairwise_distance(a, b, p, eps, keepdim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, ctx.p, ctx.eps, ctx.keepdim, ctx.all_ties = inputs
        kept = (a, b, None if ctx.p in (0, 1) else output)
        save(ctx, kept, (a, b, output))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        a, b, d = ctx.saved_tensors
        if not ctx.keepdim:
            g, d = g.unsqueeze(-1), None if d is None else d.unsqueeze(-1)
        if ctx.p == 2 and one_pass():
            ratio = _quotient(g, d)
            ga = torch.addcmul(ratio * ctx.eps, a - b, ratio)
        else:
            ga = _transposed_norm(g, a - b + ctx.eps, d, ctx.p, ctx.all_ties)
        return ga if ctx.needs_input_grad[0] else None, -ga if ctx.needs_input_grad[1] else None, *(None,) * 4

    @staticmethod
    def jvp(ctx: Any, ta: Tensor | None, tb: Tensor | None, *_others: Any) -> Tensor:
        a, b, d = ctx.saved_tensors
        tangent = -tb if ta is None else (ta if tb is None else ta - tb)  # type: ignore[operator]
        d = d if ctx.keepdim else d.unsqueeze(-1)
        pushed = _pushed_norm(tangent, a - b + ctx.eps, d, ctx.p, ctx.all_ties)
        return pushed if ctx.keepdim else pushed.squeeze(-1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, int]:
        a, b = _batched(info, in_dims[:2], a, b)
        if a.dim() > 1:
            return Distance.call(a, b, *options), 0
        y = Distance.call(a.unsqueeze(1), b.unsqueeze(1), *options)  # of numbers, which are vectors of one element
        return y.reshape(info.batch_size), 0


def distance(
    a: Tensor, b: Tensor, p: float = 2.0, eps: float = 0.0, keepdim: bool = False, all_ties: bool = False
) -> Tensor:
    """Return ‖a - b + eps‖_p along the last dimension of a and b, of one shape.

    Of elements that are largest together for p = inf each has its share of the gradient, or all of it with
    ``all_ties``. Keeps a, b and the output.
    """
    return Distance.call(a, b, p, eps, keepdim, all_ties)


_PRODUCTS = 25  # from more rows than this on PyTorch computes Euclidean distances by a matrix product


class PairDistances(ExplicitFunction):
    """y[..., i, j] = ‖x[..., i] - z[..., j]‖_p.

    gx_i = sum over j of g_ij ∂y_ij/∂δ with δ = x_i - z_j, and gz likewise with the other sign. For p = 2 and many
    rows, G = g / y (0 where y = 0) makes them matrix products: gx = (G 1) x - G z, gz = (Gᵀ 1) z - Gᵀ x.
    Saved: x, z, and y unless p is 0 or 1.
    """

    @staticmethod
    def forward(x: Tensor, z: Tensor, p: float, mode: int | None) -> Tensor:
        return _aten._cdist_forward(x, z, p, mode)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, z, ctx.p, mode = inputs
        many = mode == 1 or (mode != 2 and max(x.shape[-2], z.shape[-2]) > _PRODUCTS)
        ctx.products = ctx.p == 2 and many
        kept = (x, z, None if ctx.p in (0, 1) else output)
        save(ctx, kept, (x, z, output))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, z, d = ctx.saved_tensors
        need_x, need_z = ctx.needs_input_grad[:2]
        p = ctx.p
        if ctx.products:
            ratio = _quotient(g, d)
            gx = ratio.sum(-1, keepdim=True) * x - ratio @ z if need_x else None
            gz = ratio.sum(-2).unsqueeze(-1) * z - ratio.mT @ x if need_z else None
            return gx, gz, None, None
        if one_pass():
            d = g.new_empty(()).expand(g.shape) if d is None else d
            gx = _aten._cdist_backward(g.contiguous(), x, z, p, d.contiguous()) if need_x else None
            transposed = (g.mT.contiguous(), z, x, p, d.mT.contiguous())
            gz = _aten._cdist_backward(*transposed) if need_z else None
            return gx, gz, None, None
        pulled = _transposed_norm(g.unsqueeze(-1), _differences(x, z), None if d is None else d.unsqueeze(-1), p, True)
        return pulled.sum(-2) if need_x else None, -pulled.sum(-3) if need_z else None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tz: Tensor | None, *_others: Any) -> Tensor:
        x, z, d = ctx.saved_tensors
        tx = torch.zeros_like(x) if tx is None else tx
        tz = torch.zeros_like(z) if tz is None else tz
        if ctx.products:  # <x_i - z_j, tx_i - tz_j> / y_ij
            own = (x * tx).sum(-1, keepdim=True) + (z * tz).sum(-1).unsqueeze(-2)
            return _quotient(own - tx @ z.mT - x @ tz.mT, d)
        pushed = _pushed_norm(_differences(tx, tz), _differences(x, z), d.unsqueeze(-1), ctx.p, True)
        return pushed.squeeze(-1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, z: Tensor, *options: Any) -> tuple[Tensor, int]:
        return PairDistances.call(*_batched(info, in_dims[:2], x, z), *options), 0


def _differences(x: Tensor, z: Tensor) -> Tensor:
    return x.unsqueeze(-2) - z.unsqueeze(-3)


def _quotient(g: Tensor, d: Tensor) -> Tensor:
    """Return g / d, and 0 where d = 0."""
    zero = d == 0
    return (g / d).masked_fill_(zero, 0) if one_pass() else (g / d.masked_fill(zero, 1)).masked_fill(zero, 0)


def pair_distances(x: Tensor, z: Tensor, p: float, mode: int | None) -> Tensor:
    """Return ‖x[..., i] - z[..., j]‖_p as (..., P, R) for x (..., P, M) and z (..., R, M) of one batch shape.

    ``mode`` is ATen's: 1 forces matrix products for p = 2, 2 forbids them. Keeps x, z and the output.
    """
    return PairDistances.call(x, z, p, mode)


class OwnDistances(ExplicitFunction):
    """y_k = ‖x_i - x_j‖_p for the k-th pair i < j of rows of x. Saved: x, and y unless p is 0 or 1.

    gx_i collects g_k ∂y_k/∂δ with δ = x_i - x_j over the pairs that i is first of, less that over the others.
    """

    @staticmethod
    def forward(x: Tensor, p: float) -> Tensor:
        return _aten._pdist_forward(x.contiguous(), p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.p = inputs
        save(ctx, (x, None if ctx.p in (0, 1) else output), (x, output))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, d = ctx.saved_tensors
        if g.numel() == 0:  # PyTorch's operator crashes without rows
            return torch.zeros_like(x) + g.sum(), None
        if one_pass():
            d = torch.empty_like(g) if d is None else d
            return _aten._pdist_backward(g.contiguous(), x.contiguous(), ctx.p, d.contiguous()), None
        first, second = _pairs(x)
        delta = x.index_select(0, first) - x.index_select(0, second)
        pulled = _transposed_norm(g.unsqueeze(-1), delta, None if d is None else d.unsqueeze(-1), ctx.p, True)
        return torch.zeros_like(x).index_add(0, first, pulled).index_add(0, second, -pulled), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _p: Any) -> Tensor:
        x, d = ctx.saved_tensors
        first, second = _pairs(x)
        delta, tangent = (v.index_select(0, first) - v.index_select(0, second) for v in (x, t))
        return _pushed_norm(tangent, delta, d.unsqueeze(-1), ctx.p, True).squeeze(-1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, p: float) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        first, second = _pairs(x[0])
        return distance(x.index_select(1, first), x.index_select(1, second), p, all_ties=True), 0


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the first and the second row of every pair."""
    first, second = torch.triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
    return first, second


def own_distances(x: Tensor, p: float) -> Tensor:
    """Return the p-distances of every pair of rows of x (N, M), as (N (N - 1) / 2). Keeps x and the output."""
    return OwnDistances.call(x, p)


class Cosine(ExplicitFunction):
    """y = <a, b> / (|a| |b|) along ``dim``, the lengths raised to eps, or with eps added to their squares.

    ga = g (b / (α β) - y a / (α |a|)) where α and β are the raised lengths, and gb likewise: lengths are raised without
    being recorded, as in the built-in; a / |a| is 0 for a = 0. With eps added, α = |a| is sqrt(<a, a> + eps). The
    lengths are outputs too, for a backward pass in few steps. Saved: a, b, the cosines and lengths.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, dim: int, eps: float, added: bool) -> tuple[Tensor, Tensor, Tensor]:
        if added:
            squares = [v.square().sum(dim, keepdim=True).add_(eps) for v in (a, b)]
            y = (a * b).sum(dim) / (squares[0] * squares[1]).sqrt_().squeeze(dim)
            return y, squares[0].sqrt_(), squares[1].sqrt_()
        first, second = (_length(v, dim, eps, added) for v in (a, b))
        return (a / first.clamp(min=eps) * (b / second.clamp(min=eps))).sum(dim), first, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        a, b, ctx.dim, ctx.eps, ctx.added = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        save(ctx, (a, b, *output), (a, b, output[0]))

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_lengths: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        a, b, y, *lengths = ctx.saved_tensors
        options = (ctx.dim, ctx.eps, ctx.added)
        if torch.is_grad_enabled():
            lengths = [_length(v, *options) for v in (a, b)]
        raised = lengths if ctx.added else [_raised(length, ctx.eps) for length in lengths]
        g, y = g.unsqueeze(ctx.dim), y.unsqueeze(ctx.dim)
        cross = g / (raised[0] * raised[1])
        ga = cross * b - _quotient(g * y / raised[0], lengths[0]) * a if ctx.needs_input_grad[0] else None
        gb = cross * a - _quotient(g * y / raised[1], lengths[1]) * b if ctx.needs_input_grad[1] else None
        return ga, gb, None, None, None

    @staticmethod
    def jvp(ctx: Any, ta: Tensor | None, tb: Tensor | None, *_others: Any) -> tuple[Tensor, None, None]:
        a, b, y = ctx.saved_tensors
        lengths = [_length(v, ctx.dim, ctx.eps, ctx.added) for v in (a, b)]
        raised = lengths if ctx.added else [_raised(length, ctx.eps) for length in lengths]
        y = y.unsqueeze(ctx.dim)
        total = torch.zeros_like(a)
        for t, own, other, length, up in ((ta, a, b, lengths[0], raised[0]), (tb, b, a, lengths[1], raised[1])):
            if t is not None:
                total = total + t * (other / (raised[0] * raised[1]) - _quotient(y / up, length) * own)
        return total.sum(ctx.dim), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, dim: int, eps: float, added: bool
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        a, b = _batched(info, in_dims[:2], a, b)
        if a.dim() == 1:  # numbers, which are vectors of one element
            y, *lengths = Cosine.call(a.unsqueeze(1), b.unsqueeze(1), 1, eps, added)
            return (y, *(length.squeeze(1) for length in lengths)), (0, 0, 0)
        return Cosine.call(a, b, dim % (a.dim() - 1) + 1, eps, added), (0, 0, 0)


def _length(v: Tensor, dim: int, eps: float, added: bool) -> Tensor:
    if added:
        return (v.square().sum(dim, keepdim=True) + eps).sqrt()
    return torch.linalg.vector_norm(v, 2, dim, keepdim=True)


def _raised(length: Tensor, eps: float) -> Tensor:
    """Return max(length, eps), with derivative 1 everywhere."""
    return torch.where(length < eps, length - length.detach() + eps, length)


def cosine(a: Tensor, b: Tensor, dim: int, eps: float, added: bool = False) -> Tensor:
    """Return the cosine of the angle between a and b, of one shape, along ``dim``, whose lengths are at least eps.

    ``added``: eps is added to the squares of the lengths instead. Keeps a, b, the output and the lengths.
    """
    return Cosine.call(a, b, dim, eps, added)[0]
