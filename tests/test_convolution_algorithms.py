"""Every algorithm of the convolution on every geometry that it takes, and the table that chooses among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import torchbp
from torchbp import ops
from torchbp.ops.convolution import convolution, convolution_input, convolution_weight

pytestmark = pytest.mark.skipif(not torchbp.kernels_loaded(), reason="the composite formula is the only algorithm")

WINOGRAD = ("winograd_4", "winograd_2x2", "winograd_2x4", "winograd_4x4")
# The products of ATen's are there where it has MKL.
PRODUCTS = tuple(name for name in ("matrix_product",) if name in ops.convolution_algorithms())


class Case(NamedTuple):
    x: Tensor
    w: Tensor
    b: Tensor | None
    g: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid_out(draw: random.Random, x: Tensor) -> Tensor:
    """Return the same values in another layout."""
    kind = draw.choice(("contiguous", "channels last", "permuted", "part", "part of channels last"))
    last = LAST.get(x.dim(), torch.contiguous_format)
    if kind == "channels last":
        return x.contiguous(memory_format=last)
    if kind == "permuted":
        order = draw.sample(range(x.dim()), x.dim())
        return x.permute(order).contiguous().permute(sorted(range(x.dim()), key=order.__getitem__))
    if kind.startswith("part"):
        whole = x.new_full((x.shape[0], x.shape[1] + 2, *(size + 3 for size in x.shape[2:])), torch.nan)
        if kind != "part":
            whole = whole.contiguous(memory_format=last)
        part = whole[(slice(None), slice(1, -1), *(slice(2, -1) for _ in x.shape[2:]))]
        part.copy_(x)
        return part
    return x


CHANNELS = (1, 2, 7, 8, 15, 16, 17, 33, 49, 70)


def case_of(
    draw: random.Random,
    dtype: torch.dtype,
    size: list[int],
    kernel: list[int],
    geometry: tuple[list[int], list[int], list[int]],
) -> Case:
    """Return a convolution of random batch, channels, groups, layouts and values."""
    n, groups = draw.choice((1, 2, 3)), draw.choice((1, 1, 2, 3))
    c, o = draw.choice(CHANNELS), draw.choice(CHANNELS)
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))

    def values(*shape: int) -> Tensor:
        # Of so few digits that float64 adds their products without rounding: the truth is exact.
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2**18).round().div(2**18).to(dtype)

    return Case(
        laid_out(draw, values(n, c * groups, *size)),
        laid_out(draw, values(o * groups, c, *kernel)),
        values(o * groups) if draw.random() < 0.5 else None,
        laid_out(draw, values(n, o * groups, *ops.convolution.output_size(size, kernel, *geometry))),
        *geometry,
        groups,
    )


def winograd_case(draw: random.Random, name: str, dtype: torch.dtype) -> Case:
    """Return a convolution that this algorithm takes, of a size that fits no tile."""
    taps, stride = draw.choice(
        (((5, 5), 1), ((3, 3), 2), ((4, 4), 2), ((5, 5), 2)) if name == "winograd_2x2" else (((3, 3), 1),)
    )
    if name == "winograd_4":
        taps = (1, 3)
        size, padding = [draw.choice((1, 1, 5)), draw.choice((1, 3, 17, 40, 101))], [0, draw.choice((0, 1, 2, 4))]
    else:
        size = [draw.choice((1, 2, 3, 5, 8, 14, 19)), draw.choice((1, 2, 4, 7, 9, 16, 21, 50))]
        padding = [draw.choice((0, 1, 2, 4)) for _ in range(2)]
    if stride == 2:
        padding[0] += (padding[1] - padding[0]) % 2
    dilation = [draw.choice((1, 1, 2, 3)) if stride == 1 else 1 for _ in range(2)]
    for d in range(2):  # one position at least, and room for the stride
        while size[d] + 2 * padding[d] < (taps[d] - 1) * dilation[d] + stride:
            padding[d] += stride
    kernel, strides = taps, [stride, stride]
    if draw.random() < 0.4:  # planes of volumes
        deep = draw.choice((1, 2, 3))
        kernel, strides = [deep, *kernel], [draw.randint(1, deep), *strides]
        size, padding, dilation = [draw.choice((3, 4, 7)), *size], [draw.choice((0, 1, 2)), *padding], [1, *dilation]
    return case_of(draw, dtype, size, kernel, (strides, padding, dilation))


def one_tap(draw: random.Random, dtype: torch.dtype) -> Case:
    """Return a convolution with a kernel of one element, stride 1 and no padding."""
    n = draw.choice((1, 2, 2, 3))
    size = [draw.choice((1, 2, 5, 8, 19) if n > 1 else (1, 7, 40, 700)) for _ in range(n)]
    return case_of(draw, dtype, size, [1] * n, ([1] * n, [0] * n, [1] * n))


def without_groups(make: Callable[[], Case]) -> Case:
    """Return the first case that has no groups."""
    while True:
        if (case := make()).groups == 1:
            return case


def no_overlap(draw: random.Random, dtype: torch.dtype) -> Case:
    """Return a convolution without groups whose windows do not overlap, with what is left over at the end."""
    n = draw.choice((1, 2, 2, 3))
    kernel = [draw.choice((1, 2, 2, 3, 4, 16) if n < 3 else (1, 2, 3)) for _ in range(n)]
    apart = draw.random() < 0.3
    stride = [k + apart * draw.choice((0, 1, 2)) for k in kernel]
    counts = (1, 2, 3, 7, 16, 33) if n < 3 and max(kernel) < 16 else (1, 2, 5)
    size = [s * draw.choice(counts) + draw.choice((0, 0, s - 1)) for s in stride]
    return without_groups(lambda: case_of(draw, dtype, size, kernel, (stride, [0] * n, [1] * n)))


def one_tap_without_groups(draw: random.Random, dtype: torch.dtype) -> Case:
    """Return a convolution of one tap without groups."""
    return without_groups(lambda: one_tap(draw, dtype))


def any_geometry(draw: random.Random, dtype: torch.dtype) -> Case:
    """Return a convolution with one to three spatial dimensions of any stride, padding and dilation."""
    while True:
        n = draw.choice((1, 2, 2, 2, 3))
        sizes = (1, 5, 17, 40, 300) if n == 1 else (1, 2, 3, 5, 7, 8, 14, 19)
        size = [draw.choice(sizes) for _ in range(n)]
        pointwise = draw.random() < 0.3
        kernel = [1 if pointwise else draw.choice((1, 2, 3, 3, 5, 7) if n < 3 else (1, 2, 3)) for _ in range(n)]
        stride, padding, dilation = (
            [draw.choice(some) for _ in range(n)] for some in ((1, 1, 2, 2, 3, 4), (0, 0, 1, 2, 3), (1, 1, 1, 2, 3))
        )
        if min(ops.convolution.output_size(size, kernel, stride, padding, dilation)) > 0:
            return case_of(draw, dtype, size, kernel, (stride, padding, dilation))


def products(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b, g, *rest = case
    return (
        convolution(x, w, b, *rest),
        convolution_input(g, w, None, x.shape[2:], *rest),
        convolution_weight(x, g, w.shape[2:], *rest),
    )


def truth(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three products in float64 by the built-in."""
    x, w, g = (t.double().contiguous() for t in (case.x, case.w, case.g))
    b = None if case.b is None else case.b.double()
    geometry = (case.stride, case.padding, case.dilation, False, [0] * len(case.stride), case.groups)
    y = torch.ops.aten.convolution(x, w, b, *geometry)
    gx, gw, _ = torch.ops.aten.convolution_backward(g, x, w, None, *geometry, [True, True, False])
    return y, gx, gw


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest error over the largest output."""
    assert actual.shape == expected.shape
    return float((actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# The transforms are a few sums of terms up to eight times the result; the products add C rounded terms.
UNITS = {
    "winograd_4": 16,
    "winograd_2x2": 16,
    "winograd_2x4": 16,
    "winograd_4x4": 64,
    "panels": 16,
    "direct": 16,
    "matrix_product": 16,
    "patches": 16,
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", WINOGRAD)
def test_every_geometry_of_winograd(name: str, dtype: torch.dtype) -> None:
    draw = random.Random(f"{name} {dtype}")
    for _ in range(25):
        case = winograd_case(draw, name, dtype)
        with ops.force_convolution_algorithm(name), uninitialised_is_nan():
            results = products(case)
        for result, expected in zip(results, truth(case), strict=True):
            assert error(result, expected) < UNITS[name] * torch.finfo(dtype).eps, (case.x.shape, case.w.shape)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize(
    ("name", "geometry"),
    (
        ("direct", any_geometry),
        ("panels", any_geometry),
        ("patches", no_overlap),
        ("patches", one_tap_without_groups),
        *((name, one_tap) for name in PRODUCTS),
    ),
)
def test_every_geometry(name: str, geometry: Callable[[random.Random, torch.dtype], Case], dtype: torch.dtype) -> None:
    draw = random.Random(f"any {name} {dtype}")
    for _ in range(40):
        case = geometry(draw, dtype)
        with ops.force_convolution_algorithm(name), uninitialised_is_nan():
            results = products(case)
        for result, expected in zip(results, truth(case), strict=True):
            assert error(result, expected) < UNITS[name] * torch.finfo(dtype).eps, case[4:]


@pytest.mark.parametrize("name", (*WINOGRAD, "direct", "patches", *PRODUCTS))
def test_the_three_products_are_one_form(name: str) -> None:
    draw = random.Random(name)
    for _ in range(5):
        if name == "direct":
            case = any_geometry(draw, torch.float64)
        elif name in ("matrix_product", "patches"):
            case = (one_tap if name == "matrix_product" else no_overlap)(draw, torch.float64)
        else:
            case = winograd_case(draw, name, torch.float64)
        case = case._replace(b=None)
        with ops.force_convolution_algorithm(name):
            y, gx, gw = products(case)
        values = torch.stack([(y * case.g).sum(), (gx * case.x).sum(), (gw * case.w).sum()])
        scale = float(y.norm() * case.g.norm()) + 1e-300
        assert float(values.max() - values.min()) < 1e-13 * scale


@pytest.mark.parametrize(
    ("name", "kernel", "stride"),
    (
        ("winograd_4", (1, 3), 1),
        ("winograd_2x2", (5, 5), 1),
        ("winograd_2x2", (3, 3), 2),
        ("winograd_2x2", (4, 4), 2),
        ("winograd_2x4", (3, 3), 1),
        ("winograd_4x4", (3, 3), 1),
        ("direct", (3, 3), 1),
        ("patches", (2, 2), 2),
        *((name, (1, 1), 1) for name in ("patches", *PRODUCTS)),
    ),
)
@pytest.mark.parametrize("format", (torch.contiguous_format, torch.channels_last), ids=str)
def test_bits_do_not_depend_on_the_threads(
    name: str, kernel: tuple[int, int], stride: int, format: torch.memory_format
) -> None:
    padding = [(k - 1) // 2 for k in kernel]
    threads = torch.get_num_threads()
    for n, c, o, size in ((1, 40, 33, 30), (5, 20, 70, 13), (2, 150, 130, 6), (3, 300, 12, 40)):
        x = torch.randn(n, c, size, size).contiguous(memory_format=format)
        geometry = ([stride] * 2, padding, [1, 1])
        many = ops.convolution.output_size([size, size], kernel, *geometry)
        w, g = torch.randn(o, c, *kernel), torch.randn(n, o, *many).contiguous(memory_format=format)
        case = Case(x, w, torch.randn(o), g, *geometry, 1)
        found = []
        try:
            for many in (1, 3):
                torch.set_num_threads(many)
                with ops.force_convolution_algorithm(name):
                    found.append(products(case))
        finally:
            torch.set_num_threads(threads)
        for one, three in zip(*found, strict=True):
            assert torch.equal(one, three)


# "one|other": one where PyTorch's matrix products run at full speed, the other elsewhere.
FEW_OUTPUTS = ("matrix_product|patches", "matrix_product|patches", "matrix_product")
FIRST_LAYER = ("patches", "matrix_product|patches", "patches")
EXPANSION = ("patches", "matrix_product|direct", "matrix_product|patches")
PRODUCT = ("matrix_product|direct", "matrix_product|direct", "matrix_product|patches")


def chosen_here(names: tuple[str, ...]) -> tuple[str, ...]:
    other = not torchbp.kernels_status()["fast_products"]
    here = [name.split("|")[-1 if other else 0] for name in names]
    return tuple("direct" if name == "matrix_product" and not PRODUCTS else name for name in here)


# Of every algorithm that the table chooses, few and many sums, short and long ones: the algorithms of the three
# products, contiguous, then batch, channels, size, kernel, stride, padding and groups.
HIGHEST = {
    "3x3": (("winograd_2x4",) * 3, 1, 64, 64, 28, 3, 1, 1, 1),
    "3x3, many channels": (("winograd_2x4",) * 3, 2, 256, 64, 14, 3, 1, 1, 1),
    "3x3, few channels": (("winograd_2x4",) * 3, 4, 16, 32, 28, 3, 1, 1, 1),
    "3x3, tails": (("winograd_2x4",) * 3, 2, 300, 40, 7, 3, 1, 1, 1),
    "3x3, one small image": (("winograd_2x4",) * 3, 1, 256, 256, 14, 3, 1, 1, 1),
    "3x3, small images": (("winograd_2x4",) * 3, 4, 512, 128, 7, 3, 1, 1, 1),
    "3x3 stride 2": (("winograd_2x2",) * 3, 2, 64, 128, 28, 3, 2, 1, 1),
    "3x3 stride 2, many channels": (("winograd_2x2",) * 3, 4, 256, 512, 16, 3, 2, 1, 1),
    "3x3 stride 2, small map": (("winograd_2x2", "winograd_2x2", "direct"), 2, 256, 64, 14, 3, 2, 1, 1),
    "3x3 stride 2, no padding": (("winograd_2x2",) * 3, 1, 16, 48, 57, 3, 2, 0, 1),
    "4x4 stride 2": (("winograd_2x2",) * 3, 2, 64, 128, 28, 4, 2, 1, 1),
    "5x5 stride 2": (("winograd_2x2",) * 3, 2, 64, 128, 28, 5, 2, 2, 1),
    "3x3 stride 3": (("direct",) * 3, 2, 64, 128, 28, 3, 3, 1, 1),
    "3x3, groups": (("winograd_2x4",) * 3, 2, 128, 128, 14, 3, 1, 1, 4),
    "5x5": (("winograd_2x2",) * 3, 2, 32, 32, 28, 5, 1, 2, 1),
    "5x5, many channels": (("winograd_2x2",) * 3, 2, 256, 64, 14, 5, 1, 2, 1),
    "5x5, one small image": (("winograd_2x2",) * 3, 1, 64, 64, 8, 5, 1, 2, 1),
    "7x7": (("direct",) * 3, 2, 32, 32, 28, 7, 1, 3, 1),
    "1x1": (("matrix_product|direct", "patches|direct", "patches"), 2, 256, 64, 14, 1, 1, 0, 1),
    "1x1, more channels": (("patches|direct", "matrix_product|direct", "patches"), 4, 64, 256, 56, 1, 1, 0, 1),
    "1x1, few to more channels": (EXPANSION, 16, 32, 192, 28, 1, 1, 0, 1),
    "1x1, many channels": (PRODUCT, 2, 512, 512, 14, 1, 1, 0, 1),
    "1x1, short rows": (("direct", "direct", "matrix_product|direct"), 2, 512, 128, 7, 1, 1, 0, 1),
    "2x2 side by side": (("patches",) * 3, 2, 256, 64, 14, 2, 2, 0, 1),
    "2x2 side by side, one image": (("patches",) * 3, 1, 64, 64, 28, 2, 2, 0, 1),
    "4x4 stem": (("patches",) * 3, 4, 3, 96, 64, 4, 4, 0, 1),
    "4x4 side by side": (("patches",) * 3, 2, 256, 64, 16, 4, 4, 0, 1),
    "16x16 stem": (("patches",) * 3, 2, 3, 96, 64, 16, 16, 0, 1),
    "3x3 side by side": (("patches",) * 3, 2, 64, 32, 27, 3, 3, 0, 1),
    "2x2 side by side, few outputs": (("patches",) * 3, 2, 3, 4, 28, 2, 2, 0, 1),
    "1x1 stride 2": (("direct", "patches", "direct"), 2, 256, 64, 14, 1, 2, 0, 1),
    "3x3 first layer": (("panels", "panels", "direct"), 1, 3, 64, 64, 3, 1, 1, 1),
    "7x7 first layer": (("panels", "panels", "direct"), 2, 3, 64, 64, 7, 2, 3, 1),
    "3x3 last layer": (("panels", "direct", "direct"), 2, 64, 3, 28, 3, 1, 1, 1),
    "1x1 last layer": (FEW_OUTPUTS, 2, 64, 3, 28, 1, 1, 0, 1),
    "1x1 last layer, one class": (FEW_OUTPUTS, 2, 64, 1, 28, 1, 1, 0, 1),
    "1x1 between few channels": (FEW_OUTPUTS, 2, 8, 8, 56, 1, 1, 0, 1),
    "1x1 first layer": (FIRST_LAYER, 2, 3, 64, 28, 1, 1, 0, 1),
    "3x3 depthwise": (("depthwise",) * 3, 4, 32, 32, 56, 3, 1, 1, 32),
    "5x5 depthwise": (("depthwise",) * 3, 16, 48, 48, 14, 5, 1, 2, 48),
    "7x7 depthwise stride 2": (("depthwise",) * 3, 4, 32, 32, 56, 7, 2, 3, 32),
}


@pytest.mark.parametrize("values", ("normal", "positive"))
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=("contiguous", "last"))
@pytest.mark.parametrize("name", HIGHEST)
def test_highest_precision_has_at_most_twice_the_error_of_the_built_in(
    name: str, memory_format: torch.memory_format, values: str
) -> None:
    algorithms, n, c, o, size, kernel, stride, padding, groups = HIGHEST[name]
    generator = torch.Generator().manual_seed(c)
    outputs = (size + 2 * padding - kernel) // stride + 1
    x, w, g = (
        torch.randn(shape, generator=generator).to(memory_format=memory_format)
        for shape in ((n, c, size, size), (o, c // groups, kernel, kernel), (n, o, outputs, outputs))
    )
    x = x.relu() if values == "positive" else x
    geometry = ([stride] * 2, [padding] * 2, [1, 1])
    case = Case(x, w / (kernel**2 * c / groups) ** 0.5, None, g, *geometry, groups)
    if memory_format == torch.contiguous_format and PRODUCTS:
        chosen = [
            ops.convolution_algorithm(p, x.shape, w.shape, *geometry, groups) for p in ("output", "input", "weight")
        ]
        assert tuple(chosen) == chosen_here(algorithms)
    y = torch.nn.functional.conv2d(x, case.w, None, *geometry, groups)
    backward = torch.ops.aten.convolution_backward
    gx, gw, _ = backward(g, x, case.w, None, *geometry, False, [0, 0], groups, [True, True, False])
    # The baseline instruction set has no fused multiply-add, which the built-in uses all the same: two roundings of
    # independent signs in place of one.
    times = 2 * 2**0.5 if torchbp.kernels_status()["instruction_set"] == "baseline" else 2
    for ours, builtin, expected in zip(products(case), (y, gx, gw), truth(case), strict=True):
        assert error(ours, expected) <= times * error(builtin, expected)


@pytest.mark.parametrize("dimensions", (1, 2, 3))
def test_taps_that_meet_only_padding_are_left_out(dimensions: int) -> None:
    draw = random.Random(dimensions)
    left_out = 0
    while left_out < 20:
        size, kernel, stride, padding, dilation = (
            [draw.randint(*limits) for _ in range(dimensions)] for limits in ((1, 3), (1, 5), (1, 3), (0, 6), (1, 3))
        )
        if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
            continue
        groups = draw.choice((1, 1, 2))
        channels, outputs = groups * draw.choice((1, 3, 13)), groups * draw.choice((1, 2, 14))
        generator = torch.Generator().manual_seed(left_out)
        many = ops.convolution.output_size(size, kernel, stride, padding, dilation)
        x, w, b, g = (
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((2, channels, *size), (outputs, channels // groups, *kernel), (outputs,), (2, outputs, *many))
        )
        case = Case(x, w, b, g, stride, padding, dilation, groups)
        with uninitialised_is_nan():
            results = products(case)
        for result, expected in zip(results, truth(case), strict=True):
            assert error(result, expected) < 1e-13
        left_out += bool((results[2].flatten(2) == 0).all(0).all(0).any())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "geometry"),
    (
        ((28, 28), (3, 3), ([1, 1], [12, 12], [12, 12])),
        ((28, 20), (3, 3), ([1, 1], [18, 18], [18, 18])),
        ((9, 31), (3, 5), ([2, 3], [8, 14], [7, 6])),
        ((8, 8), (7, 7), ([1, 1], [3, 3], [1, 1])),
        ((5, 6), (9, 11), ([1, 1], [4, 5], [1, 1])),
        ((3, 6, 13), (5, 3, 3), ([1, 1, 1], [2, 5, 9], [1, 5, 9])),
        ((40,), (3,), ([1], [30], [30])),
    ),
)
def test_taps_in_the_padding_are_left_out(size, kernel, geometry, dtype: torch.dtype) -> None:
    draw = random.Random(str((size, kernel)))
    for _ in range(4):
        case = case_of(draw, dtype, list(size), list(kernel), geometry)
        with ops.force_convolution_algorithm("direct"), uninitialised_is_nan():
            results = products(case)
        for result, expected in zip(results, truth(case), strict=True):
            assert error(result, expected) < UNITS["direct"] * torch.finfo(dtype).eps, (case.x.shape, case.w.shape)


def test_maps_of_one_element_meet_one_tap() -> None:
    shapes = ((8, 64, 1, 1), (64, 64, 3, 3), [1, 1], [1, 1], [1, 1])
    expected = chosen_here(("patches", "patches", "matrix_product"))
    assert tuple(ops.convolution_algorithm(p, *shapes) for p in ("output", "input", "weight")) == expected


def test_precision_chooses_the_tile() -> None:
    geometry = ([1, 1], [1, 1], [1, 1])
    shapes = ((2, 32, 9, 9), (32, 32, 3, 3))
    assert torch.get_float32_matmul_precision() == "highest"
    assert ops.convolution_algorithm("output", *shapes, *geometry) == "winograd_2x4"
    for precision in ("high", "medium"):
        torch.set_float32_matmul_precision(precision)
        try:
            for product in ("output", "input", "weight"):
                assert ops.convolution_algorithm(product, *shapes, *geometry) == "winograd_4x4"
            assert ops.convolution_algorithm("output", *shapes, *geometry, dtype=torch.float64) == "winograd_2x4"
        finally:
            torch.set_float32_matmul_precision("highest")


FEW = ("panels", "panels", "direct")  # too few input channels to be vectors of the output and of the gradient


@pytest.mark.parametrize(
    ("input_shape", "weight_shape", "stride", "padding", "dilation", "groups", "expected"),
    (
        ((1, 32, 9, 9), (32, 32, 3, 3), [2, 1], [1, 1], [1, 1], 1, ("direct",) * 3),
        ((1, 32, 9, 9), (32, 32, 3, 3), [1, 1], [1, 1], [1, 2], 1, ("winograd_2x4",) * 3),
        ((1, 32, 9, 9), (32, 32, 3, 3), [1, 1], [3, 3], [3, 3], 1, ("direct",) * 3),
        ((1, 32, 9, 9), (32, 32, 1, 1), [1, 1], [0, 0], [1, 1], 1, ("patches", *("matrix_product|patches",) * 2)),
        ((1, 64, 9, 9), (32, 64, 1, 1), [1, 1], [0, 0], [1, 1], 1, ("matrix_product|direct", "patches", "patches")),
        ((1, 64, 9, 9), (32, 32, 1, 1), [1, 1], [0, 0], [1, 1], 2, ("matrix_product",) * 3),
        ((1, 512, 9, 9), (512, 512, 1, 1), [1, 1], [0, 0], [1, 1], 1, PRODUCT),
        ((1, 32, 9, 9), (32, 32, 1, 1), [2, 1], [0, 0], [1, 1], 1, ("direct", "patches", "direct")),
        ((1, 32, 9, 9), (32, 32, 1, 1), [1, 1], [1, 1], [1, 1], 1, ("direct",) * 3),
        ((9, 32, 7, 7), (32, 32, 1, 1), [1, 1], [0, 0], [1, 1], 1, ("direct", "direct", "matrix_product|direct")),
        ((8, 320, 2, 2), (960, 320, 1, 1), [1, 1], [0, 0], [1, 1], 1, ("direct", "direct", "matrix_product|direct")),
        ((9, 32, 1, 1), (32, 32, 1, 1), [1, 1], [0, 0], [1, 1], 1, ("patches", "patches", "matrix_product")),
        ((1, 32, 9, 9), (32, 32, 5, 5), [1, 1], [2, 2], [1, 1], 1, ("winograd_2x2",) * 3),
        ((1, 32, 9, 9), (32, 32, 5, 5), [2, 2], [2, 2], [1, 1], 1, ("winograd_2x2",) * 3),
        ((1, 32, 9, 9), (32, 32, 4, 4), [2, 2], [1, 1], [1, 1], 1, ("winograd_2x2",) * 3),
        ((1, 32, 9, 9), (32, 32, 4, 4), [1, 1], [1, 1], [1, 1], 1, ("direct",) * 3),
        ((1, 32, 16, 16), (32, 32, 3, 3), [2, 2], [1, 1], [1, 1], 1, ("winograd_2x2",) * 3),
        ((1, 32, 9, 9), (32, 32, 3, 3), [2, 2], [1, 1], [1, 1], 1, ("winograd_2x2", "winograd_2x2", "direct")),
        ((1, 15, 16, 16), (32, 15, 3, 3), [2, 2], [1, 1], [1, 1], 1, ("direct", "winograd_2x2", "direct")),
        ((1, 32, 16, 16), (32, 32, 3, 3), [2, 2], [1, 0], [1, 1], 1, ("direct",) * 3),
        ((1, 3, 9, 9), (32, 3, 4, 4), [4, 4], [0, 0], [1, 1], 1, ("patches",) * 3),
        ((1, 32, 9, 9), (32, 32, 9, 9), [1, 1], [0, 0], [1, 1], 1, ("patches",) * 3),
        ((1, 32, 9, 9), (32, 32, 2, 2), [2, 2], [0, 0], [1, 1], 1, ("patches",) * 3),
        ((1, 2, 9, 9), (3, 2, 2, 2), [3, 2], [0, 0], [1, 1], 1, ("patches",) * 3),
        ((1, 32, 9, 9), (32, 32, 2, 2), [2, 2], [0, 0], [1, 2], 1, ("direct",) * 3),
        ((1, 32, 9, 9), (32, 32, 2, 2), [2, 2], [0, 0, 1, 1], [1, 1], 1, ("direct",) * 3),
        ((1, 3, 9, 9), (32, 3, 3, 3), [1, 1], [1, 1], [1, 1], 1, FEW),
        ((1, 1, 9, 9), (6, 1, 5, 5), [1, 1], [2, 2], [1, 1], 1, ("panels",) * 3),
        ((1, 3, 9, 9), (32, 3, 7, 7), [2, 2], [3, 3], [1, 1], 1, ("direct", "panels", "direct")),
        ((1, 32, 9, 9), (3, 32, 3, 3), [1, 1], [1, 1], [1, 1], 1, ("panels", "direct", "direct")),
        ((1, 32, 9, 9), (1, 32, 3, 3), [1, 1], [1, 1], [1, 1], 1, ("panels", "panels", "direct")),
        ((1, 32, 9, 9), (1, 32, 5, 5), [1, 1], [2, 2], [1, 1], 1, ("panels", "direct", "direct")),
        ((1, 8, 9, 9), (3, 8, 5, 5), [1, 1], [2, 2], [1, 1], 1, ("panels",) * 3),
        ((1, 64, 9, 9), (3, 64, 1, 1), [1, 1], [0, 0], [1, 1], 1, FEW_OUTPUTS),
        ((1, 3, 9, 9), (64, 3, 1, 1), [1, 1], [0, 0], [1, 1], 1, FIRST_LAYER),
        ((1, 32, 9, 9), (32, 32, 1, 3), [1, 1], [0, 1], [3, 1], 1, ("winograd_4",) * 3),
        ((1, 32, 9), (32, 32, 3), [1], [1], [1], 1, ("winograd_4",) * 3),
        ((1, 64, 9, 9), (64, 32, 3, 3), [1, 1], [0, 0, 1, 2], [1, 1], 2, ("winograd_2x4",) * 3),
        ((1, 32, 9, 9), (32, 1, 3, 3), [1, 1], [1, 1], [1, 1], 32, ("depthwise",) * 3),
        ((1, 32, 9, 9, 9), (32, 32, 3, 3, 3), [1, 1, 1], [1, 1, 1], [1, 1, 1], 1, ("winograd_2x4",) * 3),
        ((1, 32, 8, 8, 8), (32, 32, 3, 3, 3), [2, 2, 2], [1, 1, 1], [1, 1, 1], 1, ("winograd_2x2",) * 3),
        ((1, 32, 9, 9, 9), (32, 32, 1, 3, 3), [2, 1, 1], [0, 1, 1], [1, 1, 1], 1, ("direct",) * 3),
        ((1, 32, 9, 9, 9), (32, 32, 3, 3, 3), [1, 1, 1], [2, 1, 1], [2, 1, 1], 1, ("direct",) * 3),
    ),
)
def test_the_table(input_shape, weight_shape, stride, padding, dilation, groups, expected) -> None:
    arguments = (input_shape, weight_shape, stride, padding, dilation, groups)
    found = tuple(ops.convolution_algorithm(product, *arguments) for product in ("output", "input", "weight"))
    assert found == chosen_here(expected) and set(found) <= set(ops.convolution_algorithms())
    assert ops.convolution_algorithm("output", *arguments, torch.int64) == "composite"


def test_eight_channels_are_a_vector_where_vectors_have_no_more_lanes() -> None:
    images = ((1, 8, 9, 9), (8, 8, 3, 3), [1, 1], [1, 1], [1, 1])
    wide = torchbp.kernels_status()["instruction_set"] == "avx512"
    for product in ("output", "input", "weight"):
        assert ops.convolution_algorithm(product, *images) == ("panels" if wide else "winograd_2x4")
        assert ops.convolution_algorithm(product, *images, dtype=torch.float64) == "winograd_2x4"


def test_pixels_are_multiplied_where_they_stand() -> None:
    def chosen(product: str, n: int, c: int, o: int, size: int) -> str:
        geometry = ([1, 1], [0, 0], [1, 1])
        shapes = (n, c, size, size), (o, c, 1, 1)
        return ops.convolution_algorithm(product, *shapes, *geometry, memory_format=torch.channels_last)

    for c, o in ((256, 64), (64, 256), (512, 512), (8, 24), (3, 32), (16, 8)):
        assert chosen("output", 4, c, o, 14) == chosen("input", 4, c, o, 14) == "patches"
    assert (chosen("output", 4, 64, 1, 14),) == chosen_here(("matrix_product",))
    assert chosen("weight", 4, 64, 8, 14) == "direct"
    assert chosen("weight", 4, 16, 8, 14) == "patches"
    assert (chosen("weight", 4, 512, 512, 14),) == chosen_here(("matrix_product|patches",))
    for product in ("output", "input", "weight"):  # too few pixels for the work of packing so many weights
        assert (chosen(product, 1, 2048, 512, 7),) == chosen_here(("matrix_product",))


def test_short_rows_are_multiplied_channels_last_only() -> None:
    arguments = ("output", (9, 32, 7, 7), (32, 32, 1, 1), [1, 1], [0, 0], [1, 1])
    assert ops.convolution_algorithm(*arguments) == "direct"
    assert ops.convolution_algorithm(*arguments, memory_format=torch.channels_last) == "patches"


def test_every_other_pixel_is_gathered_in_place_channels_last() -> None:
    arguments = ("output", (9, 32, 8, 8), (32, 32, 1, 1), [2, 2], [0, 0], [1, 1])
    assert ops.convolution_algorithm(*arguments) == "direct"
    assert ops.convolution_algorithm(*arguments, memory_format=torch.channels_last) == "patches"


def test_forcing_ends_with_the_block() -> None:
    shapes = ((1, 16, 9, 9), (16, 16, 3, 3), [1, 1], [1, 1], [1, 1])
    with ops.force_convolution_algorithm("panels"):
        assert ops.convolution_algorithm("output", *shapes) == "panels"
        with pytest.raises(ZeroDivisionError), ops.force_convolution_algorithm("winograd_4x4"):
            assert ops.convolution_algorithm("output", *shapes) == "winograd_4x4"
            raise ZeroDivisionError
        assert ops.convolution_algorithm("output", *shapes) == "panels"
    assert ops.convolution_algorithm("output", *shapes) == "winograd_2x4"


def test_what_cannot_be_forced_or_asked_is_refused() -> None:
    geometry = ([1, 1], [1, 1], [1, 1])
    with pytest.raises(ValueError, match="name must be one of .*'panels'.*, but got 'fft'"):
        ops.force_convolution_algorithm("fft").__enter__()
    with pytest.raises(ValueError, match="product must be 'output', 'input' or 'weight', but got 'y'"):
        ops.convolution_algorithm("y", (1, 4, 9, 9), (4, 4, 3, 3), *geometry)
    with pytest.raises(ValueError, match=r"input_shape \(1, 4, 9, 9\), weight_shape \(4, 3, 3, 3\) and groups 1"):
        ops.convolution_algorithm("output", (1, 4, 9, 9), (4, 3, 3, 3), *geometry)
    with pytest.raises(RuntimeError, match="stride must be at least 1 everywhere, but got"):
        ops.convolution_algorithm("output", (1, 4, 9, 9), (4, 4, 3, 3), [0, 1], [1, 1], [1, 1])
    x, w = torch.randn(1, 4, 9, 9), torch.randn(4, 4, 5, 5)
    with (
        ops.force_convolution_algorithm("winograd_2x4"),
        pytest.raises(RuntimeError, match=r"forced algorithm winograd_2x4 does not take kernel_size \[5, 5\]"),
    ):
        convolution(x, w, None, *geometry, 1)
