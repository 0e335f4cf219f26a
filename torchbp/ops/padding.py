"""Padding by reflection, replication, wrapping around and zeros, and its adjoint, as raw operators without gradient.

Tensors are (N, C, *spatial) with 1 to 3 spatial dimensions. ``padding`` is torch.nn.functional.pad's: two values
per spatial dimension, the last dimension first; a negative one cuts elements off. Padding with
another constant, of other dimensions or dtypes, or of few elements, is ATen's own operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from torchbp._extension import kernels_status
from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, memory_format_of, register
from torchbp.ops.separable import select, spread

Sizes = Sequence[int]
REPEATING = ("reflect", "replicate", "circular")
MODES = (*REPEATING, "zeros")
_LONG_ROW = 48  # elements; shorter rows ATen pads by zeros faster, unless vectors are permuted and
_MANY = 1 << 14  # elements are padded


def sides(padding: Sizes, axis: int) -> tuple[int, int]:
    """Return what a spatial dimension gains before and after its elements."""
    return padding[len(padding) - 2 * axis - 2], padding[len(padding) - 2 * axis - 1]


def output_size(input_size: Sizes, padding: Sizes) -> list[int]:
    """Return the spatial size after padding."""
    return [size + sum(sides(padding, axis)) for axis, size in enumerate(input_size)]


def room(size: int, before: int, after: int, mode: str) -> int | None:
    """Return how many elements of a dimension may be repeated on a side; None for any number."""
    if mode == "reflect":
        return size - 1
    return size + min(before, 0) + min(after, 0) if mode == "circular" else None


def _check(op: str, input_size: Sizes, padding: Sizes, mode: str) -> list[int]:
    torch._check(mode in MODES, lambda: f"{op}: mode must be one of {MODES}, but got {mode}")
    torch._check(
        len(padding) == 2 * len(input_size),
        lambda: f"{op}: padding must have {2 * len(input_size)} values, two per spatial dimension, got {list(padding)}",
    )
    sizes = output_size(input_size, padding)
    for axis, (size, padded) in enumerate(zip(input_size, sizes, strict=True)):
        before, after = sides(padding, axis)
        most = room(size, before, after, mode)
        least = 1 if mode in ("reflect", "replicate") else 0
        torch._check(
            size >= least and padded >= 0 and (most is None or (before <= most and after <= most)),
            lambda: f"{op}: padding {list(padding)} does not fit an input of size {list(input_size)}",
        )
    return sizes


def _indices(input_size: Sizes, padding: Sizes, mode: str, device: torch.device) -> list[Tensor]:
    """Return, per dimension, the place in the input of each output."""
    indices = []
    for axis, size in enumerate(input_size):
        before, after = sides(padding, axis)
        i = torch.arange(size + before + after, device=device) - before
        if mode == "reflect":
            i = torch.where(i < 0, -i, i)
            i = torch.where(i >= size, 2 * (size - 1) - i, i)
        elif mode == "replicate":
            i = i.clamp(0, size - 1)
        else:
            start, left = max(-before, 0), size + min(before, 0) + min(after, 0)
            i = start + (i - start) % max(left, 1)
        indices.append(i)
    return indices


def _format(tensor: Tensor, mode: str) -> torch.memory_format:
    return torch.contiguous_format if mode == "circular" else memory_format_of(tensor)


def _empty(tensor: Tensor, size: Sizes, mode: str) -> Tensor:
    shape = (*tensor.shape[:2], *size)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=_format(tensor, mode))


def _fake_pad(input, padding, mode):
    return _empty(input, _check("pad", input.shape[2:], padding, mode), mode)


def _composite_pad(input, padding, mode):
    _check("pad", input.shape[2:], padding, mode)
    if mode == "zeros":
        return torch.constant_pad_nd(input, padding)
    return laid_out(select(input, _indices(input.shape[2:], padding, mode, input.device)), _format(input, mode))


def _fake_pad_adjoint(grad_output, input_size, padding, mode):
    sizes = _check("pad_adjoint", input_size, padding, mode)
    torch._check(
        list(grad_output.shape[2:]) == sizes,
        lambda: f"pad_adjoint: grad_output must have the size {sizes}, but got shape {tuple(grad_output.shape)}",
    )
    return _empty(grad_output, input_size, mode)


def _composite_pad_adjoint(grad_output, input_size, padding, mode):
    _check("pad_adjoint", input_size, padding, mode)
    if mode == "zeros":
        return torch.constant_pad_nd(grad_output, [-p for p in padding])
    indices = _indices(input_size, padding, mode, grad_output.device)
    return laid_out(spread(grad_output, indices, input_size), _format(grad_output, mode))


_pad = register("pad", fake=_fake_pad, composite=_composite_pad, flops=flops_none)
_pad_adjoint = register("pad_adjoint", fake=_fake_pad_adjoint, composite=_composite_pad_adjoint, flops=flops_none)


def pad(input: Tensor, padding: Sizes, mode: str) -> Tensor:
    """Return the input with its borders repeated, or zeros around it, (N, C, *output)."""
    call = _pad if input.dtype in KERNEL_DTYPES else _composite_pad
    return call(input, padding, mode)


def pad_adjoint(grad_output: Tensor, input_size: Sizes, padding: Sizes, mode: str) -> Tensor:
    """Add each element to the one that it repeats, (N, C, *input_size); zeros are left out."""
    # To cut off is a copy, which ATen's is.
    call = _pad_adjoint if grad_output.dtype in KERNEL_DTYPES and mode != "zeros" else _composite_pad_adjoint
    return call(grad_output, input_size, padding, mode)


def surrounds(input: Tensor, padding: Sizes) -> bool:
    """Tell whether ``pad`` by zeros takes the input and is faster than ``constant_pad``: not where rows are short."""
    images = 2 <= len(padding) <= 6 and input.dim() == 2 + len(padding) // 2
    if torch.compiler.is_compiling() or not (images and input.is_cpu and input.dtype in (torch.float32, torch.float64)):
        return False
    if input.shape[-1] >= _LONG_ROW or memory_format_of(input) != torch.contiguous_format:
        return True
    return input.numel() >= _MANY and _permutes()


@cache
def _permutes() -> bool:
    return kernels_status()["instruction_set"] in ("avx2", "avx512")


def constant_pad(input: Tensor, padding: Sizes, value: float = 0.0) -> Tensor:
    """Return the input with a constant around it; any number of dimensions. The adjoint is padding by -padding."""
    return torch.constant_pad_nd(input, padding, value)
