"""Softmax, its logarithm and their gradients along one dimension, as raw operators. Results are contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _contiguous(op, like, dim):
    bound = max(like.dim(), 1)
    if not -bound <= dim < bound:
        raise IndexError(f"{op}: dim must be in [{-bound}, {bound - 1}], got {dim}")
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def _fake(input, dim, log):
    return _contiguous("softmax", input, dim)


def _fake_gradient(grad_output, output, dim, log):
    return _contiguous("softmax_gradient", output, dim)


def _composite(input, dim, log):
    return (torch.log_softmax(input, dim) if log else torch.softmax(input, dim)).contiguous()


def _composite_gradient(grad_output, output, dim, log):
    if log:
        gx = grad_output - output.exp() * grad_output.sum(dim, keepdim=True)
    else:
        gx = output * (grad_output - (output * grad_output).sum(dim, keepdim=True))
    return gx.contiguous()


_softmax = register("softmax", fake=_fake, composite=_composite, flops=flops_none)
_gradient = register("softmax_gradient", fake=_fake_gradient, composite=_composite_gradient, flops=flops_none)


def softmax(input: Tensor, dim: int, log: bool) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``, or its logarithm."""
    call = _softmax if input.dtype in KERNEL_DTYPES else _composite
    return call(input, dim, log)


def softmax_gradient(grad_output: Tensor, output: Tensor, dim: int, log: bool) -> Tensor:
    """Return the gradient of the input, y (g - sum of y g), or of the logarithm g - exp(y) sum of g."""
    call = _gradient if output.dtype in KERNEL_DTYPES else _composite_gradient
    return call(grad_output, output, dim, log)
