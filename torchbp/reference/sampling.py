"""Sampling an image at given positions, and the grid of positions of an affine map.

The positions are not whole, so each output value is a weighted sum of the few input values around its position.
`_taps` lists them with their weight, and with the slope of the weight as the position moves. The forward pass and
both gradients walk the same list:

    output[y] += weight · input[x]
    grad_input[x] += weight · grad_output[y]
    grad_grid[p] += slope · input[x] · grad_output[y]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen, zeros
from ._cubic import cubic, cubic_slope

_MODES = ("bilinear", "nearest", "bicubic")
_PADDING_MODES = ("zeros", "border", "reflection")


def _reflect(position: float, size: int, align_corners: bool) -> tuple[float, int]:
    """Mirror a position at the ends until it lies between them; return it and its slope, 1 or -1.

    The mirrors stand at the outer pixels' centres with align_corners, else at their edges.
    """
    low = 0.0 if align_corners else -0.5
    span = float(size - 1 if align_corners else size)
    if span == 0:
        return 0.0, 0
    distance, slope = abs(position - low), (-1 if position < low else 1)
    flips, rest = divmod(distance, span)
    if flips % 2:
        return low + span - rest, -slope
    return low + rest, slope


def _inside(position: float, size: int, padding_mode: str, align_corners: bool) -> tuple[float, int]:
    """Move a position into the image as the padding asks; return it and its slope."""
    slope = 1
    if padding_mode == "zeros" or math.isnan(position):
        return position, slope
    if padding_mode == "reflection":
        if math.isinf(position):
            return math.nan, slope
        position, slope = _reflect(position, size, align_corners)
    if not 0 < position < size - 1:
        slope = 0
    return min(max(position, 0.0), float(size - 1)), slope


def _axis_taps(
    coordinate: float, size: int, mode: str, padding_mode: str, align_corners: bool
) -> list[tuple[int, float, float]]:
    """Return `(index, weight, slope)` of the input values of one dimension around a coordinate in [-1, 1]."""
    unit = (size - 1) / 2 if align_corners else size / 2
    position = (coordinate + 1) * unit - (0 if align_corners else 0.5)
    if mode != "bicubic":
        position, slope = _inside(position, size, padding_mode, align_corners)
        unit *= slope
    if not math.isfinite(position):
        return []
    left = math.floor(position)
    if mode == "nearest":
        taps = [(round(position), 1.0, 0.0)]
    elif mode == "bilinear":
        taps = [(left, left + 1 - position, -unit), (left + 1, position - left, unit)]
    else:
        taps = []
        for m in range(left - 1, left + 3):
            # Here the values are padded, not the position.
            source, _ = _inside(float(m), size, padding_mode, align_corners)
            taps.append((int(source), cubic(position - m, -0.75), unit * cubic_slope(position - m, -0.75)))
    return [tap for tap in taps if 0 <= tap[0] < size]


def _taps(
    coordinates: Array, input_size: tuple[int, ...], mode: str, padding_mode: str, align_corners: bool
) -> Iterator[tuple[tuple[int, ...], float, list[float]]]:
    """Yield `(source, weight, slopes)` around one position, with a slope for each of its coordinates."""
    # The coordinates start with x, which belongs to the last dimension.
    axes = [
        _axis_taps(float(coordinate), size, mode, padding_mode, align_corners)
        for coordinate, size in zip(coordinates[::-1], input_size, strict=True)
    ]
    for taps in itertools.product(*axes):
        weights = [weight for _, weight, _ in taps]
        slopes = [math.prod(weights[:d]) * taps[d][2] * math.prod(weights[d + 1 :]) for d in range(len(taps))]
        yield tuple(index for index, _, _ in taps), math.prod(weights), slopes[::-1]


def _check_sampling(input: Array, grid: Array, mode: str, padding_mode: str) -> None:
    require_real("input", input)
    require_real("grid", grid)
    dims = input.ndim - 2
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(map(repr, _PADDING_MODES))}, got {padding_mode!r}")
    if dims not in (2, 3):
        raise RuntimeError(f"input must have 2 or 3 spatial dimensions, after 2 others, got shape {input.shape}")
    if mode == "bicubic" and dims != 2:
        raise RuntimeError(f"mode must be 'bilinear' or 'nearest' for {dims} spatial dimensions, got {mode!r}")
    if any(size < 1 for size in input.shape[2:]):
        raise RuntimeError(f"input must have spatial sizes of at least 1, got shape {input.shape}")
    if grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != dims:
        raise RuntimeError(
            f"grid must have {dims} coordinates for {dims} dimensions and a batch of {input.shape[0]}, "
            f"got shape {grid.shape}"
        )


def grid_sample(
    input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Array:
    """Read the input at the positions of a grid.

        y[n, c, i] = Σ_m w(p[n, i] - m) · x[n, c, m]

    The grid holds coordinates, x (the last spatial dimension) first; -1 and 1 mean the outer edges of the first
    and the last pixel, or with `align_corners` their centres. In every dimension they become a position in pixels,

        p = ((grid + 1) · size - 1) / 2    or, with align_corners,    (grid + 1) · (size - 1) / 2

    and the weight w is the product over the dimensions of

        bilinear    1 - |d| at the two neighbours
        nearest     1 at the nearest pixel, the even one of two
        bicubic     cubic convolution with a = -3/4 at the four neighbours

    Outside the input there are zeros; or the position is first moved to the border, or mirrored there until it is
    inside ("bicubic" does so with each neighbour, not with the position). A position that is not finite reads
    nothing and gives zero, unless it was infinite and moved to the border.

    Args:
        input: shape (N, C, *input_size), real, with 2 or 3 spatial dimensions, each of size at least 1.
        grid: shape (N, *output_size, 2 or 3), real.
        mode: "bilinear", "nearest" or (2-d) "bicubic".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 mean the centres of the outer pixels.

    Returns:
        Shape (N, C, *output_size).

    Raises:
        RuntimeError: the shapes do not fit together, or the mode does not fit them.
        ValueError: a mode does not exist.
        TypeError: an array is complex.

    Equals `torch.nn.functional.grid_sample`, whose result is undefined at positions that are not finite.
    """
    dtype = result_dtype(input)
    input, grid = widen(input), widen(grid)
    _check_sampling(input, grid, mode, padding_mode)
    batch, channels, *spatial = input.shape
    output = zeros((batch, channels, *grid.shape[1:-1]), dtype)
    for n in range(batch):
        for position in np.ndindex(*grid.shape[1:-1]):
            p = (n, *position)
            for source, weight, _ in _taps(grid[p], tuple(spatial), mode, padding_mode, align_corners):
                for c in range(channels):
                    y, x = (n, c, *position), (n, c, *source)
                    output[y] += weight * input[x]
    return output.astype(dtype)


def grid_sample_gradients(
    input: Array,
    grid: Array,
    grad_output: Array,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> tuple[Array, Array]:
    """Carry a gradient from the output of `grid_sample` to its input and its grid.

    The output is linear in the input; its weights are functions of the grid:

        gx[n, c, m] = Σ_i gy[n, c, i] · w(p[n, i] - m)
        gg[n, i] = Σ_c Σ_m gy[n, c, i] · x[n, c, m] · w'(p[n, i] - m) · dp/dgrid

    A weight that bends at a position has the slope of its right side there. A position that the padding moves to
    the border, or that already lies on it (at the centre of an outer pixel), stands still: its slope is 0. Where
    it is mirrored, the slope changes sign. The gradient of the grid is 0 for mode "nearest".

    Args:
        input: as in `grid_sample`.
        grid: as in `grid_sample`.
        grad_output: shape (N, C, *output_size).
        mode: as in `grid_sample`.
        padding_mode: as in `grid_sample`.
        align_corners: as in `grid_sample`.

    Returns:
        The gradients of the input and of the grid, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together, or the mode does not fit them.
        ValueError: a mode does not exist.
        TypeError: `input` or `grid` is complex.

    Equals the gradients of `torch.nn.functional.grid_sample`.
    """
    dtypes = result_dtype(input, grad_output), result_dtype(grid, grad_output)
    input, grid, grad_output = widen(input), widen(grid), widen(grad_output)
    _check_sampling(input, grid, mode, padding_mode)
    batch, channels, *spatial = input.shape
    require_shape("grad_output", grad_output, (batch, channels, *grid.shape[1:-1]))
    grad_input, grad_grid = zeros(input.shape, dtypes[0]), zeros(grid.shape, dtypes[1])
    for n in range(batch):
        for position in np.ndindex(*grid.shape[1:-1]):
            p = (n, *position)
            for source, weight, slopes in _taps(grid[p], tuple(spatial), mode, padding_mode, align_corners):
                for c in range(channels):
                    y, x = (n, c, *position), (n, c, *source)
                    grad_input[x] += weight * grad_output[y]
                    grad_grid[p] += np.asarray(slopes) * input[x] * grad_output[y]
    return grad_input.astype(dtypes[0]), grad_grid.astype(dtypes[1])


def _homogeneous(position: tuple[int, ...], size: tuple[int, ...], align_corners: bool) -> list[float]:
    """Return the coordinates of an output position, x first, followed by 1."""
    coordinates = []
    for i, n in zip(position, size, strict=True):
        if align_corners:
            coordinates.append(2 * i / (n - 1) - 1 if n > 1 else 0.0)
        else:
            coordinates.append((2 * i + 1) / n - 1)
    return [*coordinates[::-1], 1.0]


def affine_grid(theta: Array, size: tuple[int, ...], align_corners: bool = False) -> Array:
    """Lay an even grid over the output and map it by an affine matrix.

        grid[n, i] = theta[n] · (x, y, 1)    or, in 3-d,    theta[n] · (x, y, z, 1)

    where x, y and z are the coordinates of output position i as `grid_sample` reads them: -1 and 1 mean the outer
    edges of the first and the last pixel, or with `align_corners` their centres (0 if there is only one).

    Args:
        theta: shape (N, D, D + 1), with D = 2 or 3 spatial dimensions.
        size: (N, C, *output_size), with D spatial sizes, each at least 1.
        align_corners: as in `grid_sample`.

    Returns:
        Shape (N, *output_size, D), to be handed to `grid_sample`.

    Raises:
        RuntimeError: `theta` and `size` do not fit together, or a size is less than 1.

    Equals `torch.nn.functional.affine_grid`.
    """
    dims = len(size) - 2
    if dims not in (2, 3):
        raise RuntimeError(f"size must have 2 or 3 spatial sizes, after 2 others, got {tuple(size)}")
    if any(n < 1 for n in size[2:]):
        raise RuntimeError(f"size must have spatial sizes of at least 1, got {tuple(size)}")
    require_shape("theta", theta, (size[0], dims, dims + 1))
    dtype = result_dtype(theta)
    theta = widen(theta)
    grid = zeros((size[0], *size[2:], dims), dtype)
    for position in np.ndindex(*size[2:]):
        base = _homogeneous(position, tuple(size[2:]), align_corners)
        for n, row, column in np.ndindex(*theta.shape):
            p = (n, *position, row)
            grid[p] += theta[n, row, column] * base[column]
    return grid.astype(dtype)


def affine_grid_adjoint(grad_grid: Array, align_corners: bool = False) -> Array:
    """Carry a gradient from the output of `affine_grid` to its matrix.

        gtheta[n, r, k] = Σ_i ggrid[n, i, r] · (x, y, z, 1)[k]

    Args:
        grad_grid: shape (N, *output_size, D), with D = 2 or 3 spatial dimensions.
        align_corners: as in `affine_grid`.

    Returns:
        Shape (N, D, D + 1).

    Raises:
        RuntimeError: the shape is no grid's.

    Equals the gradient of `torch.nn.functional.affine_grid`.
    """
    dtype = result_dtype(grad_grid)
    grad_grid = widen(grad_grid)
    dims = grad_grid.ndim - 2
    if dims not in (2, 3) or grad_grid.shape[-1] != dims:
        raise RuntimeError(f"grad_grid must have 2 coordinates in 2-d or 3 in 3-d, got shape {grad_grid.shape}")
    batch, *output_size, _ = grad_grid.shape
    grad_theta = zeros((batch, dims, dims + 1), dtype)
    for position in np.ndindex(*output_size):
        base = _homogeneous(position, tuple(output_size), align_corners)
        for n, row, column in np.ndindex(*grad_theta.shape):
            p = (n, *position, row)
            grad_theta[n, row, column] += grad_grid[p] * base[column]
    return grad_theta.astype(dtype)
