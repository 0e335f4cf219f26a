"""Normalisation per channel, as raw operators without gradient.

Tensors are (N, C, *); statistics run over everything but C. Half-width inputs have float32 statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, laid_out, memory_format_of, register


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of mean and variance for an input dtype."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _dense(input: Tensor) -> Tensor:
    return torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format_of(input))


def _vector(input: Tensor) -> Tensor:
    return torch.empty(input.shape[1], dtype=statistics_dtype(input.dtype), device=input.device)


def _fake(input, weight, bias, eps):
    torch._check(input.dim() >= 2, lambda: f"batch_norm: input must have shape (N, C, *), got {tuple(input.shape)}")
    return _dense(input), _vector(input), _vector(input)


def _fake_gradients(grad_output, input, weight, mean, variance, eps):
    return _dense(input), _vector(input), _vector(input)


def _wide(vector: Tensor | None, like: Tensor) -> Tensor | None:
    return None if vector is None else vector.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def _composite(input, weight, bias, eps):
    if input.numel() == 0:
        return _dense(input), _vector(input).zero_(), _vector(input).zero_()
    x = input.to(statistics_dtype(input.dtype))
    variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + eps)
    if weight is not None:
        y = y * _wide(weight, y)
    if bias is not None:
        y = y + _wide(bias, y)
    y = laid_out(y.to(input.dtype), memory_format_of(input))
    return y, mean.flatten(), variance.flatten()


def _composite_gradients(grad_output, input, weight, mean, variance, eps):
    if input.numel() == 0:
        return _dense(input), _vector(input).zero_(), _vector(input).zero_()
    x, g = input.to(mean.dtype), grad_output.to(mean.dtype)
    dims, n = [d for d in range(x.dim()) if d != 1], x.numel() // x.shape[1]
    r, centred = torch.rsqrt(variance + eps), x - _wide(mean, x)
    gb, gc = g.sum(dims), (g * centred).sum(dims)
    gx = g - _wide(gb / n, g) - centred * _wide(gc * r * r / n, g)
    gx = gx * _wide(r if weight is None else r * weight.to(r.dtype), g)
    return laid_out(gx.to(input.dtype), memory_format_of(input)), gc * r, gb


def _flops(*args, **kwargs) -> int:
    """As the built-in operators, normalisation counts no matrix products."""
    return 0


_batch_norm = register("batch_norm", fake=_fake, composite=_composite, flops=_flops)
_gradients = register("batch_norm_gradients", fake=_fake_gradients, composite=_composite_gradients, flops=_flops)


def batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias, the mean and the biased variance."""
    call = _batch_norm if input.dtype in KERNEL_DTYPES else _composite
    return call(input, weight, bias, eps)


def batch_norm_gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias for constant cotangents of mean and variance."""
    call = _gradients if input.dtype in KERNEL_DTYPES else _composite_gradients
    return call(grad_output, input, weight, mean, variance, eps)
