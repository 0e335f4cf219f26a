"""Shuffles: channels into pixels and back, channels among groups."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, check_tensors


def _positive(op: str, name: str, value: int) -> int:
    value = as_int(op, name, value)
    if value <= 0:
        raise RuntimeError(f"{op}(): {name} must be positive, got {value}")
    return value


def _images(op: str, input: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return (N, C, H, W) and the leading sizes that N stands for."""
    check_tensors(op, input=input)
    if input.dim() < 3:
        raise RuntimeError(f"{op}(): input must have at least 3 dimensions, got shape {tuple(input.shape)}")
    lead = input.shape[:-3]
    return (input if len(lead) == 1 else input.reshape(lead.numel(), *input.shape[-3:])), tuple(lead)


def _shuffled(shuffle: Callable[[Tensor, int], Tensor], x: Tensor, lead: tuple[int, ...], factor: int) -> Tensor:
    y = shuffle(x, factor)
    return y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])


@replayable
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Spread r² channels over r × r pixels, y[c, r i + a, r j + b] = x[r² c + r a + b, i, j].

    (Shi and others, "Real-Time Single Image and Video Super-Resolution", 2016.)

    Shapes: input (*, r² C, H, W); output (*, C, r H, r W), with r = ``upscale_factor``.

    Raises:
        RuntimeError: if the shape or the factor does not fit.
        ValueError: if the factor's square overflows.
        TypeError: if the factor is not an int.
    """
    op = "pixel_shuffle"
    x, lead = _images(op, input)
    factor = _positive(op, "upscale_factor", upscale_factor)
    if factor * factor >= 2**63:
        raise ValueError(f"{op}(): upscale_factor squared must be an int of 64 bits, got {upscale_factor}")
    if x.shape[1] % (factor * factor):
        raise RuntimeError(
            f"{op}(): input must have a multiple of upscale_factor² channels, got shape {tuple(input.shape)} and "
            f"upscale_factor {factor}"
        )
    return _shuffled(autograd.shuffle.pixel_shuffle, x, lead, factor)


@replayable
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Gather r × r pixels into r² channels, the inverse of :func:`pixel_shuffle`.

    Shapes: input (*, C, r H, r W); output (*, r² C, H, W), with r = ``downscale_factor``.

    Raises:
        RuntimeError: if the shape or the factor does not fit.
        TypeError: if the factor is not an int.
    """
    op = "pixel_unshuffle"
    x, lead = _images(op, input)
    factor = _positive(op, "downscale_factor", downscale_factor)
    if x.shape[2] % factor or x.shape[3] % factor:
        raise RuntimeError(
            f"{op}(): input's height and width must be multiples of downscale_factor, got shape {tuple(input.shape)} "
            f"and downscale_factor {factor}"
        )
    return _shuffled(autograd.shuffle.pixel_unshuffle, x, lead, factor)


@replayable
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Deal the channels out, y[:, j g + i] = x[:, i C / g + j] (Zhang and others, "ShuffleNet", 2018).

    Shapes: input and output (N, C, *), at least 3 dimensions.

    Raises:
        RuntimeError: if the shape or ``groups`` does not fit.
        TypeError: if ``groups`` is not an int.
    """
    op = "channel_shuffle"
    check_tensors(op, input=input)
    if input.dim() < 3:
        raise RuntimeError(f"{op}(): input must have at least 3 dimensions, got shape {tuple(input.shape)}")
    groups = _positive(op, "groups", groups)
    if input.shape[1] % groups:
        raise RuntimeError(
            f"{op}(): groups must divide the number of channels, got groups {groups} for an input of shape "
            f"{tuple(input.shape)}"
        )
    return autograd.shuffle.channel_shuffle(input, groups)
