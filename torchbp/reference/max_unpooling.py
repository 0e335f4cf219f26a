"""Max unpooling in any number of spatial dimensions: a max pooling's output, put back where it came from.

As in `pooling`, the last dimensions of an array are spatial. Every value has one place in the output to write
to; several may have the same, and then only one of them stays. `_stays` lists who writes what, and forward and
backward pass walk the same list:

    output[place] = input[x]
    grad_input[x] = grad_output[place]
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_shape, result_dtype, split_shape, widen, zeros


def _stays(indices: Array, output_size: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield `(x, place)`: an index of the input and where in the output it stays."""
    if any(size < 1 for size in output_size):
        raise RuntimeError(f"output_size must have entries of at least 1, got {tuple(output_size)}")
    leading, sizes = split_shape("indices", indices, len(output_size))
    for plane in np.ndindex(*leading):
        last_writer = {}
        for position in np.ndindex(*sizes):
            index = int(indices[plane + position])
            if not 0 <= index < math.prod(output_size):
                raise RuntimeError(
                    f"indices must lie in a plane of output_size {tuple(output_size)}, "
                    f"got {index} at {plane + position}"
                )
            last_writer[index] = position
        for index, position in last_writer.items():
            place = tuple(int(i) for i in np.unravel_index(index, output_size))
            yield plane + position, plane + place


def max_unpool(input: Array, indices: Array, output_size: tuple[int, ...]) -> Array:
    """Write every value to its place in a plane of zeros.

        y[indices[i]] = x[i]

    Where windows overlapped, several values may have the same index; the last of them in row-major order
    stays. (Values from one max pooling are equal there, since the same input won.)

    Args:
        input: shape (*, *input_size).
        indices: integers of the same shape, row-major indices into a plane of `output_size`, such as
            `max_pool_indices` returns.
        output_size: one entry, at least 1, for each spatial dimension.

    Returns:
        Shape (*, *output_size).

    Raises:
        RuntimeError: the shapes differ, or an index lies outside the plane.

    Equals `torch.nn.functional.max_unpool1d`, `max_unpool2d` and `max_unpool3d` with this `output_size`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    require_shape("indices", indices, input.shape)
    leading, _ = split_shape("input", input, len(output_size))
    output = zeros((*leading, *output_size), dtype)
    for x, place in _stays(indices, output_size):
        output[place] = input[x]
    return output.astype(dtype)


def max_unpool_adjoint(grad_output: Array, indices: Array, output_size: tuple[int, ...]) -> Array:
    """Carry a gradient from the output of `max_unpool` to its input.

        gx[i] = gy[indices[i]] if x[i] stayed there, else 0

    A value that another one overwrote does not reach the output, so its gradient is zero.

    Args:
        grad_output: shape (*, *output_size).
        indices: shape (*, *input_size), as in `max_unpool`.
        output_size: as in `max_unpool`.

    Returns:
        The shape of `indices`.

    Raises:
        RuntimeError: the shapes do not fit, or an index lies outside the plane.

    Equals the gradient of `torch.nn.functional.max_unpool1d` and its siblings where no index occurs twice.
    PyTorch also gives overwritten values the gradient of the place, which is not the derivative.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    leading, _ = split_shape("indices", indices, len(output_size))
    require_shape("grad_output", grad_output, (*leading, *output_size))
    grad_input = zeros(np.shape(indices), dtype)
    for x, place in _stays(indices, output_size):
        grad_input[x] = grad_output[place]
    return grad_input.astype(dtype)
