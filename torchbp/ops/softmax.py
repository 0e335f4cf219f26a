"""Softmax and its logarithm along one dimension, as a raw operator without gradient. The result is contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _fake(input, dim, log):
    bound = max(input.dim(), 1)
    if not -bound <= dim < bound:
        raise IndexError(f"softmax: dim must be in [{-bound}, {bound - 1}], got {dim}")
    return torch.empty(input.shape, dtype=input.dtype, device=input.device)


def _composite(input, dim, log):
    return (torch.log_softmax(input, dim) if log else torch.softmax(input, dim)).contiguous()


_softmax = register("softmax", fake=_fake, composite=_composite, flops=flops_none)


def softmax(input: Tensor, dim: int, log: bool) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``, or its logarithm."""
    call = _softmax if input.dtype in KERNEL_DTYPES else _composite
    return call(input, dim, log)
