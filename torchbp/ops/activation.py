"""Pointwise maps that cost more than the memory they move, as raw operators without gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _fake(input, map, parameters):
    return torch.empty_like(input)


def _fake_gradient(grad_output, kept, map, parameters):
    return torch.empty_like(kept)


_CUBE, _SCALE = 0.044715, math.sqrt(2 / math.pi)


_aten = torch.ops.aten
# What is one operator of PyTorch each: it has loops for the half-width types, which the kernels would widen first, and
# torch.compile fuses it with its neighbours.
_BUILT_IN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "sigmoid": (torch.sigmoid, _aten.sigmoid_backward),
    "gelu": (torch.nn.functional.gelu, _aten.gelu_backward),
    "silu": (torch.nn.functional.silu, _aten.silu_backward),
}


def _composite(input, map, parameters):
    if map in _BUILT_IN:
        return _BUILT_IN[map][0](input)
    if map == "scaled_tanh":
        a, b = parameters
        return torch.tanh(input * b).mul_(a)
    if map == "softplus":
        return torch.nn.functional.softplus(input, *parameters)
    return torch.nn.functional.gelu(input, approximate="tanh")


def _composite_gradient(grad_output, kept, map, parameters):
    if map in _BUILT_IN:
        gx = _BUILT_IN[map][1](grad_output, kept)
        return gx if gx.stride() == kept.stride() else torch.empty_like(kept).copy_(gx)
    if map == "scaled_tanh":
        a, b = parameters
        slope = b * (a - kept * kept / a)
    elif map == "softplus":
        beta, threshold = parameters
        slope = torch.where(kept * beta > threshold, 1, torch.sigmoid(kept * beta))
    else:
        t = torch.tanh(_SCALE * (kept + _CUBE * kept * kept * kept))
        slope = 0.5 * (1 + t) + 0.5 * kept * (1 - t * t) * _SCALE * (1 + 3 * _CUBE * kept * kept)
    return torch.empty_like(kept).copy_(grad_output * slope)


_activation = register("activation", fake=_fake, composite=_composite, flops=flops_none)
_gradient = register("activation_gradient", fake=_fake_gradient, composite=_composite_gradient, flops=flops_none)


def _in_kernel(dtype: torch.dtype, map: str) -> bool:
    if map in _BUILT_IN and (dtype.itemsize <= 2 or torch.compiler.is_compiling()):
        return False
    return dtype in KERNEL_DTYPES


def activation(input: Tensor, map: str, parameters: Sequence[float]) -> Tensor:
    """Return a pointwise map of input; maps and parameters as in ``schemas.def``."""
    call = _activation if _in_kernel(input.dtype, map) else _composite
    return call(input, map, parameters)


def activation_gradient(grad_output: Tensor, kept: Tensor, map: str, parameters: Sequence[float]) -> Tensor:
    """Return grad_output f', from the output of sigmoid and scaled_tanh and the input of the others."""
    call = _gradient if _in_kernel(kept.dtype, map) else _composite_gradient
    return call(grad_output, kept, map, parameters)
