"""Losses of every element, as a table of what they are and of their derivative by the input.

As everywhere, a backward pass is the forward pass turned around: loss[n] = l(x[n], t[n]) becomes
gx[n] = g[n] · l'(x[n], t[n]). What a reader wants to see is therefore the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen
from .loss import _check_reduction, _quotient


class _Loss(NamedTuple):
    value: Callable[..., float]
    slope: Callable[..., float]


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def _sigmoid(x: float) -> float:
    return math.exp(_log_sigmoid(x))


def _sign(d: float) -> float:
    return float(d > 0) - float(d < 0)


_LOSSES = {
    "l1_loss": _Loss(lambda x, t: abs(x - t), lambda x, t: _sign(x - t)),
    "smooth_l1_loss": _Loss(
        lambda x, t, beta=1.0: (x - t) ** 2 / (2 * beta) if abs(x - t) < beta else abs(x - t) - beta / 2,
        lambda x, t, beta=1.0: (x - t) / beta if abs(x - t) < beta else _sign(x - t),
    ),
    "huber_loss": _Loss(
        lambda x, t, delta=1.0: (x - t) ** 2 / 2 if abs(x - t) <= delta else delta * (abs(x - t) - delta / 2),
        lambda x, t, delta=1.0: x - t if abs(x - t) <= delta else delta * _sign(x - t),
    ),
    "kl_div": _Loss(lambda x, t: (t * math.log(t) if t else 0.0) - t * x, lambda x, t: -t),
    "poisson_nll_loss": _Loss(lambda x, t: math.exp(x) - t * x, lambda x, t: math.exp(x) - t),
    "binary_cross_entropy": _Loss(
        lambda x, t: -t * math.log(x) - (1 - t) * math.log1p(-x), lambda x, t: (x - t) / (x * (1 - x))
    ),
    "binary_cross_entropy_with_logits": _Loss(
        lambda x, t: -t * _log_sigmoid(x) - (1 - t) * _log_sigmoid(-x), lambda x, t: _sigmoid(x) - t
    ),
    "soft_margin_loss": _Loss(lambda x, t: -_log_sigmoid(t * x), lambda x, t: -t * _sigmoid(-t * x)),
    "hinge_embedding_loss": _Loss(
        lambda x, t, margin=1.0: x if t == 1 else max(0.0, margin - x),
        lambda x, t, margin=1.0: 1.0 if t == 1 else -float(margin >= x),
    ),
}


def _elements(
    name: str, formula: int, input: Array, target: Array, reduction: str, parameters: dict[str, Any]
) -> Array:
    """Return a column of the table at every element."""
    _check_reduction(reduction)
    if name not in _LOSSES:
        raise ValueError(f"name must be one of {', '.join(_LOSSES)}, got {name!r}")
    require_real("input", input)
    require_real("target", target)
    require_shape("target", target, np.shape(input))
    x, t = widen(input), widen(target)
    found = np.zeros(x.shape)
    for n in np.ndindex(*x.shape):
        found[n] = _LOSSES[name][formula](float(x[n]), float(t[n]), **parameters)
    return found


def pointwise_loss(name: str, input: Array, target: Array, reduction: str = "mean", **parameters: Any) -> Array:
    """Compute a loss of every element, named as in torch.nn.functional.

        l1_loss                             |x - t|
        smooth_l1_loss(beta)                d² / (2 beta) where |d| < beta, else |d| - beta / 2;   d = x - t
        huber_loss(delta)                   d² / 2 where |d| <= delta, else delta (|d| - delta / 2)
        kl_div                              t (log t - x)
        poisson_nll_loss                    exp(x) - t x
        binary_cross_entropy                -t log x - (1 - t) log(1 - x)
        binary_cross_entropy_with_logits    -t log σ(x) - (1 - t) log σ(-x)
        soft_margin_loss                    log(1 + exp(-t x))
        hinge_embedding_loss(margin)        x where t = 1, else max(0, margin - x)

    Args:
        name: of the loss.
        input: any shape, real.
        target: the same shape.
        reduction: 'none', 'mean' or 'sum', over all elements.
        parameters: those of the loss.

    Returns:
        The shape of the input for 'none', otherwise shape (). The mean over nothing is NaN.

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.
        ValueError: `name` or `reduction` is unknown.

    Equals the function of that name in `torch.nn.functional`.
    """
    losses = _elements(name, 0, input, target, reduction, parameters)
    dtype = result_dtype(input, target)
    if reduction == "none":
        return losses.astype(dtype)
    total = np.sum(losses)
    return (np.asarray(total) if reduction == "sum" else _quotient(total, losses.size)).astype(dtype)


def pointwise_loss_gradient(
    name: str, input: Array, target: Array, grad_output: Array, reduction: str = "mean", **parameters: Any
) -> Array:
    """Carry a gradient from the output of `pointwise_loss` to its input.

        gx[n] = g[n] · l'(x[n], t[n])

    where g[n] is grad_output[n] for 'none', grad_output for 'sum', and grad_output / number of elements for 'mean'. At
    a kink the derivative is the built-in's: 0 for |0|, the larger slope of the margin.

    Args:
        name: of the loss.
        input: as in `pointwise_loss`.
        target: as in `pointwise_loss`.
        grad_output: the shape of the loss.
        reduction: as in `pointwise_loss`.
        parameters: those of the loss.

    Returns:
        The shape of the input.

    Raises:
        As `pointwise_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.

    Equals the gradient of the function of that name in `torch.nn.functional`.
    """
    slopes = _elements(name, 1, input, target, reduction, parameters)
    dtype = result_dtype(input, target, grad_output)
    require_shape("grad_output", grad_output, np.shape(input) if reduction == "none" else ())
    share = widen(grad_output)
    if reduction == "mean":
        share = _quotient(share, np.size(input))
    return np.asarray(share * slopes).astype(dtype)
