"""Activations. Integer tensors are accepted where the built-in accepts them."""

from __future__ import annotations

from torch import Tensor

from torchbp import autograd
from torchbp.nn.functional._arguments import as_number, check_tensors, in_place


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0), elementwise; the derivative at 0 is 0."""
    check_tensors("relu", input=input)
    return in_place(input, autograd.activation.relu(input), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else ``negative_slope`` x, elementwise."""
    check_tensors("leaky_relu", input=input)
    slope = as_number("leaky_relu", "negative_slope", negative_slope)
    kept = input.clone() if inplace and slope <= 0 else input  # then the backward reads the input
    return in_place(input, autograd.activation.leaky_relu(kept, slope), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)), elementwise."""
    check_tensors("sigmoid", input=input)
    return autograd.activation.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Return tanh(x), elementwise."""
    check_tensors("tanh", input=input)
    return autograd.activation.tanh(input)


def scaled_tanh(input: Tensor) -> Tensor:
    """Return 1.7159 tanh(2 x / 3), elementwise (LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998)."""
    check_tensors("scaled_tanh", input=input)
    return autograd.activation.scaled_tanh(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta x)) / beta, or x where beta x > threshold, elementwise."""
    op = "softplus"
    check_tensors(op, input=input)
    return autograd.activation.softplus(input, as_number(op, "beta", beta), as_number(op, "threshold", threshold))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x Φ(x), elementwise; ``approximate="tanh"`` replaces Φ by a tanh (Hendrycks and Gimpel, 2016).

    Raises:
        RuntimeError: if ``approximate`` is neither ``"none"`` nor ``"tanh"``.
        TypeError: if it is not a string.
    """
    check_tensors("gelu", input=input)
    if not isinstance(approximate, str):
        raise TypeError(f"gelu(): approximate must be 'none' or 'tanh', got {approximate!r}")
    return autograd.activation.gelu(input, approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x sigmoid(x), elementwise."""
    check_tensors("silu", input=input)
    # The backward reads the input, which an in-place call overwrites.
    return in_place(input, autograd.activation.silu(input.clone() if inplace else input), inplace)
