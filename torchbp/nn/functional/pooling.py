"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd, ops
from torchbp.nn.functional._arguments import (
    Sizes,
    as_int,
    as_tuple,
    check_flag,
    check_not_empty,
    check_tensors,
    with_batch,
)


def _window(op: str, dimensions: int, **lists: Any) -> dict[str, tuple[int, ...]]:
    """Return each list with one int per dimension; a stride that is None or empty is the kernel's size."""
    if lists["stride"] is None or (isinstance(lists["stride"], list | tuple) and not lists["stride"]):
        lists["stride"] = lists["kernel_size"]
    window = {name: as_tuple(op, name, value, dimensions) for name, value in lists.items()}
    for name, values in window.items():
        minimum = 0 if name == "padding" else 1
        if any(v < minimum for v in values):
            raise RuntimeError(f"{op}(): {name} must be at least {minimum}, got {values}")
    if any(p > k // 2 for p, k in zip(window["padding"], window["kernel_size"], strict=True)):
        raise RuntimeError(
            f"{op}(): padding must be at most half of kernel_size, got padding {window['padding']} and "
            f"kernel_size {window['kernel_size']}"
        )
    return window


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum of every window, and on request its place.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, H', W') with
    H' = floor((H + 2 padding - dilation (kernel - 1) - 1) / stride) + 1, rounded up with ``ceil_mode``.

    Args:
        input: the images.
        kernel_size: of the window.
        stride: of the windows; the kernel size by default.
        padding: on every side, never a winner; at most half of the kernel size.
        dilation: between the elements of a window.
        ceil_mode: whether a last window that is cut by the border counts.
        return_indices: whether to return also each winner's place in the flattened plane, int64.

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    op = "max_pool2d"
    x, unbatched = with_batch(op, input, 2)
    check_not_empty(op, x)
    window = _window(op, 2, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    check_flag(op, "ceil_mode", ceil_mode)
    y, winner = autograd.pooling.max_pool(x, **window, ceil_mode=ceil_mode)
    if not return_indices:
        return y.squeeze(0) if unbatched else y
    places = ops.pooling.winner_indices(winner, x.shape[2:], **window)
    return (y.squeeze(0), places.squeeze(0)) if unbatched else (y, places)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the average of every window.

    Shapes: as :func:`max_pool2d` without dilation.

    Args:
        input: the images.
        kernel_size: of the window.
        stride: of the windows; the kernel size by default.
        padding: zeros on every side; at most half of the kernel size.
        ceil_mode: whether a last window that is cut by the border counts.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: divides the sums instead of the window's size; not 0.

    Raises:
        RuntimeError: if a shape or value does not fit.
        IndexError: if the input has fewer than 3 dimensions.
        TypeError: if a size is not an int, or not ints.
    """
    op = "avg_pool2d"
    x, unbatched = with_batch(op, input, 2, too_few=IndexError)
    check_not_empty(op, x)
    window = _window(op, 2, kernel_size=kernel_size, stride=stride, padding=padding)
    check_flag(op, "ceil_mode", ceil_mode)
    check_flag(op, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        divisor_override = as_int(op, "divisor_override", divisor_override)
    if divisor_override == 0:
        raise RuntimeError(f"{op}(): divisor_override must not be zero, got {divisor_override}")
    if not (x.is_floating_point() or x.is_complex()):  # integers have no gradient, and divide in their own way
        return builtin.avg_pool2d(
            input, **window, ceil_mode=ceil_mode, count_include_pad=count_include_pad, divisor_override=divisor_override
        )
    y = autograd.pooling.average_pool(
        x,
        **window,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return y.squeeze(0) if unbatched else y


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Return averages over ``output_size`` windows that share the input evenly.

    Output o of n covers the inputs [floor(o i / n), ceil((o + 1) i / n)) of i.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size). A None keeps the input's size.

    Raises:
        RuntimeError: if a shape or value does not fit.
        ValueError: if the input has too few dimensions for a sequence of sizes.
        TypeError: if a size is neither an int nor None.
    """
    op = "adaptive_avg_pool2d"
    check_tensors(op, input=input)
    wanted: Any = output_size
    if isinstance(output_size, list | tuple):
        if input.dim() <= len(output_size):
            raise ValueError(
                f"{op}(): input must have more dimensions than output_size {output_size} has sizes, "
                f"got shape {tuple(input.shape)}"
            )
        if len(output_size) != 2:
            raise RuntimeError(f"{op}(): output_size must be an int or 2 ints, got {output_size!r}")
        wanted = tuple(
            [size if given is None else given for given, size in zip(output_size, input.shape[-2:], strict=True)]
        )
    x, unbatched = with_batch(op, input, 2)
    check_not_empty(op, x, start=2)
    sizes = as_tuple(op, "output_size", wanted, 2)
    if any(size < 0 for size in sizes):
        raise RuntimeError(f"{op}(): output_size must not be negative, got {sizes}")
    if not (x.is_floating_point() or x.is_complex()):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {x.dtype}")
    y = autograd.pooling.adaptive_average_pool(x, sizes)
    return y.squeeze(0) if unbatched else y
