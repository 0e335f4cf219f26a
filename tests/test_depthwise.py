"""Depthwise convolution: the three products in float32 against the built-in in float64, whatever the geometry."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torchbp import ops

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


class Geometry(NamedTuple):
    batch: int
    groups: int
    sources: int  # input channels of a group
    targets: int  # output channels of a group
    size: list[int]
    kernel: list[int]
    stride: list[int]
    before: list[int]
    after: list[int]
    dilation: list[int]

    @property
    def rest(self) -> tuple[list[int], list[int], list[int], int]:
        """Return stride, padding, dilation and groups."""
        return self.stride, self.before + self.after, self.dilation, self.groups

    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x, w, g, and a bias for either side."""
        x = draw(self.batch, self.groups * self.sources, *self.size)
        w = draw(self.groups * self.targets, self.sources, *self.kernel, seed=1)
        output = ops.convolution.output_size(self.size, self.kernel, *self.rest[:3])
        g = draw(self.batch, self.groups * self.targets, *output, seed=2)
        return x, w, g, draw(self.groups * max(self.sources, self.targets), seed=3)


def truth(geometry: Geometry, x: Tensor, w: Tensor, g: Tensor, b: Tensor) -> list[Tensor]:
    """Return y + bias, dx + bias and dw by the built-in, from an explicitly padded input."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    pairs = zip(reversed(geometry.before), reversed(geometry.after), strict=True)
    padded = torch.constant_pad_nd(x, list(itertools.chain.from_iterable(pairs)))
    n = len(geometry.size)
    zeros, dilation = [0] * n, geometry.dilation
    y = torch.convolution(padded, w, None, geometry.stride, zeros, dilation, False, zeros, geometry.groups)
    gx, gw = torch.autograd.grad(y, (x, w), g)
    ones = [1] * n
    return [y.detach() + b[: y.shape[1]].view(-1, *ones), gx + b[: x.shape[1]].view(-1, *ones), gw]


def products(geometry: Geometry, x: Tensor, w: Tensor, g: Tensor, b: Tensor) -> list[Tensor]:
    rest = geometry.rest
    return [
        ops.convolution.convolution(x, w, b[: w.shape[0]], *rest),
        ops.convolution.convolution_input(g, w, b[: x.shape[1]], x.shape[2:], *rest),
        ops.convolution.convolution_weight(x, g, w.shape[2:], *rest),
    ]


def arranged(tensor: Tensor, layout: str) -> Tensor:
    if layout == "contiguous" or tensor.dim() < 4:
        return tensor.contiguous()
    if layout == "channels-last":
        return tensor.contiguous(memory_format=FORMATS[tensor.dim() - 2])
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def generated(count: int, seed: int) -> Iterator[tuple[Geometry, list[str]]]:
    """Draw geometries: every kernel of 1 to 7 with every stride of 1 to 3, and what else there is at random."""
    chance = random.Random(seed)
    kinds = itertools.cycle(itertools.product(range(1, 8), (1, 2, 3)))
    for kernel, stride in itertools.islice(kinds, count):
        n = chance.choice((1, 2, 2, 2, 3))
        regular = chance.random() < 0.6
        kernels = [kernel if regular else chance.randint(1, kernel) for _ in range(n)]
        strides = [stride if regular else chance.randint(1, 5) for _ in range(n)]
        dilation = [1 if regular else chance.randint(1, 3) for _ in range(n)]
        before = [chance.randint(0, 4) for _ in range(n)]
        after = list(before) if regular else [chance.randint(0, 4) for _ in range(n)]
        reach = [d * (k - 1) + 1 for k, d in zip(kernels, dilation, strict=True)]
        most = chance.choice((0, 3, 9, 20)) if n < 3 else chance.choice((0, 4))
        size = [max(1, e - p - q) + chance.randint(0, most) for e, p, q in zip(reach, before, after, strict=True)]
        sources, targets = chance.choice(((1, 1), (1, 1), (1, 1), (1, 3), (2, 1)))
        groups = chance.choice((2, 3, 7, 8, 15, 16, 17, 24, 33))
        geometry = Geometry(
            chance.randint(1, 2), groups, sources, targets, size, kernels, strides, before, after, dilation
        )
        layouts = [chance.choice(("contiguous", "channels-last", "channels-last", "transposed")) for _ in range(3)]
        yield geometry, layouts


def check(geometry: Geometry, layouts: list[str]) -> None:
    operands = geometry.operands()
    expected = truth(geometry, *operands)
    for dtype, unit in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        x, w, g = (arranged(t.to(dtype), layout) for t, layout in zip(operands[:3], layouts, strict=True))
        for actual, true in zip(products(geometry, x, w, g, operands[3].to(dtype)), expected, strict=True):
            assert actual.shape == true.shape
            error = float((actual.double() - true).abs().max())
            assert error <= unit * max(1.0, float(true.abs().max())), (geometry, layouts, dtype)


@pytest.mark.parametrize("seed", range(4))
def test_generated_geometries(seed: int) -> None:
    for geometry, layouts in generated(63, seed):
        check(geometry, layouts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_generated_geometries(seed: int) -> None:
    for geometry, layouts in generated(126, seed):
        check(geometry, layouts)


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
@pytest.mark.parametrize("width", (1, 2, 3, 5, 7, 8, 9, 13, 14, 28, 31, 112))
@pytest.mark.parametrize("kernel", (3, 5, 7))
def test_widths_of_networks(kernel: int, width: int, layout: str) -> None:
    for stride in (1, 2):
        pad = [kernel // 2] * 2
        check(Geometry(1, 20, 1, 1, [4, width], [kernel] * 2, [stride] * 2, pad, pad, [1, 1]), [layout] * 3)


def test_long_rows_and_far_taps() -> None:
    """Rows cut into boxes, and taps that reach too far for a buffer."""
    check(Geometry(1, 3, 1, 1, [5000], [5], [2], [2], [2], [1]), ["contiguous"] * 3)
    check(Geometry(1, 2, 1, 1, [300_000], [3], [1], [0], [0], [140_000]), ["contiguous"] * 3)


SHAPES = [
    Geometry(2, 40, 1, 1, [30, 30], [3, 3], [1, 1], [1, 1], [1, 1], [1, 1]),
    Geometry(3, 33, 1, 1, [25, 27], [5, 5], [2, 2], [2, 2], [2, 2], [1, 1]),
    Geometry(2, 16, 1, 2, [20, 20], [7, 7], [1, 1], [3, 3], [3, 3], [1, 1]),
    Geometry(2, 17, 2, 1, [21, 22], [4, 3], [1, 2], [0, 1], [2, 3], [2, 1]),
    Geometry(2, 18, 1, 1, [6, 12, 12], [3, 3, 3], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]),
]


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
@pytest.mark.parametrize("geometry", SHAPES)
def test_same_bits_for_every_number_of_threads(geometry: Geometry, layout: str) -> None:
    operands = [arranged(t.float(), layout) for t in geometry.operands()]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(products(geometry, *operands))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            assert torch.equal(one, first)


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
@pytest.mark.parametrize("geometry", SHAPES)
def test_products_are_one_form(geometry: Geometry, layout: str) -> None:
    """<y, g> = <x, dx> = <w, dw>: three contractions of one trilinear form."""
    x, w, g, _ = (arranged(t, layout) for t in geometry.operands())
    y, gx, gw = products(geometry, x, w, g, x.new_zeros(geometry.groups * 3))
    forms = torch.stack([(y * g).sum(), (gx * x).sum(), (gw * w).sum()])
    torch.testing.assert_close(forms, forms[:1].expand(3), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
def test_padding_meets_no_infinity(layout: str) -> None:
    """An infinite weight over padding is no product, so no NaN; elsewhere infinity goes where it reaches."""
    x = arranged(torch.ones(1, 20, 6, 40), layout)
    w = torch.ones(20, 1, 3, 3)
    w[:, :, 0] = torch.inf
    y = ops.convolution.convolution(x, w, None, [1, 1], [1, 1], [1, 1], 20)
    assert bool(y[:, :, 0].isfinite().all()) and bool((y[:, :, 1:] == torch.inf).all())
    x[:, :, 2, 4] = torch.nan
    y = ops.convolution.convolution(x, torch.ones_like(w), None, [1, 1], [1, 1], [1, 1], 20)
    assert y.isnan().sum() == 20 * 9


@pytest.mark.parametrize("layout", ("contiguous", "channels-last"))
@pytest.mark.parametrize("stride", (1, 2))
def test_infinite_gradient_over_padding(stride: int, layout: str) -> None:
    """A tap that an infinite gradient multiplies with padding stays finite; the others are infinite."""
    x = arranged(torch.ones(2, 19, 6, 40), layout)
    g = arranged(torch.ones(2, 19, 6 // stride, 40 // stride), layout)
    g[0, :, 0, 0] = torch.inf
    w = ops.convolution.convolution_weight(x, g, [3, 3], [stride] * 2, [1, 1], [1, 1], 19)
    finite = torch.tensor([[True, True, True], [True, False, False], [True, False, False]])
    assert bool((w.isfinite() == finite).all()) and bool((w[:, 0, 1:, 1:] == torch.inf).all())


@pytest.mark.parametrize("kernel", (3, 5, 7))
@pytest.mark.parametrize("width", (7, 12, 37, 70))
def test_odd_planes_and_views(width: int, kernel: int) -> None:
    """An odd number of planes, several depths, and images that are part of larger ones."""
    pad = [1, kernel // 2, kernel // 2]
    for stride in (1, 2):
        geometry = Geometry(1, 5, 1, 1, [3, 11, width], [3, kernel, kernel], [1, stride, stride], pad, pad, [1, 1, 1])
        check(geometry, ["contiguous"] * 3)
    x, w, g, b = Geometry(2, 19, 1, 1, [9, width], [kernel] * 2, [1, 1], pad[1:], pad[1:], [1, 1]).operands()
    wide = torch.full((2, 19, 13, width + 6), torch.nan, dtype=torch.float64)
    for part in (x, g):
        wide[:, :, 2:11, 3:-3] = part
        inner = wide[:, :, 2:11, 3:-3]
        args = (w, b[:19], [1, 1], pad[1:], [1, 1], 19)
        torch.testing.assert_close(ops.convolution.convolution(inner, *args), ops.convolution.convolution(part, *args))
        grads = [
            ops.convolution.convolution_weight(t, g, [kernel] * 2, [1, 1], pad[1:], [1, 1], 19) for t in (inner, part)
        ]
        torch.testing.assert_close(*grads)
