"""Embeddings: rows of a table, alone or reduced in bags.

Letters: v counts the rows of the table w, d its columns, i the indices, b the bags; bag b holds the indices from
offsets[b] up to the next offset, less those of the padding row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._arrays import Array, result_dtype, widen, zeros


def embedding(index: Array, weight: Array) -> Array:
    """Return w[index], shape (*, size). Equals `torch.nn.functional.embedding`."""
    output = zeros((*np.shape(index), np.shape(weight)[1]), result_dtype(weight))
    for place in np.ndindex(*np.shape(index)):
        output[place] = weight[index[place]]
    return output.astype(result_dtype(weight))


def embedding_adjoint(
    grad_output: Array, index: Array, rows: int, padding_idx: int = -1, by_frequency: bool = False
) -> Array:
    """Return the gradient of the table: each row adds up the gradients of where it went.

    Args:
        grad_output: gradient of the output, (*, size).
        index: as in `embedding`.
        rows: of the table.
        padding_idx: a row that gets none; -1 for no such row.
        by_frequency: whether a row's gradient is divided by how often it occurs.
    """
    grad = np.zeros((rows, np.shape(grad_output)[-1]))
    for place in np.ndindex(*np.shape(index)):
        row = index[place]
        if row != padding_idx:
            grad[row] += widen(grad_output)[place] / (np.sum(index == row) if by_frequency else 1)
    return grad.astype(result_dtype(grad_output))


def _bags(index: Array, offsets: Array, padding_idx: int) -> Iterator[tuple[int, list[int]]]:
    """Yield each bag with the places of its indices."""
    for b, start in enumerate(offsets):
        stop = offsets[b + 1] if b + 1 < len(offsets) else len(index)
        yield b, [i for i in range(start, stop) if index[i] != padding_idx]


def _winner(rows: Array) -> int:
    """Return the first of the largest; NaN is larger than nothing, and nothing than NaN."""
    best = 0
    for k in range(1, len(rows)):
        best = k if rows[k] > rows[best] else best
    return best


def embedding_bag(
    index: Array,
    weight: Array,
    offsets: Array,
    mode: str = "mean",
    per_sample_weights: Array | None = None,
    padding_idx: int = -1,
) -> Array:
    """Return the sum, mean or maximum of each bag's rows, (bags, size); zero for an empty bag.

    Args:
        index: shape (n,).
        weight: the table, (rows, size).
        offsets: where each bag starts.
        mode: "sum", "mean" or "max".
        per_sample_weights: what multiplies each row of a sum, (n,), or None.
        padding_idx: a row that is left out; -1 for no such row.

    Equals `torch.nn.functional.embedding_bag`.
    """
    given = (weight,) if per_sample_weights is None else (weight, per_sample_weights)
    output = zeros((len(offsets), np.shape(weight)[1]), result_dtype(*given))
    s = np.ones(len(index)) if per_sample_weights is None else widen(per_sample_weights)
    for b, places in _bags(index, offsets, padding_idx):
        rows = np.array([s[i] * widen(weight)[index[i]] for i in places])
        if mode == "max" and places:
            output[b] = [column[_winner(column)] for column in rows.T]
        elif places:
            output[b] = rows.sum(0) / (len(places) if mode == "mean" else 1)
    return output.astype(result_dtype(*given))


def embedding_bag_gradients(
    grad_output: Array,
    index: Array,
    weight: Array,
    offsets: Array,
    mode: str = "mean",
    per_sample_weights: Array | None = None,
    padding_idx: int = -1,
) -> tuple[Array, Array]:
    """Return the gradients of the table and of the weights of a sum, y[b] = Σ s[i] w[index[i]].

    w[index[i]] gets s[i] g[b], of a mean g[b] / (size of the bag), and s[i] gets <w[index[i]], g[b]>; of a maximum the
    winner alone gets g, in every column.

    Args:
        grad_output: gradient of the output, (bags, size); the rest as in `embedding_bag`.
    """
    s = np.ones(len(index)) if per_sample_weights is None else widen(per_sample_weights)
    dtype, weight, grad_output = result_dtype(grad_output, weight), widen(weight), widen(grad_output)
    grad, grad_s = np.zeros(np.shape(weight)), np.zeros(len(index))
    for b, places in _bags(index, offsets, padding_idx):
        if mode == "max" and places:
            for d in range(np.shape(weight)[1]):
                winner = places[_winner(np.array([weight[index[i], d] for i in places]))]
                grad[index[winner], d] += grad_output[b, d]
            continue
        for i in places:
            grad[index[i]] += s[i] * grad_output[b] / (len(places) if mode == "mean" else 1)
            grad_s[i] = np.sum(weight[index[i]] * grad_output[b])
    return grad.astype(dtype), grad_s.astype(dtype)
