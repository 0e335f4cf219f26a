"""Losses of every element, as a table of what they are and of their derivative by the input; three of more operands.

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


def multilabel_soft_margin_loss(input: Array, target: Array, weight: Array | None = None) -> Array:
    """Compute the mean over the classes of a logistic loss for each.

        loss[n] = 1 / C · Σ_c -weight[c] (t[n, c] log σ(x[n, c]) + (1 - t[n, c]) log σ(-x[n, c]))

    Args:
        input: scores, shape (*, C), real.
        target: 0 or 1, or between, the shape of the input.
        weight: shape (C,), or None for 1.

    Returns:
        Shape (*).

    Raises:
        RuntimeError: the shapes do not fit.
        TypeError: an array is complex.

    Equals `torch.nn.functional.multilabel_soft_margin_loss` without reduction.
    """
    losses = pointwise_loss("binary_cross_entropy_with_logits", widen(input), widen(target), "none")
    return np.asarray(np.sum(_class_weight(weight, input) * losses, -1) / np.shape(input)[-1]).astype(
        result_dtype(input, target, weight)
    )


def multilabel_soft_margin_loss_gradient(
    input: Array, target: Array, grad_output: Array, weight: Array | None = None
) -> Array:
    """Carry a gradient from the output of `multilabel_soft_margin_loss` to its input.

        gx[n, c] = g[n] · weight[c] (σ(x[n, c]) - t[n, c]) / C

    Args:
        input: as in `multilabel_soft_margin_loss`.
        target: as in `multilabel_soft_margin_loss`.
        grad_output: shape (*).
        weight: as in `multilabel_soft_margin_loss`.

    Returns:
        The shape of the input.

    Raises:
        As `multilabel_soft_margin_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.
    """
    require_shape("grad_output", grad_output, np.shape(input)[:-1])
    share = widen(grad_output)[..., None] * _class_weight(weight, input) / np.shape(input)[-1]
    gradient = pointwise_loss_gradient("binary_cross_entropy_with_logits", widen(input), widen(target), share, "none")
    return gradient.astype(result_dtype(input, target, grad_output, weight))


def _class_weight(weight: Array | None, input: Array) -> Array:
    classes = np.shape(input)[-1]
    if weight is None:
        return np.ones(classes)
    require_real("weight", weight)
    require_shape("weight", weight, (classes,))
    return widen(weight)


def _check_operands(**operands: Array) -> None:
    first = next(iter(operands.values()))
    for name, operand in operands.items():
        require_real(name, operand)
        require_shape(name, operand, np.shape(first))


def gaussian_nll_loss(input: Array, target: Array, var: Array, full: bool = False, eps: float = 1e-6) -> Array:
    """Compute the negative log-likelihood of every target under a normal distribution around the input.

        loss[n] = (log v[n] + (x[n] - t[n])² / v[n]) / 2     with v = max(var, eps);     + log(2π) / 2 if `full`

    Args:
        input: means, any shape, real.
        target: the shape of the input.
        var: variances, the shape of the input.
        full: whether to add the constant.
        eps: the least variance.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Source: Nix and Weigend, "Estimating the mean and variance of the target probability distribution", 1994. Equals
    `torch.nn.functional.gaussian_nll_loss` without reduction.
    """
    _check_operands(input=input, target=target, var=var)
    x, t, v = widen(input), widen(target), np.maximum(widen(var), eps)
    loss = np.zeros(x.shape)
    for n in np.ndindex(*x.shape):
        loss[n] = (math.log(v[n]) + (x[n] - t[n]) ** 2 / v[n]) / 2 + (math.log(2 * math.pi) / 2 if full else 0.0)
    return loss.astype(result_dtype(input, target, var))


def gaussian_nll_loss_gradients(
    input: Array, target: Array, var: Array, grad_output: Array, eps: float = 1e-6
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `gaussian_nll_loss` to its operands.

        gx[n] = g[n] · (x[n] - t[n]) / v[n]        gt[n] = -gx[n]
        gv[n] = g[n] · (1 / v[n] - ((x[n] - t[n]) / v[n])²) / 2

    A variance that was raised to eps has the gradient of eps.

    Args:
        input: as in `gaussian_nll_loss`.
        target: as in `gaussian_nll_loss`.
        var: as in `gaussian_nll_loss`.
        grad_output: the shape of the input.
        eps: as in `gaussian_nll_loss`.

    Returns:
        The gradients of the input, the target and the variance.

    Raises:
        As `gaussian_nll_loss`.
    """
    _check_operands(input=input, target=target, var=var, grad_output=grad_output)
    x, t, v, g = widen(input), widen(target), np.maximum(widen(var), eps), widen(grad_output)
    gx, gv = np.zeros(x.shape), np.zeros(x.shape)
    for n in np.ndindex(*x.shape):
        ratio = (x[n] - t[n]) / v[n]
        gx[n] = g[n] * ratio
        gv[n] = g[n] * (1 / v[n] - ratio**2) / 2
    dtype = result_dtype(input, target, var, grad_output)
    return gx.astype(dtype), (-gx).astype(dtype), gv.astype(dtype)


def margin_ranking_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0) -> Array:
    """Compute by how much one score fails to be above another, or below it, by a margin.

        loss[n] = max(0, margin - t[n] (x1[n] - x2[n]))

    Args:
        input1: scores, any shape, real.
        input2: scores, the shape of `input1`.
        target: 1 where the first should be larger, -1 where the second, the shape of `input1`.
        margin: by how much.

    Returns:
        The shape of `input1`.

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Equals `torch.nn.functional.margin_ranking_loss` without reduction.
    """
    _check_operands(input1=input1, input2=input2, target=target)
    x1, x2, t = widen(input1), widen(input2), widen(target)
    loss = np.zeros(x1.shape)
    for n in np.ndindex(*x1.shape):
        loss[n] = max(0.0, margin - t[n] * (x1[n] - x2[n]))
    return loss.astype(result_dtype(input1, input2, target))


def margin_ranking_loss_gradients(
    input1: Array, input2: Array, target: Array, grad_output: Array, margin: float = 0.0
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `margin_ranking_loss` to its operands.

    Where margin - t[n] (x1[n] - x2[n]) >= 0:

        gx1[n] = -t[n] · g[n]        gx2[n] = t[n] · g[n]        gt[n] = -(x1[n] - x2[n]) · g[n]

    Args:
        input1: as in `margin_ranking_loss`.
        input2: as in `margin_ranking_loss`.
        target: as in `margin_ranking_loss`.
        grad_output: the shape of `input1`.
        margin: as in `margin_ranking_loss`.

    Returns:
        The gradients of both inputs and of the target.

    Raises:
        As `margin_ranking_loss`.
    """
    _check_operands(input1=input1, input2=input2, target=target, grad_output=grad_output)
    x1, x2, t, g = widen(input1), widen(input2), widen(target), widen(grad_output)
    g1, gt = np.zeros(x1.shape), np.zeros(x1.shape)
    for n in np.ndindex(*x1.shape):
        if margin - t[n] * (x1[n] - x2[n]) >= 0:
            g1[n] = -t[n] * g[n]
            gt[n] = -(x1[n] - x2[n]) * g[n]
    dtype = result_dtype(input1, input2, target, grad_output)
    return g1.astype(dtype), (-g1).astype(dtype), gt.astype(dtype)
