"""Softmax and its logarithm, and their gradients through the Jacobian.

A lane is one run of values along `dim`; every lane is treated alone. n and m count the values of a lane.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen


def _along(function: Callable[..., Array], dim: int, array: Array, *others: Array) -> Array:
    """Apply a function of lanes to every lane along `dim` of arrays of one shape."""
    arrays = [array, *others]
    dtype = result_dtype(*arrays)
    rank = np.ndim(array)
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise IndexError(f"dim must be from {-max(rank, 1)} to {max(rank, 1) - 1}, got {dim}")
    if rank == 0:
        return _along(function, 0, *(np.reshape(each, 1) for each in arrays)).reshape(())
    lanes: list[Array] = [np.moveaxis(widen(each), dim, -1) for each in arrays]
    output: Array = np.zeros(lanes[0].shape, lanes[0].dtype)
    if output.shape[-1] > 0:
        for index in np.ndindex(*output.shape[:-1]):
            # A lane with an infinity gives NaN, the value of the formula; NumPy need not warn of it.
            with np.errstate(invalid="ignore"):
                output[index] = function(*(lane[index] for lane in lanes))
    return np.moveaxis(output, -1, dim).astype(dtype)


def _softmax_lane(x: Array) -> Array:
    # Subtracting the maximum cancels in the quotient, and keeps exp from overflowing.
    exponentials = np.exp(x - np.max(x))
    return np.asarray(exponentials / np.sum(exponentials))


def _log_softmax_lane(x: Array) -> Array:
    shifted = x - np.max(x)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted))))


def softmax(input: Array, dim: int) -> Array:
    """Turn every lane along `dim` into a probability distribution.

        y[n] = exp(x[n]) / Σ_m exp(x[m])

    Args:
        input: any shape, real.
        dim: the dimension along which the output sums to 1; negative counts from the end.

    Returns:
        The shape of the input. A lane that is -inf throughout, or holds NaN or +inf, gives NaN.

    Raises:
        IndexError: `dim` is out of range.
        TypeError: the input is complex.

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990. Equals
    `torch.nn.functional.softmax`.
    """
    require_real("input", input)
    return _along(_softmax_lane, dim, input)


def log_softmax(input: Array, dim: int) -> Array:
    """Compute the logarithm of `softmax`, without its underflow.

        y[n] = x[n] - log Σ_m exp(x[m])

    Args:
        input: any shape, real.
        dim: the dimension along which exp of the output sums to 1; negative counts from the end.

    Returns:
        The shape of the input. A lane that is -inf throughout, or holds NaN or +inf, gives NaN.

    Raises:
        IndexError: `dim` is out of range.
        TypeError: the input is complex.

    Equals `torch.nn.functional.log_softmax`.
    """
    require_real("input", input)
    return _along(_log_softmax_lane, dim, input)


def _softmax_gradient_lane(y: Array, gy: Array) -> Array:
    jacobian = np.diag(y) - np.outer(y, y)
    return np.asarray(gy @ jacobian)


def _log_softmax_gradient_lane(y: Array, gy: Array) -> Array:
    jacobian = np.eye(len(y)) - np.exp(y)
    return np.asarray(gy @ jacobian)


def softmax_gradient(output: Array, grad_output: Array, dim: int) -> Array:
    """Carry a gradient from the output of `softmax` to its input.

    The quotient rule gives the Jacobian, which needs the output y alone:

        ∂y[m] / ∂x[n] = y[m] (δ[m, n] - y[n])
        gx[n] = Σ_m gy[m] · ∂y[m] / ∂x[n] = y[n] (gy[n] - Σ_m gy[m] y[m])

    The code builds the Jacobian and multiplies by it, so that the last step is left for others to prove.

    Args:
        output: what `softmax` returned.
        grad_output: the same shape.
        dim: as in `softmax`.

    Returns:
        The shape of the output.

    Raises:
        IndexError: `dim` is out of range.
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """
    require_real("output", output)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(output))
    return _along(_softmax_gradient_lane, dim, output, grad_output)


def log_softmax_gradient(output: Array, grad_output: Array, dim: int) -> Array:
    """Carry a gradient from the output of `log_softmax` to its input.

    The chain rule gives the Jacobian, which needs the output y alone:

        ∂y[m] / ∂x[n] = δ[m, n] - exp(y[n])
        gx[n] = Σ_m gy[m] · ∂y[m] / ∂x[n] = gy[n] - exp(y[n]) Σ_m gy[m]

    The code builds the Jacobian and multiplies by it, so that the last step is left for others to prove.

    Args:
        output: what `log_softmax` returned.
        grad_output: the same shape.
        dim: as in `log_softmax`.

    Returns:
        The shape of the output.

    Raises:
        IndexError: `dim` is out of range.
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Equals the gradient of `torch.nn.functional.log_softmax`.
    """
    require_real("output", output)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(output))
    return _along(_log_softmax_gradient_lane, dim, output, grad_output)
