"""Dropout: a linear map once its mask is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map


@dataclass(frozen=True)
class MaskedScale(LinearMap):
    """y = x where the mask is set, times ``scale``, else 0; its own adjoint."""

    folds_batch = True
    scale: float

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Mask and scale."""
        return ops.dropout.masked_scale(x, mask, self.scale)

    def adjoint(self, g: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Mask and scale."""
        return ops.dropout.masked_scale(g, mask, self.scale)


def dropout(x: Tensor, p: float) -> Tensor:
    """Set elements to zero with probability p and scale the others by 1 / (1 - p).

    The mask is drawn from torch's generator, so ``torch.manual_seed`` governs it, and the draws are the
    built-in's. Keeps one byte per element. (Srivastava et al., 2014.)
    """
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)
    return linear_map(MaskedScale(0.0 if p == 1 else 1 / (1 - p)), x, mask)
