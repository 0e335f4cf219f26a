"""Max and average pooling and their adjoints, as raw operators without gradient.

Tensors are (N, C, *spatial) with 1 to 3 spatial dimensions; each list has one value per spatial
dimension. Max pooling also returns the *winner* of every output: the row-major place of the maximum
inside its window (uint8 up to 256 taps, int32 beyond), all that its two linear maps need. Ties go to the
first tap, a NaN wins over everything (the last of several), padding never wins.
"""

from __future__ import annotations

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
_scatter = register("max_pool_scatter", fake=_fake_scatter, composite=_composite_scatter, flops=flops_none)
_gather = register("max_pool_gather", fake=_fake_gather, composite=_composite_gather, flops=flops_none)


def max_pool(
    input: Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    """Return the maxima of the windows and their winners, both (N, C, *output)."""
    call = _max if input.dtype in KERNEL_DTYPES else _composite_max
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
# Average pooling. The composite formula uses that the average is separable: one banded matrix per
# dimension, y = M_1 ... M_d x, and the adjoint uses the transposed matrices.


def _average_format(tensor: Tensor) -> torch.memory_format:
    return memory_format_of(tensor) if tensor.dim() == 4 else torch.contiguous_format


def _like(tensor: Tensor, sizes: Sizes) -> Tensor:
    shape = (*tensor.shape[:2], *sizes)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=_average_format(tensor))


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
    return laid_out(multiply(matrices, x, transpose), _average_format(x))


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


def _fake_average_adjoint(grad_output, input_size, *geometry):
    return _like(grad_output, input_size)


_average = register("average_pool", fake=_fake_average, composite=_composite_average, flops=flops_none)
_average_adjoint = register(
    "average_pool_adjoint", fake=_fake_average_adjoint, composite=_composite_average_adjoint, flops=flops_none
)
_adaptive = register("adaptive_average_pool", fake=_like, composite=_composite_adaptive, flops=flops_none)
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
