"""Sampling at the points of a grid, and the grid of an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, autocast_to, check_flag, check_tensors, warn

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def _corners(op: str, align_corners: Any) -> bool:
    """Return the flag, False with a warning at the caller's caller's caller if it is None."""
    if align_corners is None:
        warn(f"{op}(): align_corners should be given, got None; it is taken as False", stacklevel=4)
        return False
    check_flag(op, "align_corners", align_corners)
    return align_corners


def _check_image_and_grid(op: str, input: Tensor, grid: Tensor, mode: str) -> None:
    for name, tensor in (("input", input), ("grid", grid)):
        if tensor.dim() == 0:
            raise IndexError(f"{op}(): {name} must have dimensions, got shape ()")
    if input.dim() not in (4, 5):
        raise RuntimeError(f"{op}(): input must be 4D (N, C, H, W) or 5D (N, C, D, H, W), got {tuple(input.shape)}")
    if grid.dim() != input.dim() or grid.shape[-1] != input.dim() - 2:
        raise RuntimeError(
            f"{op}(): grid must be (N, *points, {input.dim() - 2}) with as many dimensions as input, got shapes "
            f"{tuple(input.shape)} and {tuple(grid.shape)}"
        )
    if input.shape[0] != grid.shape[0]:
        raise RuntimeError(
            f"{op}(): grid must have input's batch size, got shapes {tuple(input.shape)} and {tuple(grid.shape)}"
        )
    if 0 in input.shape[2:]:
        raise RuntimeError(f"{op}(): input must not be empty from dimension 2 on, got shape {tuple(input.shape)}")
    if mode == "bicubic" and input.dim() == 5:
        raise RuntimeError(f"{op}(): mode must be 'bilinear' or 'nearest' for a 5D input, got {mode!r}")
    for name, tensor in (("input", input), ("grid", grid)):
        if tensor.layout != torch.strided:
            raise NotImplementedError(f"{op}(): {name} must be dense, got layout {tensor.layout}")
    if not (input.is_floating_point() or input.is_complex()):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {input.dtype}")
    dtype = input.real.dtype if input.is_complex() else input.dtype
    if grid.dtype != dtype or grid.device != input.device:
        raise RuntimeError(
            f"{op}(): grid must have input's real dtype and device, {dtype} on {input.device}, "
            f"got {grid.dtype} on {grid.device}"
        )


@replayable
@autocast_to("float32")
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Return an image's values at the points of a grid, interpolated.

    With u the pixel coordinates of a point, y = sum over the pixels i near u of w(u - i) x[i], w the product over
    dimensions of the hat function (bilinear), the indicator of the nearest pixel, or Keys' cubic with a = -3/4
    (bicubic; "Cubic convolution interpolation for digital image processing", 1981). Jaderberg et al., "Spatial
    transformer networks" (2015), have the gradients; here derivatives of every order exist.

    Shapes: input (N, C, H, W) and grid (N, H', W', 2), output (N, C, H', W'); or input (N, C, D, H, W) and grid
    (N, D', H', W', 3), output (N, C, D', H', W').

    Args:
        input: the images; also complex.
        grid: points as (x, y) or (x, y, z), where -1 and 1 are the image's borders; any real number.
        mode: ``"bilinear"`` (trilinear in 5D), ``"nearest"`` or ``"bicubic"`` (4D only).
        padding_mode: what stands outside the image: ``"zeros"``, the nearest pixel of the ``"border"``, or the image's
            ``"reflection"``.
        align_corners: whether -1 and 1 are the centres of the outermost pixels instead of their outer edges; None is
            taken as False, with a warning.

    Raises:
        ValueError: if ``mode`` or ``padding_mode`` is none of these.
        RuntimeError: if a shape, a dtype or a device does not fit.
        IndexError: if a tensor has no dimensions.
        NotImplementedError: if the input is not floating-point, or a tensor not dense.
        TypeError: if an argument is not a Tensor or ``align_corners`` not a bool.
    """
    op = "grid_sample"
    for name, value, allowed in (("mode", mode, _MODES), ("padding_mode", padding_mode, _PADDINGS)):
        if value not in allowed:
            raise ValueError(f"{op}(): {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    align_corners = _corners(op, align_corners)
    check_tensors(op, input=input, grid=grid)
    _check_image_and_grid(op, input, grid, mode)
    return autograd.sampling.grid_sample(input, grid, mode, padding_mode, align_corners)


@autocast_to("lower precision")
def _affine_grid(theta: Tensor, size: tuple[int, ...], align_corners: bool, dtype: torch.dtype) -> Tensor:
    return autograd.sampling.affine_grid(theta, size, align_corners, dtype)


@replayable
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Return the grid that :func:`grid_sample` needs to map an image by affine maps.

    y[n, p] = theta[n] (p, 1) for every pixel's centre p in [-1, 1]^D, D = 2 or 3 (Jaderberg et al., "Spatial
    transformer networks", 2015, section 3.2).

    Shapes: theta (N, 2, 3) and size (N, C, H, W), output (N, H, W, 2); or theta (N, 3, 4) and size (N, C, D, H, W),
    output (N, D, H, W, 3).

    Args:
        theta: a matrix per image.
        size: the output image's; C does not matter.
        align_corners: as for :func:`grid_sample`; with True a dimension of size one, whose only point is 0, is warned
            of.

    Raises:
        ValueError: if ``theta`` is not floating-point or does not fit ``size``, or a size is not positive.
        NotImplementedError: if ``size`` is neither 4 nor 5 ints.
        RuntimeError: if the batch sizes differ.
        TypeError: if ``theta`` is not a Tensor, ``size`` not ints, or ``align_corners`` not a bool.
    """
    op = "affine_grid"
    check_tensors(op, theta=theta)
    align_corners = _corners(op, align_corners)
    if not theta.is_floating_point():
        raise ValueError(f"{op}(): theta must be floating-point, got {theta.dtype}")
    if not isinstance(size, list | tuple):
        raise TypeError(f"{op}(): size must be 4 or 5 ints, got {size!r}")
    if len(size) not in (4, 5):
        raise NotImplementedError(f"{op}(): size must be 4 or 5 ints, got {size!r}")
    try:
        sizes = tuple([as_int(op, "size", int(v) if isinstance(v, bool) else v) for v in size])
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): size must be 4 or 5 ints of 64 bits, got {size!r}") from None
    dimensions = len(sizes) - 2
    if tuple(theta.shape[1:]) != (dimensions, dimensions + 1):
        raise ValueError(
            f"{op}(): theta must be (N, {dimensions}, {dimensions + 1}) for size {sizes}, got {tuple(theta.shape)}"
        )
    unit = align_corners and min(sizes[2:]) == 1
    if unit:
        warn(
            f"{op}(): size should have no dimension of one with align_corners, got {sizes}; its point is 0",
            stacklevel=2,
        )
    if min(sizes[2:] if unit else sizes) <= 0:
        raise ValueError(f"{op}(): size must be positive, got {sizes}")
    if theta.shape[0] != sizes[0]:
        raise RuntimeError(f"{op}(): theta must have the batch size {sizes[0]} of size, got {tuple(theta.shape)}")
    return _affine_grid(theta, sizes[2:], align_corners, theta.dtype)
