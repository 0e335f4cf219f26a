"""Interpolation."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, autocast_to, check_flag, check_tensors, warn

# The name of each mode of the operator in 1, 2 and 3 spatial dimensions.
_MODES = {
    "nearest": ("nearest",) * 3,
    "nearest-exact": ("nearest-exact",) * 3,
    "area": ("area",) * 3,
    "linear": ("linear", "bilinear", "trilinear"),
    "cubic": (None, "bicubic", None),
    "lanczos": (None, "lanczos", None),
}
_WITHOUT_CORNERS = ("nearest", "nearest-exact", "area")


def _per_dimension(op: str, name: str, value: Any, dimensions: int) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        return (value,) * dimensions
    if len(value) != dimensions:
        raise ValueError(
            f"{op}(): {name} must have one value per spatial dimension of input, {dimensions}, got {value!r}"
        )
    return value


def _as_float(op: str, value: Any, given: Any) -> Any:
    if isinstance(given, Tensor) or not isinstance(value, numbers.Real | torch.SymFloat | torch.SymInt | Tensor):
        raise TypeError(f"{op}(): scale_factor must be a number or numbers, got {given!r}")
    return value if isinstance(value, torch.SymFloat | torch.SymInt) else float(value)


def _scaled(op: str, size: int, scale: float, recomputed: bool) -> int:
    """Return the size after scaling; where it is no int of 64 bits, raise what the built-in raises."""
    try:
        scaled = int(size * scale)
    except (OverflowError, ValueError) as error:
        kind = type(error) if recomputed else RuntimeError
        raise kind(f"{op}(): scale_factor must be finite, got {scale}") from None
    if not -(2**63) <= scaled < 2**63:
        raise RuntimeError(f"{op}(): scale_factor must leave a size of 64 bits, got {scale}")
    return scaled


@autocast_to("float32")
def _area_3d(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return autograd.pooling.adaptive_average_pool(x, sizes)


@replayable
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return the input at another size.

    Along each spatial dimension, output o of m stands at s (o + 1/2) - 1/2 of the n inputs, with s = n / m, or at
    s o with s = (n - 1) / (m - 1) if the corners are aligned. It is the nearest input, or a weighted sum of those
    beside it: 2 (linear), 4 (cubic convolution, slope -3/4), or all that a filter widened by s reaches
    (antialias: triangle, cubic with slope -1/2, Lanczos of radius 3), or the average over its share (area).

    Shapes: input (N, C, *spatial) with 1 to 3 spatial dimensions; output (N, C, *size).

    Args:
        input: the images.
        size: the output's, at least 1 (0 for area).
        scale_factor: outputs per input, positive; the size is rounded down. One of the two must be given.
        mode: ``"nearest"`` (rounding down), ``"nearest-exact"``, ``"area"``; ``"linear"``, ``"bilinear"`` or
            ``"trilinear"`` for 1, 2, 3 dimensions; ``"bicubic"``, ``"lanczos"`` (with antialias) for 2.
        align_corners: whether the corners' centres meet; not for nearest and area.
        recompute_scale_factor: whether s comes from the sizes although a scale_factor is given.
        antialias: for bilinear, bicubic and lanczos.

    Raises:
        ValueError: if the arguments contradict each other.
        RuntimeError: if a size or scale is out of range, or the input is empty but for its batch.
        NotImplementedError: if the mode does not go with the input's dimensions or dtype.
        TypeError: if an argument is of the wrong type.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    op = "interpolate"
    check_tensors(op, input=input)
    shape = tuple(input.shape)
    if mode in _WITHOUT_CORNERS and align_corners is not None:
        raise ValueError(f"{op}(): align_corners must be None for mode {mode!r}, got {align_corners!r}")
    dimensions = input.dim() - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}(): one of size and scale_factor must be given, got {size!r} and {scale_factor!r}")
    sizes: tuple[Any, ...] = ()
    scales: tuple[Any, ...] = ()
    if size is not None:
        sizes = tuple(_per_dimension(op, "size", size, dimensions))
        if recompute_scale_factor:
            raise ValueError(f"{op}(): recompute_scale_factor must not be set with a size, got {size!r}")
    else:
        scales = tuple(_per_dimension(op, "scale_factor", scale_factor, dimensions))
    if antialias and not (mode in ("bilinear", "bicubic", "lanczos") and input.dim() == 4):
        raise ValueError(
            f"{op}(): antialias is for modes bilinear, bicubic and lanczos and 4D input, got mode {mode!r} and "
            f"shape {shape}"
        )
    method = next((m for m, names in _MODES.items() if 1 <= dimensions <= 3 and names[dimensions - 1] == mode), None)
    if method is None:
        raise NotImplementedError(f"{op}(): mode {mode!r} does not go with input of shape {shape}")
    if method == "lanczos" and (align_corners or not antialias):
        raise ValueError(f"{op}(): mode 'lanczos' needs antialias and no align_corners, got {antialias!r}")
    corners = False if align_corners is None else align_corners
    check_flag(op, "align_corners", corners)
    scales = tuple([_as_float(op, s, scale_factor) for s in scales])
    if not input.is_floating_point():  # bytes have rounding of their own; the others are refused
        return builtin.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    if scales:
        recomputed = bool(recompute_scale_factor) or method == "area"
        sizes = tuple([_scaled(op, n, s, recomputed) for n, s in zip(shape[2:], scales, strict=True)])
        if recomputed:
            scales = ()
    try:
        sizes = tuple([as_int(op, "size", s) for s in sizes])
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): size must be an int or {dimensions} ints of 64 bits, got {size!r}") from None
    least = 0 if method == "area" else 1
    if any(s < least for s in sizes):
        given = f"size {size!r}" if size is not None else f"scale_factor {scale_factor!r}"
        raise RuntimeError(f"{op}(): {given} must leave outputs of input of shape {shape}, got sizes {sizes}")
    if 0 in shape[(2 if method == "area" and dimensions < 3 else 1) :]:
        raise RuntimeError(f"{op}(): input must not be empty but for its batch, got shape {shape}")
    if method == "area":
        return (_area_3d if dimensions == 3 else autograd.pooling.adaptive_average_pool)(input, sizes)
    return autograd.interpolation.interpolate(input, sizes, method, corners, bool(antialias), scales)


def _deprecated(name: str) -> None:
    warn(f"{name}() is deprecated; use interpolate() instead", stacklevel=3)


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Return :func:`interpolate` of the same arguments; deprecated, as the built-in."""
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """Return :func:`interpolate` with mode ``"nearest"``; deprecated, as the built-in."""
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """Return :func:`interpolate` with mode ``"bilinear"`` and aligned corners; deprecated, as the built-in."""
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)
