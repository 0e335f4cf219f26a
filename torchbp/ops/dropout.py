"""Dropout once its mask is drawn, as a raw operator without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _fake(input, mask, scale):
    return torch.empty_like(input)


def _composite(input, mask, scale):
    return torch.empty_like(input).copy_(input * (mask.to(input.dtype) * scale))


_masked_scale = register("masked_scale", fake=_fake, composite=_composite, flops=flops_none)


def masked_scale(input: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return input times scale where the mask is set, elsewhere input times 0; the mask may be broadcast."""
    if mask.shape != input.shape:
        return input * (mask.to(input.dtype) * scale)
    call = _masked_scale if input.dtype in KERNEL_DTYPES else _composite
    return call(input, mask, scale)
