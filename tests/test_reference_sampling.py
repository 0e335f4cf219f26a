"""The reference's grid sampling and affine grids, held against PyTorch."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch.nn.functional as F
from reference_helpers import INF, NAN, check, check_adjoint, check_refused, frozen, gradients, ones, tensor

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")

# input shape, grid shape
SHAPES = {
    "2d": ((2, 3, 4, 5), (2, 6, 7, 2)),
    "2d-one-pixel": ((1, 2, 1, 1), (1, 5, 6, 2)),
    "2d-row": ((1, 2, 1, 4), (1, 5, 6, 2)),
    "2d-empty-batch": ((0, 2, 3, 3), (0, 2, 2, 2)),
    "2d-empty-grid": ((1, 2, 3, 3), (1, 0, 2, 2)),
    "3d": ((2, 2, 3, 4, 2), (2, 3, 4, 3, 3)),
    "3d-one-slice": ((1, 1, 1, 3, 4), (1, 2, 3, 4, 3)),
}
MODES = [
    (shapes, mode, padding_mode, align_corners)
    for shapes, mode, padding_mode, align_corners in itertools.product(
        SHAPES, ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    )
    if mode != "bicubic" or shapes.startswith("2d")
]


def check_grid_sample(values, x, grid, *arguments):
    def builtin(x, grid):
        return F.grid_sample(x, grid, *arguments)

    y = reference.grid_sample(x, grid, *arguments)
    check(y, builtin(tensor(x), tensor(grid)))
    gy = values(*y.shape)
    gx, gg = reference.grid_sample_gradients(x, grid, gy, *arguments)
    expected_gx, expected_gg = gradients(builtin, (x, grid), gy)
    check(gx, expected_gx, atol=1e-12)
    check(gg, expected_gg, rtol=1e-10, atol=1e-11)
    # The output is linear in the input.
    check_adjoint(y, gy, x, gx)


@pytest.mark.parametrize("spread", [0.6, 3.0])
@pytest.mark.parametrize("shapes, mode, padding_mode, align_corners", MODES)
def test_grid_sample(values, shapes, mode, padding_mode, align_corners, spread):
    input_shape, grid_shape = SHAPES[shapes]
    grid = frozen(spread * values(*grid_shape))
    check_grid_sample(values, values(*input_shape), grid, mode, padding_mode, align_corners)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_grid_sample_where_weights_bend(values, dims, mode, padding_mode, align_corners):
    # Whole and half positions of an image of 5: pixels, their edges, the border, and the mirrors behind it.
    if mode == "bicubic" and dims == 3:
        return
    positions = np.arange(-24, 33) / 2
    # Both formulas of the position are exact in binary for these sizes.
    size = 5 if align_corners else 4
    axis = positions / (size - 1) * 2 - 1 if align_corners else (2 * positions + 1) / size - 1
    grid = np.full((1, 1, len(axis), 2) if dims == 2 else (1, 1, 1, len(axis), 3), 0.3)
    grid[..., 0] = axis
    x = values(1, 2, *(3, 4)[: dims - 1], size)
    check_grid_sample(values, x, frozen(grid), mode, padding_mode, align_corners)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_at_positions_that_are_not_finite(values, mode, padding_mode):
    # PyTorch's answer is undefined.
    x, gy = values(1, 1, 3, 4), values(1, 1, 1, 5)
    grid = frozen([[[[NAN, 0.0], [0.0, NAN], [INF, 0.0], [0.0, -INF], [NAN, INF]]]])
    y = reference.grid_sample(x, grid, mode, padding_mode)
    gx, gg = reference.grid_sample_gradients(x, grid, gy, mode, padding_mode)
    if padding_mode == "border" and mode != "bicubic":
        at_border = frozen([[[[1.0, 0.0], [0.0, -1.0]]]])
        check(y[..., 2:4], reference.grid_sample(x, at_border, mode, padding_mode))
        check(y[..., [0, 1, 4]], np.zeros((1, 1, 1, 3)))
        assert gg[0, 0, 2, 0] == gg[0, 0, 3, 1] == 0
    else:
        check(y, np.zeros((1, 1, 1, 5)))
        check(gx, np.zeros(x.shape))
        check(gg, np.zeros(grid.shape))


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_far_away(values, mode, padding_mode):
    grid = frozen([[[[1e15, 0.1], [-1e15, -0.2], [0.3, 1e15]]]])
    y = reference.grid_sample(values(1, 1, 3, 4), grid, mode, padding_mode)
    assert np.all(np.isfinite(y))
    assert padding_mode != "zeros" or np.all(y == 0)


def test_grid_gradient_is_the_slope(values):
    # Bilinear sampling is linear between two pixels, so a small step divides out exactly.
    x, gy = values(1, 2, 4, 5), values(1, 2, 1, 1)
    for mode, tolerance in (("bilinear", 1e-9), ("bicubic", 1e-6)):
        grid = np.array([[[[0.17, -0.41]]]])
        _, slope = reference.grid_sample_gradients(x, grid, gy, mode)
        for d in range(2):
            step = np.zeros(grid.shape)
            step[..., d] = 1e-5
            ahead, behind = (reference.grid_sample(x, grid + s * step, mode) for s in (1, -1))
            assert math.isclose(np.vdot(ahead - behind, gy) / 2e-5, slope[0, 0, 0, d], abs_tol=tolerance)


# Affine grids


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 1, 3), (2, 1, 3, 4, 2), (1, 2, 1, 1, 2)])
def test_affine_grid(values, size, align_corners):
    dims = len(size) - 2
    theta = values(size[0], dims, dims + 1)

    def builtin(theta):
        with warnings.catch_warnings():
            # It warns that it treats sizes of 1 in its own way since version 1.3.
            warnings.simplefilter("ignore")
            return F.affine_grid(theta, list(size), align_corners=align_corners)

    grid = reference.affine_grid(theta, size, align_corners)
    check(grid, builtin(tensor(theta)))
    gy = values(*grid.shape)
    (expected,) = gradients(builtin, (theta,), gy)
    actual = reference.affine_grid_adjoint(gy, align_corners)
    check(actual, expected)
    check_adjoint(grid, gy, theta, actual)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_identity_reads_every_pixel(values, dims, align_corners):
    x = values(1, 2, *(3, 4, 2)[:dims])
    grid = reference.affine_grid(np.eye(dims, dims + 1)[None], x.shape, align_corners)
    check(reference.grid_sample(x, grid, align_corners=align_corners, padding_mode="border"), x)


# What is refused, as PyTorch does


def faulty(input_shape=(1, 2, 3, 4), grid_shape=(1, 2, 2, 2), mode="bilinear", padding_mode="zeros"):
    x, grid = ones(*input_shape), ones(*grid_shape)
    return (
        lambda: reference.grid_sample(x, grid, mode, padding_mode),
        lambda: F.grid_sample(tensor(x), tensor(grid), mode, padding_mode, False),
    )


def faulty_grid(theta_shape, size):
    theta = ones(*theta_shape)
    return (
        lambda: reference.affine_grid(theta, size),
        lambda: F.affine_grid(tensor(theta), list(size), False),
    )


REFUSED = {
    "mode": (faulty(mode="linear"), r"^mode .* got 'linear'"),
    "padding_mode": (faulty(padding_mode="circular"), r"^padding_mode .* got 'circular'"),
    "rank": (faulty((1, 2, 3), (1, 2, 1)), r"^input .*\(1, 2, 3\)"),
    "bicubic-3d": (faulty((1, 2, 3, 3, 3), (1, 2, 2, 2, 3), "bicubic"), r"^mode .* 3 spatial .* got 'bicubic'"),
    "no-pixels": (faulty((1, 2, 0, 3)), r"^input .*\(1, 2, 0, 3\)"),
    "batch": (faulty(grid_shape=(2, 2, 2, 2)), r"^grid .*\(2, 2, 2, 2\)"),
    "coordinates": (faulty(grid_shape=(1, 2, 2, 3)), r"^grid must have 2 coordinates .*\(1, 2, 2, 3\)"),
    "grid-rank": (faulty(grid_shape=(1, 2, 2)), r"^grid .*\(1, 2, 2\)"),
    "theta": (faulty_grid((1, 2, 2), (1, 1, 2, 2)), r"^theta .*\(1, 2, 3\), got \(1, 2, 2\)"),
    "theta-batch": (faulty_grid((2, 2, 3), (1, 1, 2, 2)), r"^theta .*\(1, 2, 3\), got \(2, 2, 3\)"),
    "size": (faulty_grid((1, 2, 3), (1, 1, 2)), r"^size .*\(1, 1, 2\)"),
    "no-size": (faulty_grid((1, 2, 3), (1, 1, 0, 2)), r"^size .*\(1, 1, 0, 2\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(name):
    (call, builtin), message = REFUSED[name]
    check_refused(call, builtin, message)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: reference.grid_sample_gradients(ones(1, 2, 3, 4), ones(1, 2, 5, 2), ones(1, 2, 5, 2)),
            RuntimeError,
            r"^grad_output .*\(1, 2, 2, 5\), got \(1, 2, 5, 2\)",
        ),
        (lambda: reference.affine_grid_adjoint(ones(1, 2, 2, 3)), RuntimeError, r"^grad_grid .*\(1, 2, 2, 3\)"),
        (
            lambda: reference.grid_sample(ones(1, 1, 2, 2).astype(complex), ones(1, 1, 1, 2)),
            TypeError,
            r"^input must be real",
        ),
        (
            lambda: reference.grid_sample(ones(1, 1, 2, 2), ones(1, 1, 1, 2).astype(complex)),
            TypeError,
            r"^grid must be real",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
