"""Losses of margins, row by row: between the scores of classes, and between distances or angles of vectors.

With classes a row's loss is a sum of max(0, margin - x[own] + x[other])^p over pairs of a target and another class, and
each pair that is positive hands its gradient to both of its scores, with opposite signs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen
from .distance import _cosine, distance, distance_gradients


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


_EPSILON = 1e-12  # what the squares of the lengths gain in `cosine_embedding_loss`


def _check_vectors(target: Array, **vectors: Array) -> None:
    first = next(iter(vectors.values()))
    for name, array in vectors.items():
        require_real(name, array)
        require_shape(name, array, np.shape(first))
    require_shape("target", target, np.shape(first)[:-1])


def cosine_embedding_loss(input1: Array, input2: Array, target: Array, margin: float = 0.0) -> Array:
    """Compute how far pairs of vectors are from pointing the same way, or from pointing different ways.

        loss[n] = 1 - c[n] where t[n] = 1,     max(0, c[n] - margin) where t[n] = -1
        c[n] = Σ_k x1[n, k] x2[n, k] / √((Σ_k x1[n, k]² + 1e-12) (Σ_k x2[n, k]² + 1e-12))

    Args:
        input1: shape (*, D), real.
        input2: the shape of `input1`.
        target: 1 or -1, shape (*).
        margin: the largest cosine that costs nothing where t = -1.

    Returns:
        Shape (*).

    Raises:
        RuntimeError: the shapes do not fit.
        TypeError: an input is complex.

    Equals `torch.nn.functional.cosine_embedding_loss` without reduction.
    """
    _check_vectors(target, input1=input1, input2=input2)
    x1, x2, t = widen(input1), widen(input2), np.asarray(target)
    loss = np.zeros(t.shape)
    for n in np.ndindex(*t.shape):
        c, _, _ = _cosine(x1[n], x2[n], _EPSILON, added=True)
        loss[n] = 1 - c if t[n] == 1 else max(0.0, c - margin)
    return loss.astype(result_dtype(input1, input2))


def cosine_embedding_loss_gradients(
    input1: Array, input2: Array, target: Array, grad_output: Array, margin: float = 0.0
) -> tuple[Array, Array]:
    """Carry a gradient from the output of `cosine_embedding_loss` to its inputs.

    With s = -1 where t[n] = 1, s = 1 where t[n] = -1 and c[n] >= margin, else 0, and lengths a and b as they stand
    under the root of c:

        g1[n, k] = s · g[n] · (x2[n, k] / (a b) - c[n] x1[n, k] / a²)     and g2 alike

    Args:
        input1: as in `cosine_embedding_loss`.
        input2: as in `cosine_embedding_loss`.
        target: as in `cosine_embedding_loss`.
        grad_output: shape (*).
        margin: as in `cosine_embedding_loss`.

    Returns:
        The gradients of both inputs.

    Raises:
        As `cosine_embedding_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.
    """
    _check_vectors(target, input1=input1, input2=input2)
    require_shape("grad_output", grad_output, np.shape(target))
    x1, x2, t, g = widen(input1), widen(input2), np.asarray(target), widen(grad_output)
    g1, g2 = np.zeros(x1.shape), np.zeros(x1.shape)
    for n in np.ndindex(*t.shape):
        c, by_1, by_2 = _cosine(x1[n], x2[n], _EPSILON, added=True)
        s = -1.0 if t[n] == 1 else float(c >= margin)
        g1[n], g2[n] = s * g[n] * by_1, s * g[n] * by_2
    dtype = result_dtype(input1, input2, grad_output)
    return g1.astype(dtype), g2.astype(dtype)


def triplet_margin_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Array:
    """Compute by how much a positive example fails to be nearer to its anchor than a negative one, by a margin.

        loss[n] = max(0, margin + d(a[n], p[n]) - d(a[n], n[n]))     with d the `distance`

    `swap` takes d(p[n], n[n]) in place of d(a[n], n[n]) where it is smaller.

    Args:
        anchor: shape (*, D), real.
        positive: the shape of `anchor`.
        negative: the shape of `anchor`.
        margin: by how much.
        p: of which norm the distances are.
        eps: what `distance` adds to every difference.
        swap: whether the negative may be compared with the positive.

    Returns:
        Shape (*).

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Source: Balntas, Riba, Ponsa and Mikolajczyk, "Learning local feature descriptors with triplets and shallow
    convolutional neural networks", 2016. Equals `torch.nn.functional.triplet_margin_loss` without reduction.
    """
    near, far, other = _three_distances(anchor, positive, negative, p, eps, swap)
    loss = np.maximum(0.0, margin + near - np.minimum(far, other))
    return np.asarray(loss).astype(result_dtype(anchor, positive, negative))


def _three_distances(
    anchor: Array, positive: Array, negative: Array, p: float, eps: float, swap: bool
) -> tuple[Array, Array, Array]:
    """Return d(a, p), d(a, n) and, with ``swap``, d(p, n), else infinity."""
    a, p_, n = widen(anchor), widen(positive), widen(negative)
    near, far = distance(a, p_, p, eps), distance(a, n, p, eps)
    return near, far, distance(p_, n, p, eps) if swap else np.full(near.shape, np.inf)


def triplet_margin_loss_gradients(
    anchor: Array,
    positive: Array,
    negative: Array,
    grad_output: Array,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `triplet_margin_loss` to its three inputs.

    Where margin + d(a, p) - d(a, n) >= 0, g goes to d(a, p) and -g to d(a, n), or to d(p, n) where that was taken, and
    through them as in `distance_gradients`.

    Args:
        anchor: as in `triplet_margin_loss`.
        positive: as in `triplet_margin_loss`.
        negative: as in `triplet_margin_loss`.
        grad_output: shape (*).
        margin: as in `triplet_margin_loss`.
        p: as in `triplet_margin_loss`.
        eps: as in `triplet_margin_loss`.
        swap: as in `triplet_margin_loss`.

    Returns:
        The gradients of anchor, positive and negative.

    Raises:
        As `triplet_margin_loss`; also RuntimeError if `grad_output` does not have the shape of the loss.
    """
    near, far, other = _three_distances(anchor, positive, negative, p, eps, swap)
    require_shape("grad_output", grad_output, near.shape)
    a, p_, n = widen(anchor), widen(positive), widen(negative)
    g = np.where(margin + near - np.minimum(far, other) >= 0, widen(grad_output), 0.0)
    swapped = other < far
    ga, gp = distance_gradients(a, p_, g, p, eps)
    more_a, gn = distance_gradients(a, n, np.where(swapped, 0.0, -g), p, eps)
    more_p, more_n = distance_gradients(p_, n, np.where(swapped, -g, 0.0), p, eps)
    dtype = result_dtype(anchor, positive, negative, grad_output)
    return (ga + more_a).astype(dtype), (gp + more_p).astype(dtype), (gn + more_n).astype(dtype)
