"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchbp import autograd
from torchbp.nn.functional._arguments import (
    Sizes,
    as_int,
    as_tuple,
    autocast_to,
    check_same_type,
    check_tensors,
    with_batch,
)
from torchbp.nn.functional.padding import pad


def _same_padding(
    op: str, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Return the symmetric part of padding="same" and what must be added on the right, per dimension."""
    if any(s != 1 for s in stride):
        raise RuntimeError(f"{op}(): padding='same' is not supported for strided convolutions, got stride {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    return tuple(t // 2 for t in total), [t % 2 for t in total]


def _convolution(
    op: str,
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    check_tensors(op, "bias", input=input, weight=weight, bias=bias)
    if weight.dim() != dimensions + 2:
        raise RuntimeError(f"{op}(): weight must have {dimensions + 2} dimensions, got shape {tuple(weight.shape)}")
    x, unbatched = with_batch(op, input, dimensions)
    steps = as_tuple(op, "stride", stride, dimensions)
    spread = as_tuple(op, "dilation", dilation, dimensions)
    for name, values in (("stride", steps), ("dilation", spread)):
        if any(v <= 0 for v in values):
            raise RuntimeError(f"{op}(): {name} must be positive, got {values}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"{op}(): padding must be 'same', 'valid' or ints, got {padding!r}")
        pads: tuple[int, ...] = (0,) * dimensions
        if padding == "same":
            pads, extra = _same_padding(op, weight, steps, spread)
            if any(extra):
                x = pad(x, [side for e in reversed(extra) for side in (0, e)])
    else:
        pads = as_tuple(op, "padding", padding, dimensions)
    if any(p < 0 for p in pads):
        raise RuntimeError(f"{op}(): padding must not be negative, got {pads}")
    groups = as_int(op, "groups", groups)
    if groups <= 0:
        raise RuntimeError(f"{op}(): groups must be positive, got {groups}")
    if (
        weight.shape[0] < groups
        or weight.shape[0] % groups
        or x.shape[1] != weight.shape[1] * groups
        or 0 in weight.shape[2:]
    ):
        raise RuntimeError(
            f"{op}(): weight of shape {tuple(weight.shape)} with groups = {groups} does not fit an input of shape "
            f"{tuple(input.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise RuntimeError(f"{op}(): bias must have shape {(weight.shape[0],)}, got {tuple(bias.shape)}")
    check_same_type(op, x, weight=weight, bias=bias)
    y = autograd.convolution.convolution(x, weight, bias, steps, pads, spread, groups)
    return y.squeeze(0) if unbatched else y


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
    return _convolution("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)
