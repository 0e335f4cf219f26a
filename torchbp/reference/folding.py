"""Unfolding an image into its windows, and folding windows back, in any number of spatial dimensions.

A window that slides over an image reads one block of values at each of its L positions. `unfold` makes a column
of each block; `fold` adds columns up where their values came from. `_copies` lists what stands where, and the
two walk it in opposite directions, so each is the adjoint of the other:

    columns[c] = image[m]
    image[m] += columns[c]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arrays import Array, require_shape, result_dtype, split_shape, widen, zeros
from ._windows import taps_inside
from .convolution import output_size as window_positions


def _copies(
    channels: int,
    image_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Iterator[tuple[Any, Any]]:
    """Yield `(column, image)`: an index into (*, C · prod(kernel_size), L) and one into (*, C, *image_size)."""
    positions = window_positions(image_size, kernel_size, stride, padding, dilation)
    for block, position in enumerate(np.ndindex(*positions)):
        for tap, source in taps_inside(position, image_size, kernel_size, stride, padding, dilation):
            place = int(np.ravel_multi_index(tap, kernel_size))
            for channel in range(channels):
                row = channel * math.prod(kernel_size) + place
                yield (..., row, block), (..., channel, *source)


def unfold(
    input: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Make a column of every window.

        y[n, c · K + t, i] = x[n, c, i · stride - padding + t · dilation]    with K = prod(kernel_size) taps

    where the tap t and the position i stand for their row-major numbers, and x is zero outside the input.

    Args:
        input: shape (*, C, *input_size).
        kernel_size: one entry, at least 1, for each spatial dimension.
        stride: one entry, at least 1, for each spatial dimension.
        padding: one entry, at least 0, for each spatial dimension.
        dilation: one entry, at least 1, for each spatial dimension.

    Returns:
        Shape (*, C · prod(kernel_size), L), with the number of positions L = prod(output_size) of a convolution.

    Raises:
        RuntimeError: the input has no dimension of channels, an argument is out of range, or no window fits.

    Equals `torch.nn.functional.unfold`, which has two spatial dimensions.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, (channels, *spatial) = split_shape("input", input, len(kernel_size) + 1)
    input_size = tuple(spatial)
    blocks = math.prod(window_positions(input_size, kernel_size, stride, padding, dilation))
    output = zeros((*leading, channels * math.prod(kernel_size), blocks), dtype)
    for column, image in _copies(channels, input_size, kernel_size, stride, padding, dilation):
        output[column] = input[image]
    return output.astype(dtype)


def fold(
    input: Array,
    output_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Add up columns where `unfold` would have taken their values from.

        y[n, c, m] = Σ x[n, c · K + t, i]    over all i and t with i · stride - padding + t · dilation = m

    This is the adjoint of `unfold`, not its inverse: where windows overlap, the sum counts a value as often as it
    was copied.

    Args:
        input: shape (*, C · prod(kernel_size), L).
        output_size: the spatial sizes of the output; with a stride, several lead to the same L.
        kernel_size: as in `unfold`.
        stride: as in `unfold`.
        padding: as in `unfold`.
        dilation: as in `unfold`.

    Returns:
        Shape (*, C, *output_size).

    Raises:
        RuntimeError: the shapes do not fit together, an argument is out of range, or no window fits.

    Equals `torch.nn.functional.fold`, which has two spatial dimensions.
    """
    dtype = result_dtype(input)
    input = widen(input)
    output_size = tuple(output_size)
    leading, (rows, _) = split_shape("input", input, 2)
    blocks = math.prod(window_positions(output_size, kernel_size, stride, padding, dilation))
    channels, rest = divmod(rows, math.prod(kernel_size))
    if rest:
        raise RuntimeError(
            f"input must have a multiple of {math.prod(kernel_size)} rows for kernel_size {kernel_size}, "
            f"got shape {input.shape}"
        )
    require_shape("input", input, (*leading, rows, blocks))
    output = zeros((*leading, channels, *output_size), dtype)
    for column, image in _copies(channels, output_size, kernel_size, stride, padding, dilation):
        output[image] += input[column]
    return output.astype(dtype)
