"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import (
    Sizes,
    as_int,
    as_tuples,
    autocast_to,
    check_same_type,
    check_tensors,
    remembers_plain,
    with_batch,
)


def _same_padding(op: str, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Return the padding of padding="same", before and after; the odd one of an even kernel stands after."""
    if any(s != 1 for s in stride):
        raise RuntimeError(f"{op}(): padding='same' is not supported for strided convolutions, got stride {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return before if before == after else before + after


@remembers_plain
def _geometry(op: str, dimensions: int, **lists: Any) -> tuple[tuple[int, ...], ...]:
    """Return each list with one int per dimension: strides and dilations positive, paddings not negative."""
    tuples = as_tuples(op, dimensions, **lists)
    for name, values in zip(lists, tuples, strict=True):
        if name in ("stride", "dilation"):
            if any(v <= 0 for v in values):
                raise RuntimeError(f"{op}(): {name} must be positive, got {values}")
        elif any(v < 0 for v in values):
            raise RuntimeError(f"{op}(): {name} must not be negative, got {values}")
    return tuples


def _check_weight(op: str, weight: Tensor, dimensions: int, groups: int) -> None:
    if weight.dim() != dimensions + 2:
        raise RuntimeError(f"{op}(): weight must have {dimensions + 2} dimensions, got shape {tuple(weight.shape)}")
    if groups <= 0:
        raise RuntimeError(f"{op}(): groups must be positive, got {groups}")


def _check_bias(op: str, bias: Tensor | None, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise RuntimeError(f"{op}(): bias must have shape {(channels,)}, got {tuple(bias.shape)}")


def _check_dtype(op: str, x: Tensor, narrow: bool) -> None:
    """Raise for integers that the built-in has no loop for; ``narrow``: for all but int64."""
    if narrow and not (x.is_floating_point() or x.is_complex() or x.dtype == torch.int64):
        raise NotImplementedError(f"{op}(): input must be floating-point, complex or int64, got {x.dtype}")


def _convolution(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    op = f"conv{dimensions}d"
    check_tensors(op, "bias", input=input, weight=weight, bias=bias)
    groups = as_int(op, "groups", groups)
    ints = 0 if isinstance(padding, str) else padding
    steps, pads, spread = _geometry(op, dimensions, stride=stride, padding=ints, dilation=dilation)
    _check_weight(op, weight, dimensions, groups)
    x, unbatched = with_batch(op, input, dimensions)
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise RuntimeError(f"{op}(): padding must be 'same', 'valid' or ints, got {padding!r}")
    if padding == "same":
        pads = _same_padding(op, weight, steps, spread)
    outputs, inputs, *kernel = weight.shape
    if outputs < groups or outputs % groups or x.shape[1] != inputs * groups or 0 in kernel:
        raise RuntimeError(
            f"{op}(): weight of shape {tuple(weight.shape)} with groups = {groups} does not fit an input of shape "
            f"{tuple(input.shape)}"
        )
    _check_bias(op, bias, outputs)
    check_same_type(op, x, weight=weight, bias=bias)
    _check_dtype(op, x, x.dtype == torch.bool or max(spread) > 1)
    y = autograd.convolution.convolution(x, weight, bias, steps, pads, spread, groups)
    return y.squeeze(0) if unbatched else y


def _transposed(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Tensor:
    op = f"conv_transpose{dimensions}d"
    check_tensors(op, "bias", input=input, weight=weight, bias=bias)
    groups = as_int(op, "groups", groups)
    steps, pads, extra, spread = _geometry(
        op, dimensions, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation
    )
    _check_weight(op, weight, dimensions, groups)
    x, unbatched = with_batch(op, input, dimensions)
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, spread, strict=True)):
        raise RuntimeError(
            f"{op}(): output_padding must be smaller than stride or dilation, got output_padding {extra}, stride "
            f"{steps} and dilation {spread}"
        )
    if x.shape[1] != weight.shape[0] or weight.shape[0] < groups or weight.shape[0] % groups or 0 in weight.shape[1:]:
        raise RuntimeError(
            f"{op}(): weight of shape {tuple(weight.shape)} with groups = {groups} does not fit an input of shape "
            f"{tuple(input.shape)}"
        )
    _check_bias(op, bias, weight.shape[1] * groups)
    check_same_type(op, x, weight=weight, bias=bias)
    _check_dtype(op, x, True)
    sizes = [
        (i - 1) * s - 2 * p + d * (k - 1) + e + 1
        for i, k, s, p, e, d in zip(x.shape[2:], weight.shape[2:], steps, pads, extra, spread, strict=True)
    ]
    if any(i < 1 for i in (*x.shape[2:], *sizes)):
        raise RuntimeError(
            f"{op}(): padding {pads} leaves an output of size {tuple(sizes)} for an input of shape {tuple(input.shape)}"
        )
    # Dilation may let output_padding reach whole strides: the convolution that this one is the adjoint of has
    # that much less padding after its input, or it would have more windows than there are inputs here.
    whole = tuple(e // s * s for e, s in zip(extra, steps, strict=True))
    if any(whole):
        pads += tuple(p - e for p, e in zip(pads, whole, strict=True))
    y = autograd.convolution.transposed_convolution(x, weight, bias, sizes, steps, pads, spread, groups)
    return y.squeeze(0) if unbatched else y


@replayable
@autocast_to("lower precision")
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 1-d cross-correlation of input with weight, plus bias; formula and arguments as :func:`conv2d`.

    Shapes: input (N, C, L) or (C, L), weight (O, C / groups, kw), bias (O); output (N, O, L').

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _convolution(1, input, weight, bias, stride, padding, dilation, groups)


@replayable
@autocast_to("lower precision")
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2-d cross-correlation of input with weight, plus bias.

    y[n, o, p, q] = b[o] + sum over c, i, j of
    w[o, c, i, j] x[n, c, stride p + dilation i - padding, stride q + dilation j - padding].

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C / groups, kh, kw), bias (O); output (N, O, H', W')
    with H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.

    Args:
        input: the images.
        weight: the kernels.
        bias: added to every pixel of a channel.
        stride: of the windows, at least 1.
        padding: zeros on every side, or ``"valid"`` (none) or ``"same"`` (output size = input size, stride 1).
        dilation: between taps, at least 1.
        groups: blocks of channels that see each other; divides C and O.

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _convolution(2, input, weight, bias, stride, padding, dilation, groups)


@replayable
@autocast_to("lower precision")
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 3-d cross-correlation of input with weight, plus bias; formula and arguments as :func:`conv2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W), weight (O, C / groups, kd, kh, kw), bias (O); output
    (N, O, D', H', W').

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _convolution(3, input, weight, bias, stride, padding, dilation, groups)


@replayable
@autocast_to("lower precision")
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return the 1-d transposed convolution of input with weight, plus bias: the adjoint of :func:`conv1d`.

    Formula and arguments as :func:`conv_transpose2d`. Shapes: input (N, C, L) or (C, L), weight
    (C, O / groups, kw), bias (O); output (N, O, L').

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@replayable
@autocast_to("lower precision")
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return the 2-d transposed convolution of input with weight, plus bias: the adjoint of :func:`conv2d`.

    y[n, o, stride p + dilation i - padding, stride q + dilation j - padding] += w[c, o, i, j] x[n, c, p, q],
    and b[o] is added everywhere; what falls outside is dropped. (Zeiler, Krishnan, Taylor, Fergus, 2010.)

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, O / groups, kh, kw), bias (O); output (N, O, H', W')
    with H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.

    Args:
        input: the images.
        weight: the kernels.
        bias: added to every pixel of a channel.
        stride: between the outputs of neighbouring inputs, at least 1.
        padding: what is cut from every side of the output.
        output_padding: what is added on one side of the output; smaller than stride or dilation.
        groups: blocks of channels that see each other; divides C and O.
        dilation: between taps, at least 1.

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@replayable
@autocast_to("lower precision")
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Return the 3-d transposed convolution of input with weight, plus bias: the adjoint of :func:`conv3d`.

    Formula and arguments as :func:`conv_transpose2d`. Shapes: input (N, C, D, H, W) or (C, D, H, W), weight
    (C, O / groups, kd, kh, kw), bias (O); output (N, O, D', H', W').

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
