"""The reference's interpolation, held against PyTorch."""

import itertools

import numpy as np
import pytest
import torch.nn.functional as F
from reference_helpers import check, check_adjoint, check_refused, frozen, gradients, ones, tensor

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
ALIGNED = ("linear", "bilinear", "trilinear", "bicubic")


def check_interpolate(values, x, forward_only=False, **arguments):
    """Compare with PyTorch, unless `forward_only` the gradient too."""
    builtin_arguments = dict(arguments)
    if arguments["mode"] not in ALIGNED:
        builtin_arguments.pop("align_corners", None)

    def builtin(leaf):
        return F.interpolate(leaf, **builtin_arguments)

    expected = builtin(tensor(x))
    y = reference.interpolate(x, **arguments)
    check(y, expected)
    gy = values(*y.shape)
    actual = reference.interpolate_adjoint(gy, x.shape[2:], **arguments)
    check_adjoint(y, gy, x, actual)
    if not forward_only:
        (gx,) = gradients(builtin, (x,), gy)
        check(actual, gx)


SIZES = [
    ((2, 2, 5), (9,)),
    ((2, 2, 7), (3,)),
    ((1, 2, 4), (4,)),
    ((1, 2, 1), (5,)),
    ((1, 2, 6), (1,)),
    ((2, 2, 4, 5), (7, 3)),
    ((1, 2, 6, 5), (2, 11)),
    ((1, 2, 3, 4), (3, 8)),
    ((1, 1, 1, 5), (4, 1)),
    ((0, 2, 3, 4), (5, 2)),
    ((1, 2, 3, 4, 2), (5, 2, 4)),
    ((1, 1, 4, 3, 5), (2, 6, 5)),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "linear", "bicubic"])
@pytest.mark.parametrize("shape, size", SIZES)
def test_interpolate_to_a_size(values, shape, size, mode, align_corners):
    mode = LINEAR[len(size)] if mode == "linear" else mode
    if mode == "bicubic" and len(size) != 2 or align_corners and mode not in ALIGNED:
        return
    # PyTorch's adaptive pooling, to which "area" turns, does not go back from an empty batch.
    forward_only = mode == "area" and shape[0] == 0
    check_interpolate(values, values(*shape), forward_only, size=size, mode=mode, align_corners=align_corners)


FACTORS = [
    ((2, 2, 5), (1.7,)),
    ((2, 2, 9), (0.34,)),
    ((1, 2, 6), (2.0,)),
    ((2, 2, 5, 7), (1.5, 0.6)),
    ((1, 2, 6, 5), (2.3, 0.25)),
    ((1, 2, 4, 4), (2.0, 3.0)),
    ((1, 2, 3, 4, 5), (1.7, 0.5, 2.0)),
]


@pytest.mark.parametrize("recompute_scale_factor", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "linear", "bicubic"])
@pytest.mark.parametrize("shape, factor", FACTORS)
def test_interpolate_by_a_factor(values, shape, factor, mode, align_corners, recompute_scale_factor):
    mode = LINEAR[len(factor)] if mode == "linear" else mode
    if mode == "bicubic" and len(factor) != 2 or align_corners and mode not in ALIGNED:
        return
    check_interpolate(
        values,
        values(*shape),
        scale_factor=factor,
        mode=mode,
        align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor,
    )


@pytest.mark.parametrize("mode", ["linear", "bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_interpolate_for_all_small_sizes(values, mode, align_corners):
    for n, out in itertools.product(range(1, 8), range(1, 10)):
        shape, size = ((1, 1, n), (out,)) if mode == "linear" else ((1, 1, n, 2), (out, 3))
        check_interpolate(values, values(*shape), size=size, mode=mode, align_corners=align_corners)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_rounds_as_pytorch_does(mode, dtype):
    # In two dimensions PyTorch works in single precision whatever the dtype, forward and backward.
    for n in (*range(1, 12), 14, 26, 31, 49):
        x = frozen(np.arange(n, dtype=dtype).reshape(1, 1, n, 1))
        arguments = [{"size": (out, 1)} for out in (*range(1, 12), 22, 44, 46, 55)]
        arguments += [{"scale_factor": (s, 1.0)} for s in (0.34, 0.7, 1.2, 1.7, 2.05, 2.3, 3.0) if int(n * s)]
        for keywords in arguments:
            y = reference.interpolate(x, mode=mode, **keywords)
            check(y, F.interpolate(tensor(x), mode=mode, **keywords))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "shape, size",
    [
        ((2, 2, 7, 9), (3, 4)),
        ((1, 2, 4, 5), (7, 9)),
        ((1, 2, 8, 3), (3, 8)),
        ((1, 2, 5, 6), (5, 2)),
        ((1, 2, 9, 2), (1, 1)),
        ((1, 1, 17, 1), (2, 3)),
        ((0, 2, 4, 4), (2, 2)),
    ],
)
def test_antialias(values, shape, size, mode, align_corners):
    if not align_corners:
        check_interpolate(values, values(*shape), size=size, mode=mode, antialias=True)
        return
    # PyTorch aligns no corners here; the reference does, so that growing is the same with antialias and without.
    keywords = {"size": size, "mode": mode, "align_corners": True}
    x, gy = values(*shape), values(*shape[:2], *size)
    y = reference.interpolate(x, antialias=True, **keywords)
    check_adjoint(y, gy, x, reference.interpolate_adjoint(gy, shape[2:], antialias=True, **keywords))
    if all(n <= out for n, out in zip(shape[2:], size, strict=True)) and mode == "bilinear":
        check(y, F.interpolate(tensor(x), **keywords))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [(0.4, 0.7), (1.7, 0.35), (0.21, 2.0)])
def test_antialias_by_a_factor(values, factor, mode):
    for recompute_scale_factor in (False, True):
        check_interpolate(
            values,
            values(1, 2, 8, 9),
            scale_factor=factor,
            mode=mode,
            antialias=True,
            recompute_scale_factor=recompute_scale_factor,
        )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias_to_one_column(values, mode):
    # PyTorch's forward pass reads the first row only; its gradient is right, and so is the transposed image.
    x, arguments = values(1, 2, 5, 4), {"mode": mode, "antialias": True}
    y = reference.interpolate(x, (3, 1), **arguments)
    turned = F.interpolate(tensor(x.swapaxes(2, 3)), size=(1, 3), **arguments)
    check(y, turned.transpose(2, 3))
    gy = values(*y.shape)
    (gx,) = gradients(lambda leaf: F.interpolate(leaf, size=(3, 1), **arguments), (x,), gy)
    check(reference.interpolate_adjoint(gy, (5, 4), (3, 1), **arguments), gx)
    check_adjoint(y, gy, x, gx.numpy())


def test_antialias_keeps_corners_aligned(values):
    # A ramp shrinks to a ramp between the same ends where no row is cut short by them.
    x = frozen(np.arange(13.0).reshape(1, 1, 1, 13))
    y = reference.interpolate(x, (1, 5), mode="bilinear", align_corners=True, antialias=True)
    np.testing.assert_allclose(y[0, 0, 0, 1:4], [3.0, 6.0, 9.0], rtol=1e-12)


@pytest.mark.parametrize(
    "shape, mode, antialias, factor",
    [
        ((1, 2, 3), "nearest-exact", False, (1.3,)),
        ((1, 2, 3), "linear", False, (1.3,)),
        ((1, 2, 3, 4), "nearest", False, (1.3, 1.2)),
        ((1, 2, 3, 4), "nearest", False, (1.3, 2.2)),
        ((1, 2, 3, 4), "nearest-exact", False, (1.3, 2.2)),
        ((1, 2, 3, 4), "bilinear", False, (1.3, 1.7)),
        ((1, 2, 3, 4), "bicubic", False, (1.3, 1.7)),
        ((1, 2, 3, 2, 3), "trilinear", False, (1.3, 1.7, 1.2)),
    ],
)
def test_factor_that_leaves_the_size(values, shape, mode, antialias, factor):
    check_interpolate(values, values(*shape), scale_factor=factor, mode=mode, antialias=antialias)


@pytest.mark.parametrize(
    "mode, antialias, factor",
    [
        # PyTorch resizes forward and copies backward.
        ("bicubic", False, (1.3, 1.2)),
        # PyTorch copies forward and resizes backward.
        ("bilinear", True, (1.3, 1.2)),
        ("bilinear", True, (1.3, 0.5)),
        ("bicubic", True, (1.7, 1.2)),
    ],
)
def test_factor_that_leaves_the_size_where_pytorch_differs_from_its_gradient(values, mode, antialias, factor):
    x = values(1, 2, 3, 4)
    arguments = {"scale_factor": factor, "mode": mode, "antialias": antialias}
    check_interpolate(values, x, forward_only=True, **arguments)
    y = reference.interpolate(x, **arguments)
    gy = values(*y.shape)
    (gx,) = gradients(lambda leaf: F.interpolate(leaf, **arguments), (x,), gy)
    assert abs(np.vdot(y, gy) - np.vdot(x, gx.numpy())) > 0.01


@pytest.mark.parametrize("shape, factor", [((1, 1, 3), (1.3,)), ((1, 1, 3, 3, 3), (1.3, 2.2, 1.1))])
def test_nearest_factor_that_leaves_the_size_in_one_and_three_dimensions(values, shape, factor):
    # Here PyTorch's gradient ignores the factor, as in two dimensions, but its forward pass does not.
    x, arguments = values(*shape), {"scale_factor": factor, "mode": "nearest"}
    y = reference.interpolate(x, **arguments)
    gy = values(*y.shape)
    (gx,) = gradients(lambda leaf: F.interpolate(leaf, **arguments), (x,), gy)
    check(reference.interpolate_adjoint(gy, shape[2:], **arguments), gx)
    check_adjoint(y, gy, x, gx.numpy())


def test_interpolate_complex(values):
    x = values(1, 1, 3, 4, dtype=np.complex128)
    y = reference.interpolate(x, (5, 6), mode="bicubic")
    check(y.real, reference.interpolate(x.real, (5, 6), mode="bicubic"))
    check(y.imag, reference.interpolate(x.imag, (5, 6), mode="bicubic"))


# What is refused, as PyTorch does


def faulty(shape=(1, 1, 4, 4), **arguments):
    return (
        lambda: reference.interpolate(ones(*shape), **arguments),
        lambda: F.interpolate(tensor(ones(*shape)), **arguments),
    )


REFUSED = {
    "mode": (faulty(size=(2, 2), mode="cubic"), r"^mode .* got 'cubic'"),
    "mode-dimensions": (faulty(size=(2, 2), mode="linear"), r"^mode .* 2 spatial dimensions, got 'linear'"),
    "bicubic-1d": (faulty((1, 1, 4), size=(2,), mode="bicubic"), r"^mode .* 1 spatial dimensions, got 'bicubic'"),
    "neither": (faulty(), r"^size or scale_factor .* got None and None"),
    "both": (faulty(size=(2, 2), scale_factor=(2.0, 2.0)), r"^size or scale_factor .* got \(2, 2\) and \(2.0, 2.0\)"),
    "size-length": (faulty(size=(2,)), r"^size .* got \(2,\)"),
    "factor-length": (faulty(scale_factor=(2.0, 2.0, 2.0)), r"^scale_factor .* got \(2.0, 2.0, 2.0\)"),
    "align": (faulty(size=(2, 2), mode="nearest", align_corners=True), r"^align_corners .* 'nearest', got True"),
    "recompute": (faulty(size=(2, 2), recompute_scale_factor=True), r"^recompute_scale_factor .* got True"),
    "antialias": (faulty(size=(2, 2), mode="nearest", antialias=True), r"^antialias .* 'nearest', got True"),
    "no-output": (faulty(size=(2, 0), mode="bilinear"), r"sizes .* got \(4, 4\) and \(2, 0\)"),
    "small-factor": (faulty(scale_factor=(0.1, 2.0), mode="bilinear"), r"sizes .* got \(4, 4\) and \(0, 8\)"),
    "no-input": (faulty((1, 1, 0, 4), size=(2, 2), mode="bilinear"), r"sizes .* got \(0, 4\) and \(2, 2\)"),
    "rank": (faulty((3, 4), size=(2,), mode="nearest"), r"^input .*\(3, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(name):
    (call, builtin), message = REFUSED[name]
    check_refused(call, builtin, message)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: reference.interpolate_adjoint(ones(1, 1, 3), (4,), (2,)),
            RuntimeError,
            r"^grad_output .*\(1, 1, 2\), got \(1, 1, 3\)",
        ),
        (lambda: reference.interpolate_adjoint(ones(1, 1, 2), (4,), (2,), mode="bicubic"), ValueError, r"^mode .*bicu"),
        (lambda: reference.interpolate_adjoint(ones(1, 1, 2), (0,), (2,)), RuntimeError, r"sizes .* got \(0,\)"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
