"""Losses of the margins between the scores of classes, row by row.

A row's loss is a sum of max(0, margin - x[own] + x[other])^p over pairs of a target and another class, and each pair
that is positive hands its gradient to both of its scores, with opposite signs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen


def _targets(row: Array) -> list[int]:
    """Return the targets of a row: one class, or those before the first -1."""
    classes = [int(c) for c in np.atleast_1d(row)]
    return classes[: classes.index(-1)] if -1 in classes else classes


def _pairs(input: Array, target: Array) -> Iterator[tuple[int, int, int]]:
    """Yield (row, target, other class)."""
    require_real("input", input)
    rows, classes = np.shape(input)
    require_shape("target", target, (rows, *np.shape(target)[1:]))
    for n in range(rows):
        own = _targets(target[n])
        for k in own:
            if not 0 <= k < classes:
                raise RuntimeError(f"target must hold classes from 0 to {classes - 1}, got {k}")
            yield from ((n, k, j) for j in range(classes) if j not in own)


def margin_loss(input: Array, target: Array, p: int = 1, margin: float = 1.0) -> Array:
    """Compute the loss of every row.

        loss[n] = 1 / C · Σ_k Σ_j max(0, margin - x[n, k] + x[n, j])^p

    over the targets k of row n and the classes j that are none of them.

    Args:
        input: scores, shape (N, C), real.
        target: one class a row, shape (N,), or several, shape (N, C), that end at the first -1.
        p: 1 or 2.
        margin: how far a target should be above every other class.

    Returns:
        Shape (N,).

    Raises:
        RuntimeError: a target is no class, or the shapes do not fit.
        TypeError: the input is complex.

    Equals `torch.nn.functional.multi_margin_loss` for one target a row, and for several with p = 1 and a margin of 1
    `multilabel_margin_loss`, without reduction.
    """
    x = widen(input)
    loss = np.zeros(len(x))
    for n, k, j in _pairs(input, target):
        loss[n] += max(0.0, margin - x[n, k] + x[n, j]) ** p / x.shape[1]
    return loss.astype(result_dtype(input))


def margin_loss_gradient(input: Array, target: Array, grad_output: Array, p: int = 1, margin: float = 1.0) -> Array:
    """Carry a gradient from the output of `margin_loss` to its input.

    With h = p · max(0, margin - x[n, k] + x[n, j])^(p-1) / C where that is positive, for every pair of the sum:

        gx[n, j] += h · g[n]        gx[n, k] -= h · g[n]

    Args:
        input: as in `margin_loss`.
        target: as in `margin_loss`.
        grad_output: shape (N,).
        p: as in `margin_loss`.
        margin: as in `margin_loss`.

    Returns:
        The shape of the input.

    Raises:
        As `margin_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.
    """
    x, g = widen(input), widen(grad_output)
    require_shape("grad_output", grad_output, (len(x),))
    grad_input = np.zeros(x.shape)
    for n, k, j in _pairs(input, target):
        excess = margin - x[n, k] + x[n, j]
        if excess > 0:
            h = p * excess ** (p - 1) / x.shape[1] * g[n]
            grad_input[n, j] += h
            grad_input[n, k] -= h
    return grad_input.astype(result_dtype(input, grad_output))
