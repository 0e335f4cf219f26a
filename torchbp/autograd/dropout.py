"""Dropout: a linear map once its mask is drawn, and its relative that keeps mean and variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, Scaling, fold_batch, linear_map, unfold_batch
from torchbp.autograd.function import ExplicitFunction, save


@dataclass(frozen=True)
class MaskedScale(LinearMap):
    """y = x where the mask is set, times ``scale``, else 0; its own adjoint. The mask may be broadcast."""

    folds_batch = True
    scale: float

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Mask and scale."""
        return ops.dropout.masked_scale(x, mask, self.scale)

    def adjoint(self, g: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Mask and scale."""
        return ops.dropout.masked_scale(g, mask, self.scale)


# What SELU tends to for -infinity, negated: scale times alpha.
SATURATION = 1.7580993408473766


class AlphaDropout(ExplicitFunction):
    """y = a x + b where the mask is set, else b - a α', with α' = SATURATION.

    a = 1 / sqrt((1 - p) (1 + p α'²)) and b = p a α' keep the mean 0 and the variance 1 of x, of whose elements a
    share p becomes -α'. gx = a g where the mask is set, else 0. Saved: the mask. (Klambauer, Unterthiner, Mayr,
    Hochreiter, "Self-normalizing neural networks", 2017.)
    """

    @staticmethod
    def forward(x: Tensor, mask: Tensor, p: float) -> Tensor:
        a = _gain(p)
        shift = mask.to(x.dtype).mul_(a * SATURATION).add_(a * SATURATION * (p - 1))
        return ops.dropout.masked_scale(x, mask, a).add_(shift)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, mask, p = inputs
        ctx.map = MaskedScale(_gain(p))
        save(ctx, (mask,), (mask,))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return linear_map(ctx.map, g, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _mask: Any, _p: Any) -> Tensor:
        return linear_map(ctx.map, t, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, mask: Tensor, p: float) -> tuple[Tensor, int]:
        folded = [fold_batch(t, d, info.batch_size) for t, d in zip((x, mask), in_dims[:2], strict=True)]
        return unfold_batch(AlphaDropout.call(*folded, p), info.batch_size), 0


def _gain(p: float) -> float:
    return 1 / math.sqrt((1 - p) * (1 + p * SATURATION**2))


def draw(x: Tensor, p: float, features: bool) -> Tensor:
    """Return a mask that is set with probability 1 - p: for every element, or for every feature (N, C, 1, ...)."""
    if features:
        mask = x.new_empty((*x.shape[:2], *[1] * (x.dim() - 2)), dtype=torch.bool)
    else:
        mask = torch.empty_like(x, dtype=torch.bool)
    return mask.bernoulli_(1 - p)


def dropout(x: Tensor, p: float, features: bool = False, keeps_moments: bool = False) -> Tensor:
    """Set elements, or whole features (n, c), to zero with probability p and scale the others by 1 / (1 - p).

    With ``keeps_moments`` they are set to a value below zero, and all are scaled and shifted, such that mean 0 and
    variance 1 stay (:class:`AlphaDropout`). The mask is drawn from torch's generator, so ``torch.manual_seed``
    governs it, and the draws are the built-in's. Keeps one byte per draw. (Srivastava et al., 2014; features:
    Tompson et al., 2015.)
    """
    if p == 1:  # nothing is drawn
        return linear_map(Scaling(0), x)
    if x.dim() == 0:  # without a dimension for vmap to fold into
        return dropout(x.unsqueeze(0), p, features, keeps_moments).squeeze(0)
    mask = draw(x, p, features)
    if keeps_moments:
        return AlphaDropout.call(x, mask, p)
    return linear_map(MaskedScale(1 / (1 - p)), x, mask)
