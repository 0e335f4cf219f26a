"""The reference's adaptive, fractional and p-norm pooling and its max unpooling, held against PyTorch.

Max and average pooling of sliding windows are in test_reference.py.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_helpers import INF, NAN, WINDOWS, check, check_adjoint, frozen, gradients, ones, tensor, windowed

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")

# Adaptive max pooling

ADAPTIVE = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
ADAPTIVE_SIZES = [
    ((2, 2, 7), (3,)),
    ((2, 5), (8,)),
    ((2, 2, 5, 7), (3, 4)),
    ((2, 5, 7), (1, 1)),
    ((1, 2, 3, 4), (5, 2)),
    ((0, 2, 3, 4), (2, 2)),
    ((1, 2, 4, 5, 3), (3, 2, 3)),
    ((2, 3, 2, 4), (2, 5, 3)),
]


def check_adaptive_max_pool(values, x, output_size):
    input_size = x.shape[-len(output_size) :]
    leaf = tensor(x, requires_grad=True)
    expected, indices = ADAPTIVE[len(output_size)](leaf, output_size, return_indices=True)
    y, winner = reference.adaptive_max_pool(x, output_size)
    winner = frozen(winner)
    check(y, expected)
    check(reference.adaptive_max_pool_indices(winner, input_size), indices)
    check(reference.adaptive_max_pool_gather(x, winner, len(output_size)), expected)
    gy, ggx = values(*y.shape), values(*x.shape)
    leaf_gy = tensor(gy, requires_grad=True)
    (gx,) = torch.autograd.grad(expected, leaf, leaf_gy, create_graph=True)
    (ggy,) = torch.autograd.grad(gx, leaf_gy, tensor(ggx))
    scattered = reference.adaptive_max_pool_scatter(gy, winner, input_size)
    check(scattered, gx)
    gathered = reference.adaptive_max_pool_gather(ggx, winner, len(output_size))
    check(gathered, ggy)
    check_adjoint(gathered, gy, ggx, scattered)


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("input_shape, output_size", ADAPTIVE_SIZES)
def test_adaptive_max_pool(values, input_shape, output_size, kind):
    check_adaptive_max_pool(values, windowed(kind, input_shape), output_size)


def test_adaptive_max_pool_for_all_small_sizes(values):
    for size, out in itertools.product(range(1, 9), range(1, 11)):
        check_adaptive_max_pool(values, windowed("ties", (2, size)), (out,))


def test_adaptive_max_pool_to_nothing(values):
    y, winner = reference.adaptive_max_pool(values(2, 3), (0,))
    check(y, np.zeros((2, 0)))
    check(reference.adaptive_max_pool_scatter(values(2, 0), winner, (3,)), np.zeros((2, 3)))


# Fractional max pooling

FRACTIONAL = {2: F.fractional_max_pool2d, 3: F.fractional_max_pool3d}
FRACTIONAL_SIZES = [
    ((2, 3, 7, 9), (2, 3), (4, 3)),
    ((1, 2, 8, 8), (2, 2), (7, 5)),
    ((2, 2, 9, 6), (3, 1), (1, 2)),
    ((1, 2, 5, 6), (1, 2), (5, 5)),
    ((0, 2, 5, 6), (1, 2), (2, 2)),
    ((1, 2, 6, 5, 7), (2, 1, 3), (3, 4, 2)),
    ((2, 1, 5, 4, 6), (2, 2, 2), (3, 1, 3)),
]


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("input_shape, kernel_size, output_size", FRACTIONAL_SIZES)
def test_fractional_max_pool(values, input_shape, kernel_size, output_size, kind):
    x = windowed(kind, input_shape)
    samples = frozen(np.random.default_rng(4).random((*input_shape[:2], len(kernel_size))))
    leaf = tensor(x, requires_grad=True)
    expected, indices = FRACTIONAL[len(kernel_size)](
        leaf, kernel_size, output_size, return_indices=True, _random_samples=tensor(samples)
    )
    y, winner = reference.fractional_max_pool(x, kernel_size, output_size, samples)
    winner = frozen(winner)
    check(y, expected)
    check(reference.fractional_max_pool_indices(winner, input_shape[2:], kernel_size, samples), indices)
    check(reference.fractional_max_pool_gather(x, winner, kernel_size, samples), expected)
    gy, direction = values(*y.shape), values(*x.shape)
    scattered = reference.fractional_max_pool_scatter(gy, winner, input_shape[2:], kernel_size, samples)
    (gx,) = torch.autograd.grad(expected, leaf, tensor(gy))
    check(scattered, gx)
    check_adjoint(
        reference.fractional_max_pool_gather(direction, winner, kernel_size, samples), gy, direction, scattered
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dims", [2, 3])
def test_fractional_windows_round_as_pytorch_does(dims, dtype):
    # A rising input names its places: the maximum of a window of one is its start.
    rng = np.random.default_rng(8)
    size = (13, 17, 11)[:dims]
    x = frozen(np.arange(math.prod(size), dtype=dtype).reshape(1, 1, *size))
    draws = [np.full(dims, u) for u in (0.0, 0.5, 0.25, 1 - 2**-24, 2**-24)] + list(rng.random((30, dims)))
    for u in draws:
        samples = frozen(u.astype(dtype).reshape(1, 1, dims))
        output_size = tuple(int(n) for n in rng.integers(1, np.array(size)))
        expected = FRACTIONAL[dims](tensor(x), 1, output_size, _random_samples=tensor(samples))
        check(reference.fractional_max_pool(x, (1,) * dims, output_size, samples)[0], expected)


def test_fractional_max_pool_of_every_window_there_is():
    x, samples = frozen(np.arange(24.0).reshape(1, 1, 2, 3, 4)), frozen([[[0.5, 0.5, 0.5]]])
    y, _ = reference.fractional_max_pool(x, (1, 1, 1), (2, 3, 4), samples)
    check(y, x)
    # PyTorch takes output_size = input_size - kernel_size + 1 in two dimensions, but not in three.
    check(x[:, :, 0], F.fractional_max_pool2d(tensor(x[:, :, 0]), 1, (3, 4)))
    with pytest.raises(RuntimeError, match="too large relative to input"):
        F.fractional_max_pool3d(tensor(x), 1, (2, 3, 4))


def test_fractional_max_pool_in_one_dimension():
    y, winner = reference.fractional_max_pool(frozen([[0.0, 3, 1, 2, 5]]), (2,), (3,), frozen([[0.5]]))
    # Distance 1.5, starts floor(0.75), floor(2.25) and the last, at 0, 2 and 3.
    check(y, [[3.0, 2.0, 5.0]])
    check(winner, [[1, 1, 1]])


# p-norm pooling

# PyTorch takes only numbers in one dimension.
LP = {1: lambda x, p, k, s, ceil_mode: F.lp_pool1d(x, p, k[0], s[0], ceil_mode), 2: F.lp_pool2d, 3: F.lp_pool3d}

# input shape, kernel_size, stride
LP_WINDOWS = {
    "1d": ((2, 2, 9), (3,), (2,)),
    "1d-unbatched": ((2, 7), (2,), (2,)),
    "1d-stride-larger-than-window": ((1, 2, 10), (2,), (3,)),
    "2d": ((2, 2, 6, 5), (2, 3), (2, 2)),
    "2d-overlapping": ((1, 2, 5, 6), (3, 2), (1, 1)),
    "2d-empty-batch": ((0, 2, 4, 4), (2, 2), (2, 2)),
    "3d": ((1, 2, 4, 5, 4), (2, 3, 2), (2, 1, 2)),
}


def full_to_partial(input_size, kernel_size, stride, ceil_mode, power):
    """Return (taps inside / taps)^power for every window."""
    none, one = (0,) * len(kernel_size), (1,) * len(kernel_size)
    window = (kernel_size, stride, none, ceil_mode)
    inside = reference.average_pool(np.ones(input_size), *window, True, 1)
    assert inside.shape == reference.pooled_size(input_size, kernel_size, stride, none, one, ceil_mode)
    return frozen((inside / math.prod(kernel_size)) ** power)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, 2.5, 4, -1.0])
@pytest.mark.parametrize("case", LP_WINDOWS.values(), ids=LP_WINDOWS)
def test_lp_pool(values, case, norm_type, ceil_mode):
    input_shape, *window = case
    x = values(*input_shape)
    if norm_type not in (1.0, 2.0, 4):
        x = frozen(np.abs(x) + 0.1)
    # PyTorch multiplies the sum of a partial window up to a full one.
    shrink = full_to_partial(input_shape[-len(window[0]) :], *window, ceil_mode, 1 / norm_type)
    assert ceil_mode or np.all(shrink == 1)

    def builtin(x):
        return LP[len(window[0])](x, norm_type, *window, ceil_mode) * tensor(shrink)

    y = builtin(tensor(x))
    check(reference.lp_pool(x, norm_type, *window, ceil_mode), y)
    gy = values(*y.shape)
    (gx,) = gradients(builtin, (x,), gy)
    check(reference.lp_pool_gradient(x, gy, norm_type, *window, ceil_mode), gx)


def test_lp_pool_of_zeros_and_negative_sums():
    x, gy = frozen([0.0, 0, -1, 1, -2, 3, 3]), frozen([1.0, 2, 3, 4, 5, 6])
    for norm_type in (1.0, 2.0, 3.0, 2.5):
        arguments = (norm_type, (2,), (1,), False)

        def builtin(leaf, arguments=arguments):
            return LP[1](leaf[None], *arguments)[0]

        check(reference.lp_pool(x, *arguments), builtin(tensor(x)))
        (gx,) = gradients(builtin, (x,), gy)
        if norm_type == 1:  # the windows (0, 0) and (-1, 1) have the gradients 1 and 3, which PyTorch leaves out
            gx = gx + tensor(frozen([1.0, 1, 3, 3, 0, 0, 0]))
        check(reference.lp_pool_gradient(x, gy, *arguments), gx)


def test_lp_pool_gradient_of_nothing_but_zeros_is_zero():
    x, gy = frozen([0.0, 0, 0, 4]), frozen([1.0, 1.0])
    check(reference.lp_pool_gradient(x, gy, 0.5, (2,), (2,), False), [0.0, 0, INF, 1])
    check(reference.lp_pool(x, 0.5, (2,), (2,), False), [0.0, 4.0])


def test_lp_pool_partial_window_holds_what_is_in_it():
    x = frozen([[3.0, 4.0, 5.0]])
    check(reference.lp_pool(x, 2.0, (2,), (2,), True), [[5.0, 5.0]])
    check(frozen([[5.0, 50**0.5]]), F.lp_pool1d(tensor(x), 2, 2, 2, ceil_mode=True))


# Max unpooling

UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
UNPOOLED_SIZES = [
    ((2, 2, 4), (9,)),
    ((2, 4), (8,)),
    ((2, 3, 3, 2), (6, 5)),
    ((3, 2, 3), (5, 6)),
    ((0, 2, 2, 2), (4, 4)),
    ((1, 2, 2, 3, 2), (4, 6, 5)),
]


def unpool(x, indices, output_size):
    none = (1,) * len(output_size)
    return UNPOOL[len(output_size)](x, tensor(indices), none, none, 0, (*x.shape[: -len(output_size)], *output_size))


@pytest.fixture(autouse=True)
def _any_output_size(monkeypatch):
    # PyTorch checks output_size against kernel and stride first; here it is free.
    monkeypatch.setattr(F, "_unpool_output_size", lambda *arguments: list(arguments[-1][-len(arguments[1]) :]))


@pytest.mark.parametrize("input_shape, output_size", UNPOOLED_SIZES)
def test_max_unpool(values, input_shape, output_size):
    rng = np.random.default_rng(2)
    planes, places = math.prod(input_shape[: -len(output_size)]), math.prod(input_shape[-len(output_size) :])
    indices = [rng.permutation(math.prod(output_size))[:places] for _ in range(planes)]
    indices = frozen(np.array(indices, np.int64).reshape(input_shape))
    x = values(*input_shape)
    expected = unpool(tensor(x), indices, output_size)
    y = reference.max_unpool(x, indices, output_size)
    check(y, expected)
    gy = values(*y.shape)
    (gx,) = gradients(lambda leaf: unpool(leaf, indices, output_size), (x,), gy)
    actual = reference.max_unpool_adjoint(gy, indices, output_size)
    check(actual, gx)
    check_adjoint(y, gy, x, actual)


@pytest.mark.parametrize("input_shape, output_size", UNPOOLED_SIZES)
def test_max_unpool_of_indices_that_occur_twice(values, input_shape, output_size):
    indices = frozen(np.random.default_rng(2).integers(0, 5, input_shape))
    x = values(*input_shape)
    y = reference.max_unpool(x, indices, output_size)
    check(y, unpool(tensor(x), indices, output_size))
    gy = values(*y.shape)
    gx = reference.max_unpool_adjoint(gy, indices, output_size)
    check_adjoint(y, gy, x, gx)
    # Moving a value moves the output by it if it stayed, else not at all.
    for index in np.ndindex(*input_shape):
        one = np.zeros(input_shape)
        one[index] = 1.0
        moved = reference.max_unpool(x + one, indices, output_size) - y
        np.testing.assert_allclose(np.vdot(moved, gy), gx[index], rtol=1e-12, atol=1e-12)


def test_max_unpool_inverts_max_pool_at_the_winners():
    x = frozen([[4.0, 1, 7, 2, 3, 5]])
    window = ((2,), (2,), (0,), (1,))
    y, winner = reference.max_pool(x, *window, False)
    indices = reference.max_pool_indices(winner, (6,), *window)
    check(reference.max_unpool(y, indices, (6,)), [[4.0, 0, 7, 0, 0, 5]])


# What is refused


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: reference.adaptive_max_pool(ones(2, 0), (2,)), RuntimeError, r"^input_size .*\(0,\)"),
        (lambda: reference.adaptive_max_pool(ones(2, 3), (-1,)), RuntimeError, r"^output_size .*\(-1,\)"),
        (lambda: reference.adaptive_max_pool(ones(3), (2, 2)), RuntimeError, r"^input .*\(3,\)"),
        (
            lambda: reference.adaptive_max_pool_indices(np.array([0, 2]), (4,)),
            RuntimeError,
            r"^winner .* got 2 at \(1,\)",
        ),
        (
            lambda: reference.adaptive_max_pool_scatter(ones(3), np.array([0, 1]), (4,)),
            RuntimeError,
            r"^winner .*\(3,\), got \(2,\)",
        ),
        (
            lambda: reference.adaptive_max_pool_gather(ones(2, 4), np.array([0, 1]), 1),
            RuntimeError,
            r"^winner .*\(2, 2\), got \(2,\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (3,), (4,), ones(1, 1)),
            RuntimeError,
            r"^kernel_size \(3,\) must leave room for output_size \(4,\), got input_size \(5,\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (2,), (0,), ones(1, 1)),
            RuntimeError,
            r"^output_size .*\(0,\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (2,), (2, 2), ones(1, 1)),
            RuntimeError,
            r"^output_size .*\(2, 2\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (0,), (2,), ones(1, 1)),
            RuntimeError,
            r"^kernel_size .*\(0,\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (2,), (2,), ones(1, 2)),
            RuntimeError,
            r"^samples .*\(1, 1\), got \(1, 2\)",
        ),
        (
            lambda: reference.fractional_max_pool(ones(1, 5), (2,), (2,), -ones(1, 1)),
            RuntimeError,
            r"^samples .* got -1\.0 at \(0, 0\)",
        ),
        (
            lambda: reference.fractional_max_pool_indices(np.array([0, 2]), (4,), (2,), 0 * ones(1)),
            RuntimeError,
            r"^winner .* got 2 at \(1,\)",
        ),
        (
            lambda: reference.fractional_max_pool_scatter(ones(3), np.array([0, 1]), (4,), (2,), ones(1)),
            RuntimeError,
            r"^winner .*\(3,\), got \(2,\)",
        ),
        (
            lambda: reference.fractional_max_pool_gather(ones(2, 4), np.array([0, 1]), (2,), ones(1)),
            RuntimeError,
            r"^winner .*\(2, 2\), got \(2,\)",
        ),
        (lambda: reference.lp_pool(ones(4), 0, (2,), (2,), False), ValueError, r"^norm_type .* got 0"),
        (lambda: reference.lp_pool(ones(4), INF, (2,), (2,), False), ValueError, r"^norm_type .* got inf"),
        (lambda: reference.lp_pool(ones(4), 2.0, (2,), (0,), False), RuntimeError, r"^stride .*\(0,\)"),
        (lambda: reference.lp_pool(ones(4), 2.0, (5,), (1,), False), RuntimeError, r"^kernel_size .*\(5,\)"),
        (
            lambda: reference.lp_pool_gradient(ones(4), ones(3), 2.0, (2,), (2,), False),
            RuntimeError,
            r"^grad_output .*\(2,\), got \(3,\)",
        ),
        (
            lambda: reference.lp_pool_gradient(ones(4), ones(2), NAN, (2,), (2,), False),
            ValueError,
            r"^norm_type .* got nan",
        ),
        (
            lambda: reference.max_unpool(ones(2), np.array([0, 4]), (4,)),
            RuntimeError,
            r"^indices .*\(4,\), got 4 at \(1,\)",
        ),
        (lambda: reference.max_unpool(ones(2), np.array([0, -1]), (4,)), RuntimeError, r"^indices .* got -1 at \(1,\)"),
        (lambda: reference.max_unpool(ones(2), np.array([0]), (4,)), RuntimeError, r"^indices .*\(2,\), got \(1,\)"),
        (lambda: reference.max_unpool(ones(2), np.array([0, 1]), (0,)), RuntimeError, r"^output_size .*\(0,\)"),
        (
            lambda: reference.max_unpool_adjoint(ones(3), np.array([0, 1]), (4,)),
            RuntimeError,
            r"^grad_output .*\(4,\), got \(3,\)",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda z: reference.adaptive_max_pool(z, (1,)),
        lambda z: reference.fractional_max_pool(z, (1,), (1,), ones(2, 1)),
        lambda z: reference.lp_pool(z, 2.0, (1,), (1,), False),
        lambda z: reference.lp_pool_gradient(z, ones(2, 2), 2.0, (1,), (1,), False),
        lambda z: reference.lp_pool_gradient(ones(2, 2), z, 2.0, (1,), (1,), False),
    ],
)
def test_refuses_complex(call):
    with pytest.raises(TypeError, match=r" must be real, got dtype complex128$"):
        call(np.ones((2, 2), np.complex128))


@pytest.mark.parametrize(
    "builtin",
    [
        lambda: F.fractional_max_pool2d(torch.ones(1, 1, 5, 5), 3, (4, 4)),
        lambda: unpool(torch.ones(1, 1, 2), np.array([[[0, 4]]]), (4,)),
        lambda: unpool(torch.ones(1, 1, 2), np.array([[[0, -1]]]), (4,)),
        lambda: F.adaptive_max_pool1d(torch.ones(1, 2, 0), 2),
    ],
)
def test_pytorch_refuses_too(builtin):
    with pytest.raises(RuntimeError):
        builtin()
