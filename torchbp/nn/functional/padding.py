"""Padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, as_number, autocast_to, check_tensors
from torchbp.ops.padding import REPEATING, output_size, room, sides


def _pads(op: str, value: Any) -> tuple[int, ...]:
    """Return a tuple of ints."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{op}(): pad must be a tuple of ints, got {value!r}")
    try:
        return tuple([as_int(op, "pad", v) for v in value])
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): pad must be a tuple of ints of 64 bits, got {value!r}") from None


def _check_sizes(op: str, input: Tensor, size: Sequence[int], pads: Sequence[int], mode: str) -> None:
    """Raise where a padding cuts off more than there is, or repeats more than there is."""
    sizes = output_size(size, pads)
    fits = all(s >= 0 for s in sizes) and (mode in ("constant", "circular") or any(s > 0 for s in sizes))
    for axis, n in enumerate(size):
        before, after = sides(pads, axis)
        most = room(n, before, after, mode)
        fits = fits and (most is None or max(before, after) <= most)
        fits = fits and (mode != "constant" or (n + before >= 0 and n + after >= 0))
    if not fits:
        raise RuntimeError(f"{op}(): pad {tuple(pads)} does not fit input of shape {tuple(input.shape)}")


_pad_in_float32 = autocast_to("float32")(autograd.padding.pad)


@replayable
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Return the input with a border, constant or of repeated elements, or with its border cut off.

    Along a dimension of n elements, with i = o - before: y[o] = x[i] inside, and outside the constant, or x at
    -i or 2 (n - 1) - i (reflect), at 0 or n - 1 (replicate), at i mod n (circular).

    Shapes: ``pad`` has two values per dimension, for the sides before and after, the last dimension first. With
    a constant: any input. Otherwise input (N, C, *spatial) or (C, *spatial) with 1 to 3 spatial dimensions, all
    of them padded. The output has before + after elements more along each of them.

    Args:
        input: what is padded.
        pad: how much; a negative value cuts off. At most n - 1 to reflect, n to wrap around (after cutting off).
        mode: ``"constant"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        value: the constant, 0 by default; for mode ``"constant"`` only.

    Raises:
        RuntimeError: if a size or value does not fit.
        NotImplementedError: if the mode is none of the four, or ``pad`` has not as many values as it needs.
        TypeError: if an argument is of the wrong type.
    """
    op = "pad"
    check_tensors(op, input=input)
    pads = _pads(op, pad)
    if not isinstance(mode, str):
        raise TypeError(f"{op}(): mode must be a str, got {mode!r}")
    if isinstance(value, Tensor) and value.requires_grad:
        raise TypeError(f"{op}(): value must be a number without gradient, got {value!r}")
    constant = 0.0 if value is None else as_number(op, "value", value)
    if mode != "constant" and mode not in REPEATING:
        raise NotImplementedError(f"{op}(): mode must be constant, reflect, replicate or circular, got {mode!r}")
    if len(pads) % 2:
        raise RuntimeError(f"{op}(): pad must have an even number of values, got {pads}")
    if len(pads) > 2 * input.dim():
        raise RuntimeError(
            f"{op}(): pad must have at most two values per dimension of input, got {pads} for shape "
            f"{tuple(input.shape)}"
        )
    dimensions = len(pads) // 2
    size = input.shape[input.dim() - dimensions :]
    if mode == "constant":
        _check_sizes(op, input, size, pads, mode)
        return autograd.padding.constant_pad(input, pads, constant)
    if constant != 0:
        raise RuntimeError(f"{op}(): value is for mode 'constant' only, got {value!r} for mode {mode!r}")
    if dimensions not in (1, 2, 3) or input.dim() - dimensions not in (1, 2):
        raise NotImplementedError(
            f"{op}(): pad must have two values for each spatial dimension of input (N, C, *spatial) or (C, *spatial), "
            f"1 to 3 of them, got {pads} for shape {tuple(input.shape)}"
        )
    if mode != "circular":
        if 0 in input.shape[1 if input.dim() == dimensions + 2 else 0 :]:
            raise RuntimeError(f"{op}(): input must not be empty but for its batch, got shape {tuple(input.shape)}")
        if input.dtype == torch.bool:
            raise NotImplementedError(f"{op}(): input must not be bool for mode {mode!r}, got {input.dtype}")
    _check_sizes(op, input, size, pads, mode)
    batched = input.dim() == dimensions + 2
    # As the built-in: these are on its list of what runs in float32.
    in_float32 = mode == "replicate" or (mode == "reflect" and dimensions < 3)
    repeat = _pad_in_float32 if in_float32 else autograd.padding.pad
    y = repeat(input if batched else input.unsqueeze(0), pads, mode)
    return y if batched else y.squeeze(0)
