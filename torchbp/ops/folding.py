"""Unfolding an image into the columns of its windows, and folding them back, as raw operators without gradient.

Images are (N, C, *spatial) with 1 to 3 spatial dimensions, columns (N, C * window, positions), windows and positions
in row-major order. Each is the adjoint of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, register
from torchbp.ops.separable import select, spread

Sizes = Sequence[int]


def positions(input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    """Return the number of windows along each dimension; below 1 where the window does not fit."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    ]


def _check(op: str, input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    lists = {
        "the image's size": (input_size, 1),
        "kernel_size": (kernel_size, 1),
        "stride": (stride, 1),
        "padding": (padding, 0),
        "dilation": (dilation, 1),
    }
    for name, (values, minimum) in lists.items():
        torch._check(
            len(values) == len(input_size) and all(v >= minimum for v in values),
            lambda name=name, values=values, minimum=minimum: (
                f"{op}: {name} must be {len(input_size)} values of at least {minimum}, but got {list(values)}"
            ),
        )
    counts = positions(input_size, kernel_size, stride, padding, dilation)
    torch._check(
        all(count >= 1 for count in counts),
        lambda: f"{op}: kernel_size {list(kernel_size)} leaves no position in an image of size {list(input_size)}",
    )
    return counts


def _indices(counts: Sizes, kernel_size: Sizes, stride: Sizes, dilation: Sizes, device) -> list[Tensor]:
    """Return, per dimension, the place in the padded image of each tap at each position."""
    return [
        (torch.arange(k, device=device)[:, None] * d + torch.arange(o, device=device) * s).flatten()
        for o, k, s, d in zip(counts, kernel_size, stride, dilation, strict=True)
    ]


def _border(padding: Sizes) -> list[int]:
    return [side for p in reversed(padding) for side in (p, p)]


def _fake_unfold(input, kernel_size, stride, padding, dilation):
    counts = _check("unfold", input.shape[2:], kernel_size, stride, padding, dilation)
    return input.new_empty((input.shape[0], input.shape[1] * math.prod(kernel_size), math.prod(counts)))


def _composite_unfold(input, kernel_size, stride, padding, dilation):
    counts = _check("unfold", input.shape[2:], kernel_size, stride, padding, dilation)
    n = len(counts)
    padded = torch.constant_pad_nd(input, _border(padding))
    windows = select(padded, _indices(counts, kernel_size, stride, dilation, input.device))
    pairs = [size for pair in zip(kernel_size, counts, strict=True) for size in pair]
    order = (0, 1, *range(2, 2 + 2 * n, 2), *range(3, 2 + 2 * n, 2))  # taps before positions
    shape = (input.shape[0], input.shape[1] * math.prod(kernel_size), math.prod(counts))
    columns = windows.reshape(*input.shape[:2], *pairs).permute(order).reshape(shape)
    return laid_out(columns, torch.contiguous_format)


def _channels(input, output_size, kernel_size, counts) -> int:
    torch._check(
        input.dim() == 3 and input.shape[1] % math.prod(kernel_size) == 0 and input.shape[2] == math.prod(counts),
        lambda: (
            f"fold: input must be (N, channels * {math.prod(kernel_size)}, {math.prod(counts)}) for output_size "
            f"{list(output_size)} and kernel_size {list(kernel_size)}, but got shape {tuple(input.shape)}"
        ),
    )
    return input.shape[1] // math.prod(kernel_size)


def _fake_fold(input, output_size, kernel_size, stride, padding, dilation):
    counts = _check("fold", output_size, kernel_size, stride, padding, dilation)
    return input.new_empty((input.shape[0], _channels(input, output_size, kernel_size, counts), *output_size))


def _composite_fold(input, output_size, kernel_size, stride, padding, dilation):
    counts = _check("fold", output_size, kernel_size, stride, padding, dilation)
    n, channels = len(counts), _channels(input, output_size, kernel_size, counts)
    order = (0, 1, *[axis for d in range(n) for axis in (2 + d, 2 + n + d)])
    windows = input.reshape(input.shape[0], channels, *kernel_size, *counts).permute(order)
    merged = [k * o for k, o in zip(kernel_size, counts, strict=True)]
    padded_size = [size + 2 * p for size, p in zip(output_size, padding, strict=True)]
    indices = _indices(counts, kernel_size, stride, dilation, input.device)
    padded = spread(windows.reshape(input.shape[0], channels, *merged), indices, padded_size)
    return laid_out(torch.constant_pad_nd(padded, [-p for p in _border(padding)]), torch.contiguous_format)


_unfold = register("unfold", fake=_fake_unfold, composite=_composite_unfold, flops=flops_none)
_fold = register("fold", fake=_fake_fold, composite=_composite_fold, flops=flops_none)


def unfold(input: Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Tensor:
    """Return the windows of the input as columns, (N, C * window, positions); zeros outside the input."""
    call = _unfold if input.dtype in KERNEL_DTYPES else _composite_unfold
    return call(input, kernel_size, stride, padding, dilation)


def fold(
    input: Tensor, output_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Tensor:
    """Add the columns' elements to where ``unfold`` takes them from, (N, C, *output_size)."""
    call = _fold if input.dtype in KERNEL_DTYPES else _composite_fold
    return call(input, output_size, kernel_size, stride, padding, dilation)
