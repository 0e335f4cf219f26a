"""Losses and the gradients of their inputs.

Classes lie in dimension 1 of the input, or in dimension 0 if it has no other. A sample is one choice of all
other indices: batch entry and position.

Both classification losses are sums of products of a log-probability and a coefficient, and `_Terms` lists
those products. As in the convolution, the loss and its gradient walk the same list.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen
from .softmax import log_softmax, log_softmax_gradient


def _class_dim(input: Array) -> int:
    return 0 if np.ndim(input) == 1 else 1


def _check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _check_input(input: Array, weight: Array | None) -> None:
    require_real("input", input)
    if np.ndim(input) == 0:
        raise ValueError(f"input must have at least 1 dimension, got shape {np.shape(input)}")
    if weight is not None:
        require_real("weight", weight)
        require_shape("weight", weight, (np.shape(input)[_class_dim(input)],))


def _check_classes(input: Array, target: Array, ignore_index: int) -> None:
    dim = _class_dim(input)
    classes = input.shape[dim]
    samples = (*input.shape[:dim], *input.shape[dim + 1 :])
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"target must hold integer classes, got dtype {target.dtype}")
    if input.ndim > 1 and target.shape[:1] != samples[:1]:
        raise ValueError(f"target must have the input's batch size {samples[0]}, got shape {target.shape}")
    require_shape("target", target, samples)
    for y in np.ravel(target).tolist():
        if y != ignore_index and not 0 <= y < classes:
            raise IndexError(f"target must hold classes from 0 to {classes - 1}, got {y}")


def _check_probabilities(target: Array, ignore_index: int) -> None:
    if target.dtype.kind != "f":
        raise RuntimeError(f"target must be floating to hold probabilities, got dtype {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index must be negative if target holds probabilities, got {ignore_index}")


class _Terms(NamedTuple):
    """A loss as a sum of products: loss[sample] = -Σ coefficient · input[x]."""

    samples: tuple[int, ...]
    products: list[tuple[tuple[int, ...], tuple[int, ...], float]]
    """Triples (sample, x, coefficient)."""
    total: float
    """What the mean divides by."""


def _class_terms(
    input: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> _Terms:
    """Return the products of a loss whose target holds classes; the mean divides by the weights of those.

    Without smoothing, the other classes are left out rather than multiplied by zero, which matters if one of
    them is -inf.
    """
    input, target = np.asarray(input), np.asarray(target)
    _check_classes(input, target, ignore_index)
    dim = _class_dim(input)
    classes = input.shape[dim]
    class_weight = np.ones(classes) if weight is None else widen(weight)
    products, total = [], 0.0
    for sample in np.ndindex(*target.shape):
        y = int(target[sample])
        if y == ignore_index:
            continue
        total += class_weight[y]
        for c in range(classes):
            if c == y or label_smoothing > 0:
                probability = (1 - label_smoothing) * (c == y) + label_smoothing / classes
                products.append((sample, (*sample[:dim], c, *sample[dim:]), class_weight[c] * probability))
    return _Terms(target.shape, products, float(total))


def _probability_terms(
    input: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> _Terms:
    """Return the products of a loss whose target holds probabilities; the mean divides by the samples."""
    input, target = np.asarray(input), np.asarray(target)
    _check_probabilities(target, ignore_index)
    dim = _class_dim(input)
    classes = input.shape[dim]
    class_weight = np.ones(classes) if weight is None else widen(weight)
    samples = (*input.shape[:dim], *input.shape[dim + 1 :])
    products = []
    for x in np.ndindex(*input.shape):
        c, sample = x[dim], x[:dim] + x[dim + 1 :]
        probability = (1 - label_smoothing) * float(target[x]) + label_smoothing / classes
        products.append((sample, x, class_weight[c] * probability))
    return _Terms(samples, products, float(math.prod(samples)))


def _quotient(numerator: Array, denominator: float) -> Array:
    """Divide as floating point does: 0 / 0 is NaN, the mean of nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.divide(numerator, denominator))


def _loss(input: Array, terms: _Terms, reduction: str) -> Array:
    """Sum the products for each sample, and reduce."""
    losses = np.zeros(terms.samples)
    for sample, x, coefficient in terms.products:
        with np.errstate(invalid="ignore"):
            losses[sample] -= coefficient * input[x]
    if reduction == "none":
        return losses
    total = np.asarray(np.sum(losses))
    return total if reduction == "sum" else _quotient(total, terms.total)


def _loss_gradient(input: Array, terms: _Terms, grad_output: Array, reduction: str) -> Array:
    """Hand -coefficient · grad_output back to the input value of each product."""
    require_shape("grad_output", grad_output, terms.samples if reduction == "none" else ())
    share = widen(grad_output)
    if reduction == "mean":
        share = _quotient(share, terms.total)
    share = np.broadcast_to(share, terms.samples)
    grad_input = np.zeros(input.shape)
    for sample, x, coefficient in terms.products:
        with np.errstate(invalid="ignore"):
            grad_input[x] -= coefficient * share[sample]
    return grad_input


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """Compute the negative log-likelihood of the target classes.

        loss[n] = -weight[target[n]] · x[n, target[n]]
        mean: Σ_n loss[n] / Σ_n weight[target[n]]

    over the samples whose target is not `ignore_index`; the loss of the others is 0.

    Args:
        input: log-probabilities, shape (C,) or (N, C, *).
        target: classes from 0 to C - 1, or `ignore_index`; shape () or (N, *).
        weight: a factor for each class, shape (C,), or None for 1.
        ignore_index: a target that does not count.
        reduction: 'none', 'mean' or 'sum'.

    Returns:
        The shape of the target for 'none', otherwise shape (). The mean over nothing is NaN.

    Raises:
        IndexError: a target is no class.
        RuntimeError: the shapes do not fit together, or the target is not an integer array.
        TypeError: the input or the weight is complex.
        ValueError: the batch sizes differ, the input has no dimension, or `reduction` is unknown.

    Equals `torch.nn.functional.nll_loss`.
    """
    _check_reduction(reduction)
    _check_input(input, weight)
    dtype = result_dtype(input, weight)
    terms = _class_terms(input, target, weight, ignore_index, 0.0)
    return _loss(widen(input), terms, reduction).astype(dtype)


def nll_loss_gradient(
    input: Array,
    target: Array,
    grad_output: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """Carry a gradient from the output of `nll_loss` to its input.

    Only the value of the target class enters the loss:

        gx[n, c] = -weight[c] · g[n] if c = target[n], else 0

    where g[n] is grad_output[n] for 'none', grad_output for 'sum', and grad_output / Σ_n weight[target[n]]
    for 'mean'. Ignored samples get exactly zero.

    Args:
        input: as in `nll_loss`.
        target: as in `nll_loss`.
        grad_output: the shape of the loss.
        weight: as in `nll_loss`.
        ignore_index: as in `nll_loss`.
        reduction: as in `nll_loss`.

    Returns:
        The shape of the input.

    Raises:
        As `nll_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.

    Equals the gradient of `torch.nn.functional.nll_loss`.
    """
    _check_reduction(reduction)
    _check_input(input, weight)
    dtype = result_dtype(input, weight, grad_output)
    terms = _class_terms(input, target, weight, ignore_index, 0.0)
    return _loss_gradient(widen(input), terms, grad_output, reduction).astype(dtype)


def _cross_entropy_terms(
    input: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> _Terms:
    """Return the products; the target holds probabilities if its shape is the input's, classes otherwise."""
    _check_input(input, weight)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
    terms = _probability_terms if np.shape(target) == np.shape(input) else _class_terms
    return terms(input, target, weight, ignore_index, label_smoothing)


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Compute the cross-entropy between target distributions and the softmax of the input.

        q[n, c] = (1 - label_smoothing) · p[n, c] + label_smoothing / C
        loss[n] = -Σ_c weight[c] · q[n, c] · log_softmax(x[n])[c]

    where p[n, c] is the target's probability of class c: given, or 1 for the target class and 0 elsewhere.
    The mean divides Σ_n loss[n] by Σ_n weight[target[n]] for classes, but by the number of samples for
    probabilities. Samples whose target is `ignore_index` do not count, and their loss is 0.

    Args:
        input: logits, shape (C,) or (N, C, *).
        target: classes from 0 to C - 1, or `ignore_index`, shape () or (N, *); or probabilities, floating,
            the shape of the input.
        weight: a factor for each class, shape (C,), or None for 1.
        ignore_index: a class target that does not count; negative if the target holds probabilities.
        reduction: 'none', 'mean' or 'sum'.
        label_smoothing: the share of the uniform distribution in the target, 0 to 1.

    Returns:
        One loss for each sample for 'none', otherwise shape (). The mean over nothing is NaN, and so is the
        loss where a logit of -inf meets a probability or a weight of 0.

    Raises:
        IndexError: a target is no class.
        RuntimeError: the shapes or dtypes do not fit together, or `label_smoothing` or `ignore_index` is out
            of range.
        TypeError: the input or the weight is complex.
        ValueError: the batch sizes differ, the input has no dimension, or `reduction` is unknown.

    Source: label smoothing from Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception
    architecture for computer vision", 2016. Equals `torch.nn.functional.cross_entropy`.
    """
    _check_reduction(reduction)
    dtype = result_dtype(input, weight)
    terms = _cross_entropy_terms(input, target, weight, ignore_index, label_smoothing)
    log_probability = log_softmax(widen(input), _class_dim(input))
    return _loss(log_probability, terms, reduction).astype(dtype)


def cross_entropy_gradient(
    input: Array,
    target: Array,
    grad_output: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Carry a gradient from the output of `cross_entropy` to its input.

    Two steps of the chain rule: from the loss to the log-probabilities, then through `log_softmax`. With the
    distribution q[n, c] of `cross_entropy` and g[n] of `nll_loss_gradient`:

        glogp[n, c] = -g[n] · weight[c] · q[n, c]
        gx[n, c] = glogp[n, c] - softmax(x[n])[c] · Σ_k glogp[n, k]

    Without weights this is g[n] · (softmax(x[n])[c] - q[n, c]).

    Args:
        input: as in `cross_entropy`.
        target: as in `cross_entropy`.
        grad_output: the shape of the loss.
        weight: as in `cross_entropy`.
        ignore_index: as in `cross_entropy`.
        reduction: as in `cross_entropy`.
        label_smoothing: as in `cross_entropy`.

    Returns:
        The shape of the input.

    Raises:
        As `cross_entropy`; also RuntimeError if `grad_output` does not have the shape of the loss.

    Equals the gradient of `torch.nn.functional.cross_entropy`.
    """
    _check_reduction(reduction)
    dtype = result_dtype(input, weight, grad_output)
    terms = _cross_entropy_terms(input, target, weight, ignore_index, label_smoothing)
    log_probability = log_softmax(widen(input), _class_dim(input))
    gradient = _loss_gradient(log_probability, terms, grad_output, reduction)
    return log_softmax_gradient(log_probability, gradient, _class_dim(input)).astype(dtype)


def _check_mse(input: Array, target: Array, reduction: str) -> None:
    _check_reduction(reduction)
    require_real("input", input)
    require_real("target", target)
    require_shape("target", target, np.shape(input))


def mse_loss(input: Array, target: Array, reduction: str = "mean") -> Array:
    """Compute the squared error.

        loss[n] = (x[n] - target[n])²

    Args:
        input: any shape, real.
        target: the same shape; unlike PyTorch's function, this one does not broadcast.
        reduction: 'none', 'mean' or 'sum', over all elements.

    Returns:
        The shape of the input for 'none', otherwise shape (). The mean over nothing is NaN.

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.
        ValueError: `reduction` is unknown.

    Equals `torch.nn.functional.mse_loss`.
    """
    _check_mse(input, target, reduction)
    dtype = result_dtype(input, target)
    losses = (widen(input) - widen(target)) ** 2
    if reduction == "none":
        return np.asarray(losses).astype(dtype)
    total = np.sum(losses)
    return (np.asarray(total) if reduction == "sum" else _quotient(total, losses.size)).astype(dtype)


def mse_loss_gradient(input: Array, target: Array, grad_output: Array, reduction: str = "mean") -> Array:
    """Carry a gradient from the output of `mse_loss` to its input; the target's gradient is its negative.

        gx[n] = 2 (x[n] - target[n]) · g[n]

    where g[n] is grad_output[n] for 'none', grad_output for 'sum', and grad_output / number of elements for
    'mean'.

    Args:
        input: as in `mse_loss`.
        target: as in `mse_loss`.
        grad_output: the shape of the loss.
        reduction: as in `mse_loss`.

    Returns:
        The shape of the input.

    Raises:
        As `mse_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.

    Equals the gradient of `torch.nn.functional.mse_loss`.
    """
    _check_mse(input, target, reduction)
    dtype = result_dtype(input, target, grad_output)
    require_shape("grad_output", grad_output, np.shape(input) if reduction == "none" else ())
    grad_output = widen(grad_output)
    if reduction == "mean":
        grad_output = _quotient(grad_output, np.size(input))
    return np.asarray(2 * (widen(input) - widen(target)) * grad_output).astype(dtype)
