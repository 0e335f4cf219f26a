"""Distances of all pairs of rows."""

from __future__ import annotations

import numpy as np

from ._arrays import Array, require_real, result_dtype, widen


def _check(x: Array, z: Array) -> None:
    for name, array in (("x", x), ("z", z)):
        require_real(name, array)
        if np.ndim(array) != 2 or np.shape(array)[1] != np.shape(x)[1]:
            raise RuntimeError(f"{name} must be a matrix with the columns of x, got shape {np.shape(array)}")


def pair_distances(x: Array, z: Array, p: float = 2.0) -> Array:
    """Compute the p-norm of every difference of a row of x and a row of z.

        y[i, j] = (Σ_k |x[i, k] - z[j, k]|^p)^(1/p),     the largest |x[i, k] - z[j, k]| for p = ∞

    Args:
        x: shape (P, M), real.
        z: shape (R, M), real.
        p: positive, or infinity.

    Returns:
        Shape (P, R).

    Raises:
        RuntimeError: the shapes do not fit.
        TypeError: an array is complex.

    Equals `torch.cdist`.
    """
    _check(x, z)
    wide_x, wide_z = widen(x), widen(z)
    y = np.zeros((len(wide_x), len(wide_z)))
    for i, j in np.ndindex(*y.shape):
        size = np.abs(wide_x[i] - wide_z[j])
        y[i, j] = np.max(size, initial=0) if np.isinf(p) else np.sum(size**p) ** (1 / p)
    return y.astype(result_dtype(x, z))


def pair_distances_gradients(x: Array, z: Array, grad_output: Array, p: float = 2.0) -> tuple[Array, Array]:
    """Carry a gradient from the output of `pair_distances` to x and z.

    With d = x[i, k] - z[j, k], each pair of rows and each column:

        h = g[i, j] · sign(d) · (|d| / y[i, j])^(p-1),     g[i, j] · sign(d) at the largest |d| for p = ∞
        gx[i, k] += h        gz[j, k] -= h

    and nothing from rows that are equal.

    Args:
        x: as in `pair_distances`.
        z: as in `pair_distances`.
        grad_output: shape (P, R).
        p: as in `pair_distances`.

    Returns:
        The gradients of x and of z.

    Raises:
        As `pair_distances`.

    Equals the gradients of `torch.cdist`.
    """
    y = pair_distances(widen(x), widen(z), p)
    wide_x, wide_z, g = widen(x), widen(z), widen(grad_output)
    gx, gz = np.zeros(wide_x.shape), np.zeros(wide_z.shape)
    for i, j in np.ndindex(*y.shape):
        for k in range(wide_x.shape[1]):
            d = wide_x[i, k] - wide_z[j, k]
            if d == 0 or y[i, j] == 0:
                continue
            share = float(abs(d) == y[i, j]) if np.isinf(p) else (abs(d) / y[i, j]) ** (p - 1)
            gx[i, k] += g[i, j] * np.sign(d) * share
            gz[j, k] -= g[i, j] * np.sign(d) * share
    dtype = result_dtype(x, z, grad_output)
    return gx.astype(dtype), gz.astype(dtype)
