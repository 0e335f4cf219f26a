"""Dropout."""

from __future__ import annotations

from torch import Tensor

from torchbp import autograd
from torchbp.nn.functional._arguments import as_number, check_flag, check_tensors, in_place


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability ``p`` and scale the rest by 1 / (1 - p); no change in evaluation.

    The draws come from torch's generator and equal the built-in's for the same seed. (Srivastava et al., 2014.)

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input is not floating-point, or ``p`` is NaN.
    """
    op = "dropout"
    check_tensors(op, input=input)
    check_flag(op, "training", training)
    p = as_number(op, "p", p)
    if not 0.0 <= p <= 1.0:
        raise (RuntimeError if p != p else ValueError)(f"{op}(): p must be between 0 and 1, got {p}")
    if not training or p == 0.0:
        return input
    if not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"{op}(): input must be floating-point, got {input.dtype}")
    return in_place(input, autograd.dropout.dropout(input, p), inplace)
