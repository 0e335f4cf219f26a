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
_FOLDED = (torch.float32, torch.float64)  # without another copy


def _format(input: Tensor, factor: int) -> torch.memory_format | None:
    """Return the format of the output where PyTorch's operator is replaced: on the CPU, with something to move."""
    if factor == 1 or not input.is_cpu or input.numel() == 0 or torch.compiler.is_compiling():
        return None
    format = memory_format_of(input)
    return None if format == torch.contiguous_format and input.dtype not in _FOLDED else format


def _windows(factor: int) -> tuple[list[int], ...]:
    return [factor] * 2, [factor] * 2, [0] * 2, [1] * 2


def pixel_shuffle(input: Tensor, factor: int) -> Tensor:
    """Return (N, r² C, H, W) as (N, C, r H, r W)."""
    if _format(input, factor) != torch.contiguous_format:
        return torch.pixel_shuffle(input, factor)
    n, channels, h, w = input.shape
    return fold(input.reshape(n, channels, h * w), [h * factor, w * factor], *_windows(factor))


def pixel_unshuffle(input: Tensor, factor: int) -> Tensor:
    """Return (N, C, r H, r W) as (N, r² C, H, W)."""
    format = _format(input, factor)
    if format is None or (format == torch.channels_last and factor > _FEW):
        return torch.pixel_unshuffle(input, factor)
    n, channels, h, w = input.shape
    if format == torch.contiguous_format:
        return unfold(input, *_windows(factor)).view(n, channels * factor**2, h // factor, w // factor)
    pixels = input.permute(0, 2, 3, 1)
    parts = torch.stack([pixels[:, a::factor, b::factor] for a in range(factor) for b in range(factor)], -1)
    return parts.flatten(3).permute(0, 3, 1, 2)
