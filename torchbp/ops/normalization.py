"""Normalisation, as raw operators without gradient.

Per channel, tensors are (N, C, *), and statistics run over everything but C. Per group, ``sizes`` says how the
tensor is read: (samples, groups, channels of a group, positions of a channel), with statistics of each group of
each sample; for the root mean square it is rows. Half-width inputs have float32 statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, memory_format_of, register


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


def _fake_gradients(grad_output, input, weight, mean, variance, eps, input_gradient):
    return _dense(input) if input_gradient else input.new_empty(0), _vector(input), _vector(input)


def _wide(vector: Tensor | None, like: Tensor) -> Tensor | None:
    return None if vector is None else vector.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def _statistics(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, the mean corrected by that of what it leaves: it keeps no sum's rounding."""
    mean = x.mean(dims, keepdim=True)  # that of var_mean is NaN where it is infinite
    rest = (x - mean).mean(dims, keepdim=True)
    mean = torch.where(rest.isfinite(), mean + rest, mean)
    return mean, torch.var(x, dims, correction=0, keepdim=True)


def _composite(input, weight, bias, eps):
    if input.numel() == 0:
        return _dense(input), _vector(input).zero_(), _vector(input).zero_()
    x = input.to(statistics_dtype(input.dtype))
    mean, variance = _statistics(x, [d for d in range(x.dim()) if d != 1])
    y = (x - mean) * torch.rsqrt(variance + eps)
    if weight is not None:
        y = y * _wide(weight, y)
    if bias is not None:
        y = y + _wide(bias, y)
    y = laid_out(y.to(input.dtype), memory_format_of(input))
    return y, mean.flatten(), variance.flatten()


def _composite_gradients(grad_output, input, weight, mean, variance, eps, input_gradient):
    if input.numel() == 0:
        gx = _dense(input) if input_gradient else input.new_empty(0)
        return gx, _vector(input).zero_(), _vector(input).zero_()
    x, g = input.to(mean.dtype), grad_output.to(mean.dtype)
    dims, n = [d for d in range(x.dim()) if d != 1], x.numel() // x.shape[1]
    r, centred = torch.rsqrt(variance + eps), x - _wide(mean, x)
    gb, gc = g.sum(dims), (g * centred).sum(dims)
    gx = input.new_empty(0)
    if input_gradient:
        gx = g - _wide(gb / n, g) - centred * _wide(gc * r * r / n, g)
        gx = gx * _wide(r if weight is None else r * weight.to(r.dtype), g)
        gx = laid_out(gx.to(input.dtype), memory_format_of(input))
    return gx, gc * r, gb


def _affine_fake(input, weight, bias, mean, variance, eps):
    torch._check(input.dim() >= 2, lambda: f"channel_affine: input must have shape (N, C, *), got {tuple(input.shape)}")
    return _dense(input)


def _affine_gradients_fake(grad_output, input, weight, mean, variance, eps, input_gradient):
    gx = _dense(grad_output) if input_gradient else grad_output.new_empty(0)
    vector = grad_output.new_empty(0 if input is None else grad_output.shape[1], dtype=mean.dtype)
    return gx, vector, torch.empty_like(vector)


def _affine_composite(input, weight, bias, mean, variance, eps):
    x = input.to(statistics_dtype(input.dtype))
    r = torch.rsqrt(variance.to(x.dtype) + eps)
    y = (x - _wide(mean, x)) * _wide(r if weight is None else r * weight.to(r.dtype), x)
    if bias is not None:
        y = y + _wide(bias, y)
    return laid_out(y.to(input.dtype), memory_format_of(input))


def _affine_gradients_composite(grad_output, input, weight, mean, variance, eps, input_gradient):
    g = grad_output.to(statistics_dtype(grad_output.dtype))
    r = torch.rsqrt(variance.to(g.dtype) + eps)
    gx = grad_output.new_empty(0)
    if input_gradient:
        gx = g * _wide(r if weight is None else r * weight.to(r.dtype), g)
        gx = laid_out(gx.to(grad_output.dtype), memory_format_of(grad_output))
    if input is None:
        return gx, mean.new_empty(0), mean.new_empty(0)
    dims = [d for d in range(g.dim()) if d != 1]
    gw = (g * (input.to(g.dtype) - _wide(mean, g))).sum(dims) * r
    return gx, gw.to(mean.dtype), g.sum(dims).to(mean.dtype)


def _group_format(input: Tensor, sizes: list[int]) -> torch.memory_format:
    return torch.contiguous_format if sizes[3] == 1 else memory_format_of(input)


def _group_dense(input: Tensor, sizes: list[int]) -> Tensor:
    format = _group_format(input, sizes)
    return torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=format)


def _of_groups(input: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=statistics_dtype(input.dtype), device=input.device)


def _group_fake(input, sizes, weight, bias, eps):
    samples, groups, channels, positions = sizes
    torch._check(
        samples * groups * channels * positions == input.numel(),
        lambda: f"group_norm: sizes must have as many elements as input, {input.numel()}, got {sizes}",
    )
    return _group_dense(input, sizes), _of_groups(input, samples, groups), _of_groups(input, samples, groups)


def _group_gradients_fake(grad_output, input, sizes, weight, mean, variance, eps, input_gradient, vector_gradients):
    gx = _group_dense(input, sizes) if input_gradient else input.new_empty(0)
    vectors = sizes[1] * sizes[2] if vector_gradients else 0
    return gx, _of_groups(input, vectors), _of_groups(input, vectors)


def _group_composite(input, sizes, weight, bias, eps):
    samples, groups, channels, _ = sizes
    if input.numel() == 0:
        statistics = _of_groups(input, samples, groups).zero_()
        return _group_dense(input, sizes), statistics, statistics.clone()
    x = input.reshape(sizes).to(statistics_dtype(input.dtype))
    mean, variance = _statistics(x, [2, 3])
    y = (x - mean) * torch.rsqrt(variance + eps)
    if weight is not None:
        y = y * weight.to(y.dtype).view(1, groups, channels, 1)
    if bias is not None:
        y = y + bias.to(y.dtype).view(1, groups, channels, 1)
    y = laid_out(y.to(input.dtype).reshape(input.shape), _group_format(input, sizes))
    return y, mean.view(samples, groups), variance.view(samples, groups)


def _group_gradients_composite(
    grad_output, input, sizes, weight, mean, variance, eps, input_gradient, vector_gradients
):
    samples, groups, channels, positions = sizes
    gx = _group_dense(input, sizes) if input_gradient else input.new_empty(0)
    gw, gb = (_of_groups(input, groups * channels if vector_gradients else 0).zero_() for _ in range(2))
    if input.numel() == 0:
        return gx, gw, gb
    x, g = (t.reshape(sizes).to(mean.dtype) for t in (input, grad_output))
    r = torch.rsqrt(variance + eps).view(samples, groups, 1, 1)
    normal = (x - mean.view(samples, groups, 1, 1)) * r
    if input_gradient:
        h = g if weight is None else g * weight.to(g.dtype).view(1, groups, channels, 1)
        gx = r * (h - h.mean([2, 3], keepdim=True) - normal * (h * normal).mean([2, 3], keepdim=True))
        gx = laid_out(gx.to(input.dtype).reshape(input.shape), _group_format(input, sizes))
    if vector_gradients:
        gw, gb = (g * normal).sum([0, 3]).flatten(), g.sum([0, 3]).flatten()
    return gx, gw, gb


def _rms_fake(input, sizes, weight, eps):
    rows, elements = sizes
    torch._check(
        rows * elements == input.numel(),
        lambda: f"rms_norm: sizes must have as many elements as input, {input.numel()}, got {sizes}",
    )
    return _dense(input), _of_groups(input, rows)


def _rms_gradients_fake(grad_output, input, sizes, weight, mean_square, eps, input_gradient, weight_gradient):
    gx = _group_dense(input, [*sizes, 1, 1]) if input_gradient else input.new_empty(0)
    return gx, _of_groups(input, sizes[1] if weight_gradient else 0)


def _rms_composite(input, sizes, weight, eps):
    if input.numel() == 0:
        return _dense(input), _of_groups(input, sizes[0]).zero_()
    x = input.reshape(sizes).to(statistics_dtype(input.dtype))
    mean_square = (x * x).mean(1)
    y = x * torch.rsqrt(mean_square + eps).unsqueeze(1)
    if weight is not None:
        y = y * weight.to(y.dtype)
    return laid_out(y.to(input.dtype).reshape(input.shape), memory_format_of(input)), mean_square


def _rms_gradients_composite(grad_output, input, sizes, weight, mean_square, eps, input_gradient, weight_gradient):
    gx = _group_dense(input, [*sizes, 1, 1]) if input_gradient else input.new_empty(0)
    gw = _of_groups(input, sizes[1] if weight_gradient else 0).zero_()
    if input.numel() == 0:
        return gx, gw
    # The map is holomorphic: a complex gradient is carried by the conjugate derivative.
    x, g = input.reshape(sizes).to(mean_square.dtype).conj(), grad_output.reshape(sizes).to(mean_square.dtype)
    r = torch.rsqrt(mean_square.conj() + eps).unsqueeze(1)
    if input_gradient:
        h = g if weight is None else g * weight.to(g.dtype).conj()
        gx = r * (h - x * (r * r * (h * x).mean(1, keepdim=True)))
        gx = gx.to(input.dtype).reshape(input.shape).contiguous()
    if weight_gradient:
        gw = (g * (x * r)).sum(0)
    return gx, gw


_batch_norm = register("batch_norm", fake=_fake, composite=_composite, flops=flops_none)
_gradients = register("batch_norm_gradients", fake=_fake_gradients, composite=_composite_gradients, flops=flops_none)
_affine = register("channel_affine", fake=_affine_fake, composite=_affine_composite, flops=flops_none)
_affine_gradients = register(
    "channel_affine_gradients",
    fake=_affine_gradients_fake,
    composite=_affine_gradients_composite,
    flops=flops_none,
)
_group_norm = register("group_norm", fake=_group_fake, composite=_group_composite, flops=flops_none)
_group_gradients = register(
    "group_norm_gradients", fake=_group_gradients_fake, composite=_group_gradients_composite, flops=flops_none
)
_rms_norm = register("rms_norm", fake=_rms_fake, composite=_rms_composite, flops=flops_none)
_rms_gradients = register(
    "rms_norm_gradients", fake=_rms_gradients_fake, composite=_rms_gradients_composite, flops=flops_none
)


def batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias, the mean and the biased variance."""
    call = _batch_norm if input.dtype in KERNEL_DTYPES else _composite
    return call(input, weight, bias, eps)


def batch_norm_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias for zero cotangents of mean and variance.

    Without ``input_gradient`` that of the input is empty.
    """
    call = _gradients if input.dtype in KERNEL_DTYPES else _composite_gradients
    return call(grad_output, input, weight, mean, variance, eps, input_gradient)


def channel_affine(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias."""
    call = _affine if input.dtype in KERNEL_DTYPES else _affine_composite
    return call(input, weight, bias, mean, variance, eps)


def channel_affine_gradients(
    grad_output: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor,
    eps: float,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias.

    Without ``input``, with which the mean goes, those of weight and bias are empty, without ``input_gradient`` that of
    the input.
    """
    call = _affine_gradients if grad_output.dtype in KERNEL_DTYPES else _affine_gradients_composite
    mean = variance if mean is None else mean  # a vector that nothing reads
    return call(grad_output, input, weight, mean, variance, eps, input_gradient)


def group_norm(
    input: Tensor, sizes: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias, the mean and the biased variance of the groups."""
    call = _group_norm if input.dtype in KERNEL_DTYPES else _group_composite
    return call(input, sizes, weight, bias, eps)


def group_norm_gradients(
    grad_output: Tensor,
    input: Tensor,
    sizes: Sequence[int],
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    input_gradient: bool,
    vector_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias for zero cotangents of mean and variance.

    Without ``input_gradient`` that of the input is empty, without ``vector_gradients`` those of weight and bias.
    """
    call = _group_gradients if input.dtype in KERNEL_DTYPES else _group_gradients_composite
    return call(grad_output, input, sizes, weight, mean, variance, eps, input_gradient, vector_gradients)


def rms_norm(input: Tensor, sizes: Sequence[int], weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return input / sqrt(mean square + eps) * weight and the mean square of each row."""
    call = _rms_norm if input.dtype in KERNEL_DTYPES else _rms_composite
    return call(input, sizes, weight, eps)


def rms_norm_gradients(
    grad_output: Tensor,
    input: Tensor,
    sizes: Sequence[int],
    weight: Tensor | None,
    mean_square: Tensor,
    eps: float,
    input_gradient: bool,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight for a zero cotangent of the mean square; what is not wanted is empty."""
    call = _rms_gradients if input.dtype in KERNEL_DTYPES else _rms_gradients_composite
    return call(grad_output, input, sizes, weight, mean_square, eps, input_gradient, weight_gradient)
