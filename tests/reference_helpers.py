"""What the tests of torchbp.reference share: read-only arrays, and PyTorch's answers to compare with.

Every array handed to the reference is read-only, so a function that writes to its arguments fails.
"""

import math

import numpy as np
import pytest
import torch

INF, NAN = math.inf, math.nan
# What the windows of a max pool may hold.
WINDOWS = ("distinct", "ties", "equal", "nan", "all-nan", "infinite", "all-minus-infinite", "mixed")


def frozen(array):
    array = np.array(array)
    array.setflags(write=False)
    return array


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


def tensor(array, requires_grad=False):
    return torch.tensor(np.array(array), requires_grad=requires_grad)


def optional(array):
    return None if array is None else tensor(array)


def check(actual, expected, rtol=1e-12, atol=1e-13):
    """Compare shape, dtype and values; NaN equals NaN."""
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert isinstance(actual, np.ndarray)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


def gradients(function, arrays, grad_output):
    """Return the gradients of PyTorch's function at the arrays."""
    leaves = [tensor(array, requires_grad=True) for array in arrays]
    return torch.autograd.grad(function(*leaves), leaves, tensor(grad_output))


def check_adjoint(y, grad_output, x, grad_input):
    """Compare <A x, g> with <x, A^T g>, given A x and A^T g."""
    np.testing.assert_allclose(np.vdot(y, grad_output), np.vdot(x, grad_input), rtol=1e-12, atol=1e-12)


def windowed(kind, shape):
    """Draw an input whose windows hold one of WINDOWS."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(shape)
    if kind == "ties":
        x = rng.integers(0, 3, shape).astype(np.float64)
    elif kind == "equal":
        x = np.full(shape, 2.0)
    elif kind == "nan":
        x[rng.random(shape) < 0.4] = NAN
    elif kind == "all-nan":
        x[...] = NAN
    elif kind == "infinite":
        x = rng.choice([-INF, -INF, -INF, 0.0, INF], shape)
    elif kind == "all-minus-infinite":
        x[...] = -INF
    elif kind == "mixed":
        x = rng.choice([-INF, NAN, 1.0, 1.0, 2.0], shape)
    return frozen(x)


def check_refused(call, builtin, message, error=(IndexError, RuntimeError, ValueError)):
    """Require that PyTorch refuses what the reference refuses, which says so."""
    with pytest.raises(error):
        builtin()
    with pytest.raises(error, match=message):
        call()
