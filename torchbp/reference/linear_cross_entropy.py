"""Log-probabilities of many classes, the rare ones in clusters: a choice of cluster, then a choice within it.

A class of the head has one factor, a row of a softmax; a class of a cluster has two, that of its cluster in the head
and its own within the cluster, whose logits go through a smaller dimension. Only the factors of the targets are
computed, and only they get a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen
from .softmax import log_softmax, log_softmax_gradient

Tail = Sequence[tuple[Array, Array]]


def _check(input: Array, target: Array, head: Array, tail: Tail) -> None:
    require_real("input", input)
    if np.ndim(input) != 2:
        raise RuntimeError(f"input must be a matrix, got shape {np.shape(input)}")
    rows, features = np.shape(input)
    require_shape("target", target, (rows,))
    require_shape("head", head, (len(head), features))
    for i, (down, out) in enumerate(tail):
        require_shape(f"tail[{i}][0]", down, (len(down), features))
        require_shape(f"tail[{i}][1]", out, (len(out), len(down)))
    classes = len(head) - len(tail) + sum(len(out) for _, out in tail)
    for t in np.asarray(target).tolist():
        if not 0 <= t < classes:
            raise RuntimeError(f"target must hold classes from 0 to {classes - 1}, got {t}")


def _place(t: int, head: Array, tail: Tail) -> tuple[int, int, int]:
    """Return the row of the head, the cluster and the place in it, of a class; of one of the head the cluster is -1."""
    frequent = len(head) - len(tail)
    if t < frequent:
        return t, -1, 0
    t -= frequent
    cluster = 0
    while t >= len(tail[cluster][1]):
        t -= len(tail[cluster][1])
        cluster += 1
    return frequent + cluster, cluster, t


def adaptive_log_softmax(input: Array, target: Array, head: Array, tail: Tail) -> Array:
    """Compute the log-probability of every target, in a softmax over a head and clusters of rare classes.

        y[n] = log_softmax(H x[n])[t]                                             for t of the head
        y[n] = log_softmax(H x[n])[row of cluster i] + log_softmax(O_i D_i x[n])[place of t in it]     otherwise

    Args:
        input: shape (N, M), real.
        target: classes, shape (N,): those of the head first, then those of each cluster.
        head: H, shape (classes of the head + clusters, M).
        tail: for each cluster D_i, shape (d_i, M), and O_i, shape (classes of the cluster, d_i).

    Returns:
        Shape (N,).

    Raises:
        RuntimeError: the shapes do not fit, or a target is no class.
        TypeError: the input is complex.

    Source: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs", 2017. Equals the
    output of `torch.nn.AdaptiveLogSoftmaxWithLoss`.
    """
    _check(input, target, head, tail)
    x = widen(input)
    y = np.zeros(len(x))
    for n, t in enumerate(np.asarray(target).tolist()):
        row, cluster, place = _place(t, head, tail)
        y[n] = log_softmax(widen(head) @ x[n], 0)[row]
        if cluster >= 0:
            down, out = (widen(w) for w in tail[cluster])
            y[n] += log_softmax(out @ (down @ x[n]), 0)[place]
    return y.astype(result_dtype(input, head, *(w for pair in tail for w in pair)))


def _logits_gradient(logits: Array, place: int, g: float) -> Array:
    """Return the gradient of logits of which one log-probability has the gradient g."""
    share = np.zeros(logits.shape)
    share[place] = g
    return log_softmax_gradient(log_softmax(logits, 0), share, 0)


def adaptive_log_softmax_gradients(
    input: Array, target: Array, head: Array, tail: Tail, grad_output: Array
) -> tuple[Array, Array, list[tuple[Array, Array]]]:
    """Carry a gradient from the output of `adaptive_log_softmax` to the input and the weights.

    With h the gradient of the head's logits and c that of the cluster's, which both follow from g[n] as in
    `log_softmax_gradient`, for every sample:

        gx[n] = Hᵀ h + D_iᵀ O_iᵀ c        gH += h x[n]ᵀ        gO_i += c (D_i x[n])ᵀ        gD_i += O_iᵀ c x[n]ᵀ

    Args:
        input: as in `adaptive_log_softmax`.
        target: as in `adaptive_log_softmax`.
        head: as in `adaptive_log_softmax`.
        tail: as in `adaptive_log_softmax`.
        grad_output: shape (N,).

    Returns:
        The gradients of the input, of the head and of the tail.

    Raises:
        As `adaptive_log_softmax`; also RuntimeError if `grad_output` does not have the shape of the output.
    """
    _check(input, target, head, tail)
    require_shape("grad_output", grad_output, (len(input),))
    x, g, wide_head = widen(input), widen(grad_output), widen(head)
    gx, g_head = np.zeros(x.shape), np.zeros(wide_head.shape)
    g_tail = [(np.zeros(np.shape(down)), np.zeros(np.shape(out))) for down, out in tail]
    for n, t in enumerate(np.asarray(target).tolist()):
        row, cluster, place = _place(t, head, tail)
        h = _logits_gradient(wide_head @ x[n], row, g[n])
        gx[n] += wide_head.T @ h
        g_head += np.outer(h, x[n])
        if cluster >= 0:
            down, out = (widen(w) for w in tail[cluster])
            c = _logits_gradient(out @ (down @ x[n]), place, g[n])
            gx[n] += down.T @ (out.T @ c)
            g_tail[cluster][0][:] += np.outer(out.T @ c, x[n])
            g_tail[cluster][1][:] += np.outer(c, down @ x[n])
    dtype = result_dtype(input, head, *(w for pair in tail for w in pair), grad_output)
    return gx.astype(dtype), g_head.astype(dtype), [(d.astype(dtype), o.astype(dtype)) for d, o in g_tail]
