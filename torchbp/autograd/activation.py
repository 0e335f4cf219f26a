"""Pointwise maps: gx = g f'(x), with f' written from what is cheapest to keep.

One table declares them. ``gradient`` is a differentiable expression in g and in the kept tensor, so every
order follows; ``fused`` is a one-pass operator of the same value, PyTorch's where that runs at the speed of
memory, used where no higher derivative is asked for. Only the input or the output is ever kept, never an
intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.function import ExplicitFunction, save

_aten = torch.ops.aten


@dataclass(frozen=True)
class Pointwise:
    """A pointwise map f with parameters.

    Attributes:
        name: of the map.
        forward: ``(x, *parameters) -> f(x)``.
        keeps: whether the gradient is written from the input or the output.
        gradient: ``(g, kept, *parameters) -> g f'``, differentiable in g and kept.
        fused: the same value in one pass, without derivatives of its own; optional.
    """

    name: str
    forward: Callable[..., Tensor]
    keeps: Literal["input", "output"]
    gradient: Callable[..., Tensor]
    fused: Callable[..., Tensor] | None = None


class PointwiseMap(ExplicitFunction):
    """y = f(x). Backward: gx = g f', from the input or the output as the table says."""

    @staticmethod
    def forward(map: Pointwise, parameters: tuple[float, ...], x: Tensor) -> Tensor:
        return map.forward(x, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.map, ctx.parameters, x = inputs
        kept = (x if ctx.map.keeps == "input" else output,)
        save(ctx, kept, kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (kept,) = ctx.saved_tensors
        one_pass = ctx.map.fused is not None and not torch.is_grad_enabled() and not kept.is_complex()
        formula = ctx.map.fused if one_pass else ctx.map.gradient
        return None, None, formula(g, kept.conj() if kept.is_complex() else kept, *ctx.parameters)

    @staticmethod
    def jvp(ctx: Any, _map: Any, _parameters: Any, t: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        return ctx.map.gradient(t, kept, *ctx.parameters)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], map: Pointwise, parameters: tuple[float, ...], x: Tensor
    ) -> tuple[Tensor, Any]:
        return PointwiseMap.call(map, parameters, x), in_dims[2]


# --------------------------------------------------------------------------------------------------
# The derivatives. Each is written in g and the kept tensor with differentiable steps.


def _relu(g: Tensor, y: Tensor) -> Tensor:
    """f' = 1 where y > 0, else 0; the derivative at 0 is 0, and NaN passes g on."""
    return g.masked_fill(y <= 0, 0)


def _leaky_relu(g: Tensor, kept: Tensor, slope: float) -> Tensor:
    """f' = 1 where kept > 0, else the slope; a positive slope keeps the sign, so the output serves."""
    return torch.where(kept > 0, g, g * slope)


def _sigmoid(g: Tensor, y: Tensor) -> Tensor:
    """f' = y (1 - y)."""
    return g * (y * (1 - y))


def _tanh(g: Tensor, y: Tensor) -> Tensor:
    """f' = 1 - y²."""
    return g * (1 - y * y)


# LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), section 4.4.
SCALED_TANH = (1.7159, 2.0 / 3.0)


def _scaled_tanh(g: Tensor, y: Tensor) -> Tensor:
    """f' = b (a - y² / a) for f = a tanh(b x)."""
    a, b = SCALED_TANH
    return g * (b * (a - y * y / a))


def _softplus(g: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """f' = sigmoid(beta x), or 1 where beta x > threshold.

    Written from the input: beside the threshold an output belongs to two inputs, one on each branch.
    """
    return torch.where(x * beta > threshold, g, g * torch.sigmoid(x * beta))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _gelu(g: Tensor, x: Tensor) -> Tensor:
    """f' = Φ(x) + x φ(x), the normal distribution and its density."""
    density = torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return g * (_normal_cdf(x) + x * density)


def _gelu_tanh(g: Tensor, x: Tensor) -> Tensor:
    """f' = (1 + t) / 2 + x (1 - t²) u' / 2 with t = tanh(u), u = sqrt(2/π) (x + 0.044715 x³)."""
    scale = math.sqrt(2 / math.pi)
    t = torch.tanh(scale * (x + 0.044715 * x * x * x))
    slope = scale * (1 + 3 * 0.044715 * x * x)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def _silu(g: Tensor, x: Tensor) -> Tensor:
    """f' = s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = torch.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def _kernel(name: str, *fixed: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return forward and fused gradient of a map of ops.activation."""
    return (
        lambda x, *parameters: ops.activation.activation(x, name, (*fixed, *parameters)),
        lambda g, kept, *parameters: ops.activation.activation_gradient(g, kept, name, (*fixed, *parameters)),
    )


def _leaky_fused(kept_is_output: bool) -> Callable[..., Tensor]:
    return lambda g, kept, slope: _aten.leaky_relu_backward(g, kept, slope, kept_is_output)


_RELU = Pointwise("relu", torch.relu, "output", _relu, lambda g, y: _aten.threshold_backward(g, y, 0))
_LEAKY_FROM_OUTPUT = Pointwise("leaky_relu", _aten.leaky_relu, "output", _leaky_relu, _leaky_fused(True))
_LEAKY_FROM_INPUT = Pointwise("leaky_relu", _aten.leaky_relu, "input", _leaky_relu, _leaky_fused(False))
_SIGMOID_FORWARD, _SIGMOID_FUSED = _kernel("sigmoid")
_SIGMOID = Pointwise("sigmoid", _SIGMOID_FORWARD, "output", _sigmoid, _SIGMOID_FUSED)
_TANH = Pointwise("tanh", torch.tanh, "output", _tanh, _aten.tanh_backward)
_SCALED_TANH_FORWARD, _SCALED_TANH_FUSED = _kernel("scaled_tanh", *SCALED_TANH)
_SCALED_TANH = Pointwise("scaled_tanh", _SCALED_TANH_FORWARD, "output", _scaled_tanh, _SCALED_TANH_FUSED)
_SOFTPLUS_FORWARD, _SOFTPLUS_FUSED = _kernel("softplus")
_SOFTPLUS = Pointwise("softplus", _SOFTPLUS_FORWARD, "input", _softplus, _SOFTPLUS_FUSED)
_GELU_FORWARD, _GELU_FUSED = _kernel("gelu")
_GELU = Pointwise("gelu", _GELU_FORWARD, "input", _gelu, _GELU_FUSED)
_GELU_TANH_FORWARD, _GELU_TANH_FUSED = _kernel("gelu_tanh")
_GELU_TANH = Pointwise("gelu", _GELU_TANH_FORWARD, "input", _gelu_tanh, _GELU_TANH_FUSED)
_SILU_FORWARD, _SILU_FUSED = _kernel("silu")
_SILU = Pointwise("silu", _SILU_FORWARD, "input", _silu, _SILU_FUSED)


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0); the derivative at 0 is 0. Keeps the output."""
    return PointwiseMap.call(_RELU, (), x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x where x > 0, else negative_slope x. Keeps the output if the slope is positive."""
    table = _LEAKY_FROM_OUTPUT if negative_slope > 0 else _LEAKY_FROM_INPUT
    return PointwiseMap.call(table, (negative_slope,), x)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)). Keeps the output."""
    return PointwiseMap.call(_SIGMOID, (), x)


def tanh(x: Tensor) -> Tensor:
    """Return tanh(x). Keeps the output."""
    return PointwiseMap.call(_TANH, (), x)


def scaled_tanh(x: Tensor) -> Tensor:
    """Return 1.7159 tanh(2 x / 3), which is near 1 at 1 with unit gain (LeCun 1998). Keeps the output."""
    return PointwiseMap.call(_SCALED_TANH, (), x)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta x)) / beta, or x where beta x > threshold. Keeps the input."""
    return PointwiseMap.call(_SOFTPLUS, (beta, threshold), x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Return x Φ(x), or its approximation by tanh. Keeps the input.

    Raises:
        RuntimeError: if ``approximate`` is neither ``"none"`` nor ``"tanh"``.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return PointwiseMap.call(_GELU if approximate == "none" else _GELU_TANH, (), x)


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x). Keeps the input."""
    return PointwiseMap.call(_SILU, (), x)
