"""Softmax and its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, check_tensors, warn


def _softmax_arguments(
    op: str, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None
) -> tuple[Tensor, int]:
    """Return the cast input, and the dimension, chosen with a warning as the built-in does if it is not given."""
    check_tensors(op, input=input)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"{op}(): dtype must be a torch.dtype, got {dtype!r}")
    dimensions = input.dim()
    if dim is None:
        warn(f"{op}(): dim should be given, got None; it is chosen by the rank", stacklevel=stacklevel)
        dim = 0 if dimensions in (0, 1, 3) else 1
    dim, bound = as_int(op, "dim", dim), max(dimensions, 1)
    if not -bound <= dim < bound:
        raise IndexError(f"{op}(): dim must be in [{-bound}, {bound - 1}], got {dim}")
    return input if dtype is None else input.to(dtype), dim


@replayable
def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``.

    Args:
        input: any shape.
        dim: the dimension that sums to one.
        dtype: cast the input to it first.

    Raises:
        IndexError: if ``dim`` is out of range.
    """
    return autograd.softmax.softmax(*_softmax_arguments("softmax", input, dim, _stacklevel, dtype))


@replayable
def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Return exp(-x) / sum of exp(-x) along ``dim``; arguments as :func:`softmax`."""
    op = "softmin"
    check_tensors(op, input=input)
    if input.dtype == torch.bool:
        raise RuntimeError(f"{op}(): input must have a negative, got {input.dtype}")
    negated = input.is_floating_point()
    if not negated:  # integers have their own negatives
        input = autograd.softmax.negative(input)
    return autograd.softmax.softmax(*_softmax_arguments(op, input, dim, _stacklevel, dtype), negated)


@replayable
def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Return x minus the logarithm of the sum of exp(x) along ``dim``; arguments as :func:`softmax`."""
    return autograd.softmax.log_softmax(*_softmax_arguments("log_softmax", input, dim, _stacklevel, dtype))
