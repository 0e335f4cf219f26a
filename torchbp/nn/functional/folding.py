"""Unfolding and folding."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import Sizes, as_tuple, check_tensors, with_batch
from torchbp.ops.folding import positions


def _pairs(op: str, **lists: Any) -> dict[str, tuple[int, ...]]:
    """Return each list as two ints of at least 1 (0 for padding)."""
    pairs = {}
    for name, value in lists.items():
        if isinstance(value, list | tuple) and len(value) != 2:
            raise RuntimeError(f"{op}(): {name} must be an int or 2 ints, got {value!r}")
        try:
            pairs[name] = as_tuple(op, name, value, 2)
        except ValueError as error:
            raise TypeError(str(error)) from None
    for name, values in pairs.items():
        minimum = 0 if name == "padding" else 1
        if any(v < minimum for v in values):
            raise RuntimeError(f"{op}(): {name} must be at least {minimum}, got {values}")
    return pairs


def _positions(op: str, name: str, size: Any, window: dict[str, tuple[int, ...]]) -> list[int]:
    counts = positions(size, **window)
    if any(count < 1 for count in counts):
        raise RuntimeError(
            f"{op}(): kernel_size {window['kernel_size']} with dilation {window['dilation']} and padding "
            f"{window['padding']} does not fit {name} {tuple(size)}"
        )
    return counts


@replayable
def unfold(input: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Tensor:
    """Return the windows of the images as columns.

    y[n, (c, i, j), (p, q)] = x[n, c, stride p + dilation i - padding, stride q + dilation j - padding], and zero
    outside x.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C kh kw, H' W') or without N, with
    H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.

    Args:
        input: the images.
        kernel_size: of the window.
        dilation: between the elements of a window.
        padding: zeros on every side.
        stride: of the windows.

    Raises:
        RuntimeError: if a shape or value does not fit.
        IndexError: if the input has fewer than 3 dimensions.
        NotImplementedError: if the input is of integers.
        TypeError: if a size is not an int, or not ints.
    """
    op = "unfold"
    check_tensors(op, input=input)
    window = _pairs(op, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    x, unbatched = with_batch(op, input, 2, too_few=IndexError)
    if 0 in x.shape[1:]:
        raise RuntimeError(f"{op}(): input must not be empty but for its batch, got shape {tuple(input.shape)}")
    _positions(op, "input of size", x.shape[2:], window)
    if not (x.is_floating_point() or x.is_complex()):  # without gradient; integers are refused
        return builtin.unfold(input, **window)
    y = autograd.folding.unfold(x, **window)
    return y.squeeze(0) if unbatched else y


@replayable
def fold(
    input: Tensor,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Tensor:
    """Return images in which the columns' elements are added up where :func:`unfold` takes them from.

    Shapes: input (N, C kh kw, H' W') or without N; output (N, C, H, W) or without N.

    Args:
        input: the columns.
        output_size: (H, W).
        kernel_size: of the window.
        dilation: between the elements of a window.
        padding: cut off on every side.
        stride: of the windows.

    Raises:
        RuntimeError: if a shape or value does not fit.
        NotImplementedError: if the input is of integers.
        TypeError: if a size is not an int, or not ints.
    """
    op = "fold"
    check_tensors(op, input=input)
    if input.dim() not in (2, 3) or 0 in input.shape[-2:]:
        raise RuntimeError(
            f"{op}(): input must be (channels * window, positions) or (N, channels * window, positions), empty at "
            f"most in N, got shape {tuple(input.shape)}"
        )
    window = _pairs(
        op, output_size=output_size, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    size = window.pop("output_size")
    counts = _positions(op, "output_size", size, window)
    taps = math.prod(window["kernel_size"])
    if input.shape[-2] % taps or input.shape[-1] != math.prod(counts):
        raise RuntimeError(
            f"{op}(): input must have a multiple of {taps} rows and {math.prod(counts)} columns for output_size {size} "
            f"and kernel_size {window['kernel_size']}, got shape {tuple(input.shape)}"
        )
    if not (input.is_floating_point() or input.is_complex()):  # without gradient; integers are refused
        return builtin.fold(input, size, **window)
    unbatched = input.dim() == 2
    y = autograd.folding.fold(input.unsqueeze(0) if unbatched else input, size, **window)
    return y.squeeze(0) if unbatched else y
