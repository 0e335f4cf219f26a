"""Softmax and its logarithm along one dimension, as raw operators without gradient. Results are contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _check(op, input, dim):
    bound = max(input.dim(), 1)
    if not -bound <= dim < bound:
        raise IndexError(f"{op}: dim must be in [{-bound}, {bound - 1}], got {dim}")


def _fake(input, dim, log):
    _check("softmax", input, dim)
    return torch.empty(input.shape, dtype=input.dtype, device=input.device)


def _fake_gradient(grad_output, output, dim, log):
    _check("softmax_gradient", output, dim)
    return torch.empty(output.shape, dtype=output.dtype, device=output.device)


def _composite(input, dim, log):
    return (torch.log_softmax(input, dim) if log else torch.softmax(input, dim)).contiguous()


def _composite_gradient(grad_output, output, dim, log):
    gradient = torch._log_softmax_backward_data if log else torch._softmax_backward_data
    return gradient(grad_output.contiguous(), output.contiguous(), dim, output.dtype).contiguous()


_softmax = register("softmax", fake=_fake, composite=_composite, flops=flops_none)
_gradient = register("softmax_gradient", fake=_fake_gradient, composite=_composite_gradient, flops=flops_none)


def softmax(input: Tensor, dim: int, log: bool) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``, or its logarithm."""
    call = _softmax if input.dtype in KERNEL_DTYPES else _composite
    return call(input, dim, log)


def softmax_gradient(grad_output: Tensor, output: Tensor, dim: int, log: bool) -> Tensor:
    """Return the gradient of the input, from the output: y (g - sum of y g), or g - exp(y) sum of g."""
    call = _gradient if output.dtype in KERNEL_DTYPES else _composite_gradient
    return call(grad_output, output, dim, log)
