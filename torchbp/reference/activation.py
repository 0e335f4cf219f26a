"""Activation functions of one number, and their derivatives.

Every function but `prelu` and `glu` maps each element of its input, whatever its shape. By the chain rule the
gradient of the input is `grad_output * derivative(input)`.

Each derivative is written in its own right, not through the forward value, and stays accurate where the
textbook formula cancels or overflows. At infinity the functions take their limits: gelu(-inf) is 0 and its
derivative at +inf is 1, where the bare formula reads inf · 0. NaN gives NaN; only the derivatives of
maps in straight pieces, which compare, give a number.

Each function returns an array of the input's shape and dtype (float64 for integers) and raises TypeError if
the input is complex.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen, zeros


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


def elu(input: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    """Compute scale · x for x > 0, and scale · alpha · (exp(input_scale · x) - 1) otherwise.

    With scale = 1 / input_scale = 1 it is the exponential linear unit; `celu(x, a)` is `elu(x, a, 1, 1 / a)`, and
    `selu(x)` is `elu(x, 1.6732632423543772, 1.0507009873554805)`.

    Args:
        input: any shape.
        alpha: minus the limit for x to -inf.
        scale: of the output.
        input_scale: of the input, where it is negative.

    Source: Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units
    (ELUs)", 2016. Equals `torch.nn.functional.elu`, `celu` and `selu`.
    """

    def function(x: float) -> float:
        return scale * x if x > 0 else scale * alpha * _exponential(math.expm1, input_scale * x)

    return _elementwise(function, input)


def elu_derivative(input: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    """Compute the derivative of `elu`: scale for x > 0, otherwise scale · alpha · input_scale · exp(input_scale · x).

    Args:
        input: any shape.
        alpha: minus the limit for x to -inf.
        scale: of the output.
        input_scale: of the input, where it is negative.

    Equals the gradients of `torch.nn.functional.elu`, `celu` and `selu`.
    """

    def derivative(x: float) -> float:
        return scale if x > 0 else scale * alpha * input_scale * _exponential(math.exp, input_scale * x)

    return _elementwise(derivative, input)


def _exponential(function: Callable[[float], float], x: float) -> float:
    # Python raises where the result would be infinite.
    return math.inf if x >= 709 else function(x)


def hardtanh(input: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Compute min(max(x, min_val), max_val); `relu6` has the bounds 0 and 6.

    Args:
        input: any shape.
        min_val: the lower bound.
        max_val: the upper bound.

    Raises:
        ValueError: the bounds cross.

    Source: Collobert, "Large scale machine learning", 2004. Equals `torch.nn.functional.hardtanh`.
    """
    _check_bounds(min_val, max_val)
    return _elementwise(lambda x: min_val if x < min_val else max_val if x > max_val else x, input)


def hardtanh_derivative(input: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Compute the derivative of `hardtanh`: 1 between the bounds, 0 beyond and at the kinks, the bounds.

    Args:
        input: any shape; NaN gives 0.
        min_val: the lower bound.
        max_val: the upper bound.

    Raises:
        ValueError: the bounds cross.

    Equals the gradient of `torch.nn.functional.hardtanh`.
    """
    _check_bounds(min_val, max_val)
    return _elementwise(lambda x: 1.0 if min_val < x < max_val else 0.0, input)


def _check_bounds(min_val: float, max_val: float) -> None:
    if min_val > max_val:
        raise ValueError(f"min_val must not be larger than max_val, got {min_val} and {max_val}")


def threshold(input: Array, threshold: float, value: float) -> Array:
    """Compute x for x > threshold, and value otherwise.

    Args:
        input: any shape.
        threshold: up to it, x is replaced.
        value: what replaces it.

    Equals `torch.nn.functional.threshold`.
    """
    return _elementwise(lambda x: value if x <= threshold else x, input)


def threshold_derivative(input: Array, threshold: float, value: float) -> Array:
    """Compute the derivative of `threshold`: 1 for x > threshold, 0 otherwise, at the threshold too.

    Args:
        input: any shape; NaN gives 1, as in PyTorch.
        threshold: up to it, x is replaced.
        value: what replaces it.

    Equals the gradient of `torch.nn.functional.threshold`.
    """
    return _elementwise(lambda x: 0.0 if x <= threshold else 1.0, input)


def hardshrink(input: Array, lambd: float = 0.5) -> Array:
    """Compute x for |x| > lambd, and 0 otherwise.

    Args:
        input: any shape.
        lambd: what is set to 0.

    Source: Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", 1994. Equals
    `torch.nn.functional.hardshrink`.
    """
    return _elementwise(lambda x: 0.0 if -lambd <= x <= lambd else x, input)


def softshrink(input: Array, lambd: float = 0.5) -> Array:
    """Compute x - lambd for x > lambd, x + lambd for x < -lambd, and 0 between.

    Args:
        input: any shape.
        lambd: by how much values move to 0, not negative.

    Raises:
        RuntimeError: `lambd` is negative.

    Source: Donoho, "De-noising by soft-thresholding", 1995. Equals `torch.nn.functional.softshrink`.
    """
    _check_lambd(lambd)
    return _elementwise(lambda x: x - lambd if x > lambd else x + lambd if x < -lambd else 0 * x, input)


def shrink_derivative(input: Array, lambd: float = 0.5) -> Array:
    """Compute the derivative of `hardshrink` and of `softshrink`: 1 for |x| > lambd, 0 otherwise, at the ends too.

    Args:
        input: any shape; NaN gives 0.
        lambd: half the width of the interval that is set to 0.

    Equals the gradients of `torch.nn.functional.hardshrink` and `softshrink`.
    """
    return _elementwise(lambda x: 1.0 if x < -lambd or x > lambd else 0.0, input)


def _check_lambd(lambd: float) -> None:
    if not lambd >= 0:
        raise RuntimeError(f"lambd must not be negative, got {lambd}")


def hardsigmoid(input: Array) -> Array:
    """Compute min(max(x + 3, 0), 6) / 6.

    Args:
        input: any shape.

    Source: Courbariaux, Bengio and David, "BinaryConnect", 2015, with another slope. Equals
    `torch.nn.functional.hardsigmoid`.
    """
    return _elementwise(lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else (x + 3) / 6, input)


def hardsigmoid_derivative(input: Array) -> Array:
    """Compute the derivative of `hardsigmoid`: 1/6 between -3 and 3, 0 beyond and at the kinks.

    Args:
        input: any shape; NaN gives 0, as in PyTorch.

    Equals the gradient of `torch.nn.functional.hardsigmoid`, whose 1/6 has the digits of float32.
    """
    return _elementwise(lambda x: 1 / 6 if -3 < x < 3 else 0.0, input)


def hardswish(input: Array) -> Array:
    """Compute x · min(max(x + 3, 0), 6) / 6.

    Args:
        input: any shape.

    Source: Howard et al., "Searching for MobileNetV3", 2019. Equals `torch.nn.functional.hardswish`, except that
    hardswish(-inf) is 0, the limit.
    """
    return _elementwise(lambda x: 0.0 if x <= -3 else x if x >= 3 else x * (x + 3) / 6, input)


def hardswish_derivative(input: Array) -> Array:
    """Compute the derivative of `hardswish`: 0 for x <= -3, 1 for x >= 3, and (2x + 3) / 6 between.

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.hardswish`.
    """
    return _elementwise(lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else (2 * x + 3) / 6, input)


def logsigmoid(input: Array) -> Array:
    """Compute log σ(x), where σ is the logistic function.

    Args:
        input: any shape.

    Equals `torch.nn.functional.logsigmoid`.
    """
    # log σ(x) = min(x, 0) - log(1 + exp(-|x|))
    return _elementwise(lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))), input)


def logsigmoid_derivative(input: Array) -> Array:
    """Compute the derivative of `logsigmoid`: 1 - σ(x) = σ(-x).

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.logsigmoid`.
    """
    return _elementwise(lambda x: _logistic(-x), input)


def tanhshrink(input: Array) -> Array:
    """Compute x - tanh(x).

    Args:
        input: any shape.

    Equals `torch.nn.functional.tanhshrink`.
    """
    return _elementwise(lambda x: x - math.tanh(x), input)


def tanhshrink_derivative(input: Array) -> Array:
    """Compute the derivative of `tanhshrink`: tanh²(x).

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.tanhshrink`.
    """
    return _elementwise(lambda x: math.tanh(x) ** 2, input)


def softsign(input: Array) -> Array:
    """Compute x / (1 + |x|).

    Args:
        input: any shape.

    Source: Bergstra, Desjardins, Lamblin and Bengio, "Quadratic polynomials learn better image features", 2009.
    Equals `torch.nn.functional.softsign`, except that softsign(±inf) is ±1, the limit.
    """
    return _elementwise(lambda x: math.copysign(1, x) if math.isinf(x) else x / (1 + abs(x)), input)


def softsign_derivative(input: Array) -> Array:
    """Compute the derivative of `softsign`: 1 / (1 + |x|)².

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.softsign`, except at infinity, where it takes its limit, 0.
    """
    return _elementwise(lambda x: (1 / (1 + abs(x))) ** 2, input)


def mish(input: Array) -> Array:
    """Compute x · tanh(log(1 + exp(x))).

    Args:
        input: any shape.

    Source: Misra, "Mish: a self regularized non-monotonic activation function", 2020. Equals
    `torch.nn.functional.mish`, except that mish(-inf) is 0, the limit.
    """
    return _elementwise(lambda x: _product(x, _mish_gate(x)), input)


def mish_derivative(input: Array) -> Array:
    """Compute the derivative of `mish`: t + x · (1 - t²) · σ(x), with t = tanh(log(1 + exp(x))).

    Args:
        input: any shape.

    Equals the gradient of `torch.nn.functional.mish`, except at infinity, where it takes its limits, 0 and 1.
    """

    def derivative(x: float) -> float:
        t = _mish_gate(x)
        # 1 - t² = (1 - t) (1 + t), and 1 - t = 2 / (n + 2) with n of the gate below.
        small = math.exp(-abs(x))
        rest = 2 * small**2 / (1 + 2 * small + 2 * small**2) if x >= 0 else 2 / (small * (small + 2) + 2)
        return t + _product(x, rest * (1 + t) * _logistic(x))

    return _elementwise(derivative, input)


def _mish_gate(x: float) -> float:
    # tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); for large e divide by e².
    small = math.exp(-abs(x))
    if x >= 0:
        return (1 + 2 * small) / (1 + 2 * small + 2 * small**2)
    return small * (small + 2) / (small * (small + 2) + 2)


def prelu(input: Array, weight: Array) -> Array:
    """Compute x for x > 0, and weight[c] · x otherwise.

    Args:
        input: (N, C, *), or any shape for one weight.
        weight: (C,), or (1,).

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes do not fit.

    Source: He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015. Equals `torch.nn.functional.prelu`.
    """
    output, _, _ = _prelu(input, weight, None)
    return output


def prelu_gradient(input: Array, weight: Array, grad_output: Array) -> tuple[Array, Array]:
    """Return the gradients of the input and the weight of `prelu`.

    Where x <= 0 the output is the product weight[c] · x, so each factor's gradient meets the other one:

        gx[n] = gy[n] for x[n] > 0, and weight[c] · gy[n] otherwise
        gw[c] = sum of x[n] · gy[n] over all n of channel c with x[n] <= 0

    Args:
        input: (N, C, *), or any shape for one weight.
        weight: (C,), or (1,).
        grad_output: the shape of the input.

    Returns:
        The gradients, of the shapes of input and weight.

    Raises:
        RuntimeError: the shapes do not fit.

    Equals the gradients of `torch.nn.functional.prelu`.
    """
    require_shape("grad_output", grad_output, np.shape(input))
    _, grad_input, grad_weight = _prelu(input, weight, grad_output)
    return grad_input, grad_weight


def _prelu(input: Array, weight: Array, grad_output: Array | None) -> tuple[Array, Array, Array]:
    require_real("input", input)
    dtype = result_dtype(input)
    input, weight = widen(input), widen(weight)
    grad = zeros(input.shape, dtype) if grad_output is None else widen(grad_output)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.shape not in ((1,), (channels,)):
        raise RuntimeError(f"weight must have shape (1,) or ({channels},), got {weight.shape}")
    output, grad_input, grad_weight = (zeros(array.shape, dtype) for array in (input, input, weight))
    for index in np.ndindex(*input.shape):
        c = index[1] if len(weight) > 1 else 0
        x = input[index]
        if x > 0:
            output[index], grad_input[index] = x, grad[index]
        else:
            output[index], grad_input[index] = weight[c] * x, weight[c] * grad[index]
            grad_weight[c] += x * grad[index]
    return output.astype(dtype), grad_input.astype(dtype), grad_weight.astype(dtype)


def glu(input: Array, dim: int = -1) -> Array:
    """Compute a · σ(b), the halves a and b of the input along `dim`.

    Args:
        input: any shape with an even size along `dim`.
        dim: the dimension that is halved.

    Returns:
        The input's shape with half the size along `dim`.

    Raises:
        RuntimeError: the size is odd.

    Source: Dauphin, Fan, Auli and Grangier, "Language modeling with gated convolutional networks", 2017. Equals
    `torch.nn.functional.glu`.
    """
    a, b = _halves(input, dim)
    output = zeros(a.shape, a.dtype)
    for index in np.ndindex(*a.shape):
        output[index] = a[index] * _logistic(float(b[index]))
    return output.astype(result_dtype(input))


def glu_gradient(input: Array, grad_output: Array, dim: int = -1) -> Array:
    """Return the gradient of the input of `glu`: g · σ(b) for the half a, and g · a · σ(b) (1 - σ(b)) for b.

    Args:
        input: any shape with an even size along `dim`.
        grad_output: the input's shape with half the size along `dim`.
        dim: the dimension that is halved.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the size is odd, or the shapes do not fit.

    Equals the gradient of `torch.nn.functional.glu`.
    """
    a, b = _halves(input, dim)
    require_shape("grad_output", grad_output, a.shape)
    g, grad_a, grad_b = widen(grad_output), zeros(a.shape, a.dtype), zeros(a.shape, a.dtype)
    for index in np.ndindex(*a.shape):
        grad_a[index] = g[index] * _logistic(float(b[index]))
        grad_b[index] = g[index] * a[index] * _logistic_slope(float(b[index]))
    return np.concatenate((grad_a, grad_b), dim).astype(result_dtype(input))


def _halves(input: Array, dim: int) -> tuple[Array, Array]:
    require_real("input", input)
    wide = widen(input)
    if wide.shape[dim] % 2:
        raise RuntimeError(f"input must have an even size along dim {dim}, got shape {wide.shape}")
    a, b = np.split(wide, 2, dim)
    return a, b
