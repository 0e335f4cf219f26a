"""The loops of torchbp.reference, held against PyTorch: values, gradients, and what both refuse.

Every array handed to the reference is read-only, so a function that writes to its arguments fails here.
"""

import ast
import inspect
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_helpers import INF, NAN, WINDOWS, check, frozen, gradients, ones, optional, tensor, windowed

from torchbp import nn, reference

pytestmark = pytest.mark.filterwarnings("error")


# Linear and bilinear maps


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 2), (0,), (2, 0)])
def test_linear(values, leading, with_bias, dtype):
    x, w = values(*leading, 3, dtype=dtype), values(4, 3, dtype=dtype)
    b, gy = values(4, dtype=dtype), values(*leading, 4, dtype=dtype)
    if not with_bias:
        check(reference.linear(x, w), F.linear(tensor(x), tensor(w)))
        return
    check(reference.linear(x, w, b), F.linear(tensor(x), tensor(w), tensor(b)))
    gx, gw, gb = gradients(F.linear, (x, w, b), gy)
    check(reference.linear_input(gy, w), gx)
    check(reference.linear_weight(x, gy), gw)
    check(reference.linear_bias(gy), gb)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)])
def test_bilinear(values, leading, with_bias, dtype):
    x1, x2 = values(*leading, 3, dtype=dtype), values(*leading, 2, dtype=dtype)
    w, b = values(4, 3, 2, dtype=dtype), values(4, dtype=dtype)
    gy = values(*leading, 4, dtype=dtype)

    def builtin(x1, x2, w, b=None):
        if dtype == np.float64:
            return F.bilinear(x1, x2, w, b)
        # PyTorch's function has no gradient for complex values.
        return torch.einsum("...i,oij,...j->...o", x1, w, x2) + (0 if b is None else b)

    if not with_bias:
        check(reference.bilinear(x1, x2, w), builtin(tensor(x1), tensor(x2), tensor(w)))
        return
    check(reference.bilinear(x1, x2, w, b), builtin(tensor(x1), tensor(x2), tensor(w), tensor(b)))
    expected = gradients(builtin, (x1, x2, w, b), gy)
    for actual, wanted in zip(reference.bilinear_gradients(x1, x2, w, gy), expected, strict=True):
        check(actual, wanted)


# Convolution

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# input shape, weight shape, stride, padding, dilation, groups
CONVOLUTIONS = {
    "1d": ((2, 3, 7), (4, 3, 3), (1,), (0,), (1,), 1),
    "1d-stride-larger-than-kernel": ((2, 2, 9), (3, 2, 2), (3,), (0,), (1,), 1),
    "1d-all-arguments": ((2, 4, 8), (6, 2, 3), (2,), (2,), (2,), 2),
    "1d-padding-larger-than-kernel": ((1, 2, 3), (2, 2, 2), (1,), (4,), (1,), 1),
    "1d-tail-not-covered": ((1, 2, 8), (2, 2, 3), (3,), (0,), (1,), 1),
    "2d": ((2, 2, 4, 5), (3, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    "2d-each-dimension-different": ((2, 2, 5, 6), (3, 2, 2, 3), (2, 1), (1, 2), (1, 2), 1),
    "2d-depthwise": ((2, 3, 4, 4), (6, 1, 2, 3), (1, 2), (1, 0), (1, 1), 3),
    "2d-grouped-dilated": ((1, 4, 6, 5), (4, 2, 3, 2), (1, 1), (1, 1), (2, 3), 2),
    "2d-1x1-stride-2": ((2, 1, 5, 5), (4, 1, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "2d-stride-larger-than-kernel": ((1, 2, 7, 6), (2, 2, 2, 1), (3, 4), (0, 0), (1, 1), 1),
    "2d-empty-batch": ((0, 2, 4, 4), (3, 2, 2, 2), (1, 1), (0, 0), (1, 1), 1),
    "3d": ((2, 2, 3, 4, 3), (2, 2, 2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
    "3d-all-arguments": ((1, 4, 4, 3, 5), (2, 2, 2, 3, 2), (1, 2, 2), (1, 0, 1), (1, 1, 2), 2),
}


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(values, case, dtype):
    input_shape, weight_shape, *arguments = case
    x, w = values(*input_shape, dtype=dtype), values(*weight_shape, dtype=dtype)
    b = values(weight_shape[0], dtype=dtype)
    convolve = CONVOLUTION[len(input_shape) - 2]
    y = convolve(tensor(x), tensor(w), tensor(b), *arguments)
    check(reference.convolution(x, w, b, *arguments), y)
    check(reference.convolution(x, w, None, *arguments), convolve(tensor(x), tensor(w), None, *arguments))
    gy = values(*y.shape, dtype=dtype)
    gx, gw, gb = gradients(lambda *leaves: convolve(*leaves, *arguments), (x, w, b), gy)
    check(reference.convolution_input(gy, w, input_shape[2:], *arguments), gx)
    check(reference.convolution_weight(x, gy, weight_shape[2:], *arguments), gw)
    check(reference.convolution_bias(gy), gb)


def test_convolution_gradient_is_zero_where_no_window_looks(values):
    gy, w = values(1, 1, 3), values(1, 1, 2)
    gx = reference.convolution_input(gy, w, (9,), (3,), (0,), (1,), 1)
    assert np.all(gx[0, 0, [2, 5, 8]] == 0)
    assert np.all(gx[0, 0, [0, 1, 3, 4, 6, 7]] != 0)


def test_convolution_without_input_channels_is_its_bias(values):
    b = values(3)
    y = reference.convolution(values(2, 0, 5), values(3, 0, 2), b, (1,), (0,), (1,), 1)
    check(y, np.broadcast_to(b[:, None], (2, 3, 4)))


def test_output_size():
    for size, k, s, p, d in itertools.product(range(1, 7), range(1, 4), range(1, 4), range(3), range(1, 3)):
        x, w = torch.zeros(1, 1, size), torch.zeros(1, 1, k)
        if d * (k - 1) + 1 > size + 2 * p:
            with pytest.raises(RuntimeError):
                F.conv1d(x, w, None, s, p, d)
            with pytest.raises(RuntimeError, match=rf"^kernel_size \({k},\)"):
                reference.output_size((size,), (k,), (s,), (p,), (d,))
        else:
            expected = F.conv1d(x, w, None, s, p, d).shape[2:]
            assert reference.output_size((size,), (k,), (s,), (p,), (d,)) == tuple(expected)
    assert reference.output_size((7, 8, 9), (3, 2, 1), (2, 3, 1), (1, 0, 2), (1, 4, 5)) == (4, 2, 13)


# Max pooling

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

# input shape, kernel_size, stride, padding, dilation
MAX_POOLS = {
    "1d": ((2, 2, 9), (3,), (2,), (1,), (1,)),
    "1d-unbatched": ((2, 7), (2,), (2,), (0,), (1,)),
    "1d-stride-larger-than-kernel": ((1, 2, 10), (2,), (3,), (0,), (1,)),
    "2d": ((2, 2, 6, 7), (2, 3), (2, 2), (1, 1), (1, 1)),
    "2d-unbatched": ((2, 5, 5), (3, 3), (1, 2), (0, 1), (1, 1)),
    "2d-overlapping-dilated": ((1, 2, 7, 8), (3, 2), (1, 2), (1, 0), (2, 3)),
    "2d-stride-larger-than-kernel": ((1, 2, 8, 7), (2, 1), (3, 2), (0, 0), (1, 1)),
    "2d-empty-batch": ((0, 2, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1)),
    "3d": ((1, 2, 4, 5, 4), (2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 1, 1)),
    "3d-dilated": ((1, 1, 5, 4, 6), (2, 2, 3), (1, 2, 2), (0, 1, 1), (2, 1, 2)),
}


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("case", MAX_POOLS.values(), ids=MAX_POOLS)
def test_max_pool(values, case, kind, ceil_mode):
    input_shape, *window = case
    input_size = input_shape[-len(window[0]) :]
    pool = MAX_POOL[len(input_size)]
    x = windowed(kind, input_shape)
    leaf = tensor(x, requires_grad=True)
    expected, indices = pool(leaf, *window, ceil_mode=ceil_mode, return_indices=True)
    y, winner = reference.max_pool(x, *window, ceil_mode)
    check(y, expected)
    assert winner.dtype == np.int64
    assert winner.size == 0 or 0 <= winner.min() <= winner.max() < math.prod(window[0])
    winner = frozen(winner)
    check(reference.max_pool_indices(winner, input_size, *window), indices)
    check(reference.max_pool_gather(x, winner, *window), expected)
    # The first derivative, and the derivative of that: the gradient's gradient at grad_output.
    gy, ggx = values(*y.shape), values(*x.shape)
    leaf_gy = tensor(gy, requires_grad=True)
    (gx,) = torch.autograd.grad(expected, leaf, leaf_gy, create_graph=True)
    (ggy,) = torch.autograd.grad(gx, leaf_gy, tensor(ggx))
    check(reference.max_pool_scatter(gy, winner, input_size, *window), gx)
    check(reference.max_pool_gather(ggx, winner, *window), ggy)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool_for_all_small_windows(ceil_mode):
    x = frozen(np.random.default_rng(3).integers(0, 4, (1, 7)).astype(np.float64))
    for size, k, s, d in itertools.product(range(1, 8), range(1, 5), range(1, 5), range(1, 4)):
        for p in range(k // 2 + 1):
            window = ((k,), (s,), (p,), (d,))
            try:
                expected, indices = F.max_pool1d(tensor(x[:, :size]), *window, ceil_mode=ceil_mode, return_indices=True)
            except RuntimeError:
                with pytest.raises(RuntimeError, match=r"^kernel_size .* must leave room"):
                    reference.max_pool(x[:, :size], *window, ceil_mode)
                continue
            y, winner = reference.max_pool(x[:, :size], *window, ceil_mode)
            check(y, expected)
            actual = reference.max_pool_indices(winner, (size,), *window)
            # PyTorch's index lies outside the plane where no tap of a window lies inside the input.
            check(actual, np.where(indices.numpy() < size, indices.numpy(), -1))


def test_max_pool_window_without_a_tap_in_the_input(values):
    # Two taps, ten apart, at -1 and 9: neither falls inside an input of 9 values.
    window = ((2,), (1,), (1,), (10,))
    y, winner = reference.max_pool(values(2, 9), *window, False)
    check(y, F.max_pool1d(torch.zeros(2, 9, dtype=torch.float64), *window))
    check(y, np.full((2, 1), -INF))
    check(winner, np.full((2, 1), -1))
    check(reference.max_pool_indices(winner, (9,), *window), np.full((2, 1), -1))
    check(reference.max_pool_scatter(values(2, 1), winner, (9,), *window), np.zeros((2, 9)))
    check(reference.max_pool_gather(values(2, 9), winner, *window), np.zeros((2, 1)))


def test_max_pool_scatter_sums_where_one_value_wins_twice():
    x, gy = frozen([[0.0, 5.0, 1.0]]), frozen([[10.0, 1.0]])
    _, winner = reference.max_pool(x, (2,), (1,), (0,), (1,), False)
    assert winner.tolist() == [[1, 0]]
    check(reference.max_pool_scatter(gy, winner, (3,), (2,), (1,), (0,), (1,)), [[0.0, 11.0, 0.0]])


# Average pooling

AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

# input shape, kernel_size, stride, padding
AVERAGE_POOLS = {
    "1d": ((2, 2, 8), (3,), (2,), (1,)),
    "1d-unbatched": ((2, 7), (2,), (2,), (0,)),
    "1d-stride-larger-than-kernel": ((1, 2, 9), (2,), (4,), (1,)),
    "2d": ((2, 2, 6, 5), (2, 3), (2, 2), (1, 1)),
    "2d-overlapping": ((1, 2, 5, 6), (3, 2), (1, 1), (1, 0)),
    "2d-stride-larger-than-kernel": ((1, 2, 8, 7), (2, 1), (3, 2), (1, 0)),
    "2d-empty-batch": ((0, 2, 4, 4), (2, 2), (2, 2), (0, 0)),
    "3d": ((1, 2, 4, 5, 4), (2, 3, 4), (2, 1, 3), (1, 1, 2)),
}


@pytest.mark.parametrize("divisor_override", [None, 5, -2])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("case", AVERAGE_POOLS.values(), ids=AVERAGE_POOLS)
def test_average_pool(values, case, ceil_mode, count_include_pad, divisor_override):
    input_shape, *window = case
    input_size = input_shape[-len(window[0]) :]
    arguments = (*window, ceil_mode, count_include_pad)

    def pool(x):
        if len(input_size) > 1:
            return AVERAGE_POOL[len(input_size)](x, *arguments, divisor_override)
        if divisor_override is None:
            return F.avg_pool1d(x, *arguments)
        # PyTorch's 1-dimensional function has no divisor: borrow the 2-dimensional one.
        flat = [(neutral, *size) for neutral, size in zip((1, 1, 0), window, strict=True)]
        return F.avg_pool2d(x.unsqueeze(-2), *flat, *arguments[3:], divisor_override).squeeze(-2)

    x = values(*input_shape)
    y = pool(tensor(x))
    check(reference.average_pool(x, *arguments, divisor_override), y)
    gy = values(*y.shape)
    (gx,) = gradients(pool, (x,), gy)
    check(reference.average_pool_adjoint(gy, input_size, *arguments, divisor_override), gx)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_average_pool_for_all_small_windows(values, ceil_mode, count_include_pad):
    x = values(1, 7)
    for size, k, s in itertools.product(range(1, 8), range(1, 5), range(1, 5)):
        for p in range(k // 2 + 1):
            arguments = ((k,), (s,), (p,), ceil_mode, count_include_pad)
            try:
                expected = F.avg_pool1d(tensor(x[:, :size]), *arguments)
            except RuntimeError:
                with pytest.raises(RuntimeError, match=r"^kernel_size .* must leave room"):
                    reference.average_pool(x[:, :size], *arguments, None)
                continue
            check(reference.average_pool(x[:, :size], *arguments, None), expected)


ADAPTIVE_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@pytest.mark.parametrize(
    "input_shape, output_size",
    [((2, size), (out,)) for size in range(1, 8) for out in range(1, 10)]
    + [
        ((2, 2, 7), (3,)),
        ((2, 2, 5, 7), (3, 4)),
        ((2, 5, 7), (1, 1)),
        ((1, 2, 3, 4), (5, 2)),
        ((0, 2, 3, 4), (2, 2)),
        ((1, 2, 4, 5, 3), (3, 2, 3)),
        ((2, 3, 2, 4), (2, 5, 3)),
    ],
)
def test_adaptive_average_pool(values, input_shape, output_size):
    pool = ADAPTIVE_POOL[len(output_size)]
    x = values(*input_shape)
    y = pool(tensor(x), output_size)
    check(reference.adaptive_average_pool(x, output_size), y)
    gy = values(*y.shape)
    (gx,) = gradients(lambda leaf: pool(leaf, output_size), (x,), gy)
    check(reference.adaptive_average_pool_adjoint(gy, input_shape[-len(output_size) :]), gx)


def test_adaptive_average_pool_to_nothing(values):
    # PyTorch returns the empty output too, but refuses to go back from it.
    x = values(2, 3)
    check(reference.adaptive_average_pool(x, (0,)), F.adaptive_avg_pool1d(tensor(x), 0))
    check(reference.adaptive_average_pool_adjoint(values(2, 0), (3,)), np.zeros((2, 3)))


# Activation functions

ACTIVATIONS = {
    "relu": (reference.relu, reference.relu_derivative, F.relu),
    "leaky_relu": (reference.leaky_relu, reference.leaky_relu_derivative, F.leaky_relu),
    "leaky_relu-slope": (
        lambda x: reference.leaky_relu(x, 0.3),
        lambda x: reference.leaky_relu_derivative(x, 0.3),
        lambda x: F.leaky_relu(x, 0.3),
    ),
    "leaky_relu-negative-slope": (
        lambda x: reference.leaky_relu(x, negative_slope=-2.0),
        lambda x: reference.leaky_relu_derivative(x, negative_slope=-2.0),
        lambda x: F.leaky_relu(x, -2.0),
    ),
    "sigmoid": (reference.sigmoid, reference.sigmoid_derivative, torch.sigmoid),
    "tanh": (reference.tanh, reference.tanh_derivative, torch.tanh),
    "scaled_tanh": (
        reference.scaled_tanh,
        reference.scaled_tanh_derivative,
        lambda x: 1.7159 * torch.tanh(2 * x / 3),
    ),
    "softplus": (reference.softplus, reference.softplus_derivative, F.softplus),
    "softplus-beta": (
        lambda x: reference.softplus(x, 2.5, 4.0),
        lambda x: reference.softplus_derivative(x, 2.5, 4.0),
        lambda x: F.softplus(x, 2.5, 4.0),
    ),
    "softplus-negative-beta": (
        lambda x: reference.softplus(x, beta=-0.5, threshold=3.0),
        lambda x: reference.softplus_derivative(x, beta=-0.5, threshold=3.0),
        lambda x: F.softplus(x, -0.5, 3.0),
    ),
    "gelu": (reference.gelu, reference.gelu_derivative, F.gelu),
    "gelu-tanh": (
        lambda x: reference.gelu(x, "tanh"),
        lambda x: reference.gelu_derivative(x, "tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "silu": (reference.silu, reference.silu_derivative, F.silu),
    "elu": (reference.elu, reference.elu_derivative, F.elu),
    "elu-negative": (
        lambda x: reference.elu(x, -0.7),
        lambda x: reference.elu_derivative(x, -0.7),
        lambda x: F.elu(x, -0.7),
    ),
    "celu": (
        lambda x: reference.elu(x, 2.0, 1.0, 0.5),
        lambda x: reference.elu_derivative(x, 2.0, 1.0, 0.5),
        lambda x: F.celu(x, 2.0),
    ),
    "celu-negative": (
        lambda x: reference.elu(x, -2.0, 1.0, -0.5),
        lambda x: reference.elu_derivative(x, -2.0, 1.0, -0.5),
        lambda x: F.celu(x, -2.0),
    ),
    "selu": (
        lambda x: reference.elu(x, 1.6732632423543772, 1.0507009873554805),
        lambda x: reference.elu_derivative(x, 1.6732632423543772, 1.0507009873554805),
        F.selu,
    ),
    "hardtanh": (reference.hardtanh, reference.hardtanh_derivative, F.hardtanh),
    "relu6": (
        lambda x: reference.hardtanh(x, 0, 6),
        lambda x: reference.hardtanh_derivative(x, 0, 6),
        F.relu6,
    ),
    "threshold": (
        lambda x: reference.threshold(x, 0.25, 2.0),
        lambda x: reference.threshold_derivative(x, 0.25, 2.0),
        lambda x: F.threshold(x, 0.25, 2.0),
    ),
    "hardshrink": (reference.hardshrink, reference.shrink_derivative, F.hardshrink),
    "softshrink": (reference.softshrink, reference.shrink_derivative, F.softshrink),
    "hardsigmoid": (reference.hardsigmoid, reference.hardsigmoid_derivative, F.hardsigmoid),
    "hardswish": (reference.hardswish, reference.hardswish_derivative, F.hardswish),
    "logsigmoid": (reference.logsigmoid, reference.logsigmoid_derivative, F.logsigmoid),
    "tanhshrink": (reference.tanhshrink, reference.tanhshrink_derivative, F.tanhshrink),
    "softsign": (reference.softsign, reference.softsign_derivative, F.softsign),
    "mish": (reference.mish, reference.mish_derivative, F.mish),
}
LIMITS = {
    "gelu": (0, INF),
    "gelu-tanh": (0, INF),
    "silu": (0, INF),
    "mish": (0, INF),
    "hardswish": (0, INF),
    "softsign": (-1, 1),
}
# Whose derivative at NaN depends on which of PyTorch's loops meets it.
LOOPS = {
    "elu",
    "elu-negative",
    "celu",
    "celu-negative",
    "selu",
    "hardtanh",
    "relu6",
    "hardshrink",
    "softshrink",
    "hardswish",
}
# PyTorch's 1/6 has the digits of float32; its softsign's gradient has few left where it saturates.
DIGITS = {"hardsigmoid": 3e-8, "softsign": 1e-5, "mish": 1e-11}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    function, derivative, builtin = ACTIVATIONS[name]
    x = [
        *np.linspace(-12, 12, 97),
        1.6,
        8.0,
        20.0,
        20.5,
        1e-300,
        -1e-300,
        -0.0,
        750.0,
        -750.0,
        1e5,
        -1e5,
        NAN,
    ]
    if name not in LIMITS:
        x += [INF, -INF]
    for shape in ((-1,), (1, -1, 1)):
        x = frozen(np.reshape(x, shape))
        check(function(x), builtin(tensor(x)), atol=1e-14)
        if name in LOOPS:
            x = frozen(x[~np.isnan(x)])
        (expected,) = gradients(builtin, (x,), np.ones_like(x))
        check(derivative(x), expected, rtol=DIGITS.get(name, 1e-12), atol=1e-14)


@pytest.mark.parametrize("name", LIMITS)
def test_activation_takes_its_limit_at_infinity(name):
    function, derivative, _ = ACTIVATIONS[name]
    x = frozen([-INF, -1e300, -1e200, 1e200, 1e300, INF])
    low, high = LIMITS[name]
    assert function(x).tolist() == [low, low, low, *([1e200, 1e300, INF] if high == INF else [high] * 3)]
    assert derivative(x).tolist() == [0, 0, 0] + [1 if high == INF else 0] * 3


@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4), 3), ((2, 3), 3), ((2, 3, 4), 1), ((5,), 1), ((), 1)])
def test_prelu(values, shape, channels):
    x, weight, gy = values(*shape), values(channels), values(*shape)
    check(reference.prelu(x, weight), F.prelu(tensor(x), tensor(weight)))
    for actual, expected in zip(
        reference.prelu_gradient(x, weight, gy), gradients(F.prelu, (x, weight), gy), strict=True
    ):
        check(actual, expected)


@pytest.mark.parametrize(("shape", "dim"), [((2, 6), -1), ((4, 3), 0), ((2, 4, 3), 1)])
def test_glu(values, shape, dim):
    x = values(*shape)
    y = reference.glu(x, dim)
    gy = values(*y.shape)
    check(y, F.glu(tensor(x), dim))
    check(reference.glu_gradient(x, gy, dim), gradients(lambda x: F.glu(x, dim), (x,), gy)[0])


def test_activation_is_accurate_in_the_tails():
    tails = [
        (reference.sigmoid(frozen(-700.0)), math.exp(-700)),
        (reference.sigmoid_derivative(frozen(100.0)), math.exp(-100)),
        (reference.tanh_derivative(frozen(40.0)), 4 * math.exp(-80)),
        (reference.scaled_tanh_derivative(frozen(60.0)), 1.7159 * 8 / 3 * math.exp(-80)),
        (reference.softplus(frozen(-600.0)), math.exp(-600)),
        (reference.softplus(frozen(1e6), 1.0, 1e9), 1e6),
        (reference.softplus_derivative(frozen(1e6), 1.0, 1e9), 1.0),
        (reference.gelu(frozen(-10.0)), -10 * 7.619853024160527e-24),
        (reference.silu(frozen(-300.0)), -300 * math.exp(-300)),
    ]
    for actual, expected in tails:
        check(actual, expected, rtol=1e-12, atol=0)


# Softmax

SOFTMAXES = {
    "softmax": (reference.softmax, reference.softmax_gradient, F.softmax),
    "log_softmax": (reference.log_softmax, reference.log_softmax_gradient, F.log_softmax),
}


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize(
    "shape, dim",
    [((), 0), ((), -1), ((4,), 0), ((3, 4), 0), ((3, 4), 1), ((2, 3, 4), 1), ((2, 3, 4), -3), ((2, 1), 1)]
    + [((0, 3), 0), ((0, 3), 1), ((3, 0), 1)],
)
def test_softmax(values, shape, dim, name):
    function, gradient, builtin = SOFTMAXES[name]
    x, gy = values(*shape), values(*shape)
    y = frozen(function(x, dim))
    check(y, builtin(tensor(x), dim))
    (gx,) = gradients(lambda leaf: builtin(leaf, dim), (x,), gy)
    check(gradient(y, gy, dim), gx)


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize(
    "lane",
    [
        [1000.0, 0.0, -1000.0],
        [-1e308, -1e308, -1e308],
        [1.0, -INF, 2.0],
        [-INF, -INF, -INF],
        [INF, 0.0, 1.0],
        [NAN, 0.0, 1.0],
    ],
)
def test_softmax_of_extreme_values(values, lane, name):
    function, gradient, builtin = SOFTMAXES[name]
    x, gy = frozen([lane, [0.0, 1.0, 2.0]]), values(2, 3)
    y = frozen(function(x, 1))
    check(y, builtin(tensor(x), 1))
    (gx,) = gradients(lambda leaf: builtin(leaf, 1), (x,), gy)
    check(gradient(y, gy, 1), gx)


# Batch normalization


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "neither"])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3, 2, 2, 3), (2, 2, 2, 1, 2), (1, 2, 3)])
def test_batch_norm(values, shape, eps, affine):
    channels = shape[1]
    x, gy = values(*shape), values(*shape)
    w = values(channels) if affine in ("both", "weight") else None
    b = values(channels) if affine in ("both", "bias") else None
    others = [dim for dim in range(len(shape)) if dim != 1]

    y, mean, var = reference.batch_norm(x, w, b, eps)
    wanted = F.batch_norm(tensor(x), None, None, optional(w), optional(b), training=True, eps=eps)
    check(y, wanted)
    check(mean, tensor(x).mean(others))
    check(var, tensor(x).var(others, correction=0))

    gradient = reference.batch_norm_gradients(x, w, gy, eps)
    leaves = (x, np.ones(channels) if w is None else w, np.zeros(channels) if b is None else b)

    def builtin(x, w, b):
        return F.batch_norm(x, None, None, w, b, training=True, eps=eps)

    for actual, expected in zip(gradient, gradients(builtin, leaves, gy), strict=True):
        check(actual, expected, atol=1e-11)

    running_mean, running_var = values(channels), frozen(np.square(values(channels)))
    y = reference.batch_norm_inference(x, running_mean, running_var, w, b, eps)
    wanted = F.batch_norm(tensor(x), tensor(running_mean), tensor(running_var), optional(w), optional(b), eps=eps)
    check(y, wanted)


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "neither"])
@pytest.mark.parametrize(("shape", "groups"), [((4, 6), 2), ((2, 3, 5), 3), ((3, 2, 2, 3), 1), ((1, 4, 2, 1, 2), 2)])
def test_group_norm(values, shape, groups, affine):
    channels = shape[1]
    x, gy = values(*shape), values(*shape)
    w = values(channels) if affine in ("both", "weight") else None
    b = values(channels) if affine in ("both", "bias") else None
    y, mean, var = reference.group_norm(x, groups, w, b, 0.1)
    check(y, F.group_norm(tensor(x), groups, optional(w), optional(b), 0.1))
    rows = tensor(x).reshape(shape[0], groups, -1)
    check(mean, rows.mean(-1))
    check(var, rows.var(-1, correction=0))
    leaves = (x, np.ones(channels) if w is None else w, np.zeros(channels) if b is None else b)
    wanted = gradients(lambda x, w, b: F.group_norm(x, groups, w, b, 0.1), leaves, gy)
    for actual, expected in zip(reference.group_norm_gradients(x, groups, w, gy, 0.1), wanted, strict=True):
        check(actual, expected, atol=1e-11)


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "neither"])
@pytest.mark.parametrize(("shape", "last"), [((4, 3), 1), ((2, 3, 5), 2), ((3, 2, 4), 1), ((2, 3), 2), ((4,), 1)])
def test_layer_norm(values, shape, last, affine):
    sizes = shape[-last:]
    x, gy = values(*shape), values(*shape)
    w = values(*sizes) if affine in ("both", "weight") else None
    b = values(*sizes) if affine in ("both", "bias") else None
    y, mean, var = reference.layer_norm(x, sizes, w, b, 0.1)
    check(y, F.layer_norm(tensor(x), sizes, optional(w), optional(b), 0.1))
    others = list(range(len(shape) - last, len(shape)))
    check(mean, tensor(x).mean(others))
    check(var, tensor(x).var(others, correction=0))
    leaves = (x, np.ones(sizes) if w is None else w, np.zeros(sizes) if b is None else b)
    wanted = gradients(lambda x, w, b: F.layer_norm(x, sizes, w, b, 0.1), leaves, gy)
    for actual, expected in zip(reference.layer_norm_gradients(x, sizes, w, gy, 0.1), wanted, strict=True):
        check(actual, expected, atol=1e-11)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 2), (3, 1, 2, 1, 2)])
def test_instance_norm(values, shape, affine):
    x, gy = values(*shape), values(*shape)
    w, b = (values(shape[1]) if affine else None for _ in range(2))
    y, mean, var = reference.instance_norm(x, w, b, 0.1)
    check(y, F.instance_norm(tensor(x), None, None, optional(w), optional(b), eps=0.1))
    check(mean, tensor(x).flatten(2).mean(2))
    check(var, tensor(x).flatten(2).var(2, correction=0))
    leaves = (x, np.ones(shape[1]) if w is None else w, np.zeros(shape[1]) if b is None else b)
    wanted = gradients(lambda x, w, b: F.instance_norm(x, None, None, w, b, eps=0.1), leaves, gy)
    for actual, expected in zip(reference.instance_norm_gradients(x, w, gy, 0.1), wanted, strict=True):
        check(actual, expected, atol=1e-11)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("shape", "last"), [((4, 3), 1), ((2, 3, 5), 2), ((4,), 1), ((0, 3), 1)])
def test_rms_norm(values, shape, last, weighted):
    sizes = shape[-last:]
    x, gy = values(*shape), values(*shape)
    w = values(*sizes) if weighted else None
    y, square = reference.rms_norm(x, sizes, w, 0.1)
    check(y, F.rms_norm(tensor(x), sizes, optional(w), 0.1))
    check(square, tensor(x).square().mean(list(range(len(shape) - last, len(shape)))))
    wanted = gradients(lambda x, w: F.rms_norm(x, sizes, w, 0.1), (x, np.ones(sizes) if w is None else w), gy)
    for actual, expected in zip(reference.rms_norm_gradients(x, sizes, w, gy, 0.1), wanted, strict=True):
        check(actual, expected, atol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 4, 2, 2), (2, 3, 1, 2, 1)])
def test_local_response_norm(values, shape, size):
    x, gy = values(*shape), values(*shape)
    options = (size, 0.6, 0.8, 1.5)
    check(reference.local_response_norm(x, *options), F.local_response_norm(tensor(x), *options))
    (gx,) = gradients(lambda x: F.local_response_norm(x, *options), (x,), gy)
    check(reference.local_response_norm_gradient(x, gy, *options), gx, atol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_cross_map_is_local_response_norm(values, size):
    """Of an even size without the outermost channel; the built-in computes something else."""
    x, g = values(2, 6, 2, 1), values(2, 6, 2, 1)
    odd = size - 1 + size % 2
    options = (odd, 0.6 * odd / size, 0.8, 1.5)
    layer = nn.CrossMapLRN2d(size, 0.6, 0.8, 1.5)
    check(reference.local_response_norm(x, *options), layer(tensor(x)))
    check(reference.local_response_norm_gradient(x, g, *options), gradients(layer, (x,), g)[0], atol=1e-11)


@pytest.mark.parametrize("eps", [1e-12, 1.5])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3.0])
@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 1), ((2, 3, 2), 0), ((5,), -1)])
def test_normalize(values, shape, dim, p, eps):
    x, gy = values(*shape), values(*shape)
    check(reference.normalize(x, p, dim, eps), F.normalize(tensor(x), p, dim, eps))
    (gx,) = gradients(lambda x: F.normalize(x, p, dim, eps), (x,), gy)
    check(reference.normalize_gradient(x, gy, p, dim, eps), gx, atol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_update_running(values, momentum):
    x, running_mean, running_var = values(4, 3, 2), values(3), frozen(np.square(values(3)))
    new_mean, new_var = tensor(running_mean), tensor(running_var)
    F.batch_norm(tensor(x), new_mean, new_var, training=True, momentum=momentum)
    _, mean, var = reference.batch_norm(x, None, None, 1e-5)
    check(reference.update_running(running_mean, mean, momentum), new_mean)
    check(reference.update_running(running_var, frozen(var * 8 / 7), momentum), new_var)


def test_batch_norm_of_one_value_is_the_bias(values):
    x, w, b = values(1, 3), values(3), values(3)
    y, mean, var = reference.batch_norm(x, w, b, 1e-5)
    wanted = torch.native_batch_norm(tensor(x), tensor(w), tensor(b), None, None, True, 0.1, 1e-5)[0]
    check(y, wanted)
    check(y, b[None])
    check(mean, x[0])
    check(var, np.zeros(3))


def test_batch_norm_far_from_zero(values):
    # Numbers whose sum with 2**27 is exact: only the mean may change.
    x = frozen(np.round(values(6, 2) * 1024) / 1024)
    near, _, near_var = reference.batch_norm(x, None, None, 1e-5)
    far, _, far_var = reference.batch_norm(frozen(x + 2.0**27), None, None, 1e-5)
    check(far, near, rtol=1e-6)
    check(far_var, near_var, rtol=1e-6)


# Losses


def check_loss(function, gradient, builtin, x, target, grad_output, **arguments):
    """Compare a loss and the gradient of its input."""
    keywords = {name: tensor(v) if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    target_tensor = tensor(target)
    y = builtin(tensor(x), target_tensor, **keywords)
    check(function(x, target, **arguments), y)
    gy = grad_output(*y.shape)
    (gx,) = gradients(lambda leaf: builtin(leaf, target_tensor, **keywords), (x,), gy)
    check(gradient(x, target, gy, **arguments), gx)


NLL = (reference.nll_loss, reference.nll_loss_gradient, F.nll_loss)
CROSS_ENTROPY = (reference.cross_entropy, reference.cross_entropy_gradient, F.cross_entropy)
CLASSIFICATION = {"nll_loss": NLL, "cross_entropy": CROSS_ENTROPY}
INPUT_SHAPES = [(4,), (3, 4), (2, 4, 3), (2, 4, 2, 2), (1, 4, 1, 2, 2)]


def samples_of(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def classes_for(shape, seed=1, ignore_index=None):
    """Draw classes; if one is to be ignored, the last sample is."""
    target = np.random.default_rng(seed).integers(0, 4, samples_of(shape))
    if ignore_index is not None and target.ndim:
        target.reshape(-1)[-1] = ignore_index
    return frozen(target)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_loss_of_classes(values, shape, name, weighted, ignore_index, reduction):
    target = classes_for(shape, ignore_index=ignore_index)
    arguments = {"ignore_index": ignore_index, "reduction": reduction}
    if weighted:
        arguments["weight"] = frozen([0.5, 2.0, 0.0, 1.5])
    check_loss(*CLASSIFICATION[name], values(*shape), target, values, **arguments)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_cross_entropy_smooths_classes(values, shape, weighted, label_smoothing, reduction):
    arguments = {"reduction": reduction, "label_smoothing": label_smoothing}
    if weighted:
        arguments["weight"] = frozen([0.5, 2.0, 0.25, 1.5])
    target = classes_for(shape, ignore_index=-100)
    check_loss(*CROSS_ENTROPY, values(*shape), target, values, **arguments)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_cross_entropy_of_probabilities(values, shape, weighted, label_smoothing, reduction):
    arguments = {"reduction": reduction, "label_smoothing": label_smoothing}
    if weighted:
        arguments["weight"] = frozen([0.5, 2.0, 0.25, 1.5])
    # Not normalized: the function does not ask for it.
    target = frozen(np.abs(values(*shape)))
    check_loss(*CROSS_ENTROPY, values(*shape), target, values, **arguments)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_loss_over_nothing(values, name, reduction):
    x = values(2, 4)
    ignored = frozen([-100, -100])
    check_loss(*CLASSIFICATION[name], x, ignored, values, reduction=reduction)
    check_loss(*CLASSIFICATION[name], x, ignored, values, reduction=reduction, weight=frozen([1.0, 2, 3, 4]))
    check_loss(*CLASSIFICATION[name], x[0], ignored[0], values, reduction=reduction)
    check_loss(*CLASSIFICATION[name], x[:0], ignored[:0], values, reduction=reduction)
    # The weights of the targets sum to zero: 0 / 0.
    weightless = frozen([1.0, 2.0, 3.0, 0.0])
    check_loss(*CLASSIFICATION[name], x, frozen([3, 3]), values, reduction=reduction, weight=weightless)


@pytest.mark.parametrize(
    "target, arguments",
    [
        ([0, 2, -100], {}),
        ([0, 2, -100], {"label_smoothing": 0.1}),
        ([0, 2, -100], {"label_smoothing": 0.1, "weight": [1.0, 0.0, 1.0]}),
        ([1, 2, 0], {}),
        ([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], {}),
    ],
)
def test_cross_entropy_of_infinite_logits(values, target, arguments):
    x = frozen([[0.0, -INF, 1.0], [2.0, 0.5, 1.0], [-INF, 1.0, 0.0]])
    arguments = {name: frozen(v) if isinstance(v, list) else v for name, v in arguments.items()}
    for reduction in ("none", "mean", "sum"):
        check_loss(*CROSS_ENTROPY, x, frozen(target), values, reduction=reduction, **arguments)


def test_cross_entropy_of_large_logits(values):
    x = frozen([[1e4, 0.0, -1e4], [-1e300, 0.0, 1e300]])
    check_loss(*CROSS_ENTROPY, x, frozen([1, 1]), values, reduction="none")


def test_loss_takes_uint8_classes(values):
    check_loss(*NLL, values(3, 4), frozen(np.array([0, 3, 1], np.uint8)), values)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (0,)])
def test_mse_loss(values, shape, reduction):
    mse = (reference.mse_loss, reference.mse_loss_gradient, F.mse_loss)
    check_loss(*mse, values(*shape), values(*shape), values, reduction=reduction)


# Dropout


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(), (50,), (5, 4, 3)])
def test_dropout(values, shape, p):
    torch.manual_seed(5)
    x, gy = values(*shape), values(*shape)
    leaf = tensor(x, requires_grad=True)
    y, mask = torch.native_dropout(leaf, p, True)
    (gx,) = torch.autograd.grad(y, leaf, tensor(gy))
    check(reference.dropout(x, frozen(mask.numpy()), p), y)
    check(reference.dropout_gradient(gy, frozen(mask.numpy()), p), gx)


def test_dropout_of_everything(values):
    # No mask drawn with p = 1 keeps an element; one that does still must not divide by zero.
    check(reference.dropout(values(4), frozen([True, False, True, True]), 1.0), np.zeros(4))


def test_dropout_of_nan_and_infinity():
    torch.manual_seed(5)
    x = frozen([1.0, NAN, INF] * 10)
    y, mask = torch.native_dropout(tensor(x), 0.5, True)
    check(reference.dropout(x, frozen(mask.numpy()), 0.5), y)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (3, 2, 2, 2)])
def test_feature_dropout(values, shape, p):
    x = values(*shape)
    torch.manual_seed(5)
    y = torch.feature_dropout(tensor(ones(*shape)), p, True)
    mask = frozen((y.numpy() != 0).reshape(*shape[:2], -1)[:, :, 0])
    torch.manual_seed(5)
    check(reference.feature_dropout(x, mask, p), torch.feature_dropout(tensor(x), p, True))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8, 1.0])
def test_alpha_dropout(values, p):
    x, gy = values(50), values(50)
    torch.manual_seed(5)
    leaf = tensor(x, requires_grad=True)
    y = F.alpha_dropout(leaf, p, True)
    (gx,) = torch.autograd.grad(y, leaf, tensor(gy))
    mask = frozen(gx.numpy() != 0)
    check(reference.alpha_dropout(x, mask, p), y, atol=1e-12)
    check(reference.alpha_dropout_gradient(gy, mask, p), gx)


# What every function of the room keeps

KEPT_WINDOW = ((2,), (1,), (1,), (2,))
KEPT = (
    {
        "linear": lambda v: reference.linear(v(2, 3), v(4, 3), v(4)),
        "linear_input": lambda v: reference.linear_input(v(2, 4), v(4, 3)),
        "linear_weight": lambda v: reference.linear_weight(v(2, 3), v(2, 4)),
        "linear_bias": lambda v: reference.linear_bias(v(2, 4)),
        "bilinear": lambda v: reference.bilinear(v(2, 3), v(2, 2), v(4, 3, 2), v(4)),
        "bilinear_gradients": lambda v: reference.bilinear_gradients(v(2, 3), v(2, 2), v(4, 3, 2), v(2, 4)),
        "convolution": lambda v: reference.convolution(v(2, 2, 5), v(3, 2, 2), v(3), *KEPT_WINDOW[1:], 1),
        "convolution_input": lambda v: reference.convolution_input(v(2, 3, 5), v(3, 2, 2), (5,), *KEPT_WINDOW[1:], 1),
        "convolution_weight": lambda v: reference.convolution_weight(v(2, 2, 5), v(2, 3, 5), *KEPT_WINDOW, 1),
        "convolution_bias": lambda v: reference.convolution_bias(v(2, 3, 5)),
        "transposed_convolution": lambda v: reference.transposed_convolution(
            v(2, 2, 5), v(2, 3, 2), v(3), (1,), (1,), (1,), (2,), 1
        ),
        "transposed_convolution_input": lambda v: reference.transposed_convolution_input(
            v(2, 3, 6), v(2, 3, 2), (5,), (1,), (1,), (1,), (2,), 1
        ),
        "transposed_convolution_weight": lambda v: reference.transposed_convolution_weight(
            v(2, 2, 5), v(2, 3, 6), (2,), (1,), (1,), (1,), (2,), 1
        ),
        "fold": lambda v: reference.fold(v(2, 4, 5), (5,), *KEPT_WINDOW),
        "unfold": lambda v: reference.unfold(v(2, 2, 5), *KEPT_WINDOW),
        "max_pool": lambda v: reference.max_pool(v(2, 5), *KEPT_WINDOW, False)[:1],
        "max_pool_scatter": lambda v: reference.max_pool_scatter(
            v(1, 4), np.zeros((1, 4), np.uint8), (5,), (2,), (1,), (0,), (1,)
        ),
        "max_pool_gather": lambda v: reference.max_pool_gather(
            v(1, 5), np.zeros((1, 4), np.uint8), (2,), (1,), (0,), (1,)
        ),
        "average_pool": lambda v: reference.average_pool(v(2, 5), (3,), (2,), (1,), False, True, None),
        "average_pool_adjoint": lambda v: reference.average_pool_adjoint(
            v(2, 3), (5,), (3,), (2,), (1,), False, True, None
        ),
        "adaptive_average_pool": lambda v: reference.adaptive_average_pool(v(2, 5), (3,)),
        "adaptive_average_pool_adjoint": lambda v: reference.adaptive_average_pool_adjoint(v(2, 3), (5,)),
        "adaptive_max_pool": lambda v: reference.adaptive_max_pool(v(2, 5), (3,))[:1],
        "adaptive_max_pool_scatter": lambda v: reference.adaptive_max_pool_scatter(
            v(1, 3), np.array([[1, 2, 0]], np.uint8), (5,)
        ),
        "adaptive_max_pool_gather": lambda v: reference.adaptive_max_pool_gather(
            v(1, 5), np.array([[1, 2, 0]], np.uint8), 1
        ),
        "lp_pool": lambda v: reference.lp_pool(v(2, 5), 2.0, (3,), (2,), False),
        "lp_pool_gradient": lambda v: reference.lp_pool_gradient(v(2, 5), v(2, 2), 2.0, (3,), (2,), False),
        "fractional_max_pool": lambda v: reference.fractional_max_pool(v(2, 5), (2,), (3,), np.full((2, 1), 0.5))[:1],
        "fractional_max_pool_scatter": lambda v: reference.fractional_max_pool_scatter(
            v(1, 3), np.array([[1, 0, 1]], np.uint8), (5,), (2,), np.full((1, 1), 0.5)
        ),
        "fractional_max_pool_gather": lambda v: reference.fractional_max_pool_gather(
            v(1, 5), np.array([[1, 0, 1]], np.uint8), (2,), np.full((1, 1), 0.5)
        ),
        "max_unpool": lambda v: reference.max_unpool(v(1, 3), np.array([[4, 0, 4]]), (5,)),
        "max_unpool_adjoint": lambda v: reference.max_unpool_adjoint(v(1, 5), np.array([[4, 0, 4]]), (5,)),
        "pad": lambda v: reference.pad(v(2, 3), (1, 2), value=0.25),
        "pad_adjoint": lambda v: reference.pad_adjoint(v(2, 7), (2, 2), "replicate"),
        "pixel_shuffle": lambda v: reference.pixel_shuffle(v(4, 2, 3), 2),
        "pixel_unshuffle": lambda v: reference.pixel_unshuffle(v(1, 4, 6), 2),
        "channel_shuffle": lambda v: reference.channel_shuffle(v(1, 6, 2), 3),
        "interpolate": lambda v: reference.interpolate(v(1, 2, 3, 4), (5, 3), mode="bicubic"),
        "interpolate_adjoint": lambda v: reference.interpolate_adjoint(v(1, 2, 5, 3), (3, 4), (5, 3), mode="bicubic"),
        "grid_sample": lambda v: reference.grid_sample(v(1, 2, 3, 4), v(1, 3, 2, 2), padding_mode="reflection"),
        "grid_sample_gradients": lambda v: reference.grid_sample_gradients(
            v(1, 2, 3, 4), v(1, 3, 2, 2), v(1, 2, 3, 2), padding_mode="reflection"
        ),
        "affine_grid": lambda v: reference.affine_grid(v(2, 2, 3), (2, 1, 3, 4)),
        "affine_grid_adjoint": lambda v: reference.affine_grid_adjoint(v(2, 3, 4, 2)),
        "softmax": lambda v: reference.softmax(v(2, 3), 1),
        "log_softmax": lambda v: reference.log_softmax(v(2, 3), 1),
        "softmax_gradient": lambda v: reference.softmax_gradient(v(2, 3), v(2, 3), 1),
        "log_softmax_gradient": lambda v: reference.log_softmax_gradient(v(2, 3), v(2, 3), 1),
        "attention": lambda v: reference.attention(v(2, 3), v(4, 3), v(4, 2)),
        "attention_gradients": lambda v: reference.attention_gradients(v(2, 3), v(4, 3), v(4, 2), v(2, 2)),
        "batch_norm": lambda v: reference.batch_norm(v(4, 3), v(3), v(3), 0.1),
        "batch_norm_gradients": lambda v: reference.batch_norm_gradients(v(4, 3), v(3), v(4, 3), 0.1),
        "batch_norm_inference": lambda v: reference.batch_norm_inference(v(4, 3), v(3), v(3), v(3), v(3), 100.0),
        "group_norm": lambda v: reference.group_norm(v(2, 4), 2, v(4), v(4), 0.1),
        "group_norm_gradients": lambda v: reference.group_norm_gradients(v(2, 4), 2, v(4), v(2, 4), 0.1),
        "layer_norm": lambda v: reference.layer_norm(v(2, 3), (3,), v(3), v(3), 0.1),
        "layer_norm_gradients": lambda v: reference.layer_norm_gradients(v(2, 3), (3,), v(3), v(2, 3), 0.1),
        "instance_norm": lambda v: reference.instance_norm(v(2, 3, 4), v(3), v(3), 0.1),
        "instance_norm_gradients": lambda v: reference.instance_norm_gradients(v(2, 3, 4), v(3), v(2, 3, 4), 0.1),
        "rms_norm": lambda v: reference.rms_norm(v(2, 3), (3,), v(3), 0.1),
        "rms_norm_gradients": lambda v: reference.rms_norm_gradients(v(2, 3), (3,), v(3), v(2, 3), 0.1),
        "local_response_norm": lambda v: reference.local_response_norm(v(2, 3, 2), 3, 0.5, 0.75, 1.0),
        "local_response_norm_gradient": lambda v: reference.local_response_norm_gradient(
            v(2, 3, 2), v(2, 3, 2), 3, 0.5, 0.75, 1.0
        ),
        "normalize": lambda v: reference.normalize(v(2, 3), 2.0, 1, 1e-12),
        "normalize_gradient": lambda v: reference.normalize_gradient(v(2, 3), v(2, 3), 2.0, 1, 1e-12),
        "update_running": lambda v: reference.update_running(v(3), v(3), 0.1),
        "nll_loss": lambda v: reference.nll_loss(v(2, 3), np.array([0, 2]), v(3)),
        "nll_loss_gradient": lambda v: reference.nll_loss_gradient(v(2, 3), np.array([0, 2]), v(), v(3)),
        "cross_entropy": lambda v: reference.cross_entropy(v(2, 3), np.array([0, 2]), v(3)),
        "cross_entropy_gradient": lambda v: reference.cross_entropy_gradient(v(2, 3), np.array([0, 2]), v(), v(3)),
        "mse_loss": lambda v: reference.mse_loss(v(2, 3), v(2, 3)),
        "mse_loss_gradient": lambda v: reference.mse_loss_gradient(v(2, 3), v(2, 3), v()),
        "pointwise_loss": lambda v: reference.pointwise_loss("soft_margin_loss", v(2, 3), v(2, 3)),
        "pointwise_loss_gradient": lambda v: reference.pointwise_loss_gradient("huber_loss", v(2, 3), v(2, 3), v()),
        "margin_loss": lambda v: reference.margin_loss(v(2, 3), np.array([0, 2]), 2),
        "margin_loss_gradient": lambda v: reference.margin_loss_gradient(v(2, 3), np.array([0, 2]), v(2), 2),
        "gaussian_nll_loss": lambda v: reference.gaussian_nll_loss(v(3), v(3), v(3), eps=0.5),
        "gaussian_nll_loss_gradients": lambda v: reference.gaussian_nll_loss_gradients(v(3), v(3), v(3), v(3), 0.5),
        "margin_ranking_loss": lambda v: reference.margin_ranking_loss(v(3), v(3), v(3), 0.5),
        "margin_ranking_loss_gradients": lambda v: reference.margin_ranking_loss_gradients(v(3), v(3), v(3), v(3), 0.5),
        "multilabel_soft_margin_loss": lambda v: reference.multilabel_soft_margin_loss(v(2, 3), v(2, 3), v(3)),
        "multilabel_soft_margin_loss_gradient": lambda v: reference.multilabel_soft_margin_loss_gradient(
            v(2, 3), v(2, 3), v(2), v(3)
        ),
        "cosine_embedding_loss": lambda v: reference.cosine_embedding_loss(v(2, 3), v(2, 3), np.array([1, -1])),
        "cosine_embedding_loss_gradients": lambda v: reference.cosine_embedding_loss_gradients(
            v(2, 3), v(2, 3), np.array([1, -1]), v(2)
        ),
        "triplet_margin_loss": lambda v: reference.triplet_margin_loss(v(2, 3), v(2, 3), v(2, 3)),
        "triplet_margin_loss_gradients": lambda v: reference.triplet_margin_loss_gradients(
            v(2, 3), v(2, 3), v(2, 3), v(2), swap=True
        ),
        "adaptive_log_softmax": lambda v: reference.adaptive_log_softmax(
            v(2, 3), np.array([0, 3]), v(3, 3), [(v(1, 3), v(2, 1))]
        ),
        "adaptive_log_softmax_gradients": lambda v: reference.adaptive_log_softmax_gradients(
            v(2, 3), np.array([0, 3]), v(3, 3), [(v(1, 3), v(2, 1))], v(2)
        )[:2],
        "distance": lambda v: reference.distance(v(2, 3), v(2, 3), 3.0),
        "distance_gradients": lambda v: reference.distance_gradients(v(2, 3), v(2, 3), v(2), 3.0),
        "cosine_similarity": lambda v: reference.cosine_similarity(v(2, 3), v(2, 3)),
        "cosine_similarity_gradients": lambda v: reference.cosine_similarity_gradients(v(2, 3), v(2, 3), v(2)),
        "pair_distances": lambda v: reference.pair_distances(v(2, 3), v(4, 3), 3.0),
        "pair_distances_gradients": lambda v: reference.pair_distances_gradients(v(2, 3), v(4, 3), v(2, 4), 3.0),
        "ctc_loss": lambda v: reference.ctc_loss(v(4, 3), np.array([1, 2])),
        "ctc_loss_gradient": lambda v: reference.ctc_loss_gradient(v(4, 3), np.array([1, 2]), v()),
        "dropout": lambda v: reference.dropout(v(4), np.array([True, False, True, True]), 0.3),
        "dropout_gradient": lambda v: reference.dropout_gradient(v(4), np.array([True, False, True, True]), 0.3),
        "feature_dropout": lambda v: reference.feature_dropout(
            v(2, 2, 3), np.array([[True, False], [True, True]]), 0.3
        ),
        "alpha_dropout": lambda v: reference.alpha_dropout(v(4), np.array([True, False, True, True]), 0.3),
        "alpha_dropout_gradient": lambda v: reference.alpha_dropout_gradient(v(3), np.array([True, False, True]), 0.3),
        "threshold": lambda v: reference.threshold(v(5), 0.5, 0.25),
        "threshold_derivative": lambda v: reference.threshold_derivative(v(5), 0.5, 0.25),
        "hardshrink": lambda v: reference.hardshrink(v(5)),
        "softshrink": lambda v: reference.softshrink(v(5)),
        "shrink_derivative": lambda v: reference.shrink_derivative(v(5)),
        "prelu": lambda v: reference.prelu(v(2, 3, 2), v(3)),
        "prelu_gradient": lambda v: reference.prelu_gradient(v(2, 3, 2), v(3), v(2, 3, 2)),
        "glu": lambda v: reference.glu(v(2, 4)),
        "glu_gradient": lambda v: reference.glu_gradient(v(2, 4), v(2, 2)),
        "embedding": lambda v: reference.embedding(np.array([0, 3, 3]), v(4, 2)),
        "embedding_adjoint": lambda v: reference.embedding_adjoint(v(3, 2), np.array([0, 3, 3]), 4),
        "embedding_bag": lambda v: reference.embedding_bag(np.array([0, 3, 3]), v(4, 2), [0, 1], "sum", v(3)),
        "embedding_bag_gradients": lambda v: reference.embedding_bag_gradients(
            v(2, 2), np.array([0, 3, 3]), v(4, 2), [0, 1], "sum"
        ),
    }
    | {
        name: lambda v, name=name: getattr(reference, name)(v(5))
        for activation in (
            *("relu", "leaky_relu", "sigmoid", "tanh", "scaled_tanh", "softplus", "gelu", "silu", "elu", "hardtanh"),
            *("hardsigmoid", "hardswish", "logsigmoid", "tanhshrink", "softsign", "mish"),
        )
        for name in (activation, f"{activation}_derivative")
    }
    | {
        name: lambda v, name=name, gates=gates: getattr(reference, name)(
            *([v(3, 2, 2)] if "gradients" in name else []),
            v(3, 2, 3),
            *[v(2, 2) for _ in range(2 if "lstm" in name else 1)],
            [v(2 * gates, 3), v(2 * gates, 2), v(2 * gates), v(2 * gates)],
        )
        for kind, gates in (("rnn", 1), ("gru", 3), ("lstm", 4))
        for name in (kind, f"{kind}_gradients")
    }
)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
@pytest.mark.parametrize("name", KEPT)
def test_dtype_is_kept_and_rounded_once(values, name, dtype):
    def run(compute):
        """Call the function on the same numbers, drawn in `dtype` and computed in `compute`."""
        rng = np.random.default_rng(11)

        def draw(*shape):
            return frozen((3 * rng.standard_normal(shape)).astype(dtype).astype(compute))

        results = KEPT[name](draw)
        return results if isinstance(results, tuple) else (results,)

    kept = np.float64 if dtype is np.int64 else dtype
    for actual, exact in zip(run(dtype), run(np.float64), strict=True):
        assert actual.dtype == kept
        np.testing.assert_array_equal(actual, exact.astype(kept))


def test_functions_of_every_module_are_exported():
    """And each of them meets the dtype test, except those that return sizes and indices."""
    folder = Path(inspect.getfile(reference)).parent
    public = set()
    for path in folder.glob("[!_]*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in public if not name.startswith("_")}
    assert set(reference.__all__) == public
    assert len(reference.__all__) == len(public)
    sizes_and_indices = {name for name in public if name.endswith(("_size", "_indices"))}
    assert len(sizes_and_indices) == 6
    assert set(KEPT) == public - sizes_and_indices


def test_reference_imports_numpy_alone():
    folder = Path(inspect.getfile(reference)).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"itertools", "math", "numpy"}
            elif isinstance(node, ast.ImportFrom):
                names = {"__future__", "collections.abc", "typing", "numpy.typing"}
                assert node.level == 1 or node.module in names


# What the reference refuses, as PyTorch does


def conv1d(**changed):
    """Return one faulty convolution, by the reference and by PyTorch."""
    arguments = {
        "input": ones(2, 4, 7),
        "weight": ones(6, 4, 3),
        "bias": None,
        "stride": (1,),
        "padding": (0,),
        "dilation": (1,),
        "groups": 1,
    } | changed
    tensors = {name: tensor(v) if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    return lambda: reference.convolution(**arguments), lambda: F.conv1d(**tensors)


def max1d(size=9, **changed):
    arguments = {
        "kernel_size": (3,),
        "stride": (1,),
        "padding": (0,),
        "dilation": (1,),
        "ceil_mode": False,
    } | changed
    return (
        lambda: reference.max_pool(ones(1, 1, size), **arguments),
        lambda: F.max_pool1d(tensor(ones(1, 1, size)), **arguments),
    )


def avg2d(size=9, **changed):
    arguments = {
        "kernel_size": (3, 3),
        "stride": (1, 1),
        "padding": (0, 0),
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    } | changed
    return (
        lambda: reference.average_pool(ones(1, size, size), **arguments),
        lambda: F.avg_pool2d(tensor(ones(1, size, size)), **arguments),
    )


def adaptive1d(input_shape, output_size):
    return (
        lambda: reference.adaptive_average_pool(ones(*input_shape), output_size),
        lambda: F.adaptive_avg_pool1d(tensor(ones(*input_shape)), output_size),
    )


def both(name, builtin, *arrays, **arguments):
    """Return one faulty call, by the reference and by PyTorch."""
    tensors = [tensor(v) if isinstance(v, np.ndarray) else v for v in arrays]
    keywords = {key: tensor(v) if isinstance(v, np.ndarray) else v for key, v in arguments.items()}
    return (
        lambda: getattr(reference, name)(*arrays, **arguments),
        lambda: builtin(*tensors, **keywords),
    )


def class_loss(name, x, target, **arguments):
    return both(name, getattr(F, name), x, np.array(target), **arguments)


X = ones(3, 4)
REFUSED = {
    "linear-features": (*both("linear", F.linear, ones(2, 3), ones(4, 5)), r"^input .*\(2, 3\)"),
    "linear-bias": (*both("linear", F.linear, ones(2, 3), ones(4, 3), ones(3)), r"^bias .*\(3,\)"),
    "bilinear-features": (
        *both("bilinear", F.bilinear, ones(2, 3), ones(2, 4), ones(5, 3, 3)),
        r"^input2 .*\(2, 4\)",
    ),
    "bilinear-leading": (
        *both("bilinear", F.bilinear, ones(2, 3), ones(3, 4), ones(5, 3, 4)),
        r"^input2 .*\(3, 4\)",
    ),
    "bilinear-bias": (
        *both("bilinear", F.bilinear, ones(2, 3), ones(2, 4), ones(5, 3, 4), ones(4)),
        r"^bias .*\(4,\)",
    ),
    "convolution-stride": (*conv1d(stride=(0,)), r"^stride .*\(0,\)"),
    "convolution-stride-length": (*conv1d(stride=(1, 2)), r"^stride .*\(1, 2\)"),
    "convolution-padding": (*conv1d(padding=(-1,)), r"^padding .*\(-1,\)"),
    "convolution-dilation": (*conv1d(dilation=(0,)), r"^dilation .*\(0,\)"),
    "convolution-groups": (*conv1d(groups=0), r"^groups .* got 0"),
    "convolution-groups-of-output": (
        *conv1d(weight=ones(5, 2, 3), groups=2),
        r"^groups must divide the 5 output channels, got 2",
    ),
    "convolution-channels": (*conv1d(weight=ones(6, 3, 3)), r"^input must have 3 channels .*\(2, 4, 7\)"),
    "convolution-bias": (*conv1d(bias=ones(5)), r"^bias .*\(6,\), got \(5,\)"),
    "convolution-kernel": (*conv1d(weight=ones(6, 4, 0)), r"^kernel_size .*\(0,\)"),
    "convolution-too-small": (*conv1d(input=ones(2, 4, 2)), r"^kernel_size \(3,\) .* got input_size \(2,\)"),
    "convolution-rank": (*conv1d(input=ones(2, 2, 4, 7)), r"^input must have 3 dimensions, .*\(2, 2, 4, 7\)"),
    "max_pool-padding": (*max1d(padding=(2,)), r"^padding .* half of kernel_size \(3,\), got \(2,\)"),
    "max_pool-padding-of-dilated": (*max1d(padding=(2,), dilation=(3,)), r"^padding .*got \(2,\)"),
    "max_pool-negative-padding": (*max1d(padding=(-1,)), r"^padding .*\(-1,\)"),
    "max_pool-stride": (*max1d(stride=(0,)), r"^stride .*\(0,\)"),
    "max_pool-dilation": (*max1d(dilation=(0,)), r"^dilation .*\(0,\)"),
    "max_pool-kernel": (*max1d(kernel_size=(0,)), r"^kernel_size .*\(0,\)"),
    "max_pool-too-small": (*max1d(kernel_size=(10,)), r"^kernel_size \(10,\) .* got input_size \(9,\)"),
    "max_pool-empty": (*max1d(size=0, padding=(1,)), r"^input_size .*\(0,\)"),
    "average_pool-padding": (*avg2d(padding=(0, 2)), r"^padding .*\(0, 2\)"),
    "average_pool-stride": (*avg2d(stride=(1, 0)), r"^stride .*\(1, 0\)"),
    "average_pool-divisor": (*avg2d(divisor_override=0), r"^divisor_override .* got 0"),
    "average_pool-too-small": (*avg2d(size=2), r"^kernel_size \(3, 3\) .* got input_size \(2, 2\)"),
    "adaptive-negative": (*adaptive1d((1, 3), (-1,)), r"^output_size .*\(-1,\)"),
    "adaptive-empty": (*adaptive1d((1, 0), (2,)), r"^input_size .*\(0,\)"),
    "gelu": (*both("gelu", F.gelu, ones(2), approximate="erf"), r"^approximate .*'erf'"),
    "softmax-dim": (*both("softmax", F.softmax, X, 2), r"^dim must be from -2 to 1, got 2"),
    "softmax-dim-of-lane": (*both("softmax", F.softmax, ones(4), 1), r"^dim must be from -1 to 0, got 1"),
    "softmax-negative-dim-of-lane": (*both("softmax", F.softmax, ones(4), -2), r"^dim must be from -1 to 0, got -2"),
    "log_softmax-dim": (*both("log_softmax", F.log_softmax, X, -3), r"^dim .* got -3"),
    "nll-class": (*class_loss("nll_loss", X, [0, 1, 4]), r"^target .* got 4"),
    "nll-negative-class": (*class_loss("nll_loss", X, [0, -1, 2]), r"^target .* got -1"),
    "nll-batch": (*class_loss("nll_loss", X, [0, 1]), r"^target .* 3, got shape \(2,\)"),
    "nll-shape": (*class_loss("nll_loss", ones(2, 3, 4), np.zeros((2, 5), int)), r"^target .*\(2, 5\)"),
    "nll-dtype": (*class_loss("nll_loss", X, [0.0, 1.0, 2.0]), r"^target .* float64"),
    "nll-weight": (*class_loss("nll_loss", X, [0, 1, 2], weight=ones(3)), r"^weight .*\(3,\)"),
    "nll-scalar": (*class_loss("nll_loss", ones(), 0), r"^input .*\(\)"),
    "nll-reduction": (*class_loss("nll_loss", X, [0, 1, 2], reduction="max"), r"^reduction|^max is not"),
    "cross_entropy-class": (*class_loss("cross_entropy", X, [0, 1, 4]), r"^target .* got 4"),
    "cross_entropy-weight": (*class_loss("cross_entropy", X, [0, 1, 2], weight=ones(3)), r"^weight .*\(3,\)"),
    "cross_entropy-smoothing": (
        *class_loss("cross_entropy", X, [0, 1, 2], label_smoothing=1.5),
        r"^label_smoothing .* 1.5",
    ),
    "cross_entropy-ignored-probability": (
        *class_loss("cross_entropy", X, X, ignore_index=0),
        r"^ignore_index .* got 0",
    ),
    "cross_entropy-integer-probability": (
        *class_loss("cross_entropy", X, np.ones((3, 4), int)),
        r"^target .* int64",
    ),
    "mse-reduction": (*both("mse_loss", F.mse_loss, X, X, reduction="max"), r"^reduction .* 'max'"),
    "mse-shape": (*both("mse_loss", F.mse_loss, X, ones(4, 3)), r"^target .*\(3, 4\), got \(4, 3\)"),
    "batch_norm-eps": (
        lambda: reference.batch_norm(X, None, None, 0.0),
        lambda: F.batch_norm(tensor(X), None, None, training=True, eps=0.0),
        r"^eps .* 0\.0",
    ),
    "batch_norm-weight": (
        lambda: reference.batch_norm(X, ones(3), None, 1e-5),
        lambda: F.batch_norm(tensor(X), None, None, tensor(ones(3)), training=True),
        r"^weight .*\(4,\), got \(3,\)",
    ),
    "batch_norm-running": (
        lambda: reference.batch_norm_inference(X, ones(3), ones(4), None, None, 1e-5),
        lambda: F.batch_norm(tensor(X), tensor(ones(3)), tensor(ones(4))),
        r"^running_mean .*\(4,\), got \(3,\)",
    ),
    "group_norm-groups": (
        lambda: reference.group_norm(X, 3, None, None, 0.1),
        lambda: F.group_norm(tensor(X), 3),
        r"^num_groups .* 3",
    ),
    "layer_norm-shape": (
        lambda: reference.layer_norm(X, (3,), None, None, 0.1),
        lambda: F.layer_norm(tensor(X), (3,)),
        r"^normalized_shape .*\(3,\)",
    ),
    "layer_norm-weight": (
        lambda: reference.layer_norm(X, (4,), ones(3), None, 0.1),
        lambda: F.layer_norm(tensor(X), (4,), tensor(ones(3))),
        r"^weight .*\(4,\), got \(3,\)",
    ),
    "dropout-p": (
        lambda: reference.dropout(X, X, 1.5),
        lambda: F.dropout(tensor(X), 1.5),
        r"^p .* 1\.5",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(name):
    call, builtin, message = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((IndexError, RuntimeError, ValueError)) as refused:
            builtin()
    with pytest.raises(refused.type, match=message):
        call()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: reference.linear(ones(2, 3), ones(3)), RuntimeError, r"^weight .* 2 dimensions, .*\(3,\)"),
        (lambda: reference.linear(ones(), ones(2, 3)), RuntimeError, r"^input .*\(\)"),
        (lambda: reference.linear_input(ones(2, 3), ones(4, 3)), RuntimeError, r"^grad_output .*\(2, 3\)"),
        (lambda: reference.linear_input(ones(2, 4), ones(4)), RuntimeError, r"^weight .* 2 dim.*\(4,\)"),
        (lambda: reference.linear_weight(ones(2, 3), ones(3, 4)), RuntimeError, r"^grad_output .*\(3, 4\)"),
        (lambda: reference.linear_bias(ones()), RuntimeError, r"^grad_output .*\(\)"),
        (
            lambda: reference.bilinear(ones(2, 3), ones(2, 4), ones(3, 4)),
            RuntimeError,
            r"^weight .* 3 dimensions, .*\(3, 4\)",
        ),
        (
            lambda: reference.bilinear(ones(2, 2), ones(2, 4), ones(5, 3, 4)),
            RuntimeError,
            r"^input1 must have 3 features .*\(2, 2\)",
        ),
        (
            lambda: reference.bilinear_gradients(ones(2, 3), ones(2, 3), ones(5, 3, 4), ones(2, 5)),
            RuntimeError,
            r"^input2 must have 4 features .*\(2, 3\)",
        ),
        (
            lambda: reference.bilinear_gradients(ones(2, 3), ones(2, 4), ones(5, 3, 4), ones(2, 4)),
            RuntimeError,
            r"^grad_output .*\(2, 5\), got \(2, 4\)",
        ),
        (
            lambda: reference.convolution_input(ones(1, 1, 3), ones(1, 1, 2), (5,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^grad_output .*\(1, 1, 4\), got \(1, 1, 3\)",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 1, 5), ones(1, 1, 3), (2,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^grad_output .*\(1, 1, 4\), got \(1, 1, 3\)",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 3, 5), ones(1, 2, 4), (2,), (1,), (0,), (1,), 2),
            RuntimeError,
            r"^groups must divide the 3 input channels, got 2",
        ),
        (
            lambda: reference.convolution(ones(1, 1), ones(1, 1), None, (), (), (), 1),
            RuntimeError,
            r"^weight .*\(1, 1\)",
        ),
        (lambda: reference.convolution_bias(ones(1, 2)), RuntimeError, r"^grad_output .*\(1, 2\)"),
        (
            lambda: reference.convolution_input(ones(1, 1, 4), ones(1, 1), (5,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^weight .*\(1, 1\)",
        ),
        (
            lambda: reference.convolution_input(ones(1, 4), ones(1, 1, 2), (5,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^grad_output must have at least 1 spatial .*\(1, 4\)",
        ),
        (
            lambda: reference.convolution_input(ones(1, 1, 4), ones(1, 1, 2), (5,), (1,), (0,), (1,), 2),
            RuntimeError,
            r"^groups must divide the 1 output channels, got 2",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 5), ones(1, 1, 4), (2,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^input must have at least 1 spatial .*\(1, 5\)",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 1, 5), ones(1, 4), (2,), (1,), (0,), (1,), 1),
            RuntimeError,
            r"^grad_output must have at least 1 spatial .*\(1, 4\)",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 2, 5), ones(1, 3, 4), (2,), (1,), (0,), (1,), 2),
            RuntimeError,
            r"^groups must divide the 3 output channels, got 2",
        ),
        (
            lambda: reference.convolution_weight(ones(1, 2, 5), ones(1, 3, 4), (2,), (1,), (0,), (1,), 0),
            RuntimeError,
            r"^groups must be at least 1, got 0",
        ),
        (lambda: reference.max_pool(ones(3), (), (), (), (), False), RuntimeError, r"^input .*\(3,\)"),
        (
            lambda: reference.max_pool_indices(np.array([0, 2]), (3,), (2,), (1,), (0,), (1,)),
            RuntimeError,
            r"^winner .* got 2 at \(1,\)",
        ),
        (
            lambda: reference.max_pool_scatter(ones(2), np.array([0, 0]), (3,), (2,), (0,), (0,), (1,)),
            RuntimeError,
            r"^stride .*\(0,\)",
        ),
        (
            lambda: reference.max_pool_gather(ones(3), np.array([0, 0]), (2,), (2,), (1,), (1,)),
            RuntimeError,
            r"^winner must fall inside .* got 0 at \(0,\)",
        ),
        (
            lambda: reference.max_pool_gather(ones(2, 3), np.array([[0, 0]]), (2,), (1,), (0,), (1,)),
            RuntimeError,
            r"^winner .*\(2, 2\), got \(1, 2\)",
        ),
        (
            lambda: reference.max_pool_scatter(ones(3), np.array([0, 0]), (3,), (2,), (1,), (0,), (1,)),
            RuntimeError,
            r"^winner .*\(3,\), got \(2,\)",
        ),
        (
            lambda: reference.average_pool_adjoint(ones(2), (4,), (2,), (1,), (0,), False, True, None),
            RuntimeError,
            r"^grad_output .*\(3,\), got \(2,\)",
        ),
        (
            lambda: reference.average_pool_adjoint(ones(3), (4,), (2,), (1,), (0,), False, True, 0),
            RuntimeError,
            r"^divisor_override .* got 0",
        ),
        (
            lambda: reference.adaptive_average_pool_adjoint(ones(2), (0,)),
            RuntimeError,
            r"^input_size .*\(0,\)",
        ),
        (lambda: reference.softplus(ones(2), 0.0), ValueError, r"^beta .* 0\.0"),
        (lambda: reference.softplus_derivative(ones(2), 0.0), ValueError, r"^beta .* 0\.0"),
        (lambda: reference.gelu_derivative(ones(2), "erf"), RuntimeError, r"^approximate .*'erf'"),
        (lambda: reference.softmax_gradient(X, ones(4, 3), 1), RuntimeError, r"^grad_output .*\(4, 3\)"),
        (lambda: reference.log_softmax_gradient(X, ones(4, 3), 1), RuntimeError, r"^grad_output .*\(4, 3\)"),
        (lambda: reference.batch_norm(ones(3), None, None, 1e-5), RuntimeError, r"^input .*\(3,\)"),
        (lambda: reference.batch_norm(ones(0, 3), None, None, 1e-5), ValueError, r"^input .*\(0, 3\)"),
        (lambda: reference.batch_norm_gradients(X, None, X, -1.0), ValueError, r"^eps .* -1\.0"),
        (
            lambda: reference.batch_norm_gradients(X, None, ones(4, 3), 1e-5),
            RuntimeError,
            r"^grad_output .*\(3, 4\), got \(4, 3\)",
        ),
        (
            lambda: reference.batch_norm_inference(X, ones(4), -ones(4), None, None, 1e-5),
            ValueError,
            r"^running_var .* got -1\.0 in channel 0",
        ),
        (
            lambda: reference.batch_norm_inference(X, ones(4), np.zeros(4), None, None, 0.0),
            ValueError,
            r"^running_var .* got 0\.0 in channel 0",
        ),
        (lambda: reference.update_running(ones(3), ones(2), 0.1), RuntimeError, r"^batch .*\(2,\)"),
        # PyTorch notices this one only in its backward pass.
        (lambda: reference.nll_loss(ones(4), np.array([1])), RuntimeError, r"^target .*\(\), got \(1,\)"),
        (
            lambda: reference.nll_loss_gradient(X, np.array([0, 1, 2]), ones(2), reduction="none"),
            RuntimeError,
            r"^grad_output .*\(3,\), got \(2,\)",
        ),
        (
            lambda: reference.nll_loss_gradient(X, np.array([0, 1, 2]), ones(), reduction="max"),
            ValueError,
            r"^reduction .* 'max'",
        ),
        (
            lambda: reference.nll_loss_gradient(X, np.array([0, 1, 2]), ones(), ones(3)),
            RuntimeError,
            r"^weight .*\(4,\), got \(3,\)",
        ),
        (
            lambda: reference.nll_loss_gradient(X, np.array([0, 1, 4]), ones()),
            IndexError,
            r"^target .* got 4",
        ),
        (
            lambda: reference.cross_entropy(X, np.array([0, 1, 2]), reduction="max"),
            ValueError,
            r"^reduction .* 'max'",
        ),
        (
            lambda: reference.cross_entropy_gradient(X, np.array([0, 1, 2]), ones(), reduction="max"),
            ValueError,
            r"^reduction .* 'max'",
        ),
        (
            lambda: reference.mse_loss_gradient(X, X, ones(), reduction="max"),
            ValueError,
            r"^reduction .* 'max'",
        ),
        (lambda: reference.mse_loss_gradient(X, ones(4), ones()), RuntimeError, r"^target .*\(4,\)"),
        (
            lambda: reference.cross_entropy_gradient(X, np.array([0, 1, 2]), ones(3)),
            RuntimeError,
            r"^grad_output .*\(\), got \(3,\)",
        ),
        (
            lambda: reference.cross_entropy(X, np.array([0, 1, 2]), label_smoothing=-0.5),
            RuntimeError,
            r"^label_smoothing .* -0\.5",
        ),
        (lambda: reference.mse_loss(X, ones(4)), RuntimeError, r"^target .*\(3, 4\), got \(4,\)"),
        (lambda: reference.mse_loss_gradient(X, X, ones(3)), RuntimeError, r"^grad_output .*\(3,\)"),
        (lambda: reference.dropout(X, ones(4), 0.5), RuntimeError, r"^mask .*\(3, 4\), got \(4,\)"),
        (lambda: reference.dropout_gradient(X, X, -0.1), ValueError, r"^p .* -0\.1"),
        (lambda: reference.feature_dropout(X, ones(3), 0.5), RuntimeError, r"^mask .*\(3, 4\), got \(3,\)"),
        (lambda: reference.alpha_dropout(X, ones(4), 0.5), RuntimeError, r"^mask .*\(3, 4\), got \(4,\)"),
        (lambda: reference.alpha_dropout(X, X, 1.5), ValueError, r"^p .* 1\.5"),
        (lambda: reference.alpha_dropout_gradient(X, X, -0.5), ValueError, r"^p .* -0\.5"),
        (lambda: reference.hardtanh(X, 1, -1), ValueError, r"^min_val .* 1 and -1"),
        (lambda: reference.hardtanh_derivative(X, 1, -1), ValueError, r"^min_val .* 1 and -1"),
        (lambda: reference.softshrink(X, -1.0), RuntimeError, r"^lambd .* -1\.0"),
        (lambda: reference.prelu(X, ones(3)), RuntimeError, r"^weight .*\(4,\), got \(3,\)"),
        (lambda: reference.prelu_gradient(X, ones(4), ones(3)), RuntimeError, r"^grad_output .*\(3, 4\)"),
        (lambda: reference.glu(X, 0), RuntimeError, r"^input .* dim 0, got shape \(3, 4\)"),
        (lambda: reference.glu_gradient(X, X), RuntimeError, r"^grad_output .*\(3, 2\), got \(3, 4\)"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda z: reference.max_pool(z, (1,), (1,), (0,), (1,), False),
        lambda z: reference.relu(z),
        lambda z: reference.gelu_derivative(z),
        lambda z: reference.softmax(z, 0),
        lambda z: reference.log_softmax(z, 0),
        lambda z: reference.softmax_gradient(z, ones(2, 2), 0),
        lambda z: reference.softmax_gradient(ones(2, 2), z, 0),
        lambda z: reference.log_softmax_gradient(z, ones(2, 2), 0),
        lambda z: reference.log_softmax_gradient(ones(2, 2), z, 0),
        lambda z: reference.batch_norm(z, None, None, 1e-5),
        lambda z: reference.batch_norm(ones(2, 2), z[0], None, 1e-5),
        lambda z: reference.batch_norm_gradients(ones(2, 2), None, z, 1e-5),
        lambda z: reference.nll_loss(z, np.array([0, 0])),
        lambda z: reference.nll_loss(ones(2, 2), np.array([0, 0]), z[0]),
        lambda z: reference.nll_loss_gradient(z, np.array([0, 0]), ones()),
        lambda z: reference.mse_loss(z, ones(2, 2)),
        lambda z: reference.mse_loss(ones(2, 2), z),
    ],
)
def test_refuses_complex(call):
    with pytest.raises(TypeError, match=r" must be real, got dtype complex128$"):
        call(np.ones((2, 2), np.complex128))
