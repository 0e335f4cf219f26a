"""Losses before their reduction: linear maps and contractions of the log-probabilities, and the squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.contraction import Einsum, contract
from torchbp.autograd.function import ExplicitFunction, save


@dataclass(frozen=True)
class NegativePick(LinearMap):
    """y[n, *] = -weight[n, *] x[n, target[n, *], *]: a linear map of the log-probabilities x (N, C, *).

    The adjoint puts -weight g at the target's place. The fixed tensors are target, with every value a class,
    and weight, which is zero where a target is ignored.
    """

    classes: int

    def forward(self, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Pick."""
        return -x.gather(1, target.unsqueeze(1)).squeeze(1) * weight

    def adjoint(self, g: Tensor, target: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Put back."""
        shape = (g.shape[0], self.classes, *g.shape[1:])
        return g.new_zeros(shape).scatter(1, target.unsqueeze(1), (-g * weight).unsqueeze(1))


def negative_pick(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return -weight x[target] per sample, for x (N, C, *) and target, weight (N, *)."""
    return linear_map(NegativePick(x.shape[1]), x, target, weight)


_WEIGHTED = Einsum("nck,nck,c->nk")


def negative_expectation(x: Tensor, probability: Tensor, weight: Tensor | None) -> Tensor:
    """Return -sum over c of weight[c] probability[n, c, *] x[n, c, *], (N, *); x and probability (N, C, *)."""
    shape = (x.shape[0], *x.shape[2:])
    flat = [t.reshape(*t.shape[:2], -1) if t.dim() > 2 else t.unsqueeze(-1) for t in (x, probability)]
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    return -contract(_WEIGHTED, 3, *flat, weight).reshape(shape)


class SquaredError(ExplicitFunction):
    """y = (x - t)², elementwise. gx = 2 g (x - t), gt = -gx. Saved: both inputs."""

    @staticmethod
    def forward(x: Tensor, t: Tensor) -> Tensor:
        return (x - t).square_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, inputs, inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, t = ctx.saved_tensors
        gx = 2 * g * (x - t)
        return gx if ctx.needs_input_grad[0] else None, -gx if ctx.needs_input_grad[1] else None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tt: Tensor | None) -> Tensor:
        x, t = ctx.saved_tensors
        difference = -tt if tx is None else (tx if tt is None else tx - tt)  # type: ignore[operator]
        return 2 * (x - t) * difference

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, t: Tensor) -> tuple[Tensor, int]:
        first = x.unsqueeze(0) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        second = t.unsqueeze(0) if in_dims[1] is None else t.movedim(in_dims[1], 0)
        return SquaredError.call(first.expand(info.batch_size, *first.shape[1:]), second.expand_as(first)), 0


def squared_error(x: Tensor, t: Tensor) -> Tensor:
    """Return (x - t)² for x and t of one shape."""
    return SquaredError.call(x, t)
