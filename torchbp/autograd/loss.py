"""Losses before their reduction: linear maps and contractions of the log-probabilities, and the squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.contraction import Einsum, contract
from torchbp.autograd.function import ExplicitFunction, save


def sample_weight(target: Tensor, weight: Tensor | None, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """Return weight[target], 1 without a weight, and 0 where the target is ignored."""
    kept = target != ignore_index
    if weight is None:
        return kept.to(dtype)
    return torch.where(kept, weight[target.where(kept, 0)], 0).to(dtype)


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


def negative_pick(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """Return -weight[target] x[target] per sample, for x (N, C, *), target (N, *) and weight (C).

    Keeps target and weight.
    """
    fixed = (target,) if weight is None else (target, weight)
    return linear_map(NegativePick(x.shape[1], ignore_index), x, *fixed)


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
        first, second = (
            v.expand(info.batch_size, *v.shape) if dim is None else v.movedim(dim, 0)
            for v, dim in zip((x, t), in_dims, strict=True)
        )
        return SquaredError.call(first, second), 0


def squared_error(x: Tensor, t: Tensor) -> Tensor:
    """Return (x - t)² for x and t of one shape."""
    return SquaredError.call(x, t)
