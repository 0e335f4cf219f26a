"""Fractional max pooling in any number of spatial dimensions: windows at random, nearly even distances.

An input of n values gets o windows of k taps, whose starts run from 0 to n - k at a distance
α = (n - k) / (o - 1) that is seldom whole. A random number u decides how it is rounded; in every dimension,

    start(i) = floor((i + u) · α) - floor(u · α)    and the last window starts at n - k

As in `pooling`, the last dimensions of an array are spatial, and max pooling is described by its winner: the
row-major index of the winning tap inside the window.

Source: Graham, "Fractional max-pooling", 2014.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, split_shape, widen, zeros


def _starts(sample: np.floating, input_size: int, kernel_size: int, output_size: int) -> list[int]:
    """Return where the windows of one dimension start, rounding like PyTorch in the sample's dtype."""
    if output_size == 1:
        return [input_size - kernel_size]
    number = sample.dtype.type
    alpha = number(input_size - kernel_size) / number(output_size - 1)
    starts = [int((number(i) + sample) * alpha) - int(sample * alpha) for i in range(output_size - 1)]
    return [*starts, input_size - kernel_size]


def _check_fractional(
    leading: tuple[int, ...],
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    output_size: tuple[int, ...],
    samples: Array,
) -> None:
    dims = len(kernel_size)
    for name, sizes in (("input_size", input_size), ("output_size", output_size)):
        if len(sizes) != dims:
            raise RuntimeError(f"{name} must have one entry for each spatial dimension ({dims}), got {tuple(sizes)}")
    for name, sizes in (("kernel_size", kernel_size), ("output_size", output_size)):
        if any(size < 1 for size in sizes):
            raise RuntimeError(f"{name} must be at least 1 in every dimension, got {tuple(sizes)}")
    if any(o + k - 1 > n for n, k, o in zip(input_size, kernel_size, output_size, strict=True)):
        raise RuntimeError(
            f"kernel_size {tuple(kernel_size)} must leave room for output_size {tuple(output_size)}, "
            f"got input_size {tuple(input_size)}"
        )
    require_shape("samples", samples, (*leading, dims))
    for index, sample in np.ndenumerate(samples):
        if not 0 <= sample <= 1:
            raise RuntimeError(f"samples must lie between 0 and 1, got {sample} at {index}")


def _windows(
    plane: tuple[int, ...],
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    output_size: tuple[int, ...],
    samples: Array,
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Yield the output positions of a plane, each with the input positions of its taps in row-major order."""
    dims = len(kernel_size)
    # In two dimensions PyTorch takes the first number for the width; otherwise they stand in order.
    order = [1, 0] if dims == 2 else list(range(dims))
    starts = [
        _starts(samples[plane][order[dim]], input_size[dim], kernel_size[dim], output_size[dim]) for dim in range(dims)
    ]
    for position in np.ndindex(*output_size):
        corner = [starts[dim][position[dim]] for dim in range(dims)]
        yield position, [tuple(c + t for c, t in zip(corner, tap, strict=True)) for tap in np.ndindex(*kernel_size)]


def fractional_max_pool(
    input: Array, kernel_size: tuple[int, ...], output_size: tuple[int, ...], samples: Array
) -> tuple[Array, Array]:
    """Take the maximum of every window, and note which tap it came from.

        y[i] = max_t x[start(i) + t]    over the taps t

    Of equal maxima the first tap in row-major order wins. NaN beats every number, and of several NaN the last
    one wins.

    Args:
        input: shape (*, *input_size), real.
        kernel_size: one entry, at least 1, for each spatial dimension.
        output_size: one entry, at least 1 and at most input_size - kernel_size + 1, for each spatial dimension.
        samples: shape (*, number of spatial dimensions), the random numbers, between 0 and 1, for every plane;
            in two dimensions the first is for the last dimension (width). The starts are computed in its
            dtype, which in PyTorch is that of the input.

    Returns:
        The output and the winner (int64, 0 to prod(kernel_size) - 1), both of shape (*, *output_size).

    Raises:
        RuntimeError: a shape does not fit, a size is out of range, or a sample does not lie between 0 and 1.
        TypeError: the input is complex.

    Equals `torch.nn.functional.fractional_max_pool2d` and `fractional_max_pool3d` with `_random_samples`. In three
    dimensions PyTorch refuses the largest possible output size.
    """
    require_real("input", input)
    dtype = result_dtype(input)
    input = widen(input)
    samples = np.asarray(samples, result_dtype(samples))
    leading, input_size = split_shape("input", input, len(kernel_size))
    _check_fractional(leading, input_size, kernel_size, output_size, samples)
    output = zeros((*leading, *output_size), dtype)
    winner = np.zeros(output.shape, np.int64)
    for plane in np.ndindex(*leading):
        for position, window in _windows(plane, input_size, kernel_size, output_size, samples):
            best, best_tap = input[plane + window[0]], 0
            for tap, source in enumerate(window):
                value = input[plane + source]
                if value > best or math.isnan(value):
                    best, best_tap = value, tap
            output[plane + position] = best
            winner[plane + position] = best_tap
    return output.astype(dtype), winner


def _selections(
    winner: Array, input_size: tuple[int, ...], kernel_size: tuple[int, ...], samples: Array
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield `(y, plane, source)`: an index of a winner, its leading part, and the input position that won."""
    samples = np.asarray(samples, result_dtype(samples))
    leading, output_size = split_shape("winner", winner, len(kernel_size))
    _check_fractional(leading, input_size, kernel_size, output_size, samples)
    for plane in np.ndindex(*leading):
        for position, window in _windows(plane, input_size, kernel_size, output_size, samples):
            y = plane + position
            if not 0 <= winner[y] < len(window):
                raise RuntimeError(f"winner must be a tap of kernel_size {kernel_size}, got {winner[y]} at {y}")
            yield y, plane, window[int(winner[y])]


def fractional_max_pool_indices(
    winner: Array, input_size: tuple[int, ...], kernel_size: tuple[int, ...], samples: Array
) -> Array:
    """Turn winners into flat indices into the input's spatial plane.

    The winning tap t at output position i becomes the row-major index of start(i) + t in a plane of
    `input_size`.

    Args:
        winner: shape (*, *output_size), from `fractional_max_pool`.
        input_size: the spatial sizes of the input.
        kernel_size: as in `fractional_max_pool`.
        samples: as in `fractional_max_pool`.

    Returns:
        int64, the shape of `winner`.

    Raises:
        RuntimeError: a winner is no tap of the window, or an argument is out of range.

    Equals the indices that `torch.nn.functional.fractional_max_pool2d` and `fractional_max_pool3d` return with
    `return_indices`.
    """
    indices = np.zeros(np.shape(winner), np.int64)
    for y, _, source in _selections(winner, input_size, kernel_size, samples):
        indices[y] = np.ravel_multi_index(source, input_size)
    return indices


def fractional_max_pool_scatter(
    grad_output: Array, winner: Array, input_size: tuple[int, ...], kernel_size: tuple[int, ...], samples: Array
) -> Array:
    """Carry a gradient from the output of `fractional_max_pool` to its input.

    The output copies the winning value, so its whole gradient goes to the winner; where windows overlap, one
    value may win several times:

        gx[m] = Σ gy[i]    over all output positions i whose winner lies at m

    All other input values, and those that no window covers, get exactly zero. This is the adjoint of
    `fractional_max_pool_gather`.

    Args:
        grad_output: shape (*, *output_size).
        winner: the same shape, from `fractional_max_pool`.
        input_size: the spatial sizes of the input.
        kernel_size: as in `fractional_max_pool`.
        samples: as in `fractional_max_pool`.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: the shapes differ, a winner is no tap of the window, or an argument is out of range.

    Equals the gradient of `torch.nn.functional.fractional_max_pool2d` and `fractional_max_pool3d`.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    require_shape("winner", winner, grad_output.shape)
    leading, _ = split_shape("grad_output", grad_output, len(kernel_size))
    grad_input = zeros((*leading, *input_size), dtype)
    for y, plane, source in _selections(winner, input_size, kernel_size, samples):
        grad_input[plane + source] += grad_output[y]
    return grad_input.astype(dtype)


def fractional_max_pool_gather(input: Array, winner: Array, kernel_size: tuple[int, ...], samples: Array) -> Array:
    """Select the input values at given winners.

        y[i] = x[where the winner of i lies]

    With the winners of the same input this repeats `fractional_max_pool`; with the winners of another input it
    is the derivative of `fractional_max_pool` there in the direction of this one, and the gradient of
    `fractional_max_pool_scatter`.

    Args:
        input: shape (*, *input_size).
        winner: shape (*, *output_size), from `fractional_max_pool`, with the same leading dimensions.
        kernel_size: as in `fractional_max_pool`.
        samples: as in `fractional_max_pool`.

    Returns:
        The shape of `winner`.

    Raises:
        RuntimeError: the shapes do not fit, a winner is no tap of the window, or an argument is out of range.

    Equals the derivative of `torch.nn.functional.fractional_max_pool2d` and `fractional_max_pool3d` in the
    direction of `input`; PyTorch has no second derivative of them.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(kernel_size))
    _, output_size = split_shape("winner", winner, len(kernel_size))
    require_shape("winner", winner, (*leading, *output_size))
    output = zeros((*leading, *output_size), dtype)
    for y, plane, source in _selections(winner, input_size, kernel_size, samples):
        output[y] = input[plane + source]
    return output.astype(dtype)
