"""Pooling in any number of spatial dimensions, and the maps that carry gradients back through it.

The last `len(kernel_size)` dimensions of an array are spatial; whatever stands before them (batch, channel)
is carried along.

Max pooling is described by its winner: for each output position, the row-major index of the winning tap
inside the window. Given the winner, max pooling is a selection of input values, hence linear, and its
gradient is the adjoint of that selection: `max_pool_scatter` for the first derivative, `max_pool_gather` for
the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, split_shape, widen, zeros
from ._windows import check_window, is_inside, source_of, taps_inside


def pooled_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> tuple[int, ...]:
    """Return the spatial sizes of a pooling layer's output.

    In every dimension,

        size = floor or ceil of ((input_size + 2 · padding - dilation · (kernel_size - 1) - 1) / stride) + 1

    With `ceil_mode` the last window may reach past the right padding, but must start inside the input or the
    left padding: otherwise it is dropped.

    Args:
        input_size: the spatial sizes of the input, at least 1; the other sizes have as many entries.
        kernel_size: at least 1.
        stride: at least 1.
        padding: at least 0 and at most half of `kernel_size`.
        dilation: distance between neighbouring taps, at least 1.
        ceil_mode: whether a partial window at the end counts.

    Returns:
        One size for each spatial dimension.

    Raises:
        RuntimeError: an argument is out of range or has the wrong length, or no window fits.

    Equals the output size of `torch.nn.functional.max_pool2d` and its siblings.
    """
    check_window(len(input_size), kernel_size, stride, padding, dilation)
    if not input_size or any(size < 1 for size in input_size):
        raise RuntimeError(f"input_size must have entries of at least 1, got {tuple(input_size)}")
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise RuntimeError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    sizes = []
    for size, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True):
        room = size + 2 * p - (d * (k - 1) + 1)
        out = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (out - 1) * s >= size + p:
            out -= 1
        if out < 1:
            raise RuntimeError(
                f"kernel_size {kernel_size} with dilation {dilation} must leave room for one window, "
                f"got input_size {tuple(input_size)} and padding {padding}"
            )
        sizes.append(out)
    return tuple(sizes)


def max_pool(
    input: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> tuple[Array, Array]:
    """Take the maximum of every window, and note which tap it came from.

        y[i] = max_t x[i · stride - padding + t · dilation]    over the taps t that fall inside the input

    Padding never wins. Of equal maxima the first tap in row-major order wins. NaN beats every number, and of
    several NaN the last one wins. If dilation and padding leave no tap of a window inside the input, the
    output is -inf, the maximum of nothing, and the winner is -1.

    Args:
        input: shape (*, *input_size), real.
        kernel_size: one entry for each spatial dimension, here and below.
        stride: at least 1.
        padding: at least 0 and at most half of `kernel_size`.
        dilation: at least 1.
        ceil_mode: whether a partial window at the end counts, see `pooled_size`.

    Returns:
        The output and the winner (int64, 0 to prod(kernel_size) - 1), both of shape (*, *pooled_size).

    Raises:
        RuntimeError: an argument is out of range, or no window fits.
        TypeError: the input is complex.

    Equals `torch.nn.functional.max_pool1d`, `max_pool2d` and `max_pool3d`.
    """
    require_real("input", input)
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(kernel_size))
    sizes = pooled_size(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    output = zeros((*leading, *sizes), dtype)
    winner = np.zeros(output.shape, np.int64)
    for position in np.ndindex(*sizes):
        for plane in np.ndindex(*leading):
            best, best_tap = -math.inf, -1
            for tap, source in taps_inside(position, input_size, kernel_size, stride, padding, dilation):
                value = input[plane + source]
                if best_tap == -1 or value > best or math.isnan(value):
                    best, best_tap = value, int(np.ravel_multi_index(tap, kernel_size))
            output[plane + position] = best
            winner[plane + position] = best_tap
    return output.astype(dtype), winner


def _selections(
    winner: Array,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield `(y, plane, source)`: an index of a winner, its leading part, and the input position that won."""
    check_window(len(input_size), kernel_size, stride, padding, dilation)
    leading, sizes = split_shape("winner", winner, len(kernel_size))
    for position in np.ndindex(*sizes):
        for plane in np.ndindex(*leading):
            y = plane + position
            won = int(winner[y])
            if won == -1:
                continue
            if not 0 <= won < math.prod(kernel_size):
                raise RuntimeError(f"winner must be a tap of kernel_size {kernel_size}, got {won} at {y}")
            tap = tuple(int(t) for t in np.unravel_index(won, kernel_size))
            source = source_of(position, tap, stride, padding, dilation)
            if not is_inside(source, input_size):
                raise RuntimeError(f"winner must fall inside input_size {input_size}, got {won} at {y}")
            yield y, plane, source


def max_pool_indices(
    winner: Array,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Turn winners into flat indices into the input's spatial plane.

    The winning tap t at output position i becomes the row-major index of i · stride - padding + t · dilation
    in a plane of `input_size`; the winner -1 (nothing) stays -1.

    Args:
        winner: shape (*, *output_size), from `max_pool`.
        input_size: the spatial sizes of the input.
        kernel_size: as in `max_pool`.
        stride: as in `max_pool`.
        padding: as in `max_pool`.
        dilation: as in `max_pool`.

    Returns:
        int64, the shape of `winner`.

    Raises:
        RuntimeError: a winner is no tap of the window or lies in the padding, or an argument is out of range.

    Equals the indices that `torch.nn.functional.max_pool2d` and its siblings return with `return_indices`.
    """
    indices = np.full(np.shape(winner), -1, np.int64)
    for y, _, source in _selections(winner, tuple(input_size), kernel_size, stride, padding, dilation):
        indices[y] = np.ravel_multi_index(source, input_size)
    return indices


def max_pool_scatter(
    grad_output: Array,
    winner: Array,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Carry a gradient from the output of `max_pool` to its input.

    The output copies the winning value, so its whole gradient goes to the winner; where windows overlap, one
    value may win several times:

        gx[m] = Σ gy[i]    over all output positions i whose winner lies at m

    All other input values, and those that no window covers, get exactly zero. This is the adjoint of
    `max_pool_gather`.

    Args:
        grad_output: shape (*, *output_size).
        winner: the same shape, from `max_pool`.
        input_size: the spatial sizes of the input.
        kernel_size: as in `max_pool`.
        stride: as in `max_pool`.
        padding: as in `max_pool`.
        dilation: as in `max_pool`.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: the shapes differ, or a winner is no tap of the window or lies in the padding.

    Equals the gradient of `torch.nn.functional.max_pool1d`, `max_pool2d` and `max_pool3d`.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    require_shape("winner", winner, grad_output.shape)
    leading, _ = split_shape("grad_output", grad_output, len(kernel_size))
    grad_input = zeros((*leading, *input_size), dtype)
    for y, plane, source in _selections(winner, tuple(input_size), kernel_size, stride, padding, dilation):
        grad_input[plane + source] += grad_output[y]
    return grad_input.astype(dtype)


def max_pool_gather(
    input: Array,
    winner: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Select the input values at given winners.

        y[i] = x[where the winner of i lies]

    With the winners of the same input this repeats `max_pool`; with the winners of another input it is the
    derivative of `max_pool` there in the direction of this one, and the gradient of `max_pool_scatter`. A
    winner of -1 (nothing) selects 0.

    Args:
        input: shape (*, *input_size).
        winner: shape (*, *output_size), from `max_pool`, with the same leading dimensions.
        kernel_size: as in `max_pool`.
        stride: as in `max_pool`.
        padding: as in `max_pool`.
        dilation: as in `max_pool`.

    Returns:
        The shape of `winner`.

    Raises:
        RuntimeError: the shapes do not fit, or a winner is no tap of the window or lies in the padding.

    Equals the gradient of the gradient of `torch.nn.functional.max_pool1d`, `max_pool2d` and `max_pool3d`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(kernel_size))
    _, sizes = split_shape("winner", winner, len(kernel_size))
    require_shape("winner", winner, (*leading, *sizes))
    output = zeros((*leading, *sizes), dtype)
    for y, plane, source in _selections(winner, input_size, kernel_size, stride, padding, dilation):
        output[y] = input[plane + source]
    return output.astype(dtype)


def _divisor(
    position: tuple[int, ...],
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    count_include_pad: bool,
    divisor_override: int | None,
) -> int:
    """Return what the sum of one window is divided by."""
    if divisor_override is not None:
        return divisor_override
    count = 1
    for i, size, k, s, p in zip(position, input_size, kernel_size, stride, padding, strict=True):
        start = i * s - p
        if count_include_pad:
            # Padding counts, but what a window of ceil_mode covers past the right padding never does.
            count *= min(start + k, size + p) - start
        else:
            count *= min(start + k, size) - max(start, 0)
    return count


def _check_divisor(divisor_override: int | None) -> None:
    if divisor_override == 0:
        raise RuntimeError(f"divisor_override must not be zero, got {divisor_override}")


def average_pool(
    input: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Take the mean of every window.

        y[i] = Σ_t x[i · stride - padding + t] / divisor(i)    over the taps t that fall inside the input

    The divisor is `divisor_override` if given; else the number of taps that fall inside the input or, with
    `count_include_pad`, inside the padded input. Near the borders the latter counts zeros as values; taps
    past the right padding, which `ceil_mode` allows, never count.

    Args:
        input: shape (*, *input_size).
        kernel_size: one entry for each spatial dimension, here and below.
        stride: at least 1.
        padding: at least 0 and at most half of `kernel_size`.
        ceil_mode: whether a partial window at the end counts, see `pooled_size`.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: a divisor for all windows, not 0, or None.

    Returns:
        Shape (*, *pooled_size).

    Raises:
        RuntimeError: an argument is out of range, or no window fits.

    Equals `torch.nn.functional.avg_pool1d`, `avg_pool2d` and `avg_pool3d`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(kernel_size))
    dilation = (1,) * len(kernel_size)
    sizes = pooled_size(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    _check_divisor(divisor_override)
    output = zeros((*leading, *sizes), dtype)
    for position in np.ndindex(*sizes):
        divisor = _divisor(position, input_size, kernel_size, stride, padding, count_include_pad, divisor_override)
        for _, source in taps_inside(position, input_size, kernel_size, stride, padding, dilation):
            for plane in np.ndindex(*leading):
                output[plane + position] += input[plane + source]
        for plane in np.ndindex(*leading):
            output[plane + position] /= divisor
    return output.astype(dtype)


def average_pool_adjoint(
    grad_output: Array,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Carry a gradient from the output of `average_pool` to its input.

    Every value of a window enters the mean with the factor 1 / divisor, so

        gx[m] = Σ gy[i] / divisor(i)    over all output positions i whose window covers m

    Input values that no window covers get exactly zero.

    Args:
        grad_output: shape (*, *output_size).
        input_size: the spatial sizes of the input.
        kernel_size: as in `average_pool`.
        stride: as in `average_pool`.
        padding: as in `average_pool`.
        ceil_mode: as in `average_pool`.
        count_include_pad: as in `average_pool`.
        divisor_override: as in `average_pool`.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: the shapes do not fit, an argument is out of range, or no window fits.

    Equals the gradient of `torch.nn.functional.avg_pool1d`, `avg_pool2d` and `avg_pool3d`.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    leading, _ = split_shape("grad_output", grad_output, len(kernel_size))
    dilation = (1,) * len(kernel_size)
    sizes = pooled_size(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    require_shape("grad_output", grad_output, (*leading, *sizes))
    _check_divisor(divisor_override)
    grad_input = zeros((*leading, *input_size), dtype)
    for position in np.ndindex(*sizes):
        divisor = _divisor(position, input_size, kernel_size, stride, padding, count_include_pad, divisor_override)
        for _, source in taps_inside(position, input_size, kernel_size, stride, padding, dilation):
            for plane in np.ndindex(*leading):
                grad_input[plane + source] += grad_output[plane + position] / divisor
    return grad_input.astype(dtype)


def _check_norm_type(norm_type: float) -> None:
    if norm_type == 0 or not math.isfinite(norm_type):
        raise ValueError(f"norm_type must be finite and not 0, got {norm_type}")


def _power_sum(
    plane: tuple[int, ...], sources: list[tuple[int, ...]], input: Array, norm_type: float
) -> np.floating[Any]:
    """Return the sum of the powers of one window."""
    return np.sum(np.asarray([input[plane + source] for source in sources]) ** norm_type)


def lp_pool(
    input: Array, norm_type: float, kernel_size: tuple[int, ...], stride: tuple[int, ...], ceil_mode: bool
) -> Array:
    """Take the p-norm of every window, p being `norm_type`, but without absolute values.

        y[i] = (Σ_t x[i · stride + t]^p)^(1 / p)    over the taps t that fall inside the input

    p = 1 gives the sum of the window; a large p comes near its maximum. A negative x has no real power if p
    is not whole, a negative sum no real root unless p is 1: both give NaN.

    Args:
        input: shape (*, *input_size), real.
        norm_type: the power p, finite and not 0.
        kernel_size: one entry for each spatial dimension, here and below.
        stride: at least 1.
        ceil_mode: whether a partial window at the end counts, see `pooled_size`.

    Returns:
        Shape (*, *pooled_size).

    Raises:
        RuntimeError: a size is out of range, or no window fits.
        ValueError: `norm_type` is 0 or not finite.
        TypeError: the input is complex.

    Equals `torch.nn.functional.lp_pool1d`, `lp_pool2d` and `lp_pool3d`, except in the partial windows of
    `ceil_mode`: PyTorch multiplies their sum by prod(kernel_size) / number of taps inside, so that a window
    that holds only the value 1 has the norm 2^(1 / p) instead of 1 if two taps would fit.
    """
    require_real("input", input)
    _check_norm_type(norm_type)
    dtype = result_dtype(input)
    input = widen(input)
    leading, input_size = split_shape("input", input, len(kernel_size))
    none, one = (0,) * len(kernel_size), (1,) * len(kernel_size)
    sizes = pooled_size(input_size, kernel_size, stride, none, one, ceil_mode)
    output = zeros((*leading, *sizes), dtype)
    for position in np.ndindex(*sizes):
        sources = [source for _, source in taps_inside(position, input_size, kernel_size, stride, none, one)]
        for plane in np.ndindex(*leading):
            # Infinity and NaN are answers here, not errors to warn of.
            with np.errstate(all="ignore"):
                output[plane + position] = _power_sum(plane, sources, input, norm_type) ** (1 / norm_type)
    return output.astype(dtype)


def lp_pool_gradient(
    input: Array,
    grad_output: Array,
    norm_type: float,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    ceil_mode: bool,
) -> Array:
    """Carry a gradient from the output of `lp_pool` to its input.

    With the sum S of the window, dy / dx = 1 / p · S^(1 / p - 1) · p · x^(p - 1), so

        gx[m] = Σ gy[i] · S[i]^(1 / p - 1) · x[m]^(p - 1)    over all output positions i whose window covers m

    A window whose sum is 0 passes nothing on, as its root has no finite slope there, but for p = 1, the sum itself.

    Args:
        input: shape (*, *input_size), real.
        grad_output: shape (*, *output_size).
        norm_type: as in `lp_pool`.
        kernel_size: as in `lp_pool`.
        stride: as in `lp_pool`.
        ceil_mode: as in `lp_pool`.

    Returns:
        Shape (*, *input_size).

    Raises:
        RuntimeError: the shapes do not fit, a size is out of range, or no window fits.
        ValueError: `norm_type` is 0 or not finite.
        TypeError: an array is complex.

    Equals the gradient of `torch.nn.functional.lp_pool1d` and its siblings, except in partial windows (see
    `lp_pool`) and where a window's sum is zero: PyTorch's gradient is NaN there for p < 1, and 0 for p = 1.
    """
    require_real("input", input)
    require_real("grad_output", grad_output)
    _check_norm_type(norm_type)
    dtype = result_dtype(input, grad_output)
    input, grad_output = widen(input), widen(grad_output)
    leading, input_size = split_shape("input", input, len(kernel_size))
    none, one = (0,) * len(kernel_size), (1,) * len(kernel_size)
    sizes = pooled_size(input_size, kernel_size, stride, none, one, ceil_mode)
    require_shape("grad_output", grad_output, (*leading, *sizes))
    grad_input = zeros(input.shape, dtype)
    for position in np.ndindex(*sizes):
        sources = [source for _, source in taps_inside(position, input_size, kernel_size, stride, none, one)]
        for plane in np.ndindex(*leading):
            with np.errstate(all="ignore"):
                power_sum = _power_sum(plane, sources, input, norm_type)
                if power_sum == 0 and norm_type != 1:
                    continue
                for source in sources:
                    slope = power_sum ** (1 / norm_type - 1) * input[plane + source] ** (norm_type - 1)
                    grad_input[plane + source] += grad_output[plane + position] * slope
    return grad_input.astype(dtype)
