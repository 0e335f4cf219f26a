"""Shuffles: permutations of elements, whose adjoint is the inverse permutation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map


@dataclass(frozen=True)
class PixelShuffle(LinearMap):
    """y[n, c, r i + a, r j + b] = x[n, r² c + r a + b, i, j]; the adjoint puts the pixels back into channels."""

    folds_batch = True
    factor: int

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Spread channels over pixels."""
        return ops.shuffle.pixel_shuffle(x, self.factor)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Gather pixels into channels."""
        if g.numel() == 0:  # the built-in returns an empty tensor as it is
            n, c, h, w = g.shape
            return g.new_empty(n, c * self.factor**2, h // self.factor, w // self.factor)
        return ops.shuffle.pixel_unshuffle(g, self.factor)


@dataclass(frozen=True)
class ChannelShuffle(LinearMap):
    """y[n, j g + i] = x[n, i C / g + j]: the transpose of the channels as a (groups, C / groups) matrix.

    The adjoint is the transpose back, the same with C / g groups.
    """

    folds_batch = True
    channels: int
    groups: int

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Transpose."""
        return torch.channel_shuffle(x, self.groups)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Transpose back."""
        return torch.channel_shuffle(g, max(1, self.channels // self.groups))


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Return x (N, r² C, H, W) as (N, C, r H, r W). Saved: nothing."""
    return linear_map(PixelShuffle(factor), x)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Return x (N, C, r H, r W) as (N, r² C, H, W), the adjoint of ``pixel_shuffle``. Saved: nothing."""
    return linear_map(PixelShuffle(factor).transposed, x)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Return x (N, C, *) with its channels dealt out: one of each group, then the next of each. Saved: nothing."""
    return linear_map(ChannelShuffle(x.shape[1], groups), x)
