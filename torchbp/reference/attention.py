"""Scaled dot-product attention, row by row.

A row of the query is compared with every key it sees; the scores become probabilities, and these weigh the values.
l counts the rows of the query, s those of key and value, e and d the numbers in a row.
"""

from __future__ import annotations

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen


def _probabilities(
    query: Array, key: Array, mask: Array | None, is_causal: bool, scale: float | None
) -> tuple[Array, float]:
    """Return the probabilities (*, L, S), and the scale."""
    size = query.shape[-1]
    if scale is None:
        scale = 1 / np.sqrt(size)
    probabilities = np.zeros((*query.shape[:-1], key.shape[-2]))
    added = None if mask is None else np.broadcast_to(mask, probabilities.shape)
    for index in np.ndindex(*query.shape[:-1]):
        *lead, row = index
        scores = np.zeros(key.shape[-2])
        for s in range(len(scores)):
            pair, place = (*lead, s), (*index, s)
            scores[s] = scale * np.sum(query[index] * key[pair])
            if added is not None:
                seen = added[place]
                scores[s] += (0.0 if seen else -np.inf) if added.dtype == np.bool_ else seen
            if is_causal and s > row:
                scores[s] = -np.inf
        if np.all(scores == -np.inf):
            continue  # a row that sees no key
        # Subtracting the maximum cancels in the quotient, and keeps exp from overflowing.
        exponentials = np.exp(scores - np.max(scores))
        probabilities[index] = exponentials / np.sum(exponentials)
    return probabilities, scale


def _check(query: Array, key: Array, value: Array, **others: Array) -> None:
    for name, array in {"query": query, "key": key, "value": value, **others}.items():
        require_real(name, array)
    lead = np.shape(query)[:-2]
    require_shape("key", key, (*lead, *np.shape(key)[-2:-1], np.shape(query)[-1]))
    require_shape("value", value, (*lead, np.shape(key)[-2], *np.shape(value)[-1:]))


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """Average the values with probabilities that compare queries and keys.

        x[l, s] = scale · Σ_e q[l, e] k[s, e] + mask[l, s]
        p[l, s] = exp(x[l, s]) / Σ_t exp(x[l, t])
        y[l, d] = Σ_s p[l, s] v[s, d]

    Args:
        query: (*, L, E), real.
        key: (*, S, E).
        value: (*, S, D).
        mask: broadcasts to (*, L, S); added, or boolean: True where a key is seen, -inf elsewhere.
        is_causal: whether row l sees the keys 0 to l only.
        scale: 1 / √E if not given.

    Returns:
        (*, L, D). A row that sees no key is 0.

    Raises:
        RuntimeError: the shapes do not fit.
        TypeError: an array is complex.

    Source: Vaswani et al., "Attention is all you need", 2017. Equals
    `torch.nn.functional.scaled_dot_product_attention`.
    """
    _check(query, key, value)
    dtype = result_dtype(query, key, value)
    query, key, value = widen(query), widen(key), widen(value)
    p, _ = _probabilities(query, key, mask, is_causal, scale)
    output = np.zeros((*query.shape[:-1], value.shape[-1]))
    for index in np.ndindex(*p.shape[:-1]):
        for s in range(p.shape[-1]):
            pair, place = (*index[:-1], s), (*index, s)
            output[index] += p[place] * value[pair]
    return output.astype(dtype)


def attention_gradients(
    query: Array,
    key: Array,
    value: Array,
    grad_output: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Carry a gradient from the output of `attention` to its inputs.

    The three sums of `attention`, last to first, each turned around; in the middle softmax's Jacobian:

        gv[s, d] = Σ_l p[l, s] gy[l, d]
        gp[l, s] = Σ_d gy[l, d] v[s, d]
        gx[l, s] = Σ_t gp[l, t] · ∂p[l, t] / ∂x[l, s] = p[l, s] (gp[l, s] - Σ_t p[l, t] gp[l, t])
        gq[l, e] = scale · Σ_s gx[l, s] k[s, e],   gk[s, e] = scale · Σ_l gx[l, s] q[l, e]

    FlashAttention computes Σ_t p[l, t] gp[l, t] as Σ_d gy[l, d] y[l, d], so that no row of p need be whole.

    Args:
        query, key, value, mask, is_causal, scale: as in `attention`.
        grad_output: (*, L, D).

    Returns:
        The gradients of query, key and value, and that of the scores, (*, L, S): summed over what was broadcast it is
        the mask's.

    Raises:
        RuntimeError: the shapes do not fit.
        TypeError: an array is complex.

    Source: Dao, "FlashAttention-2", 2023.
    """
    _check(query, key, value, grad_output=grad_output)
    require_shape("grad_output", grad_output, (*np.shape(query)[:-1], np.shape(value)[-1]))
    dtype = result_dtype(query, key, value, grad_output)
    query, key, value, grad_output = (widen(array) for array in (query, key, value, grad_output))
    p, scale = _probabilities(query, key, mask, is_causal, scale)
    gq, gk, gv = np.zeros(query.shape), np.zeros(key.shape), np.zeros(value.shape)
    gx = np.zeros(p.shape)
    for index in np.ndindex(*p.shape[:-1]):
        lead = index[:-1]
        gp = np.zeros(p.shape[-1])
        for s in range(p.shape[-1]):
            pair, place = (*lead, s), (*index, s)
            gv[pair] += p[place] * grad_output[index]
            gp[s] = np.sum(grad_output[index] * value[pair])
        jacobian = np.diag(p[index]) - np.outer(p[index], p[index])
        gx[index] = gp @ jacobian
        for s in range(p.shape[-1]):
            pair, place = (*lead, s), (*index, s)
            gq[index] += scale * gx[place] * key[pair]
            gk[pair] += scale * gx[place] * query[index]
    return gq.astype(dtype), gk.astype(dtype), gv.astype(dtype), gx.astype(dtype)
