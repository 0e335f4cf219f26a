"""Array types: what the loops compute in, and what they return."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


def result_dtype(*arrays: Array | None) -> np.dtype[Any]:
    """Return the common dtype of the arrays if it is floating or complex, else float64."""
    dtype = np.result_type(*(np.asarray(array).dtype for array in arrays if array is not None))
    return dtype if np.issubdtype(dtype, np.inexact) else np.dtype(np.float64)


def widen(array: Array) -> Array:
    """Return the array in float64, or complex128 if complex, so that sums round only once, at the end."""
    array = np.asarray(array)
    return array.astype(np.result_type(array.dtype, np.float64), copy=False)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return zeros of the widened dtype, to sum into."""
    return np.zeros(shape, np.result_type(dtype, np.float64))


def require_real(name: str, array: Array) -> None:
    """Raise TypeError if the array is complex."""
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got dtype {np.asarray(array).dtype}")


def require_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise RuntimeError if the array has another shape."""
    if np.shape(array) != tuple(shape):
        raise RuntimeError(f"{name} must have shape {tuple(shape)}, got {np.shape(array)}")


def split_shape(name: str, array: Array, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the leading and the spatial sizes; the last `dims` dimensions are spatial, at least one."""
    shape = np.shape(array)
    if dims < 1 or len(shape) < dims:
        raise RuntimeError(f"{name} must have at least {max(dims, 1)} dimensions, got shape {shape}")
    return shape[: len(shape) - dims], shape[len(shape) - dims :]
