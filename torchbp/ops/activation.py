"""Pointwise maps that cost more than the memory they move, as raw operators without gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, register


def _fake(input, map, parameters):
    return torch.empty_like(input)


def _fake_gradient(grad_output, kept, map, parameters):
    return torch.empty_like(kept)


_CUBE, _SCALE = 0.044715, math.sqrt(2 / math.pi)


def _composite(input, map, parameters):
    if map == "scaled_tanh":
        a, b = parameters
        return torch.tanh(input * b).mul_(a)
    if map == "softplus":
        return torch.nn.functional.softplus(input, *parameters)
    return torch.nn.functional.gelu(input, approximate="tanh")


def _composite_gradient(grad_output, kept, map, parameters):
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


def activation(input: Tensor, map: str, parameters: Sequence[float]) -> Tensor:
    """Return ``scaled_tanh``, ``softplus`` or ``gelu_tanh`` of input; parameters as in ``schemas.def``."""
    call = _activation if input.dtype in KERNEL_DTYPES else _composite
    return call(input, map, parameters)


def activation_gradient(grad_output: Tensor, kept: Tensor, map: str, parameters: Sequence[float]) -> Tensor:
    """Return grad_output f', from the output of scaled_tanh and the input of the others."""
    call = _gradient if kept.dtype in KERNEL_DTYPES else _composite_gradient
    return call(grad_output, kept, map, parameters)
