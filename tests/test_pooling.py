"""Pools and unpools: what is kept, what is made, and where the built-in's gradient is not the derivative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn as builtin_nn
import torch.nn.functional as builtin
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import torchbp.nn as nn
from torchbp import ops
from torchbp.nn import functional as F


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@contextmanager
def results() -> Iterator[list[tuple[str, torch.dtype]]]:
    """List every operator that runs, with the dtypes of its results."""
    seen: list[tuple[str, torch.dtype]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            parts = made if isinstance(made, tuple | list) else (made,)
            seen.extend((func._opname, part.dtype) for part in parts if isinstance(part, Tensor))
            return made

    with Watch():
        yield seen


# --------------------------------------------------------------------------------------------------
# Unpooling


def directional(function: Any, x: Tensor, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, t))).tangent


@pytest.mark.parametrize("n", (1, 2, 3))
def test_only_the_value_that_stays_has_a_gradient(n: int) -> None:
    """Of several writers to one place; the built-in's gradient contradicts differences and its own forward mode."""
    shape, size = (1, 2, *[3] * n), [6] * n
    x = draw(*shape).requires_grad_()
    indices = torch.arange(x.numel()).reshape(shape) % 2  # both places are written several times
    mine, theirs = (
        lambda x, place=place: getattr(place, f"max_unpool{n}d")(x, indices, 2, output_size=size)
        for place in (F, builtin)
    )
    assert torch.equal(mine(x), theirs(x))
    assert gradcheck(mine, x, check_forward_ad=True, check_batched_grad=True)
    assert not gradcheck(theirs, x, raise_exception=False)
    t, g = draw(*shape, seed=1), draw(1, 2, *size, seed=2)
    for function, agrees in ((mine, True), (theirs, False)):
        (gx,) = torch.autograd.grad(function(x), x, g)
        forward = float((directional(function, x.detach(), t) * g).sum())
        assert (abs(float((gx * t).sum()) - forward) < 1e-12) == agrees


@pytest.mark.parametrize("n", (1, 2, 3))
def test_unpooling_maps_without_a_loop(n: int) -> None:
    x, indices = draw(4, 2, 3, *[2] * n), torch.stack([torch.randperm(4**n)[: 2**n] for _ in range(24)])
    indices = indices.reshape(4, 2, 3, *[2] * n)
    unpool = getattr(F, f"max_unpool{n}d")
    for dims in ((0, 0), (0, None), (None, 0)):
        given = [t if d == 0 else t[0] for t, d in zip((x, indices), dims, strict=True)]
        with results() as seen:
            actual = torch.vmap(lambda x, i: unpool(x, i, 2), in_dims=dims)(*given)
        assert [name for name, _ in seen].count("max_unpool") == 1
        rows = [[t[k] if d == 0 else t for t, d in zip(given, dims, strict=True)] for k in range(4)]
        assert torch.equal(actual, torch.stack([unpool(a, i, 2) for a, i in rows]))


@pytest.mark.parametrize("n", (2, 3))
@pytest.mark.parametrize("often", (False, True), ids=("once", "twice"))
def test_unpooling_takes_every_layout(n: int, often: bool) -> None:
    """More channels than one task takes; values, places and gradients in layouts of their own."""
    x, size = draw(2, 70, *[3] * n), [5] * n
    order = torch.rand(2, 70, 5**n, generator=torch.Generator().manual_seed(3)).argsort(2)
    places = (order[..., : 3**n] // (2 if often else 1)).view(x.shape)
    last = torch.channels_last if n == 2 else torch.channels_last_3d
    layouts = (
        torch.clone,
        lambda t: t.contiguous(memory_format=last),
        lambda t: t.mT.contiguous().mT,
    )
    y = ops.pooling.max_unpool(x, places, size)
    gy = draw(*y.shape, seed=1)
    gx = ops.pooling.max_unpool_adjoint(gy, places)
    planes = [t.flatten(0, 1).flatten(1) for t in (x, places, y, gy, gx)]
    for values, where, plane, cotangent, gradient in zip(*planes, strict=True):
        last_writer = {place: i for i, place in enumerate(where.tolist())}
        expected, kept = torch.zeros_like(plane), torch.zeros_like(gradient)
        for place, i in last_writer.items():
            expected[place], kept[i] = values[i], cotangent[place]
        assert torch.equal(plane, expected) and torch.equal(gradient, kept)
    for first in layouts:
        for second in layouts:
            assert torch.equal(ops.pooling.max_unpool(first(x), second(places), size), y)
            assert torch.equal(ops.pooling.max_unpool_adjoint(first(gy), second(places)), gx)


def test_unpooling_refuses_places_outside_the_plane() -> None:
    for bad in (-1, 16, 2**40, -(2**63)):
        indices = torch.tensor([[[[0, 1], [2, bad]]]])
        with pytest.raises(RuntimeError, match=f"indices.*{bad}"):
            F.max_unpool2d(draw(1, 1, 2, 2), indices, 2)


# --------------------------------------------------------------------------------------------------
# Adaptive maxima


@pytest.mark.parametrize("n", (1, 2, 3))
@pytest.mark.parametrize("size", (1, 2, 6))
def test_adaptive_windows_that_divide_the_input_are_ordinary_ones(n: int, size: int) -> None:
    x = draw(2, 3, *[6] * n).requires_grad_()
    adaptive = getattr(F, f"adaptive_max_pool{n}d")(x, size, return_indices=True)
    ordinary = getattr(F, f"max_pool{n}d")(x, 6 // size, return_indices=True)
    assert all(torch.equal(a, b) for a, b in zip(adaptive, ordinary, strict=True))
    g = draw(*adaptive[0].shape, seed=1)
    gradients = [torch.autograd.grad(y, x, g)[0] for y in (adaptive[0], ordinary[0])]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("n", (1, 2, 3))
@pytest.mark.parametrize("width", (5, 37, 130))
def test_ties_and_nan_over_wide_windows(n: int, width: int) -> None:
    """The first of equals and the last NaN win, also where the elements of a window are compared side by side."""
    for seed in range(6):
        x = (draw(1, 2, *[4, 3][: n - 1], width, seed=seed) * 2).round()
        if seed % 2:
            x = x.masked_fill(draw(*x.shape, seed=seed + 50) > 1.5, float("nan"))
        for size in ([1] * n, [2] * n, [3, 2, 2][:n]):
            for dtype in (torch.float64, torch.float32):
                mine, theirs = (
                    getattr(place, f"adaptive_max_pool{n}d")(x.to(dtype), size, return_indices=True)
                    for place in (F, builtin)
                )
                assert torch.equal(mine[0].nan_to_num(9e9), theirs[0].nan_to_num(9e9))
                assert torch.equal(mine[1], theirs[1])


# --------------------------------------------------------------------------------------------------
# Indices are made on request only


@pytest.mark.parametrize("n", (1, 2, 3))
@pytest.mark.parametrize("kind", ("max_pool", "adaptive_max_pool"))
def test_indices_are_made_on_request_only(kind: str, n: int) -> None:
    x = draw(2, 3, *[6] * n).requires_grad_()
    layer, size = getattr(F, f"{kind}{n}d"), 2 if kind == "max_pool" else 3
    with results() as seen:
        layer(x, size).sum().backward()
    assert seen and torch.int64 not in {dtype for _, dtype in seen}
    y, indices = layer(x, size, return_indices=True)
    assert indices.dtype == torch.int64
    assert torch.equal(x.detach().flatten(2).gather(2, indices.flatten(2)).view(y.shape), y)


# --------------------------------------------------------------------------------------------------
# Fractional pools


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("n", (2, 3))
def test_the_same_seed_draws_the_same_windows(n: int, dtype: torch.dtype) -> None:
    x = draw(2, 3, *[13, 11, 9][:n], dtype=dtype)
    name = f"FractionalMaxPool{n}d"
    for options in ({"output_size": [5, 4, 3][:n]}, {"output_ratio": [0.5, 0.6, 0.4][:n]}):
        found = []
        for place in (nn, builtin_nn):
            torch.manual_seed(7)
            found.append(getattr(place, name)(2, return_indices=True, **options)(x))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    for seed in range(40):  # windows follow from rounding, in the dtype of the draws
        pooled = []
        for place in (F, builtin):
            torch.manual_seed(seed)
            pooled.append(getattr(place, f"fractional_max_pool{n}d")(x, 3, output_size=[7, 5, 4][:n]))
        assert torch.equal(*pooled)


@pytest.mark.parametrize("sample", (-0.5, 1.5, 1e9, float("nan")))
def test_samples_outside_their_range_read_nothing_outside_the_input(sample: float) -> None:
    x = draw(1, 2, 9, 9)
    samples = torch.full((1, 2, 2), sample, dtype=x.dtype)
    try:
        y = F.fractional_max_pool2d(x, 2, output_size=4, _random_samples=samples)
    except RuntimeError as error:
        assert "windows" in str(error)
    else:
        assert bool(torch.isin(y, x).all())


def test_windows_that_leave_the_input_are_refused() -> None:
    x = draw(1, 1, 6)
    large = torch.full((1, 1, 1), 2.0**25 + 4, dtype=torch.float32)  # sums with it are rounded to fours
    with pytest.raises(RuntimeError, match="windows must lie inside"):
        ops.pooling.irregular_max_pool(x, large, [4], [2])
    with pytest.raises(RuntimeError, match="windows must lie inside .* span at most"):
        ops.pooling.irregular_max_pool(x, None, [1], [5])


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_many_windows_are_placed_in_the_samples_own_arithmetic(dtype: torch.dtype) -> None:
    """More of them than the type has integers for."""
    x = draw(1, 2, 9, 3000).to(dtype)
    samples = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine, theirs = (
        place.fractional_max_pool2d(x, 2, output_size=(4, 2900), _random_samples=samples, return_indices=True)
        for place in (F, builtin)
    )
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_first_power_is_a_sum_also_where_it_is_zero() -> None:
    x = torch.tensor([[0.0, 0, -1, 1, -2, 5]], dtype=torch.float64, requires_grad=True)
    for place, sums_of_zero in ((F, 1.0), (builtin, 0.0)):
        y = place.lp_pool1d(x, 1, 2)
        assert y.tolist() == [[0.0, 0.0, 3.0]]
        (gx,) = torch.autograd.grad(y.sum(), x)
        assert gx.tolist() == [[sums_of_zero] * 4 + [1.0] * 2]
