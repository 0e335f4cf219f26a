"""Dropout with a given mask, of elements or of features.

Drawing the mask is the caller's affair: the forward and the backward pass need the same one.
"""

from __future__ import annotations

import math

import numpy as np

from ._arrays import Array, require_shape, result_dtype, widen, zeros


def dropout(input: Array, mask: Array, p: float) -> Array:
    """Zero the elements that the mask drops, and scale the others so that the expected value stays the same.

        y[n] = x[n] · mask[n] / (1 - p)

    With p = 1 every factor is 0. A dropped NaN or infinity gives NaN, as in PyTorch.

    Args:
        input: any shape.
        mask: the same shape, bool or 0 and 1: true where the element is kept.
        p: the probability with which the mask dropped elements, 0 to 1.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes differ.
        ValueError: `p` is out of range.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way to prevent
    neural networks from overfitting", 2014. Equals `torch.nn.functional.dropout` for the mask that it drew.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be from 0 to 1, got {p}")
    require_shape("mask", mask, np.shape(input))
    dtype = result_dtype(input)
    input, mask = widen(input), np.asarray(mask)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    output = zeros(input.shape, dtype)
    for index in np.ndindex(*input.shape):
        with np.errstate(invalid="ignore"):
            output[index] = input[index] * (scale if mask[index] else 0.0)
    return output.astype(dtype)


def dropout_gradient(grad_output: Array, mask: Array, p: float) -> Array:
    """Carry a gradient from the output of `dropout` to its input.

    x[n] enters y[n] with the factor mask[n] / (1 - p), so the gradient meets the same factor:

        gx[n] = gy[n] · mask[n] / (1 - p)

    Args:
        grad_output: any shape.
        mask: the mask of the forward pass.
        p: the probability of the forward pass.

    Returns:
        The shape of `grad_output`.

    Raises:
        RuntimeError: the shapes differ.
        ValueError: `p` is out of range.

    Equals the gradient of `torch.nn.functional.dropout` for the mask that it drew.
    """
    return dropout(grad_output, mask, p)


def _of_features(input: Array, mask: Array) -> Array:
    """Return the mask (N, C) for every element of its feature."""
    shape = np.shape(input)
    require_shape("mask", mask, shape[:2])
    mask = np.asarray(mask)
    return np.broadcast_to(mask.reshape(*mask.shape, *[1] * (len(shape) - 2)), shape)


def feature_dropout(input: Array, mask: Array, p: float) -> Array:
    """Apply `dropout` with one draw for all elements of a feature.

        y[n, c, *] = x[n, c, *] · mask[n, c] / (1 - p)

    The gradient is the same function of `grad_output`.

    Args:
        input: (N, C, *).
        mask: (N, C), bool or 0 and 1: true where the feature is kept.
        p: the probability with which the mask dropped features, 0 to 1.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes do not fit.
        ValueError: `p` is out of range.

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using convolutional
    networks", 2015. Equals `torch.nn.functional.dropout1d` to `dropout3d` for the mask that they drew.
    """
    return dropout(input, _of_features(input, mask), p)


# What SELU tends to for -inf, negated.
_SATURATION = 1.6732632423543772 * 1.0507009873554805


def alpha_dropout(input: Array, mask: Array, p: float) -> Array:
    """Set the elements that the mask drops to -α', then scale and shift all so that mean 0 and variance 1 stay.

        y[n] = a · (x[n] if mask[n] else -α') + b,    α' = 1.7581, the limit of SELU

    If x has mean 0 and variance 1, what is in brackets has mean -p α' and variance (1 - p) (1 + p α'²). So
    a = 1 / sqrt((1 - p) (1 + p α'²)) and b = a p α'. With p = 1 all are 0.

    Args:
        input: any shape.
        mask: the same shape, bool or 0 and 1: true where the element is kept.
        p: the probability with which the mask dropped elements, 0 to 1.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes differ.
        ValueError: `p` is out of range.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks", 2017. Equals
    `torch.nn.functional.alpha_dropout` for the mask that it drew.
    """
    if not 0 <= p < 1:
        return dropout(input, mask, p)
    require_shape("mask", mask, np.shape(input))
    dtype = result_dtype(input)
    input, mask = widen(input), np.asarray(mask)
    a = _gain(p)
    output = zeros(input.shape, dtype)
    for index in np.ndindex(*input.shape):
        output[index] = a * (input[index] if mask[index] else -_SATURATION) + a * p * _SATURATION
    return output.astype(dtype)


def alpha_dropout_gradient(grad_output: Array, mask: Array, p: float) -> Array:
    """Carry a gradient from the output of `alpha_dropout` to its input: gx[n] = a · gy[n] · mask[n].

    Args:
        grad_output: any shape.
        mask: the mask of the forward pass.
        p: the probability of the forward pass.

    Returns:
        The shape of `grad_output`.

    Raises:
        RuntimeError: the shapes differ.
        ValueError: `p` is out of range.

    Equals the gradient of `torch.nn.functional.alpha_dropout` for the mask that it drew.
    """
    if not 0 <= p < 1:
        return dropout(grad_output, mask, p)
    dtype = result_dtype(grad_output)
    return (dropout(widen(grad_output), mask, 0.0) * _gain(p)).astype(dtype)


def _gain(p: float) -> float:
    return 1 / math.sqrt((1 - p) * (1 + p * _SATURATION**2))
