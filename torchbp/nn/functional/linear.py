"""Linear maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import autocast_to, check_same_type, check_tensors


@replayable
@autocast_to("lower precision")
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y = x wᵀ + b.

    Shapes: input (*, in), weight (out, in) or (in,), bias (out) or (); output (*, out) or (*).

    Raises:
        RuntimeError: if the shapes or dtypes do not fit.
    """
    op = "linear"
    check_tensors(op, "bias", input=input, weight=weight, bias=bias)
    if weight.dim() not in (1, 2):
        raise RuntimeError(f"{op}(): weight must have 1 or 2 dimensions, got shape {tuple(weight.shape)}")
    if input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"{op}(): input of shape {tuple(input.shape)} does not fit weight of shape {tuple(weight.shape)}: "
            "their last dimensions must be equal"
        )
    check_same_type(op, input, weight=weight, bias=bias)
    if weight.dim() == 2 and (bias is None or bias.shape == weight.shape[:1]):
        return autograd.linear.linear(input, weight, bias)
    shape = (*input.shape[:-1], *weight.shape[:-1])
    if bias is not None and not _broadcasts(bias.shape, shape):
        raise RuntimeError(f"{op}(): bias must fit an output of shape {shape}, got shape {tuple(bias.shape)}")
    if weight.dim() == 1:
        rows = autograd.linear.linear(input, weight.unsqueeze(0)).squeeze(-1)
        return rows if bias is None else rows + bias
    if bias is not None and bias.dim() > 1:
        return autograd.linear.linear(input, weight) + bias
    return autograd.linear.linear(input, weight, None if bias is None else bias.expand(weight.shape[0]))


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Tell whether a shape broadcasts to another without enlarging it."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


@replayable
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y[*, o] = sum over i, j of x1[*, i] w[o, i, j] x2[*, j] + b[o].

    Shapes: input1 (*, in1), input2 (*, in2), weight (out, in1, in2), bias (out); output (*, out).

    Raises:
        RuntimeError: if the shapes or dtypes do not fit.
        IndexError: if a tensor has too few dimensions to have features.
    """
    op = "bilinear"
    check_tensors(op, "bias", input1=input1, input2=input2, weight=weight, bias=bias)
    fits = (
        weight.dim() == 3
        and input1.dim() == input2.dim() >= 1
        and input1.shape[:-1] == input2.shape[:-1]
        and (input1.shape[-1], input2.shape[-1]) == tuple(weight.shape[1:])
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        few = weight.dim() < 3 or input1.dim() == 0 or (bias is not None and bias.dim() == 0)
        raise (IndexError if few else RuntimeError)(
            f"{op}(): input1 {tuple(input1.shape)}, input2 {tuple(input2.shape)}, weight {tuple(weight.shape)} "
            f"and bias {None if bias is None else tuple(bias.shape)} must have shapes (*, in1), (*, in2), "
            "(out, in1, in2) and (out)"
        )
    if any(t is not None and t.dtype != input1.dtype for t in (input2, weight, bias)):
        raise RuntimeError(
            f"{op}(): input1, input2, weight and bias must have one dtype, got {input1.dtype}, {input2.dtype}, "
            f"{weight.dtype} and {None if bias is None else bias.dtype}"
        )
    lead = input1.shape[:-1]
    first, second = (x.reshape(lead.numel(), x.shape[-1]) for x in (input1, input2))
    return autograd.linear.bilinear(first, second, weight, bias).reshape(*lead, weight.shape[0])
