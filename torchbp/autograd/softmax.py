"""Softmax and log-softmax, saving their outputs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import Scaling, linear_map
from torchbp.autograd.function import ExplicitFunction, save


class Softmax(ExplicitFunction):
    """y_i = exp(s x_i) / sum_j exp(s x_j) along ``dim``, with s = -1 if ``negated``, else 1.

    dy_i/dx_j = s y_i (δ_ij - y_j), so gx = s y (g - sum_j y_j g_j); the Jacobian is symmetric, so the tangent is
    the same expression. Saved: y.
    """

    @staticmethod
    def forward(x: Tensor, dim: int, negated: bool) -> Tensor:
        return ops.softmax.softmax(-x if negated else x, dim, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.dim, ctx.negated = inputs
        save(ctx, (output,), (output,))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            gx = ops.softmax.softmax_gradient(g, y, ctx.dim, False)
        else:
            gx = y * (g - (y * g).sum(ctx.dim, keepdim=True))
        return -gx if ctx.negated else gx, None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _dim: Any, _negated: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        ty = y * (t - (y * t).sum(ctx.dim, keepdim=True))
        return -ty if ctx.negated else ty

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, dim: int, negated: bool) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        if x.dim() == 1:  # a scalar under vmap has one element along its only dimension
            return softmax(x.unsqueeze(1), 1, negated).squeeze(1), 0
        return softmax(x, _shifted(dim, x.dim()), negated), 0


class LogSoftmax(ExplicitFunction):
    """y_i = x_i - log sum_j exp(x_j) along ``dim``.

    dy_i/dx_j = δ_ij - exp(y_j), so gx = g - exp(y) sum_j g_j and ty = t - sum_j exp(y_j) t_j. Saved: y.
    """

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return ops.softmax.softmax(x, dim, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dim = inputs[1]
        save(ctx, (output,), (output,))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return ops.softmax.softmax_gradient(g, y, ctx.dim, True), None
        return g - y.exp() * g.sum(ctx.dim, keepdim=True), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _dim: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return t - (y.exp() * t).sum(ctx.dim, keepdim=True)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, dim: int) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        y = log_softmax(x, _shifted(dim, x.dim())) if x.dim() > 1 else log_softmax(x.unsqueeze(1), 1).squeeze(1)
        return y, 0


def _shifted(dim: int, dimensions: int) -> int:
    """Return ``dim`` of a tensor as the dimension of the same tensor with one more in front."""
    return dim % (dimensions - 1) + 1


def softmax(x: Tensor, dim: int, negated: bool = False) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``, of -x if ``negated``. Keeps the output."""
    return Softmax.call(x, dim, negated)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """Return x - log of the sum of exp(x) along ``dim``. Keeps the output."""
    return LogSoftmax.call(x, dim)


def negative(x: Tensor) -> Tensor:
    """Return -x. Keeps nothing."""
    return linear_map(Scaling(-1), x)
