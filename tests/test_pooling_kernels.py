"""The pooling kernels on generated geometries: equal to the built-in to the bit, whatever the layout or the threads."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from parity import CHANNELS_LAST
from torch import Tensor

from torchbp import ops

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SAMPLE = [pytest.param(60, id="sample"), pytest.param(1500, id="many", marks=pytest.mark.slow)]


def geometry(rng: random.Random, dilations: tuple[int, ...]) -> Geometry:
    """Draw a size, kernel, stride, padding, dilation and ceil_mode: odd sizes, windows that overlap or leave gaps."""
    n = rng.choice([1, 2, 2, 2, 3])
    if rng.random() < 0.2:  # a stride of inputs for every output
        k, s, p = rng.choice([(2, 2, 0), (3, 1, 1), (3, 2, 1)])
        size = tuple(s * rng.choice([1, 2, 4, 9, 14, 23][: 6 if n < 3 else 4]) for _ in range(n))
        return size, (k,) * n, (s,) * n, (p,) * n, (1,) * n, False
    kernel = tuple(rng.choice([1, 2, 2, 3, 3, 3, 4, 5, 7, 19]) if n < 3 else rng.choice([1, 2, 3, 4]) for _ in range(n))
    stride = tuple(rng.choice([1, 1, 2, 2, 3, 4]) for _ in range(n))
    dilation = tuple(rng.choice(dilations) for _ in range(n))
    # The built-in's winners are wrong where a dilated window may lie in the padding altogether.
    padding = tuple(0 if d > 1 else rng.randint(0, k // 2) for k, d in zip(kernel, dilation, strict=True))
    room = [0, 1, 2, 3, 5, 8, 13, 29, 70] if n < 3 else [0, 1, 3, 8]
    size = tuple(
        max(1, (k - 1) * d + 1 - 2 * p) + rng.choice(room) for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return size, kernel, stride, padding, dilation, rng.random() < 0.5


def planes(rng: random.Random, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Draw an input in either layout, with ties, NaN or whole windows of -inf in some."""
    shape = (rng.choice([1, 2, 5]), rng.choice([1, 3, 8, 16, 17, 40, 70]), *size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
    content = rng.choice(["distinct", "ties", "nan", "-inf", "zeros of both signs"])
    if content == "ties":
        x = x.mul(2).round()
    elif content == "zeros of both signs":
        x = torch.where(x > 0, 0.0, -0.0)
    elif content != "distinct":
        x = x.masked_fill(x < 0, float(content))
    x = x.to(dtype)
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim()]) if len(size) > 1 and rng.random() < 0.5 else x


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Tell whether two tensors have the same bits, the signs of zeros included; every NaN counts as the same."""
    nan = actual.isnan()
    values = [t.masked_fill(nan, 0) for t in (actual, expected)]
    signs = [t.signbit() for t in values]
    return torch.equal(nan, expected.isnan()) and torch.equal(*values) and torch.equal(*signs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", SAMPLE)
def test_max_pools_equal_the_built_in_to_the_bit(dtype: torch.dtype, count: int) -> None:
    rng = random.Random(count)
    for _ in range(count):
        size, *window, ceil_mode = geometry(rng, (1, 1, 1, 2, 3))
        x = planes(rng, size, dtype)
        pool = getattr(F, f"max_pool{len(size)}d")
        # Of a channels-last volume the built-in names place 0 for windows of -inf only.
        leaf = (x.contiguous() if len(size) == 3 else x).detach().requires_grad_()
        expected, places = pool(leaf, *window, ceil_mode=ceil_mode, return_indices=True)
        actual, winner = ops.pooling.max_pool(x, *window, ceil_mode)
        about = (tuple(x.shape), x.stride(), *window, ceil_mode)
        assert same_bits(actual, expected.detach()), about
        assert same_bits(ops.pooling.max_pool_values(x, *window, ceil_mode), actual), about
        assert torch.equal(ops.pooling.winner_indices(winner, size, *window), places), about
        # Small integers, whose sums are exact in every order and dtype.
        g = torch.randint(-4, 5, actual.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        (gradient,) = torch.autograd.grad(expected, leaf, g)
        assert torch.equal(ops.pooling.max_pool_scatter(g, winner, size, *window), gradient), about
        assert torch.equal(ops.pooling.max_pool_gather(x.nan_to_num(), winner, *window), actual.nan_to_num()), about


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", SAMPLE)
def test_average_pools_equal_the_built_in_in_float64(dtype: torch.dtype, count: int) -> None:
    rng = random.Random(count)
    eps = torch.finfo(dtype).eps
    for _ in range(count):
        size, kernel, stride, padding, _, ceil_mode = geometry(rng, (1,))
        size = tuple(map(max, size, kernel))  # the built-in wants it in three dimensions
        n, include = len(size), rng.random() < 0.5
        divisor = rng.choice([None, None, 3]) if n > 1 else None
        x = planes(rng, size, dtype).nan_to_num(1.0, neginf=-2.0)
        exact = x.double().requires_grad_()
        window = (kernel, stride, padding, ceil_mode, include)
        expected = getattr(F, f"avg_pool{n}d")(exact, *window, *([divisor] if n > 1 else []))
        about = (tuple(x.shape), x.stride(), *window, divisor)
        actual = ops.pooling.average_pool(x, *window, divisor)
        scale = x.double().abs().max() * (
            1 if divisor is None else max(1, torch.tensor(kernel).prod().item() / divisor)
        )
        assert (actual.double() - expected).abs().max() <= 4 * eps * scale, about
        g = torch.randn(actual.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        (gradient,) = torch.autograd.grad(expected, exact, g.double())
        spread = ops.pooling.average_pool_adjoint(g, size, *window, divisor)
        bound = 8 * eps * max(1, gradient.abs().max().item(), g.double().abs().max().item())
        assert (spread.double() - gradient).abs().max() <= bound, about


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("size", [(7, 7), (28, 28), (30, 41), (5, 12, 18)], ids=str)
def test_pools_do_not_depend_on_threads(size: tuple[int, ...], last: bool, threads: int) -> None:
    """Enough planes, and few enough, that they are cut into ranges, bands and groups."""
    n = len(size)

    def results() -> list[Tensor]:
        found = []
        for images, channels in ((1, 3), (9, 70)):
            x = torch.randn(images, channels, *size, generator=torch.Generator().manual_seed(1))
            x = x.contiguous(memory_format=CHANNELS_LAST[x.dim()]) if last else x
            for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
                window = ([kernel] * n, [stride] * n, [padding] * n)
                y, winner = ops.pooling.max_pool(x, *window, [1] * n, True)
                g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
                found += [y, winner, ops.pooling.max_pool_scatter(g, winner, list(size), *window, [1] * n)]
                found.append(ops.pooling.average_pool(x, *window, True, False, None))
                found.append(ops.pooling.average_pool_adjoint(g, list(size), *window, True, False, None))
        return found

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results()
        torch.set_num_threads(threads)
        together = results()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("kernel", [(9, 9), (3, 40), (40, 3), (7, 6), (2, 257)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 9])
def test_windows_of_many_rows_or_columns(kernel: tuple[int, int], stride: int) -> None:
    """More rows than are combined at once, more taps than a byte counts, more windows over an input than gathered."""
    x = torch.randint(0, 50, (2, 3, 45, 650), generator=torch.Generator().manual_seed(0)).float()
    for input in (x, x.contiguous(memory_format=torch.channels_last)):
        leaf = input.clone().requires_grad_()
        expected, places = F.max_pool2d(leaf, kernel, stride, return_indices=True)
        window = (kernel, (stride, stride), (0, 0), (1, 1))
        y, winner = ops.pooling.max_pool(input, *window, False)
        assert torch.equal(y, expected.detach())
        assert torch.equal(ops.pooling.winner_indices(winner, (45, 650), *window), places)
        (gradient,) = torch.autograd.grad(expected, leaf, torch.ones_like(expected))
        assert torch.equal(ops.pooling.max_pool_scatter(torch.ones_like(y), winner, (45, 650), *window), gradient)


def test_inference_records_no_winners() -> None:
    x = torch.randn(2, 3, 8, 8)
    from torchbp.autograd.pooling import max_pool

    window = ((2, 2), (2, 2), (0, 0), (1, 1), False)
    assert max_pool(x, *window, wants_winners=False)[1] is None
    assert max_pool(x, *window)[1] is not None
    leaf = x.requires_grad_()
    assert max_pool(leaf, *window, wants_winners=False)[1] is not None
    with torch.no_grad():
        assert max_pool(leaf, *window, wants_winners=False)[1] is None
    tangent = torch.ones_like(x)
    value, derivative = torch.func.jvp(
        lambda v: max_pool(v, *window, wants_winners=False)[0], (x.detach(),), (tangent,)
    )
    assert torch.equal(value, F.max_pool2d(x, 2)) and torch.equal(derivative, torch.ones_like(value))
