"""Max and average pooling, unpooling, and their adjoints, as raw operators without gradient.

Tensors are (N, C, *spatial) with 1 to 3 spatial dimensions; each list has one value per spatial
dimension. Max pooling also returns the *winner* of every output: the row-major place of the maximum
inside its window (uint8 up to 256 taps, int32 beyond), all that its two linear maps need. Ties go to the
first tap, a NaN wins over everything (the last of several), padding never wins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, memory_format_of, register
from torchbp.ops.separable import multiply

Sizes = Sequence[int]


def output_size(
    input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> list[int]:
    """Return the spatial size of a pool's output; a window cut by the end counts if ``ceil_mode``."""
    sizes = []
    for i, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True):
        size = (i + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (size - 1) * s >= i + p:
            size -= 1  # the last window would start in the right padding
        sizes.append(size)
    return sizes


def _planar_format(tensor: Tensor) -> torch.memory_format:
    """Return the format that unpooling keeps, as the built-in: channels-last in two dimensions only."""
    return memory_format_of(tensor) if tensor.dim() == 4 else torch.contiguous_format


def _like(tensor: Tensor, sizes: Sizes, format: torch.memory_format | None = None) -> Tensor:
    shape, format = (*tensor.shape[:2], *sizes), format or memory_format_of(tensor)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=format)


def _check(input_size, kernel_size, stride, padding, dilation, ceil_mode) -> list[int]:
    dimensions = len(input_size)
    lists = {"kernel_size": (kernel_size, 1), "stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    for name, (values, minimum) in lists.items():
        torch._check(
            len(values) == dimensions and all(v >= minimum for v in values),
            lambda name=name, values=values, minimum=minimum: (
                f"pool: {name} must be {dimensions} values of at least {minimum}, but got {list(values)}"
            ),
        )
    torch._check(
        all(p <= k // 2 for p, k in zip(padding, kernel_size, strict=True)),
        lambda: f"pool: padding must be at most half of kernel_size {list(kernel_size)}, but got {list(padding)}",
    )
    sizes = output_size(input_size, kernel_size, stride, padding, dilation, ceil_mode)
    torch._check(
        all(size >= 1 for size in sizes),
        lambda: f"pool: kernel_size {list(kernel_size)} leaves no output for an input of size {list(input_size)}",
    )
    return sizes


# --------------------------------------------------------------------------------------------------
# Max pooling


def winner_dtype(kernel_size: Sizes) -> torch.dtype:
    """Return the dtype that holds the place of a winner inside a window."""
    return torch.uint8 if math.prod(kernel_size) <= 256 else torch.int32


def _fake_max(input, kernel_size, stride, padding, dilation, ceil_mode):
    sizes = _check(input.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    format = memory_format_of(input)
    shape = (*input.shape[:2], *sizes)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=format)
    return output, torch.empty(shape, dtype=winner_dtype(kernel_size), device=input.device, memory_format=format)


def _tap_coordinates(winner: Tensor, kernel_size: Sizes) -> list[Tensor]:
    """Split row-major places into one coordinate per dimension."""
    rest, coordinates = winner.long(), []
    for k in reversed(kernel_size):
        coordinates.append(rest % k)
        rest = rest // k
    return coordinates[::-1]


def winner_indices(
    winner: Tensor, input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Tensor:
    """Return int64 places in the flattened spatial plane of the input, as torch's ``return_indices``."""
    flat = torch.zeros_like(winner, dtype=torch.int64)
    for axis, tap in enumerate(_tap_coordinates(winner, kernel_size)):
        shape = [1] * winner.dim()
        shape[2 + axis] = winner.shape[2 + axis]
        start = torch.arange(winner.shape[2 + axis], device=winner.device) * stride[axis] - padding[axis]
        flat = flat * input_size[axis] + start.view(shape) + tap * dilation[axis]
    return flat


def _composite_max(input, kernel_size, stride, padding, dilation, ceil_mode):
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel_size)]
    if input.shape[0] == 0:
        return _fake_max(input, kernel_size, stride, padding, dilation, ceil_mode)
    # Of a channels-last volume the built-in names place 0 for windows of -inf only, wherever they are.
    dense = input.contiguous() if input.dim() == 5 else input
    output, flat = pool(dense, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
    winner = torch.zeros_like(flat)
    scale = 1
    for axis in reversed(range(len(kernel_size))):
        size, k = input.shape[2 + axis], kernel_size[axis]
        shape = [1] * flat.dim()
        shape[2 + axis] = flat.shape[2 + axis]
        start = torch.arange(flat.shape[2 + axis], device=flat.device) * stride[axis] - padding[axis]
        winner += (flat % size - start.view(shape)) // dilation[axis] * scale
        flat, scale = flat // size, scale * k
    format = memory_format_of(input)
    return laid_out(output, format), laid_out(winner.to(winner_dtype(kernel_size)), format)


def _fake_values(input, kernel_size, stride, padding, dilation, ceil_mode):
    return _fake_max(input, kernel_size, stride, padding, dilation, ceil_mode)[0]


def _composite_values(input, kernel_size, stride, padding, dilation, ceil_mode):
    return _composite_max(input, kernel_size, stride, padding, dilation, ceil_mode)[0]


def _fake_scatter(grad_output, winner, input_size, kernel_size, stride, padding, dilation):
    shape = (*grad_output.shape[:2], *input_size)
    return torch.empty(
        shape, dtype=grad_output.dtype, device=grad_output.device, memory_format=memory_format_of(winner)
    )


def _composite_scatter(grad_output, winner, input_size, kernel_size, stride, padding, dilation):
    flat = winner_indices(winner, input_size, kernel_size, stride, padding, dilation).flatten(2)
    plane = grad_output.new_zeros((*grad_output.shape[:2], math.prod(input_size)))
    gx = plane.scatter_add_(2, flat, grad_output.flatten(2)).view(*grad_output.shape[:2], *input_size)
    return laid_out(gx, memory_format_of(winner))


def _fake_gather(input, winner, kernel_size, stride, padding, dilation):
    return torch.empty(winner.shape, dtype=input.dtype, device=input.device, memory_format=memory_format_of(winner))


def _composite_gather(input, winner, kernel_size, stride, padding, dilation):
    flat = winner_indices(winner, input.shape[2:], kernel_size, stride, padding, dilation).flatten(2)
    y = input.flatten(2).gather(2, flat).view(winner.shape)
    return laid_out(y, memory_format_of(winner))


_max = register("max_pool", fake=_fake_max, composite=_composite_max, flops=flops_none)
_values = register("max_pool_values", fake=_fake_values, composite=_composite_values, flops=flops_none)
_scatter = register("max_pool_scatter", fake=_fake_scatter, composite=_composite_scatter, flops=flops_none)
_gather = register("max_pool_gather", fake=_fake_gather, composite=_composite_gather, flops=flops_none)


def max_pool(
    input: Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    """Return the maxima of the windows and their winners, both (N, C, *output)."""
    call = _max if input.dtype in KERNEL_DTYPES else _composite_max
    return call(input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool_values(
    input: Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> Tensor:
    """Return the maxima of the windows alone, (N, C, *output)."""
    call = _values if input.dtype in KERNEL_DTYPES else _composite_values
    return call(input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool_scatter(
    grad_output: Tensor,
    winner: Tensor,
    input_size: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> Tensor:
    """Add each output's value to the input that won it; the adjoint of ``max_pool_gather``."""
    call = _scatter if grad_output.dtype in KERNEL_DTYPES else _composite_scatter
    return call(grad_output, winner, input_size, kernel_size, stride, padding, dilation)


def max_pool_gather(
    input: Tensor, winner: Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Tensor:
    """Read the winners' values; the adjoint of ``max_pool_scatter``."""
    call = _gather if input.dtype in KERNEL_DTYPES else _composite_gather
    return call(input, winner, kernel_size, stride, padding, dilation)


# --------------------------------------------------------------------------------------------------
# Max pooling over windows that follow no stride: adaptive ones, which follow from the sizes, and fractional ones,
# which random samples (N, C, d) place. ``kernel_size`` is the largest window; a winner is a row-major place in a
# window of that size.


def _adaptive_windows(input_size: Sizes, output_size: Sizes, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return start and length of the windows [floor(o i / n), ceil((o + 1) i / n)), one pair per axis."""
    pairs = []
    for i, n in zip(input_size, output_size, strict=True):
        place = torch.arange(n, device=like.device)
        start = place * i // max(n, 1)
        pairs.append((start, ((place + 1) * i + n - 1) // max(n, 1) - start))
    return pairs


def _fractional_windows(
    samples: Tensor, input_size: Sizes, output_size: Sizes, kernel_size: Sizes
) -> list[tuple[Tensor, Tensor]]:
    """Return start and length of the windows that random samples give, (N, C, n), one pair per axis.

    With alpha = (i - k) / (n - 1) and a sample u, window o < n - 1 starts at floor((o + u) alpha) - floor(u alpha)
    and the last one at i - k (Graham, "Fractional Max-Pooling", 2014), in the arithmetic of the samples' dtype
    as the built-in does it. The sample of an axis stands where the built-in looks for it: from the last axis to the
    first in two dimensions, from the first to the last in three.
    """
    order = range(samples.shape[2]) if samples.shape[2] == 3 else reversed(range(samples.shape[2]))
    pairs = []
    for axis, i, n, k in zip(order, input_size, output_size, kernel_size, strict=True):
        u = samples[:, :, axis, None]
        alpha = samples.new_full((), i - k) / samples.new_full((), max(n - 1, 1))
        place = torch.arange(n, device=samples.device)
        start = ((place.to(u.dtype) + u) * alpha).long() - (u * alpha).long()
        start = torch.where(place == n - 1, i - k, start)
        pairs.append((start, torch.full_like(start, k)))
    return pairs


def _windows(
    like: Tensor, samples: Tensor | None, input_size: Sizes, output_size: Sizes, kernel_size: Sizes
) -> list[tuple[Tensor, Tensor]]:
    """Return start and length of the windows, one pair per axis, shaped to broadcast against (N, C, *output)."""
    if samples is None:
        pairs = _adaptive_windows(input_size, output_size, like)
    else:
        pairs = _fractional_windows(samples, input_size, output_size, kernel_size)
    shaped = []
    for axis, (start, length) in enumerate(pairs):
        shape = [*start.shape[:-1], *[1] * axis, start.shape[-1], *[1] * (len(pairs) - 1 - axis)]
        shaped.append((start.reshape(shape), length.reshape(shape)))
    return shaped


def irregular_indices(winner: Tensor, samples: Tensor | None, input_size: Sizes, kernel_size: Sizes) -> Tensor:
    """Return int64 places in the flattened spatial plane of the input, as torch's ``return_indices``."""
    windows = _windows(winner, samples, input_size, winner.shape[2:], kernel_size)
    return _flat_places(_tap_coordinates(winner, kernel_size), windows, input_size)


def _flat_places(taps: Sequence[Tensor | int], windows: list[tuple[Tensor, Tensor]], input_size: Sizes) -> Tensor:
    flat = torch.zeros((), dtype=torch.int64, device=windows[0][0].device)
    for tap, (start, _), size in zip(taps, windows, input_size, strict=True):
        flat = flat * size + (start + tap).clamp(max=size - 1)
    return flat


def _irregular_format(tensor: Tensor, samples: Tensor | None) -> torch.memory_format:
    return memory_format_of(tensor) if samples is None else torch.contiguous_format


def _check_irregular(input, samples, input_size, output_size, kernel_size) -> None:
    dimensions = input.dim() - 2
    torch._check(
        len(input_size) == len(output_size) == len(kernel_size) == dimensions,
        lambda: f"pool: sizes must have {dimensions} values, got {list(output_size)} and {list(kernel_size)}",
    )
    if samples is not None:
        wanted = (*input.shape[:2], dimensions)
        torch._check(
            samples.shape == wanted,
            lambda: f"pool: samples must have shape {wanted}, but got {tuple(samples.shape)}",
        )


def _checked_windows(op: str, like: Tensor, samples, input_size, output_size, kernel_size):
    _check_irregular(like, samples, input_size, output_size, kernel_size)
    windows = _windows(like, samples, input_size, output_size, kernel_size)
    for (start, length), size, k in zip(windows, input_size, kernel_size, strict=True):
        outside = (start < 0) | (start > size - length) | (length > k)
        if bool(outside.any()):
            raise RuntimeError(
                f"{op}: windows must lie inside the input of size {list(input_size)} and span at most "
                f"{list(kernel_size)}, but one covers {int(length[outside][0])} inputs from "
                f"{int(start[outside][0])} on"
            )
    return windows


def _fake_irregular(input, samples, output_size, kernel_size):
    _check_irregular(input, samples, input.shape[2:], output_size, kernel_size)
    shape, format = (*input.shape[:2], *output_size), _irregular_format(input, samples)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=format)
    return output, torch.empty(shape, dtype=winner_dtype(kernel_size), device=input.device, memory_format=format)


def _composite_irregular(input, samples, output_size, kernel_size):
    size = input.shape[2:]
    windows = _checked_windows("irregular_max_pool", input, samples, size, output_size, kernel_size)
    shape, plane = (*input.shape[:2], *output_size), input.flatten(2)
    best = input.new_full(shape, -math.inf)
    winner = torch.zeros(shape, dtype=torch.int64, device=input.device)
    for place, tap in enumerate(itertools.product(*[range(k) for k in kernel_size])):
        value = plane.gather(2, _flat_places(tap, windows, size).expand(shape).flatten(2)).view(shape)
        inside = torch.ones((), dtype=torch.bool, device=input.device)
        for t, (_, length) in zip(tap, windows, strict=True):
            inside = inside & (t < length)
        take = inside & ((value > best) | (value != value))
        best, winner = torch.where(take, value, best), torch.where(take, place, winner)
    format = _irregular_format(input, samples)
    return laid_out(best, format), laid_out(winner.to(winner_dtype(kernel_size)), format)


def _fake_irregular_scatter(grad_output, winner, samples, input_size, kernel_size):
    _check_irregular(grad_output, samples, input_size, winner.shape[2:], kernel_size)
    format = _irregular_format(winner, samples)
    shape = (*grad_output.shape[:2], *input_size)
    return torch.empty(shape, dtype=grad_output.dtype, device=grad_output.device, memory_format=format)


def _composite_irregular_scatter(grad_output, winner, samples, input_size, kernel_size):
    _checked_windows("irregular_max_pool_scatter", winner, samples, input_size, winner.shape[2:], kernel_size)
    flat = irregular_indices(winner, samples, input_size, kernel_size).flatten(2)
    plane = grad_output.new_zeros((*grad_output.shape[:2], math.prod(input_size)))
    gx = plane.scatter_add_(2, flat, grad_output.flatten(2)).view(*grad_output.shape[:2], *input_size)
    return laid_out(gx, _irregular_format(winner, samples))


def _fake_irregular_gather(input, winner, samples, kernel_size):
    _check_irregular(input, samples, input.shape[2:], winner.shape[2:], kernel_size)
    format = _irregular_format(winner, samples)
    return torch.empty(winner.shape, dtype=input.dtype, device=input.device, memory_format=format)


def _composite_irregular_gather(input, winner, samples, kernel_size):
    size = input.shape[2:]
    _checked_windows("irregular_max_pool_gather", winner, samples, size, winner.shape[2:], kernel_size)
    flat = irregular_indices(winner, samples, size, kernel_size).flatten(2)
    return laid_out(input.flatten(2).gather(2, flat).view(winner.shape), _irregular_format(winner, samples))


_irregular = register("irregular_max_pool", fake=_fake_irregular, composite=_composite_irregular, flops=flops_none)
_irregular_scatter = register(
    "irregular_max_pool_scatter",
    fake=_fake_irregular_scatter,
    composite=_composite_irregular_scatter,
    flops=flops_none,
)
_irregular_gather = register(
    "irregular_max_pool_gather",
    fake=_fake_irregular_gather,
    composite=_composite_irregular_gather,
    flops=flops_none,
)


def irregular_max_pool(
    input: Tensor, samples: Tensor | None, output_size: Sizes, kernel_size: Sizes
) -> tuple[Tensor, Tensor]:
    """Return the maxima of the windows and their winners, both (N, C, *output_size)."""
    call = _irregular if input.dtype in KERNEL_DTYPES else _composite_irregular
    return call(input, samples, output_size, kernel_size)


def irregular_max_pool_scatter(
    grad_output: Tensor, winner: Tensor, samples: Tensor | None, input_size: Sizes, kernel_size: Sizes
) -> Tensor:
    """Add each output's value to the input that won it; the adjoint of ``irregular_max_pool_gather``."""
    call = _irregular_scatter if grad_output.dtype in KERNEL_DTYPES else _composite_irregular_scatter
    return call(grad_output, winner, samples, input_size, kernel_size)


def irregular_max_pool_gather(input: Tensor, winner: Tensor, samples: Tensor | None, kernel_size: Sizes) -> Tensor:
    """Read the winners' values; the adjoint of ``irregular_max_pool_scatter``."""
    call = _irregular_gather if input.dtype in KERNEL_DTYPES else _composite_irregular_gather
    return call(input, winner, samples, kernel_size)


# --------------------------------------------------------------------------------------------------
# Unpooling: values go to places of a plane. Of several writers to one place the last stays, so the adjoint
# gives the place's value to that one and zero to the others.


def _fake_unpool(input, indices, output_size):
    torch._check(
        input.shape == indices.shape,
        lambda: f"max_unpool: indices must have shape {tuple(input.shape)}, but got {tuple(indices.shape)}",
    )
    return _like(input, output_size, _planar_format(input))


def _fake_unpool_adjoint(grad_output, indices):
    return _like(grad_output, indices.shape[2:], _planar_format(grad_output))


def _check_places(op: str, indices: Tensor, size: Sizes) -> None:
    outside = (indices < 0) | (indices >= math.prod(size))
    if bool(outside.any()):
        raise RuntimeError(
            f"{op}: indices must be places in planes of size {list(size)}, but got {int(indices[outside][0])}"
        )


def _stays(flat: Tensor, places: int) -> Tensor:
    """Tell of every writer whether it is its place's last one."""
    order = torch.arange(flat.shape[2], device=flat.device).expand(flat.shape)
    last = order.new_full((*flat.shape[:2], places), -1).scatter_reduce(2, flat, order, "amax")
    return last.gather(2, flat) == order


def _composite_unpool(input, indices, output_size):
    _check_places("max_unpool", indices, output_size)
    flat, places = indices.flatten(2), math.prod(output_size)
    plane = input.new_zeros((*input.shape[:2], places))
    values = torch.where(_stays(flat, places), input.flatten(2), input.new_zeros(()))
    y = plane.scatter_add_(2, flat, values).view(*input.shape[:2], *output_size)
    return laid_out(y, _planar_format(input))


def _composite_unpool_adjoint(grad_output, indices):
    _check_places("max_unpool_adjoint", indices, grad_output.shape[2:])
    flat, plane = indices.flatten(2), grad_output.flatten(2)
    values = plane.gather(2, flat)
    gx = torch.where(_stays(flat, plane.shape[2]), values, values.new_zeros(())).view(indices.shape)
    return laid_out(gx, _planar_format(grad_output))


_unpool = register("max_unpool", fake=_fake_unpool, composite=_composite_unpool, flops=flops_none)
_unpool_adjoint = register(
    "max_unpool_adjoint", fake=_fake_unpool_adjoint, composite=_composite_unpool_adjoint, flops=flops_none
)


def max_unpool(input: Tensor, indices: Tensor, output_size: Sizes) -> Tensor:
    """Return zeros of shape (N, C, *output_size) with each value at its place in the flattened plane."""
    call = _unpool if input.dtype in KERNEL_DTYPES else _composite_unpool
    return call(input, indices, output_size)


def max_unpool_adjoint(grad_output: Tensor, indices: Tensor) -> Tensor:
    """Read each value's place, for the values that stayed; the adjoint of ``max_unpool``."""
    call = _unpool_adjoint if grad_output.dtype in KERNEL_DTYPES else _composite_unpool_adjoint
    return call(grad_output, indices)


# --------------------------------------------------------------------------------------------------
# Average pooling. The composite formula uses that the average is separable: one banded matrix per
# dimension, y = M_1 ... M_d x, and the adjoint uses the transposed matrices.


def _window_matrix(size: int, start: Tensor, end: Tensor, length: Tensor, dtype: torch.dtype) -> Tensor:
    """Return M of shape (outputs, size) with 1 / length[o] in [start[o], end[o])."""
    place = torch.arange(size, device=start.device)
    inside = (place >= start[:, None]) & (place < end[:, None])
    return inside.to(dtype) / length[:, None].to(dtype)


def _fixed_matrices(input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, like):
    sizes = _check(input_size, kernel_size, stride, padding, [1] * len(input_size), ceil_mode)
    torch._check(divisor is None or divisor != 0, lambda: "average_pool: divisor_override must not be zero, got 0")
    matrices = []
    for i, o, k, s, p in zip(input_size, sizes, kernel_size, stride, padding, strict=True):
        begin = torch.arange(o, device=like.device) * s - p
        padded_end = (begin + k).clamp(max=i + p)
        start, end = begin.clamp(min=0), padded_end.clamp(max=i)
        length = padded_end - begin if count_include_pad else end - start
        length = torch.ones_like(length) if divisor is not None else length.clamp(min=1)
        matrices.append(_window_matrix(i, start, end, length, like.dtype))
    if divisor is not None:
        matrices[0] = matrices[0] / divisor
    return matrices


def _adaptive_matrices(input_size, sizes, like):
    matrices = []
    for i, o in zip(input_size, sizes, strict=True):
        place = torch.arange(o, device=like.device)
        start, end = place * i // max(o, 1), ((place + 1) * i + o - 1) // max(o, 1)
        matrices.append(_window_matrix(i, start, end, end - start, like.dtype))
    return matrices


def _multiply(matrices: list[Tensor], x: Tensor, transpose: bool) -> Tensor:
    """Apply one matrix along each spatial dimension."""
    return laid_out(multiply(matrices, x, transpose), memory_format_of(x))


def _composite_average(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    matrices = _fixed_matrices(
        input.shape[2:], kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, input
    )
    return _multiply(matrices, input, transpose=False)


def _composite_average_adjoint(
    grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    matrices = _fixed_matrices(
        input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, grad_output
    )
    return _multiply(matrices, grad_output, transpose=True)


def _composite_adaptive(input, output_size):
    return _multiply(_adaptive_matrices(input.shape[2:], output_size, input), input, transpose=False)


def _composite_adaptive_adjoint(grad_output, input_size):
    return _multiply(_adaptive_matrices(input_size, grad_output.shape[2:], grad_output), grad_output, transpose=True)


def _fake_average(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    return _like(input, _check(input.shape[2:], kernel_size, stride, padding, [1] * len(kernel_size), ceil_mode))


def _fake_adaptive(input, output_size):
    return _like(input, output_size)


def _fake_average_adjoint(grad_output, input_size, *geometry):
    return _like(grad_output, input_size)


_average = register("average_pool", fake=_fake_average, composite=_composite_average, flops=flops_none)
_average_adjoint = register(
    "average_pool_adjoint", fake=_fake_average_adjoint, composite=_composite_average_adjoint, flops=flops_none
)
_adaptive = register("adaptive_average_pool", fake=_fake_adaptive, composite=_composite_adaptive, flops=flops_none)
_adaptive_adjoint = register(
    "adaptive_average_pool_adjoint",
    fake=_fake_average_adjoint,
    composite=_composite_adaptive_adjoint,
    flops=flops_none,
)


def average_pool(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Return the sums of the windows over their divisor, (N, C, *output)."""
    call = _average if input.dtype in KERNEL_DTYPES else _composite_average
    return call(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def average_pool_adjoint(
    grad_output: Tensor,
    input_size: Sizes,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Spread each output's value evenly over its window, (N, C, *input_size)."""
    call = _average_adjoint if grad_output.dtype in KERNEL_DTYPES else _composite_average_adjoint
    return call(grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_average_pool(input: Tensor, output_size: Sizes) -> Tensor:
    """Average into ``output_size`` windows: output o covers [floor(o i / n), ceil((o + 1) i / n))."""
    call = _adaptive if input.dtype in KERNEL_DTYPES else _composite_adaptive
    return call(input, output_size)


def adaptive_average_pool_adjoint(grad_output: Tensor, input_size: Sizes) -> Tensor:
    """Spread each output's value evenly over its adaptive window, (N, C, *input_size)."""
    call = _adaptive_adjoint if grad_output.dtype in KERNEL_DTYPES else _composite_adaptive_adjoint
    return call(grad_output, input_size)
