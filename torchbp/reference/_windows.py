"""Where a sliding window looks: the index arithmetic of convolution and pooling, in any dimension.

A window of `kernel_size` taps slides over a plane of `input_size` values. In every dimension, the tap `t` of
the window at output position `i` reads the input at

    source = i * stride - padding + t * dilation

and a source outside the input is padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def check_window(
    dims: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> None:
    """Raise RuntimeError unless every argument has `dims` entries, none of them too small."""
    for name, values, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if len(values) != dims:
            raise RuntimeError(f"{name} must have one entry for each spatial dimension ({dims}), got {values}")
        if any(value < least for value in values):
            raise RuntimeError(f"{name} must be at least {least} in every dimension, got {values}")


def source_of(
    position: tuple[int, ...],
    tap: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Return the input index that one tap reads for one output position; outside the input it is padding."""
    return tuple(i * s - p + t * d for i, t, s, p, d in zip(position, tap, stride, padding, dilation, strict=True))


def is_inside(source: tuple[int, ...], input_size: tuple[int, ...]) -> bool:
    """Tell whether an index lies inside the input."""
    return all(0 <= index < size for index, size in zip(source, input_size, strict=True))


def taps_inside(
    position: tuple[int, ...],
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield `(tap, source)` for the taps that fall inside the input, in row-major order of the taps."""
    for tap in np.ndindex(*kernel_size):
        source = source_of(position, tap, stride, padding, dilation)
        if is_inside(source, input_size):
            yield tap, source
