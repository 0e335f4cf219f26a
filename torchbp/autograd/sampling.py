"""Sampling at the points of a grid: three operators closed under differentiation; and the affine grid.

With S_a(x, p) the image x sampled at the points p by the a-th derivatives of the interpolation's weights (a is a
multi-index, one order per component of p, and contains the inner derivative), linear in x::

    sample_a(x, p)            = S_a(p) x
    scatter_a(g, p)           = S_a(p)ᵀ g
    grid_gradient_a(g, x, p)  = for each component k, the sum over channels of g · S_{a + e_k}(p) x

Since dS_a/dp_k = S_{a + e_k}, each one's derivatives are these three again, with another multi-index. Above the
degree of the weights (1 bilinear, 3 bicubic, 0 nearest) all vanish. Derivatives at a kink are PyTorch's first ones:
from the right on a pixel, zero on the outermost pixels where a border clips or reflects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, fold_batch, linear_map, unfold_batch
from torchbp.autograd.function import ExplicitFunction, save

Order = tuple[int, ...]


@dataclass(frozen=True)
class Interpolation:
    """How an image is sampled."""

    mode: str
    padding_mode: str
    align_corners: bool

    @property
    def settings(self) -> tuple[str, str, bool]:
        """What the raw operators take."""
        return self.mode, self.padding_mode, self.align_corners

    def raised(self, order: Order) -> list[tuple[int, Order]]:
        """Return each component k with the order a + e_k, less those that vanish."""
        every = [(k, (*order[:k], order[k] + 1, *order[k + 1 :])) for k in range(len(order))]
        return [(k, one) for k, one in every if not ops.sampling.vanishes(self.mode, one)]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class Sample(ExplicitFunction):
    """y = S_a(p) x.

    gx = scatter_a(g, p) and gp = grid_gradient_a(g, x, p);
    forward mode: sample_a(tx, p) + Σ_k tp_k sample_{a+e_k}(x, p).
    Where no higher derivative is recorded and a = 0, one operator of PyTorch computes both gradients.
    Saved: the grid, and the image if the grid's gradient is wanted; in mode nearest, where that is zero, only the
    grid, if the image's gradient is wanted.
    """

    @staticmethod
    def forward(x: Tensor, grid: Tensor, order: Order, how: Interpolation) -> Tensor:
        return ops.sampling.sample(x, grid, order, *how.settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, grid, ctx.order, ctx.how = inputs
        ctx.shape, ctx.grid_shape = tuple(x.shape), tuple(grid.shape)
        ctx.curved, wanted = bool(ctx.how.raised(ctx.order)), ctx.needs_input_grad
        to_grid = ctx.curved and wanted[1]
        save(ctx, (x if to_grid else None, grid if to_grid or wanted[0] else None), (x if ctx.curved else None, grid))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, grid = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if x is not None and wanted[0] and not any(ctx.order) and not torch.is_grad_enabled():
            return *ops.sampling.gradients(g, x, grid, *ctx.how.settings), None, None
        gx = scatter(g, grid, ctx.shape[2:], ctx.order, ctx.how) if wanted[0] else None
        ggrid = None
        if wanted[1]:
            ggrid = grid_gradient(g, x, grid, ctx.order, ctx.how) if ctx.curved else g.new_zeros(ctx.grid_shape)
        return gx, ggrid, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tgrid: Tensor | None, _order: Any, _how: Any) -> Tensor:
        x, grid = ctx.saved_tensors
        terms = [] if tx is None else [sample(tx, grid, ctx.order, ctx.how)]
        for k, order in ctx.how.raised(ctx.order) if tgrid is not None else ():
            terms.append(tgrid[..., k].unsqueeze(1) * sample(x, grid, order, ctx.how))  # type: ignore[index]
        return _sum(terms) if terms else grid.new_zeros((*ctx.shape[:2], *grid.shape[1:-1]))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, grid: Tensor, order: Order, how: Interpolation
    ) -> tuple[Tensor, int]:
        size, (x_dim, grid_dim) = info.batch_size, in_dims[:2]
        if x_dim is None:  # one image at more points
            return unfold_batch(sample(x, fold_batch(grid, grid_dim, size, 1), order, how), size, 2), 0
        if grid_dim is None:  # more channels at the same points
            return unfold_batch(sample(fold_batch(x, x_dim, size, 1), grid, order, how), size, 1), 0
        y = sample(fold_batch(x, x_dim, size), fold_batch(grid, grid_dim, size), order, how)
        return unfold_batch(y, size), 0


class Scatter(ExplicitFunction):
    """z = S_a(p)ᵀ g, an image of the given size.

    gg = sample_a(v, p) and gp = grid_gradient_a(g, v, p) for the cotangent v;
    forward mode: scatter_a(tg, p) + Σ_k scatter_{a+e_k}(tp_k g, p).
    Saved: as by Sample, with g for x.
    """

    @staticmethod
    def forward(g: Tensor, grid: Tensor, size: tuple[int, ...], order: Order, how: Interpolation) -> Tensor:
        return ops.sampling.scatter(g, grid, size, order, *how.settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, grid, ctx.size, ctx.order, ctx.how = inputs
        ctx.channels, ctx.grid_shape = tuple(g.shape[:2]), tuple(grid.shape)
        ctx.curved, wanted = bool(ctx.how.raised(ctx.order)), ctx.needs_input_grad
        to_grid = ctx.curved and wanted[1]
        save(ctx, (g if to_grid else None, grid if to_grid or wanted[0] else None), (g if ctx.curved else None, grid))

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        g, grid = ctx.saved_tensors
        gg = sample(v, grid, ctx.order, ctx.how) if ctx.needs_input_grad[0] else None
        ggrid = None
        if ctx.needs_input_grad[1]:
            ggrid = grid_gradient(g, v, grid, ctx.order, ctx.how) if ctx.curved else v.new_zeros(ctx.grid_shape)
        return gg, ggrid, None, None, None

    @staticmethod
    def jvp(ctx: Any, tg: Tensor | None, tgrid: Tensor | None, *_: Any) -> Tensor:
        g, grid = ctx.saved_tensors
        terms = [] if tg is None else [scatter(tg, grid, ctx.size, ctx.order, ctx.how)]
        for k, order in ctx.how.raised(ctx.order) if tgrid is not None else ():
            terms.append(scatter(tgrid[..., k].unsqueeze(1) * g, grid, ctx.size, order, ctx.how))  # type: ignore[index]
        return _sum(terms) if terms else grid.new_zeros((*ctx.channels, *ctx.size))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        g: Tensor,
        grid: Tensor,
        size: tuple[int, ...],
        order: Order,
        how: Interpolation,
    ) -> tuple[Tensor, int]:
        count, (g_dim, grid_dim) = info.batch_size, in_dims[:2]
        if grid_dim is None:  # more channels at the same points
            return unfold_batch(scatter(fold_batch(g, g_dim, count, 1), grid, size, order, how), count, 1), 0
        z = scatter(fold_batch(g, g_dim, count), fold_batch(grid, grid_dim, count), size, order, how)
        return unfold_batch(z, count), 0


class GridGradient(ExplicitFunction):
    """q_k = Σ over channels of g · S_{a+e_k}(p) x: the gradient that the grid gets.

    For the cotangent u: gg = Σ_k u_k sample_{a+e_k}(x, p), gx = Σ_k scatter_{a+e_k}(u_k g, p) and
    gp = Σ_k grid_gradient_{a+e_k}(u_k g, x, p); forward mode is linear in g and x, and the same last sum in p, since
    the second derivatives commute. Saved: of g, x and the grid what the wanted gradients need.
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, grid: Tensor, order: Order, how: Interpolation) -> Tensor:
        return ops.sampling.grid_gradient(g, x, grid, order, *how.settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, x, grid, ctx.order, ctx.how = inputs
        ctx.size, wanted = tuple(x.shape[2:]), ctx.needs_input_grad
        save(ctx, (g if any(wanted[1:3]) else None, x if wanted[0] or wanted[2] else None, grid), (g, x, grid))

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Any, ...]:
        g, x, grid = ctx.saved_tensors
        how, wanted, raised = ctx.how, ctx.needs_input_grad, ctx.how.raised(ctx.order)
        along = {k: u[..., k].unsqueeze(1) for k, _ in raised}
        gg = gx = ggrid = None
        if wanted[0]:
            gg = _sum([along[k] * sample(x, grid, order, how) for k, order in raised])
        if wanted[1]:
            gx = _sum([scatter(along[k] * g, grid, ctx.size, order, how) for k, order in raised])
        if wanted[2]:
            ggrid = _sum([grid_gradient(along[k] * g, x, grid, order, how) for k, order in raised])
        return gg, gx, ggrid, None, None

    @staticmethod
    def jvp(ctx: Any, tg: Tensor | None, tx: Tensor | None, tgrid: Tensor | None, *_: Any) -> Tensor:
        g, x, grid = ctx.saved_tensors
        terms = [] if tg is None else [grid_gradient(tg, x, grid, ctx.order, ctx.how)]
        if tx is not None:
            terms.append(grid_gradient(g, tx, grid, ctx.order, ctx.how))
        for k, order in ctx.how.raised(ctx.order) if tgrid is not None else ():
            terms.append(grid_gradient(tgrid[..., k].unsqueeze(1) * g, x, grid, order, ctx.how))  # type: ignore[index]
        return _sum(terms)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], g: Tensor, x: Tensor, grid: Tensor, order: Order, how: Interpolation
    ) -> tuple[Tensor, int]:
        size, (g_dim, x_dim, grid_dim) = info.batch_size, in_dims[:3]
        if x_dim is None:  # one image at more points
            g, grid = fold_batch(g, g_dim, size, 2), fold_batch(grid, grid_dim, size, 1)
            return unfold_batch(grid_gradient(g, x, grid, order, how), size, 1), 0
        g, x, grid = (fold_batch(t, d, size) for t, d in ((g, g_dim), (x, x_dim), (grid, grid_dim)))
        return unfold_batch(grid_gradient(g, x, grid, order, how), size), 0


def sample(x: Tensor, grid: Tensor, order: Order, how: Interpolation) -> Tensor:
    """Return S_a(p) x, (N, C, *points), for an order that does not vanish."""
    return Sample.call(x, grid, order, how)


def scatter(g: Tensor, grid: Tensor, size: tuple[int, ...], order: Order, how: Interpolation) -> Tensor:
    """Return S_a(p)ᵀ g, (N, C, *size), for an order that does not vanish."""
    return Scatter.call(g, grid, size, order, how)


def grid_gradient(g: Tensor, x: Tensor, grid: Tensor, order: Order, how: Interpolation) -> Tensor:
    """Return the sums over channels of g · S_{a+e_k}(p) x, (N, *points, D); zeros where all vanish."""
    if not how.raised(order):
        return torch.zeros_like(grid, memory_format=torch.contiguous_format)
    return GridGradient.call(g, x, grid, order, how)


def grid_sample(x: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """Return the image x (N, C, *spatial) at the points of a grid (N, *points, D), (N, C, *points).

    A complex image is sampled as twice as many real channels. Keeps the grid, and x if the grid's gradient is wanted;
    in mode nearest the grid only, if x's is.
    """
    how = Interpolation(mode, padding_mode, align_corners)
    order = (0,) * grid.shape[-1]
    if not x.is_complex():
        return sample(x, grid, order, how)
    y = sample(torch.cat([x.real, x.imag], dim=1), grid, order, how)
    return torch.complex(*y.chunk(2, dim=1))


@dataclass(frozen=True)
class AffinePoints(LinearMap):
    """y[n, p] = theta[n] (p, 1) for every point p of a regular grid in [-1, 1]^D, x first; linear in theta.

    The adjoint is Σ_p g[n, p] (p, 1)ᵀ. ``dtype`` is the one the points are made in, before they take theta's.
    """

    folds_batch = True

    size: tuple[int, ...]
    align_corners: bool
    dtype: torch.dtype

    def _points(self, like: Tensor) -> Tensor:
        """Return (p, 1) for all points, (N, points, D + 1)."""
        dimensions = len(self.size)
        axes = []
        for k, n in enumerate(reversed(self.size)):
            axis = torch.linspace(-1, 1, n, dtype=self.dtype, device=like.device)
            if n == 1:
                axis = torch.zeros_like(axis)
            elif not self.align_corners:
                axis = axis * (n - 1) / n
            shape = [1] * dimensions
            shape[dimensions - 1 - k] = n
            axes.append(axis.view(shape).expand(self.size))
        points = torch.stack([*axes, torch.ones_like(axes[0])], dim=-1).reshape(-1, dimensions + 1)
        return points.to(like.dtype).expand(like.shape[0], *points.shape)

    def forward(self, theta: Tensor) -> Tensor:  # type: ignore[override]
        """Map the points."""
        y = torch.bmm(self._points(theta), theta.mT)
        return y.reshape(theta.shape[0], *self.size, len(self.size))

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Sum over the points."""
        points = self._points(g)
        return torch.bmm(points.mT, g.reshape(*points.shape[:2], len(self.size))).mT


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool, dtype: torch.dtype) -> Tensor:
    """Return the grid (N, *size, D) of affine maps theta (N, D, D + 1). Saved: nothing but sizes."""
    return linear_map(AffinePoints(tuple(size), align_corners, dtype), theta)
