"""Activation functions of one number, and their derivatives.

Every function maps each element of its input, whatever its shape. By the chain rule the gradient of the
input is `grad_output * derivative(input)`.

Each derivative is written in its own right, not through the forward value, and stays accurate where the
textbook formula cancels or overflows. At infinity the functions take their limits: gelu(-inf) is 0 and its
derivative at +inf is 1, where the bare formula reads inf · 0. NaN gives NaN; only `relu_derivative` and
`leaky_relu_derivative`, which compare with zero, give a number.

Each function returns an array of the input's shape and dtype (float64 for integers) and raises TypeError if
the input is complex.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ._arrays import Array, require_real, result_dtype, widen, zeros


def _elementwise(function: Callable[[float], float], input: Array) -> Array:
    require_real("input", input)
    dtype = result_dtype(input)
    input = widen(input)
    output = zeros(input.shape, dtype)
    for index in np.ndindex(*input.shape):
        output[index] = function(float(input[index]))
    return output.astype(dtype)


def _logistic(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def _logistic_slope(x: float) -> float:
    # σ(x) (1 - σ(x)) is even in x; on the side where the exponential is small, nothing overflows or cancels.
    small = math.exp(-abs(x))
    return small / (1 + small) ** 2


def _tanh_slope(x: float) -> float:
    # 1 - tanh²(x) = 4 σ(2x) (1 - σ(2x))
    return 4 * _logistic_slope(2 * x)


def _product(factor: float, tail: float) -> float:
    # These tails vanish faster than any factor grows: an underflown tail gives 0 even if the factor is inf.
    return 0.0 if tail == 0 else factor * tail


def _check_beta(beta: float) -> None:
    if beta == 0:
        raise ValueError(f"beta must not be zero, got {beta}")


def _check_approximate(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate must be 'none' or 'tanh', got {approximate!r}")


def relu(input: Array) -> Array:
    """Compute max(0, x).

    Args:
        input: any shape.

    Source: Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010. Equals
    `torch.nn.functional.relu`.
    """
    return _elementwise(lambda x: 0.0 if x <= 0 else x, input)


def relu_derivative(input: Array) -> Array:
    """Compute the derivative of `relu`: 1 for x > 0, 0 for x < 0, and 0 at the kink, x = 0.

    Args:
        input: any shape; NaN gives 1, as in PyTorch.

    Equals the gradient of `torch.nn.functional.relu`.
    """
    return _elementwise(lambda x: 0.0 if x <= 0 else 1.0, input)


def leaky_relu(input: Array, negative_slope: float = 0.01) -> Array:
    """Compute x for x > 0, and negative_slope · x otherwise.

    Args:
        input: any shape.
        negative_slope: the slope for negative x.

    Source: Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    Equals `torch.nn.functional.leaky_relu`.
    """
    return _elementwise(lambda x: x if x > 0 else negative_slope * x, input)


def leaky_relu_derivative(input: Array, negative_slope: float = 0.01) -> Array:
    """Compute the derivative of `leaky_relu`: 1 for x > 0, otherwise negative_slope, at x = 0 too.

    Args:
        input: any shape; NaN gives `negative_slope`, as in PyTorch.
        negative_slope: the slope for negative x.

    Equals the gradient of `torch.nn.functional.leaky_relu`.
    """
    return _elementwise(lambda x: 1.0 if x > 0 else negative_slope, input)


def sigmoid(input: Array) -> Array:
    """Compute the logistic function, σ(x) = 1 / (1 + exp(-x)).

    Args:
        input: any shape.

    Equals `torch.sigmoid`.
    """
    return _elementwise(_logistic, input)


def sigmoid_derivative(input: Array) -> Array:
    """Compute the derivative of `sigmoid`: σ'(x) = σ(x) (1 - σ(x)).

    Args:
        input: any shape.

    Equals the gradient of `torch.sigmoid`.
    """
    return _elementwise(_logistic_slope, input)


def tanh(input: Array) -> Array:
    """Compute tanh(x).

    Args:
        input: any shape.

    Equals `torch.tanh`.
    """
    return _elementwise(math.tanh, input)


def tanh_derivative(input: Array) -> Array:
    """Compute the derivative of `tanh`: 1 - tanh²(x).

    Args:
        input: any shape.

    Equals the gradient of `torch.tanh`.
    """
    return _elementwise(_tanh_slope, input)


def scaled_tanh(input: Array) -> Array:
    """Compute 1.7159 tanh(2x / 3), which maps 1 to 1 and -1 to -1 (to four digits).

    Args:
        input: any shape.

    Source: LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998.
    """
    return _elementwise(lambda x: 1.7159 * math.tanh(2 / 3 * x), input)


def scaled_tanh_derivative(input: Array) -> Array:
    """Compute the derivative of `scaled_tanh`: 1.7159 · 2/3 · (1 - tanh²(2x / 3)).

    Args:
        input: any shape.

    Source: LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998.
    """
    return _elementwise(lambda x: 1.7159 * 2 / 3 * _tanh_slope(2 / 3 * x), input)


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Compute log(1 + exp(beta · x)) / beta; where beta · x exceeds the threshold, x.

    Args:
        input: any shape.
        beta: how sharply the function bends, not 0.
        threshold: beyond it the function is replaced by its asymptote.

    Raises:
        ValueError: `beta` is 0.

    Source: Dugas, Bengio, Bélisle, Nadeau and Garcia, "Incorporating second-order functional knowledge for
    better option pricing", 2001. Equals `torch.nn.functional.softplus`.
    """
    _check_beta(beta)

    def function(x: float) -> float:
        z = beta * x
        if z > threshold:
            return x
        # log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|))
        return (max(z, 0.0) + math.log1p(math.exp(-abs(z)))) / beta

    return _elementwise(function, input)


def softplus_derivative(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Compute the derivative of `softplus`: σ(beta · x); where beta · x exceeds the threshold, 1.

    Args:
        input: any shape.
        beta: how sharply the function bends, not 0.
        threshold: beyond it the function is replaced by its asymptote.

    Raises:
        ValueError: `beta` is 0.

    Equals the gradient of `torch.nn.functional.softplus`.
    """
    _check_beta(beta)
    return _elementwise(lambda x: 1.0 if beta * x > threshold else _logistic(beta * x), input)


# The tanh approximation replaces erf(x / √2) by tanh(u), where u = √(2/π) (x + 0.044715 x³).
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


def _gelu_inner(x: float) -> float:
    return _TANH_SCALE * (x + _TANH_CUBIC * x * x * x)


def gelu(input: Array, approximate: str = "none") -> Array:
    """Compute x · Φ(x), where Φ is the cumulative distribution function of the standard normal distribution.

        none:  x · (1 + erf(x / √2)) / 2
        tanh:  x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2

    Args:
        input: any shape.
        approximate: 'none' or 'tanh'.

    Raises:
        RuntimeError: `approximate` is neither.

    Source: Hendrycks and Gimpel, "Gaussian error linear units (GELUs)", 2016. Equals
    `torch.nn.functional.gelu`, except that gelu(-inf) is 0, the limit.
    """
    _check_approximate(approximate)
    if approximate == "none":
        # 1 + erf(z) = erfc(-z), which does not cancel for negative z.
        return _elementwise(lambda x: _product(0.5 * x, math.erfc(-x / math.sqrt(2))), input)
    # (1 + tanh(u)) / 2 = σ(2u)
    return _elementwise(lambda x: _product(x, _logistic(2 * _gelu_inner(x))), input)


def gelu_derivative(input: Array, approximate: str = "none") -> Array:
    """Compute the derivative of `gelu`.

        none:  Φ(x) + x · φ(x), where φ(x) = exp(-x² / 2) / √(2π)
        tanh:  (1 + tanh(u)) / 2 + x · (1 - tanh²(u)) · u' / 2, where u = √(2/π) (x + 0.044715 x³)

    Args:
        input: any shape.
        approximate: 'none' or 'tanh'.

    Raises:
        RuntimeError: `approximate` is neither.

    Equals the gradient of `torch.nn.functional.gelu`, except at infinity, where it takes its limits, 0 and 1.
    """
    _check_approximate(approximate)

    def exact(x: float) -> float:
        density = math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return 0.5 * math.erfc(-x / math.sqrt(2)) + _product(x, density)

    def approximation(x: float) -> float:
        u = _gelu_inner(x)
        inner_slope = _TANH_SCALE * (1 + 3 * _TANH_CUBIC * x * x)
        return _logistic(2 * u) + _product(0.5 * x * inner_slope, _tanh_slope(u))

    return _elementwise(exact if approximate == "none" else approximation, input)


def silu(input: Array) -> Array:
    """Compute x · σ(x), where σ is the logistic function.

    Args:
        input: any shape.

    Source: Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for neural network function
    approximation in reinforcement learning", 2018. Equals `torch.nn.functional.silu`, except that silu(-inf)
    is 0, the limit.
    """
    return _elementwise(lambda x: _product(x, _logistic(x)), input)


def silu_derivative(input: Array) -> Array:
    """Compute the derivative of `silu`: σ(x) + x · σ(x) (1 - σ(x)).

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.silu`, except at infinity, where it takes its limits, 0 and 1.
    """
    return _elementwise(lambda x: _logistic(x) + _product(x, _logistic_slope(x)), input)
