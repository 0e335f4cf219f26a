"""Pixels into channels and back, as raw functions without gradient: PyTorch's operators, or what is faster.

PyTorch's operators move one element at a time except where channels-last channels become pixels. Of contiguous
images channels are the columns of windows side by side: pixels are unfolded into them and folded back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.folding import fold, unfold
from torchbp.ops.registry import memory_format_of

_FEW = 3  # up to this factor joining the pixels of channels-last images is faster than PyTorch's operator
_FOLDED = (torch.float32, torch.float64)  # what the kernel of folding moves; of other numbers copies are faster


def _format(input: Tensor, factor: int) -> torch.memory_format | None:
    """Return the format of the output where PyTorch's operator is replaced: on the CPU, with something to move."""
    if factor == 1 or not input.is_cpu or input.numel() == 0 or torch.compiler.is_compiling():
        return None
    return memory_format_of(input)


def _copied(parts: Tensor) -> Tensor:
    return parts.clone(memory_format=torch.contiguous_format)  # a reshape of maps of one element would be a view


def _windows(factor: int) -> tuple[list[int], ...]:
    return [factor] * 2, [factor] * 2, [0] * 2, [1] * 2


def pixel_shuffle(input: Tensor, factor: int) -> Tensor:
    """Return (N, r² C, H, W) as (N, C, r H, r W)."""
    if _format(input, factor) != torch.contiguous_format:
        return torch.pixel_shuffle(input, factor)
    n, channels, h, w = input.shape
    if input.dtype not in _FOLDED:
        parts = input.reshape(n, channels // factor**2, factor, factor, h, w).permute(0, 1, 4, 2, 5, 3)
        return _copied(parts).view(n, channels // factor**2, h * factor, w * factor)
    return fold(input.reshape(n, channels, h * w), [h * factor, w * factor], *_windows(factor))


def pixel_unshuffle(input: Tensor, factor: int) -> Tensor:
    """Return (N, C, r H, r W) as (N, r² C, H, W)."""
    format = _format(input, factor)
    if format is None or (format == torch.channels_last and factor > _FEW):
        return torch.pixel_unshuffle(input, factor)
    n, channels, h, w = input.shape
    if format == torch.contiguous_format:
        h, w = h // factor, w // factor
        if input.dtype not in _FOLDED:
            parts = input.reshape(n, channels, h, factor, w, factor).permute(0, 1, 3, 5, 2, 4)
            return _copied(parts).view(n, channels * factor**2, h, w)
        return unfold(input, *_windows(factor)).view(n, channels * factor**2, h, w)
    pixels = input.permute(0, 2, 3, 1)
    parts = torch.stack([pixels[:, a::factor, b::factor] for a in range(factor) for b in range(factor)], -1)
    return parts.flatten(3).permute(0, 3, 1, 2)
