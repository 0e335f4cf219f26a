"""Adaptive pooling in any number of spatial dimensions: the number of windows is given, not their size.

An input of n values is divided into o windows; in every dimension, window i covers

    start(i) = floor(i · n / o) <= m < end(i) = ceil((i + 1) · n / o)

Where the border between two windows is not a whole number, they share the value it cuts. So windows differ in
size by up to one in each dimension, and overlap by at most one.

As in `pooling`, the last dimensions of an array are spatial, and max pooling is described by its winner: the
row-major place inside its own window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, split_shape, widen, zeros


def _adaptive_window(
    position: tuple[int, ...], input_size: tuple[int, ...], output_size: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Return the input positions that one window covers, in row-major order."""
    ranges = (
        range(i * size // out, -(-(i + 1) * size // out))
        for i, size, out in zip(position, input_size, output_size, strict=True)
    )
    return list(itertools.product(*ranges))


def _check_adaptive(input_size: tuple[int, ...], output_size: tuple[int, ...]) -> None:
    if any(size < 1 for size in input_size):
        raise RuntimeError(f"input_size must have entries of at least 1, got {tuple(input_size)}")
    if any(out < 0 for out in output_size):
        raise RuntimeError(f"output_size must have entries of at least 0, got {tuple(output_size)}")


def adaptive_average_pool(input: Array, output_size: tuple[int, ...]) -> Array:
    """Divide the input into a given number of windows and take the mean of each.

        y[i] = mean of x[m]    over all m with start(i) <= m < end(i)

    Args:
        input: shape (*, *input_size), each spatial size at least 1.
        output_size: one entry, at least 0, for each spatial dimension.

    Returns:
        Shape (*, *output_size).

    Raises:
        RuntimeError: a size is out of range.

    Equals `torch.nn.functional.adaptive_avg_pool1d`, `adaptive_avg_pool2d` and `adaptive_avg_pool3d`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(output_size))
    _check_adaptive(input_size, output_size)
    output = zeros((*leading, *output_size), dtype)
    for position in np.ndindex(*output_size):
        window = _adaptive_window(position, input_size, output_size)
        for source in window:
            for plane in np.ndindex(*leading):
                output[plane + position] += input[plane + source] / len(window)
    return output.astype(dtype)


def adaptive_average_pool_adjoint(grad_output: Array, input_size: tuple[int, ...]) -> Array:
    """Carry a gradient from the output of `adaptive_average_pool` to its input.

    Every value of a window enters the mean with the factor 1 / size of the window, so

        gx[m] = Σ gy[i] / size of window i    over all output positions i whose window covers m

    Args:
        grad_output: shape (*, *output_size).
        input_size: the spatial sizes of the input, each at least 1.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: a size is out of range.

    Equals the gradient of `torch.nn.functional.adaptive_avg_pool1d` and its siblings.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    leading, output_size = split_shape("grad_output", grad_output, len(input_size))
    _check_adaptive(input_size, output_size)
    grad_input = zeros((*leading, *input_size), dtype)
    for position in np.ndindex(*output_size):
        window = _adaptive_window(position, input_size, output_size)
        for source in window:
            for plane in np.ndindex(*leading):
                grad_input[plane + source] += grad_output[plane + position] / len(window)
    return grad_input.astype(dtype)


def adaptive_max_pool(input: Array, output_size: tuple[int, ...]) -> tuple[Array, Array]:
    """Divide the input into a given number of windows and take the maximum of each.

        y[i] = max of x[m]    over all m with start(i) <= m < end(i)

    Of equal maxima the first in row-major order wins. NaN beats every number, and of several NaN the last one
    wins.

    Args:
        input: shape (*, *input_size), real, each spatial size at least 1.
        output_size: one entry, at least 0, for each spatial dimension.

    Returns:
        The output and the winner (int64, its row-major place inside its own window), both of shape
        (*, *output_size).

    Raises:
        RuntimeError: a size is out of range.
        TypeError: the input is complex.

    Equals `torch.nn.functional.adaptive_max_pool1d`, `adaptive_max_pool2d` and `adaptive_max_pool3d`.
    """
    require_real("input", input)
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(output_size))
    _check_adaptive(input_size, output_size)
    output = zeros((*leading, *output_size), dtype)
    winner = np.zeros(output.shape, np.int64)
    for position in np.ndindex(*output_size):
        window = _adaptive_window(position, input_size, output_size)
        for plane in np.ndindex(*leading):
            best, best_place = input[plane + window[0]], 0
            for place, source in enumerate(window):
                value = input[plane + source]
                if value > best or math.isnan(value):
                    best, best_place = value, place
            output[plane + position] = best
            winner[plane + position] = best_place
    return output.astype(dtype), winner


def _selections(
    winner: Array, input_size: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield `(y, plane, source)`: an index of a winner, its leading part, and the input position that won."""
    leading, output_size = split_shape("winner", winner, len(input_size))
    _check_adaptive(input_size, output_size)
    for position in np.ndindex(*output_size):
        window = _adaptive_window(position, input_size, output_size)
        for plane in np.ndindex(*leading):
            y = plane + position
            if not 0 <= winner[y] < len(window):
                raise RuntimeError(f"winner must be a place in its window of {len(window)}, got {winner[y]} at {y}")
            yield y, plane, window[int(winner[y])]


def adaptive_max_pool_indices(winner: Array, input_size: tuple[int, ...]) -> Array:
    """Turn winners into flat indices into the input's spatial plane.

    The winner's place in its window becomes its row-major index in a plane of `input_size`.

    Args:
        winner: shape (*, *output_size), from `adaptive_max_pool`.
        input_size: the spatial sizes of the input, each at least 1.

    Returns:
        int64, the shape of `winner`.

    Raises:
        RuntimeError: a winner is no place in its window, or a size is out of range.

    Equals the indices that `torch.nn.functional.adaptive_max_pool2d` and its siblings return with
    `return_indices`.
    """
    indices = np.zeros(np.shape(winner), np.int64)
    for y, _, source in _selections(winner, input_size):
        indices[y] = np.ravel_multi_index(source, input_size)
    return indices


def adaptive_max_pool_scatter(grad_output: Array, winner: Array, input_size: tuple[int, ...]) -> Array:
    """Carry a gradient from the output of `adaptive_max_pool` to its input.

    The output copies the winning value, so its whole gradient goes to the winner; one that two windows share
    may win twice:

        gx[m] = Σ gy[i]    over all output positions i whose winner lies at m

    All other input values get exactly zero. This is the adjoint of `adaptive_max_pool_gather`.

    Args:
        grad_output: shape (*, *output_size).
        winner: the same shape, from `adaptive_max_pool`.
        input_size: the spatial sizes of the input, each at least 1.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: the shapes differ, a winner is no place in its window, or a size is out of range.

    Equals the gradient of `torch.nn.functional.adaptive_max_pool1d` and its siblings.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    require_shape("winner", winner, grad_output.shape)
    leading, _ = split_shape("grad_output", grad_output, len(input_size))
    grad_input = zeros((*leading, *input_size), dtype)
    for y, plane, source in _selections(winner, input_size):
        grad_input[plane + source] += grad_output[y]
    return grad_input.astype(dtype)


def adaptive_max_pool_gather(input: Array, winner: Array, dims: int) -> Array:
    """Select the input values at given winners.

        y[i] = x[where the winner of i lies]

    With the winners of the same input this repeats `adaptive_max_pool`; with the winners of another input it
    is the derivative of `adaptive_max_pool` there in the direction of this one, and the gradient of
    `adaptive_max_pool_scatter`.

    Args:
        input: shape (*, *input_size), each spatial size at least 1.
        winner: shape (*, *output_size), from `adaptive_max_pool`, with the same leading dimensions.
        dims: the number of spatial dimensions; neither shape tells it.

    Returns:
        The shape of `winner`.

    Raises:
        RuntimeError: the shapes do not fit, or a winner is no place in its window.

    Equals the gradient of the gradient of `torch.nn.functional.adaptive_max_pool1d` and its siblings.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, dims)
    _, output_size = split_shape("winner", winner, dims)
    require_shape("winner", winner, (*leading, *output_size))
    output = zeros((*leading, *output_size), dtype)
    for y, plane, source in _selections(winner, input_size):
        output[y] = input[plane + source]
    return output.astype(dtype)
