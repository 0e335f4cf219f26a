"""The reference's transposed convolution, held against PyTorch."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_helpers import check, check_adjoint, check_refused, gradients, ones, tensor

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")

TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

# input shape, weight shape, stride, padding, output_padding, dilation, groups
CASES = {
    "1d": ((2, 3, 5), (3, 4, 3), (1,), (0,), (0,), (1,), 1),
    "1d-stride-larger-than-kernel": ((2, 2, 4), (2, 3, 2), (3,), (0,), (2,), (1,), 1),
    "1d-all-arguments": ((2, 4, 5), (4, 3, 3), (2,), (2,), (1,), (2,), 2),
    "1d-output-padding-below-dilation": ((1, 2, 3), (2, 1, 2), (1,), (1,), (2,), (3,), 1),
    "1d-one-value": ((1, 1, 1), (1, 2, 4), (2,), (1,), (0,), (1,), 1),
    "2d": ((2, 2, 3, 4), (2, 3, 3, 3), (1, 1), (0, 0), (0, 0), (1, 1), 1),
    "2d-each-dimension-different": ((2, 2, 4, 3), (2, 2, 2, 3), (2, 1), (1, 2), (1, 0), (1, 2), 1),
    "2d-depthwise": ((2, 3, 3, 4), (3, 2, 2, 3), (1, 2), (1, 0), (0, 1), (1, 1), 3),
    "2d-1x1-stride-2": ((2, 1, 3, 3), (1, 4, 1, 1), (2, 2), (0, 0), (1, 0), (1, 1), 1),
    "2d-empty-batch": ((0, 2, 3, 3), (2, 3, 2, 2), (1, 1), (0, 0), (0, 0), (1, 1), 1),
    "3d": ((2, 2, 2, 3, 2), (2, 2, 2, 2, 2), (1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1),
    "3d-all-arguments": ((1, 4, 3, 2, 3), (4, 1, 2, 3, 2), (1, 2, 2), (1, 0, 1), (0, 1, 1), (1, 1, 2), 2),
}


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_transposed_convolution(values, case, dtype):
    input_shape, weight_shape, *arguments = case
    stride, padding, output_padding, dilation, groups = arguments
    x, w = values(*input_shape, dtype=dtype), values(*weight_shape, dtype=dtype)
    b = values(weight_shape[1] * groups, dtype=dtype)

    def builtin(x, w, b=None):
        return TRANSPOSED[x.ndim - 2](x, w, b, stride, padding, output_padding, groups, dilation)

    y = builtin(tensor(x), tensor(w), tensor(b))
    check(reference.transposed_convolution(x, w, b, *arguments), y)
    linear = reference.transposed_convolution(x, w, None, *arguments)
    check(linear, builtin(tensor(x), tensor(w)))
    gy = values(*y.shape, dtype=dtype)
    gx, gw, gb = gradients(builtin, (x, w, b), gy)
    actual = reference.transposed_convolution_input(gy, w, input_shape[2:], *arguments)
    check(actual, gx)
    check(reference.transposed_convolution_weight(x, gy, weight_shape[2:], *arguments), gw)
    check(reference.convolution_bias(gy), gb)
    check_adjoint(linear, gy, x, actual)


def test_transposed_convolution_is_the_adjoint_of_convolution(values):
    x, w = values(2, 3, 7, 8), values(4, 3, 2, 3)
    window = ((2, 3), (1, 0), (1, 2))
    y = reference.convolution(x, w, None, *window, 1)
    gy = values(*y.shape)
    gx = reference.transposed_convolution(gy, w, None, *window[:2], (1, 0), window[2], 1)
    check(gx, reference.convolution_input(gy, w, (7, 8), *window, 1))
    check_adjoint(y, gy, x, gx)


def test_transposed_output_size():
    sizes = itertools.product(range(1, 4), range(1, 4), range(1, 4), range(4), range(3), range(1, 4))
    for size, k, s, p, extra, d in sizes:
        arguments = ((k,), (s,), (p,), (extra,), (d,))
        try:
            y = F.conv_transpose1d(torch.zeros(1, 1, size), torch.zeros(1, 1, k), None, s, p, extra, 1, d)
        except RuntimeError:
            with pytest.raises(RuntimeError, match=r"^(output_)?padding must .* got "):
                reference.transposed_output_size((size,), *arguments)
        else:
            assert reference.transposed_output_size((size,), *arguments) == tuple(y.shape[2:])


def faulty(**changed):
    """Return one faulty transposed convolution, by the reference and by PyTorch."""
    arguments = {
        "input": ones(2, 4, 5),
        "weight": ones(4, 3, 3),
        "bias": None,
        "stride": (1,),
        "padding": (0,),
        "output_padding": (0,),
        "dilation": (1,),
        "groups": 1,
    } | changed
    tensors = {name: tensor(v) if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    return lambda: reference.transposed_convolution(**arguments), lambda: F.conv_transpose1d(**tensors)


REFUSED = {
    "channels": (faulty(input=ones(2, 3, 5)), r"^input must have 4 channels .*\(2, 3, 5\)"),
    "bias": (faulty(bias=ones(2)), r"^bias .*\(3,\), got \(2,\)"),
    "rank": (faulty(input=ones(2, 4, 5, 5)), r"^input .*\(2, 4, 5, 5\)"),
    "groups": (faulty(groups=3), r"^groups must divide the 4 input channels, got 3"),
    "no-groups": (faulty(groups=0), r"^groups .* got 0"),
    "stride": (faulty(stride=(0,)), r"^stride .*\(0,\)"),
    "padding": (faulty(padding=(-1,)), r"^padding .*\(-1,\)"),
    "nothing-left": (faulty(padding=(4,)), r"^padding must leave .*\(4,\)"),
    "output-padding": (faulty(output_padding=(1,)), r"^output_padding .*\(1,\)"),
    "negative-output-padding": (faulty(output_padding=(-1,)), r"^output_padding .*\(-1,\)"),
    "output-padding-length": (faulty(output_padding=(0, 0)), r"^output_padding .*\(0, 0\)"),
    "dilation": (faulty(dilation=(0,)), r"^dilation .*\(0,\)"),
    "empty-dimension": (faulty(input=ones(2, 4, 0)), r"^input_size .*\(0,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_pytorch_refuses(name):
    (call, builtin), message = REFUSED[name]
    check_refused(call, builtin, message, RuntimeError)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: reference.transposed_convolution_input(
                ones(1, 2, 5), ones(3, 2, 2), (5,), (1,), (0,), (0,), (1,), 1
            ),
            r"^grad_output .*\(1, 2, 6\), got \(1, 2, 5\)",
        ),
        (
            lambda: reference.transposed_convolution_input(
                ones(1, 2, 6), ones(3, 2, 2), (5,), (1,), (0,), (0,), (1,), 2
            ),
            r"^groups must divide the 3 input channels, got 2",
        ),
        (
            lambda: reference.transposed_convolution_weight(
                ones(1, 3, 5), ones(1, 2, 5), (2,), (1,), (0,), (0,), (1,), 1
            ),
            r"^grad_output .*\(1, 2, 6\), got \(1, 2, 5\)",
        ),
        (
            lambda: reference.transposed_convolution_weight(
                ones(1, 4, 5), ones(1, 3, 6), (2,), (1,), (0,), (0,), (1,), 2
            ),
            r"^groups must divide the 3 output channels, got 2",
        ),
        (
            lambda: reference.transposed_convolution_weight(ones(1, 4), ones(1, 3, 6), (2,), (1,), (0,), (0,), (1,), 2),
            r"^input .*\(1, 4\)",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
