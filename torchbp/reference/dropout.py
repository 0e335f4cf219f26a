"""Dropout with a given mask.

Drawing the mask is the caller's affair: the forward and the backward pass need the same one.
"""

from __future__ import annotations

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
