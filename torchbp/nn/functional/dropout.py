"""Dropout: of elements, of features, and with the moments kept.

The draws come from torch's generator and equal the built-in's for the same seed.
"""

from __future__ import annotations

from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_number, check_flag, check_tensors, in_place, warn


def _dropout(
    op: str,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    features: bool = False,
    keeps_moments: bool = False,
    dimensions: int | None = None,
) -> Tensor:
    """Check and apply; an input of ``dimensions`` dimensions has a batch dimension added."""
    check_flag(op, "training", training)
    p = as_number(op, "p", p)
    if not 0.0 <= p <= 1.0:
        raise (RuntimeError if p != p else ValueError)(f"{op}(): p must be between 0 and 1, got {p}")
    if not training or p == 0.0 or input.numel() == 0:
        return input
    if p < 1 and not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"{op}(): input must be floating-point, got {input.dtype}")
    if features and input.dim() < 2:
        raise RuntimeError(f"{op}(): input must have at least 2 dimensions, got shape {tuple(input.shape)}")
    if input.dim() == dimensions:
        output = autograd.dropout.dropout(input.unsqueeze(0), p, features, keeps_moments).squeeze(0)
    else:
        output = autograd.dropout.dropout(input, p, features, keeps_moments)
    return in_place(input, output, inplace)


@replayable
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability ``p`` and scale the rest by 1 / (1 - p); no change in evaluation.

    The draws come from torch's generator and equal the built-in's for the same seed. (Srivastava et al., 2014.)

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input is not floating-point, or ``p`` is NaN.
    """
    check_tensors("dropout", input=input)
    return _dropout("dropout", input, p, training, inplace)


@replayable
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set whole channels to zero with probability ``p``, else as :func:`dropout` (Tompson et al., 2015).

    Shapes: input (N, C, L) or (C, L).

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has another shape or is not floating-point, or ``p`` is NaN.
    """
    op = "dropout1d"
    check_tensors(op, input=input)
    p = as_number(op, "p", p)
    if not (p < 0.0 or p > 1.0) and input.dim() not in (2, 3):
        raise RuntimeError(f"{op}(): input must be 2D (unbatched) or 3D (batched), got shape {tuple(input.shape)}")
    return _dropout(op, input, p, training, inplace, features=True, dimensions=2)


@replayable
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set whole channels to zero with probability ``p``, else as :func:`dropout` (Tompson et al., 2015).

    Shapes: input (N, C, H, W); any other is taken as (N, C, *), with a warning.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has no channels or is not floating-point, or ``p`` is NaN.
    """
    op = "dropout2d"
    check_tensors(op, input=input)
    if input.dim() != 4:
        warn(f"{op}(): input should be 4D, got shape {tuple(input.shape)}; it is taken as (N, C, *)", stacklevel=2)
    return _dropout(op, input, p, training, inplace, features=True)


@replayable
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set whole channels to zero with probability ``p``, else as :func:`dropout` (Tompson et al., 2015).

    Shapes: input (N, C, D, H, W) or (C, D, H, W); any other has a batch dimension added, with a warning.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has no channels or is not floating-point, or ``p`` is NaN.
    """
    op = "dropout3d"
    check_tensors(op, input=input)
    if input.dim() not in (4, 5):
        warn(
            f"{op}(): input should be 4D (unbatched) or 5D (batched), got shape {tuple(input.shape)}; it is taken as "
            "(C, *)",
            stacklevel=2,
        )
    unbatched = None if input.dim() == 5 else input.dim()
    return _dropout(op, input, p, training, inplace, features=True, dimensions=unbatched)


@replayable
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Set elements to a value below zero with probability ``p`` such that mean 0 and variance 1 stay.

    y = a x + b, and b - 1.7581 a for an element that is dropped, with b = 1.7581 p a and
    a = 1 / sqrt((1 - p) (1 + 1.7581² p)): for what :func:`selu` returns (Klambauer, Unterthiner, Mayr, Hochreiter,
    2017). For ``p`` = 1 all are 0; no change in evaluation.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input is not floating-point, or ``p`` is NaN.
    """
    check_tensors("alpha_dropout", input=input)
    return _dropout("alpha_dropout", input, p, training, inplace, keeps_moments=True)


@replayable
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Apply :func:`alpha_dropout` to whole channels, with one draw for each.

    Shapes: input (N, C, *).

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has no channels or is not floating-point, or ``p`` is NaN.
    """
    check_tensors("feature_alpha_dropout", input=input)
    return _dropout("feature_alpha_dropout", input, p, training, inplace, features=True, keeps_moments=True)
