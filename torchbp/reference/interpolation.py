"""Resizing by interpolation: one matrix for each dimension.

Every output value of a dimension is a weighted sum of a few input values, so resizing it is a matrix product, and
resizing all of them one product after another. The gradient goes back through the transposed matrices. All that
the modes differ in is the entries of the matrix, which `_matrix` computes.

A pixel is an interval of length 1. Output position j has its centre at the input position

    scale · (j + 1/2) - 1/2    or, with align_corners,    scale · j

which puts the edges of the outer pixels, or their centres, onto each other. `scale` is input size / output size,
(input size - 1) / (output size - 1) with align_corners, or 1 / scale_factor.
"""

from __future__ import annotations

import math

import numpy as np

from ._arrays import Array, require_shape, result_dtype, split_shape, widen
from ._cubic import cubic

# Every mode with the numbers of spatial dimensions it is for.
_MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "trilinear": (3,),
    "bicubic": (2,),
}
_LINEAR = ("linear", "bilinear", "trilinear")


def _check_interpolation(
    dims: int,
    size: tuple[int, ...] | None,
    scale_factor: tuple[float, ...] | None,
    mode: str,
    align_corners: bool,
    recompute_scale_factor: bool,
    antialias: bool,
) -> None:
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    if dims not in _MODES[mode]:
        raise ValueError(f"mode must be one for {dims} spatial dimensions, got {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError(f"size or scale_factor must be given and not both, got {size} and {scale_factor}")
    for name, entries in (("size", size), ("scale_factor", scale_factor)):
        if entries is not None and len(entries) != dims:
            raise ValueError(f"{name} must have one entry for each spatial dimension ({dims}), got {entries}")
    if align_corners and mode not in (*_LINEAR, "bicubic"):
        raise ValueError(f"align_corners must be False for mode {mode!r}, got {align_corners}")
    if recompute_scale_factor and scale_factor is None:
        raise ValueError(f"recompute_scale_factor must be False when size is given, got {recompute_scale_factor}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"antialias must be False for mode {mode!r}, got {antialias}")


def _output_size(
    input_size: tuple[int, ...], size: tuple[int, ...] | None, scale_factor: tuple[float, ...] | None
) -> tuple[int, ...]:
    """Return the sizes asked for, rounded down."""
    if size is None:
        assert scale_factor is not None
        size = tuple(math.floor(n * factor) for n, factor in zip(input_size, scale_factor, strict=True))
    if any(n < 1 for n in input_size) or any(n < 1 for n in size):
        raise RuntimeError(f"input and output sizes must be at least 1, got {tuple(input_size)} and {tuple(size)}")
    return tuple(size)


def _scale(n: int, out: int, factor: float | None, mode: str, align_corners: bool, antialias: bool) -> float:
    """Return the distance of neighbouring output positions in the input."""
    if align_corners:
        return (n - 1) / (out - 1) if out > 1 else 0.0
    # PyTorch has no use for the factor in these cases.
    copies = n == out and (antialias or mode in (*_LINEAR, "nearest"))
    doubles = 2 * n == out and mode == "nearest"
    if factor is None or copies or doubles:
        return n / out
    return 1 / factor


def _nearest_row(j: int, n: int, scale: float, offset: float) -> dict[int, float]:
    """Return the one pixel that the position falls into; PyTorch finds it in single precision."""
    position = (np.float32(j) + np.float32(offset)) * np.float32(scale)
    return {min(math.floor(position), n - 1): 1.0}


def _area_row(j: int, n: int, out: int) -> dict[int, float]:
    """Return the mean of the pixels that the output pixel touches, as `adaptive_average_pool` does."""
    window = range(j * n // out, -(-(j + 1) * n // out))
    return {m: 1 / len(window) for m in window}


def _linear_row(j: int, n: int, scale: float, align_corners: bool) -> dict[int, float]:
    """Return the two neighbours of the position, each weighted by the distance to the other."""
    position = scale * j if align_corners else max(scale * (j + 0.5) - 0.5, 0.0)
    left = min(math.floor(position), n - 1)
    part = min(position - left, 1.0) if left + 1 < n else 0.0
    return {left: 1 - part, left + 1: part} if part else {left: 1.0}


def _cubic_row(j: int, n: int, scale: float, align_corners: bool) -> dict[int, float]:
    """Return the four neighbours of the position, weighted by cubic convolution; the ends repeat."""
    position = scale * j if align_corners else scale * (j + 0.5) - 0.5
    row: dict[int, float] = {}
    for m in range(math.floor(position) - 1, math.floor(position) + 3):
        inside = min(max(m, 0), n - 1)
        row[inside] = row.get(inside, 0.0) + cubic(position - m, -0.75)
    return row


def _antialiased_row(j: int, n: int, scale: float, align_corners: bool, mode: str) -> dict[int, float]:
    """Return a neighbourhood as wide as the output pixel, so that no input pixel is passed over."""
    position = scale * j if align_corners else scale * (j + 0.5) - 0.5
    width = max(scale, 1.0)
    reach = width * (2 if mode == "bicubic" else 1)
    # From the first to the last pixel whose centre is within reach.
    window = range(max(int(position - reach + 1), 0), min(int(position + reach + 1), n))
    row = {}
    for m in window:
        distance = (m - position) / width
        row[m] = cubic(distance, -0.5) if mode == "bicubic" else max(1 - abs(distance), 0.0)
    total = sum(row.values())
    return {m: weight / total for m, weight in row.items()}


def _matrix(n: int, out: int, factor: float | None, mode: str, align_corners: bool, antialias: bool) -> Array:
    """Return the matrix, of shape (out, n), that resizes one dimension."""
    scale = _scale(n, out, factor, mode, align_corners, antialias)
    matrix = np.zeros((out, n))
    for j in range(out):
        if mode == "area":
            row = _area_row(j, n, out)
        elif mode in ("nearest", "nearest-exact"):
            row = _nearest_row(j, n, scale, 0.5 if mode == "nearest-exact" else 0.0)
        elif antialias:
            row = _antialiased_row(j, n, scale, align_corners, mode)
        elif mode == "bicubic":
            row = _cubic_row(j, n, scale, align_corners)
        else:
            row = _linear_row(j, n, scale, align_corners)
        for m, weight in row.items():
            matrix[j, m] = weight
    return matrix


def _matrices(
    input_size: tuple[int, ...],
    size: tuple[int, ...],
    scale_factor: tuple[float, ...] | None,
    mode: str,
    align_corners: bool,
    recompute_scale_factor: bool,
    antialias: bool,
) -> list[Array]:
    """Return the matrix of every spatial dimension."""
    factors: tuple[float | None, ...] = (None,) * len(size)
    if scale_factor is not None and not recompute_scale_factor and mode != "area":
        factors = scale_factor
    return [
        _matrix(n, out, factor, mode, align_corners, antialias)
        for n, out, factor in zip(input_size, size, factors, strict=True)
    ]


def _resize(array: Array, matrices: list[Array]) -> Array:
    """Multiply every spatial dimension by its matrix."""
    for dim, matrix in enumerate(matrices, start=array.ndim - len(matrices)):
        lanes = np.moveaxis(array, dim, 0)
        resized = np.zeros((matrix.shape[0], *lanes.shape[1:]), array.dtype)
        for j, m in np.argwhere(matrix):
            resized[j] += matrix[j, m] * lanes[m]
        array = np.moveaxis(resized, 0, dim)
    return array


def interpolate(
    input: Array,
    size: tuple[int, ...] | None = None,
    scale_factor: tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    recompute_scale_factor: bool = False,
    antialias: bool = False,
) -> Array:
    """Resize the spatial dimensions.

        y[j] = Σ_m W[j, m] · x[m]    in every dimension, with its own matrix W

    Row j of the matrix belongs to one output position, see the head of this file; p is its centre:

        nearest         1 at floor(scale · j)
        nearest-exact   1 at the pixel that p falls into, floor(scale · (j + 1/2))
        linear          1 - |m - p| at the two neighbours; p is no less than 0, and past the last pixel is the last
        bicubic         k(m - p) at the four neighbours, k being cubic convolution with a = -3/4; neighbours past
                        the ends stand for the ends
        area            the mean of the pixels that the output pixel touches
        antialias       when shrinking, max(1 - |d|, 0) or k(d) with a = -1/2, at d = (m - p) / scale; a row that
                        the ends cut short is divided by its sum

    Args:
        input: shape (N, C, *input_size).
        size: the spatial sizes of the output, or None.
        scale_factor: instead of `size`, a factor for each dimension; the sizes are rounded down.
        mode: "nearest", "nearest-exact", "area", "linear" (1-d), "bilinear" (2-d), "trilinear" (3-d) or
            "bicubic" (2-d).
        align_corners: whether the centres of the corner pixels, instead of their edges, coincide; for the linear
            modes and "bicubic".
        recompute_scale_factor: whether the scale follows from the rounded sizes instead of `scale_factor`.
        antialias: whether to widen the rows when shrinking; for "bilinear" and "bicubic".

    Returns:
        Shape (N, C, *size).

    Raises:
        RuntimeError: the input has no spatial dimension, or a size is less than 1.
        ValueError: the arguments do not go together.

    Equals `torch.nn.functional.interpolate`, of which these are the peculiarities:

    - The pixel of the nearest modes is found in single precision, so an exact boundary may fall to the pixel
      before it. (In 1-d and 3-d, PyTorch's forward pass may round otherwise than its own gradient; this does not.)
    - The linear modes, "nearest" and antialiasing ignore `scale_factor` in a dimension whose size remains what it
      was, and "nearest" where the size doubles. (In "nearest", 1-d and 3-d, PyTorch's forward pass does not.)
    - With `antialias` and `align_corners`, PyTorch places the centre at scale · (j + 1/2) - 1/2 with the scale of
      aligned corners, so that no corners align. Here they do.
    - With `antialias` and an output of width 1 and greater height, PyTorch's forward pass repeats the first row.
    """
    dims = np.ndim(input) - 2
    if dims < 1:
        raise RuntimeError(f"input must have at least 3 dimensions, got shape {np.shape(input)}")
    input_size = np.shape(input)[2:]
    _check_interpolation(dims, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    size = _output_size(input_size, size, scale_factor)
    dtype = result_dtype(input)
    matrices = _matrices(input_size, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return _resize(widen(input), matrices).astype(dtype)


def interpolate_adjoint(
    grad_output: Array,
    input_size: tuple[int, ...],
    size: tuple[int, ...] | None = None,
    scale_factor: tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    recompute_scale_factor: bool = False,
    antialias: bool = False,
) -> Array:
    """Carry a gradient from the output of `interpolate` to its input.

        gx[m] = Σ_j W[j, m] · gy[j]    in every dimension

    Args:
        grad_output: shape (N, C, *size).
        input_size: the spatial sizes of the input.
        size: as in `interpolate`.
        scale_factor: as in `interpolate`.
        mode: as in `interpolate`.
        align_corners: as in `interpolate`.
        recompute_scale_factor: as in `interpolate`.
        antialias: as in `interpolate`.

    Returns:
        Shape (N, C, *input_size).

    Raises:
        RuntimeError: the shapes do not fit together, or a size is less than 1.
        ValueError: the arguments do not go together.

    Equals the gradient of `torch.nn.functional.interpolate`, except where that is not the gradient of its forward
    pass: if `scale_factor` leaves a size what it was, PyTorch's "bicubic" resizes forward but copies backward,
    and antialiasing copies forward but resizes backward.
    """
    dims = len(input_size)
    _check_interpolation(dims, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    size = _output_size(input_size, size, scale_factor)
    leading, _ = split_shape("grad_output", grad_output, dims)
    require_shape("grad_output", grad_output, (*leading, *size))
    dtype = result_dtype(grad_output)
    matrices = _matrices(input_size, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return _resize(widen(grad_output), [matrix.T for matrix in matrices]).astype(dtype)
