"""Distances of rows, one by one and all pairs, and the cosine of the angle between vectors."""

from __future__ import annotations

import math

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen


def _norm(delta: Array, p: float) -> float:
    size = np.abs(delta)
    return float(np.max(size, initial=0)) if math.isinf(p) else float(np.sum(size**p) ** (1 / p))


def _norm_slopes(delta: Array, y: float, p: float) -> Array:
    """Return sign(d) (|d| / y)^(p-1) for every d, or sign(d) at the largest |d| for p = ∞; 0 where d or y is."""
    slopes = np.zeros(delta.shape)
    for k, d in enumerate(delta):
        if d != 0 and y != 0:
            slopes[k] = np.sign(d) * (float(abs(d) == y) if math.isinf(p) else (abs(d) / y) ** (p - 1))
    return slopes


def _check_rows(x: Array, z: Array) -> None:
    require_real("x", x)
    require_real("z", z)
    require_shape("z", z, np.shape(x))


def distance(x: Array, z: Array, p: float = 2.0, eps: float = 1e-6) -> Array:
    """Compute the p-norm of the difference of every row of x and that row of z.

        y[i] = (Σ_k |d[k]|^p)^(1/p),     the largest |d[k]| for p = ∞;     d[k] = x[i, k] - z[i, k] + eps

    Args:
        x: shape (*, M), real.
        z: the shape of x, real.
        p: positive, or infinity.
        eps: what is added to every difference.

    Returns:
        Shape (*).

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Equals `torch.nn.functional.pairwise_distance`.
    """
    _check_rows(x, z)
    delta = widen(x) - widen(z) + eps
    y = np.zeros(delta.shape[:-1])
    for i in np.ndindex(*y.shape):
        y[i] = _norm(delta[i], p)
    return y.astype(result_dtype(x, z))


def distance_gradients(
    x: Array, z: Array, grad_output: Array, p: float = 2.0, eps: float = 1e-6
) -> tuple[Array, Array]:
    """Carry a gradient from the output of `distance` to x and z.

        h = g[i] · sign(d[k]) · (|d[k]| / y[i])^(p-1),     for p = ∞ g[i] · sign(d[k]) / number of the largest
        gx[i, k] = h        gz[i, k] = -h

    and nothing where d[k] or y[i] is 0.

    Args:
        x: as in `distance`.
        z: as in `distance`.
        grad_output: shape (*).
        p: as in `distance`.
        eps: as in `distance`.

    Returns:
        The gradients of x and of z.

    Raises:
        As `distance`; also RuntimeError if `grad_output` does not have the shape of the output.

    Equals the gradients of `torch.nn.functional.pairwise_distance`.
    """
    _check_rows(x, z)
    require_shape("grad_output", grad_output, np.shape(x)[:-1])
    delta, g = widen(x) - widen(z) + eps, widen(grad_output)
    gx = np.zeros(delta.shape)
    for i in np.ndindex(*delta.shape[:-1]):
        y = _norm(delta[i], p)
        slopes = _norm_slopes(delta[i], y, p)
        gx[i] = g[i] * (slopes / np.count_nonzero(slopes) if math.isinf(p) and slopes.any() else slopes)
    dtype = result_dtype(x, z, grad_output)
    return gx.astype(dtype), (-gx).astype(dtype)


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
        y[i, j] = _norm(wide_x[i] - wide_z[j], p)
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
        h = g[i, j] * _norm_slopes(wide_x[i] - wide_z[j], y[i, j], p)
        gx[i] += h
        gz[j] -= h
    dtype = result_dtype(x, z, grad_output)
    return gx.astype(dtype), gz.astype(dtype)


def _cosine(x: Array, z: Array, eps: float, added: bool = False) -> tuple[float, Array, Array]:
    """Return the cosine of the angle between two vectors, and its derivatives by each.

    Lengths are at least eps, or with ``added`` eps is added to their squares.
    """
    lengths = [math.sqrt(np.sum(v * v) + (eps if added else 0)) for v in (x, z)]
    a, b = (max(length, 0 if added else eps) for length in lengths)
    y = float(np.sum(x * z)) / (a * b)
    gx = z / (a * b) - (y * x / (a * lengths[0]) if lengths[0] else 0 * x)
    gz = x / (a * b) - (y * z / (b * lengths[1]) if lengths[1] else 0 * z)
    return y, gx, gz


def cosine_similarity(x: Array, z: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """Compute the cosine of the angle between vectors of x and of z.

        y = Σ_k x[k] z[k] / (a b)     with a = max(|x|, eps) and b = max(|z|, eps)

    Args:
        x: any shape, real.
        z: the shape of x, real.
        dim: the dimension that the vectors lie in.
        eps: the least length.

    Returns:
        The shape of x without `dim`.

    Raises:
        RuntimeError: the shapes differ.
        TypeError: an array is complex.

    Equals `torch.nn.functional.cosine_similarity`.
    """
    _check_rows(x, z)
    wide_x, wide_z = (np.moveaxis(widen(v), dim, -1) for v in (x, z))
    y = np.zeros(wide_x.shape[:-1])
    for i in np.ndindex(*y.shape):
        y[i] = _cosine(wide_x[i], wide_z[i], eps)[0]
    return y.astype(result_dtype(x, z))


def cosine_similarity_gradients(
    x: Array, z: Array, grad_output: Array, dim: int = 1, eps: float = 1e-8
) -> tuple[Array, Array]:
    """Carry a gradient from the output of `cosine_similarity` to x and z.

        gx[k] = g · (z[k] / (a b) - y x[k] / (a |x|))        gz[k] = g · (x[k] / (a b) - y z[k] / (b |z|))

    where x / |x| of a vector of zeros is 0. A length that was raised to eps counts as if it had not been.

    Args:
        x: as in `cosine_similarity`.
        z: as in `cosine_similarity`.
        grad_output: the shape of the output.
        dim: as in `cosine_similarity`.
        eps: as in `cosine_similarity`.

    Returns:
        The gradients of x and of z.

    Raises:
        As `cosine_similarity`; also RuntimeError if `grad_output` does not have the shape of the output.

    Equals the gradients of `torch.nn.functional.cosine_similarity`.
    """
    _check_rows(x, z)
    wide_x, wide_z = (np.moveaxis(widen(v), dim, -1) for v in (x, z))
    require_shape("grad_output", grad_output, wide_x.shape[:-1])
    g = widen(grad_output)
    gx, gz = np.zeros(wide_x.shape), np.zeros(wide_x.shape)
    for i in np.ndindex(*wide_x.shape[:-1]):
        _, by_x, by_z = _cosine(wide_x[i], wide_z[i], eps)
        gx[i], gz[i] = g[i] * by_x, g[i] * by_z
    dtype = result_dtype(x, z, grad_output)
    return np.moveaxis(gx, -1, dim).astype(dtype), np.moveaxis(gz, -1, dim).astype(dtype)
