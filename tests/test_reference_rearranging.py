"""The reference's layers that only move values - padding, folding, shuffling - held against PyTorch."""

import itertools
import math

import numpy as np
import pytest
import torch.nn.functional as F
from reference_helpers import check, check_adjoint, check_refused, gradients, ones, tensor

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")


def check_moving(values, x, builtin, forward, adjoint):
    """Compare a linear layer and its gradient with PyTorch's."""
    expected = builtin(tensor(x))
    y = forward(x)
    check(y, expected)
    gy = values(*y.shape, dtype=x.dtype)
    (gx,) = gradients(builtin, (x,), gy)
    actual = adjoint(gy)
    check(actual, gx)
    check_adjoint(y, gy, x, actual)


# Padding


def check_pad(values, shape, padding, mode, value=None, dtype=np.float64):
    keywords = {} if value is None else {"value": value}
    # With a constant the layer is not linear, but its gradient is that of padding with zeros.
    x = values(*shape, dtype=dtype)
    y = reference.pad(x, padding, mode, **keywords)
    check(y, F.pad(tensor(x), padding, mode, **keywords))
    check_moving(
        values,
        x,
        lambda leaf: F.pad(leaf, padding, mode),
        lambda x: reference.pad(x, padding, mode),
        lambda gy: reference.pad_adjoint(gy, padding, mode),
    )


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("value", [None, -1.5, math.inf, math.nan])
@pytest.mark.parametrize(
    "shape, padding",
    [
        ((4,), (1, 2)),
        ((4,), (-1, 2)),
        ((4,), (-1, -2)),
        ((4,), (-4, 0)),
        ((2, 3), ()),
        ((2, 3), (0, 1)),
        ((2, 3), (0, -3)),
        ((2, 3), (1, 0, 2, 1)),
        ((2, 3), (-1, 3, 2, -1)),
        ((0, 3), (1, 1)),
        ((2, 0), (1, 1)),
        ((2, 1, 3, 2, 1), (1, 0, 0, 2, -1, 1, 1, 0, 0, 1)),
    ],
)
def test_pad_constant(values, shape, padding, value, dtype):
    check_pad(values, shape, padding, "constant", value, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "shape, padding",
    [
        ((2, 3), (2, 2)),
        ((2, 2, 5), (1, 3)),
        ((2, 2, 5), (-1, 2)),
        ((2, 2, 5), (2, -1)),
        ((2, 2, 5), (-2, -1)),
        ((1, 2, 1), (0, 0)),
        ((2, 4, 3), (1, 2, 3, 0)),
        ((1, 2, 3, 4), (3, 1, 0, 2)),
        ((1, 2, 4, 4), (-1, 1, 2, -2)),
        ((0, 2, 3, 4), (1, 1, 1, 1)),
        ((2, 3, 2, 4), (1, 2, 1, 0, 2, 1)),
        ((1, 2, 3, 3, 2), (1, 0, 0, 2, -1, 1)),
    ],
)
def test_pad_from_the_input(values, shape, padding, mode, dtype):
    check_pad(values, shape, padding, mode, dtype=dtype)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_by_every_small_amount(values, mode):
    for size, before, after in itertools.product(range(4), range(-5, 5), range(-5, 5)):
        if not before and not after:
            continue
        x = values(1, size)
        if mode == "circular" and size + min(before, 0) + min(after, 0) <= 0 < max(before, after):
            # Nothing is kept to repeat; PyTorch returns memory that it did not write.
            with pytest.raises(RuntimeError, match=rf"^padding must .* got \({before}, {after}\) for a size of {size}"):
                reference.pad(x, (before, after), mode)
            continue
        try:
            expected = F.pad(tensor(x), (before, after), mode)
        except RuntimeError:
            with pytest.raises(RuntimeError, match=rf"^padding must .* got \({before}, {after}\) for a size of {size}"):
                reference.pad(x, (before, after), mode)
        else:
            check(reference.pad(x, (before, after), mode), expected)


def test_pad_in_more_dimensions_than_pytorch(values):
    x, gy = values(3, 2, 3, 2), values(5, 4, 4, 3)
    padding = (1, 0, 0, 1, 1, 1, 2, 0)
    for mode in ("reflect", "replicate", "circular"):
        y = reference.pad(x, padding, mode)
        one_by_one = x
        for dim in range(4):
            pair = padding[6 - 2 * dim : 8 - 2 * dim]
            one_by_one = np.moveaxis(reference.pad(np.moveaxis(one_by_one, dim, -1), pair, mode), -1, dim)
        check(y, one_by_one)
        check_adjoint(y, gy, x, reference.pad_adjoint(gy, padding, mode))


# Folding

# input size, kernel_size, stride, padding, dilation
WINDOWS = {
    "disjoint": ((4, 6), (2, 3), (2, 3), (0, 0), (1, 1)),
    "overlapping": ((4, 5), (3, 2), (1, 1), (0, 0), (1, 1)),
    "stride-larger-than-kernel": ((7, 6), (2, 1), (3, 4), (0, 0), (1, 1)),
    "all-arguments": ((5, 4), (2, 3), (2, 1), (1, 2), (2, 1)),
    "tail-not-covered": ((5, 6), (2, 2), (2, 3), (0, 0), (1, 2)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("leading", [(2, 3), (2,), (0, 2)])
@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
def test_unfold_and_fold(values, case, leading, dtype):
    size, kernel_size, stride, padding, dilation = case
    arguments = (kernel_size, dilation, padding, stride)
    x = values(*leading, *size, dtype=dtype)

    def unfold(x):
        return reference.unfold(x, *case[1:])

    def fold(columns):
        return reference.fold(columns, size, *case[1:])

    check_moving(values, x, lambda leaf: F.unfold(leaf, *arguments), unfold, fold)
    columns = values(*unfold(x).shape, dtype=dtype)
    check_moving(values, columns, lambda leaf: F.fold(leaf, size, *arguments), fold, unfold)


@pytest.mark.parametrize(
    "case",
    [((7,), (3,), (2,), (1,), (1,)), ((3, 4, 3), (2, 1, 2), (1, 2, 1), (1, 0, 0), (1, 1, 2))],
)
def test_unfold_in_other_dimensions_makes_convolution_a_matrix_product(values, case):
    size, *window = case
    x, w = values(2, 3, *size), values(4, 3, *window[0])
    columns = reference.unfold(x, *window)
    y = reference.convolution(x, w, None, *window[1:], 1)
    np.testing.assert_allclose(w.reshape(4, -1) @ columns, y.reshape(2, 4, -1), rtol=1e-12, atol=1e-12)
    g = values(*columns.shape)
    check_adjoint(columns, g, x, reference.fold(g, size, *window))


# Shuffling


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape, factor", [((8, 2, 3), 2), ((2, 9, 1, 2), 3), ((2, 1, 4, 3, 1), 2)])
def test_pixel_shuffle(values, shape, factor, dtype):
    def shuffle(x):
        return reference.pixel_shuffle(x, factor)

    def unshuffle(x):
        return reference.pixel_unshuffle(x, factor)

    x = values(*shape, dtype=dtype)
    check_moving(values, x, lambda leaf: F.pixel_shuffle(leaf, factor), shuffle, unshuffle)
    y = shuffle(x)
    check_moving(values, y, lambda leaf: F.pixel_unshuffle(leaf, factor), unshuffle, shuffle)
    check(unshuffle(y), x)


def test_pixel_shuffle_of_an_empty_batch(values):
    x = values(0, 4, 2, 2)
    y = reference.pixel_shuffle(x, 2)
    check(y, F.pixel_shuffle(tensor(x), 2))
    # PyTorch's pixel_unshuffle leaves an empty input as it is, so its pixel_shuffle cannot go back.
    check(reference.pixel_unshuffle(y, 2), x)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(
    "shape, groups", [((2, 6, 3), 2), ((2, 6, 2, 3), 3), ((1, 4, 2), 4), ((2, 5, 1, 2, 2), 1), ((0, 4, 2), 2)]
)
def test_channel_shuffle(values, shape, groups, dtype):
    check_moving(
        values,
        values(*shape, dtype=dtype),
        lambda leaf: F.channel_shuffle(leaf, groups),
        lambda x: reference.channel_shuffle(x, groups),
        lambda gy: reference.channel_shuffle(gy, shape[1] // groups),
    )


# What is refused, as PyTorch does


def pad_both(shape, *arguments):
    return lambda: reference.pad(ones(*shape), *arguments), lambda: F.pad(tensor(ones(*shape)), *arguments)


def unfold_both(shape, kernel_size=(2, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    return (
        lambda: reference.unfold(ones(*shape), kernel_size, stride, padding, dilation),
        lambda: F.unfold(tensor(ones(*shape)), kernel_size, dilation, padding, stride),
    )


def fold_both(shape, output_size, kernel_size=(2, 2)):
    return (
        lambda: reference.fold(ones(*shape), output_size, kernel_size, (1, 1), (0, 0), (1, 1)),
        lambda: F.fold(tensor(ones(*shape)), output_size, kernel_size),
    )


def shuffle_both(name, shape, factor):
    return (
        lambda: getattr(reference, name)(ones(*shape), factor),
        lambda: getattr(F, name)(tensor(ones(*shape)), factor),
    )


REFUSED = {
    "pad-odd": (pad_both((2, 3), (1,)), r"^padding .* got \(1,\)"),
    "pad-too-many": (pad_both((3,), (1, 1, 1, 1)), r"^padding .* got \(1, 1, 1, 1\)"),
    "pad-mode": (pad_both((2, 3), (1, 1), "mirror"), r"^mode .* got 'mirror'"),
    "pad-cut": (pad_both((2, 3), (-2, -2)), r"^padding .* got \(-2, -2\) for a size of 3"),
    "pad-reflect": (pad_both((2, 3), (3, 0), "reflect"), r"^padding .* got \(3, 0\) for a size of 3"),
    "pad-circular": (pad_both((2, 3), (4, 0), "circular"), r"^padding .* got \(4, 0\) for a size of 3"),
    "pad-replicate": (pad_both((2, 3), (-1, -2), "replicate"), r"^padding .* got \(-1, -2\) for a size of 3"),
    "unfold-no-window": (unfold_both((1, 1, 3, 1)), r"^kernel_size \(2, 2\) .*\(3, 1\)"),
    "unfold-kernel": (unfold_both((1, 1, 3, 3), kernel_size=(0, 1)), r"^kernel_size .*\(0, 1\)"),
    "unfold-stride": (unfold_both((1, 1, 3, 3), stride=(1, 0)), r"^stride .*\(1, 0\)"),
    "unfold-padding": (unfold_both((1, 1, 3, 3), padding=(-1, 0)), r"^padding .*\(-1, 0\)"),
    "unfold-dilation": (unfold_both((1, 1, 3, 3), dilation=(0, 1)), r"^dilation .*\(0, 1\)"),
    "unfold-rank": (unfold_both((3, 3)), r"^input .*\(3, 3\)"),
    "fold-rows": (fold_both((1, 6, 4), (3, 3)), r"^input must have a multiple of 4 rows .*\(1, 6, 4\)"),
    "fold-blocks": (fold_both((1, 8, 3), (3, 3)), r"^input must have shape \(1, 8, 4\), got \(1, 8, 3\)"),
    "fold-rank": (fold_both((8,), (3, 3)), r"^input .*\(8,\)"),
    "pixel_shuffle-channels": (shuffle_both("pixel_shuffle", (6, 2, 2), 2), r"^upscale_factor .* 6 channels, got 2"),
    "pixel_shuffle-factor": (shuffle_both("pixel_shuffle", (4, 2, 2), 0), r"^upscale_factor .* got 0"),
    "pixel_shuffle-rank": (shuffle_both("pixel_shuffle", (4, 2), 2), r"^input .*\(4, 2\)"),
    "pixel_unshuffle-size": (
        shuffle_both("pixel_unshuffle", (1, 4, 3), 2),
        r"^downscale_factor .* height 4 and width 3, got 2",
    ),
    "pixel_unshuffle-factor": (shuffle_both("pixel_unshuffle", (1, 4, 4), -1), r"^downscale_factor .* got -1"),
    "channel_shuffle-channels": (shuffle_both("channel_shuffle", (1, 4, 2), 3), r"^groups .* 4 channels, got 3"),
    "channel_shuffle-groups": (shuffle_both("channel_shuffle", (1, 4, 2), 0), r"^groups .* got 0"),
    "channel_shuffle-rank": (shuffle_both("channel_shuffle", (1, 4), 2), r"^input .*\(1, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(name):
    (call, builtin), message = REFUSED[name]
    check_refused(call, builtin, message)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: reference.pad_adjoint(ones(2), (1, 2)), RuntimeError, r"^grad_output .*\(1, 2\), got shape \(2,\)"),
        (lambda: reference.pad_adjoint(ones(4), (2, 1), "reflect"), RuntimeError, r"^padding .* got \(2, 1\)"),
        (lambda: reference.pad_adjoint(ones(4), (1, 1), "edge"), ValueError, r"^mode .* got 'edge'"),
        (lambda: reference.fold(ones(1, 2, 3), (3,), (2,), (1,), (0,), (1,)), RuntimeError, r"^input .*\(1, 2, 2\)"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
