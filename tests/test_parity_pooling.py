"""Pools of every kind, in 1 to 3 dimensions, against the built-in; see parity.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import assume, given
from hypothesis import strategies as st
from parity import (
    DTYPES,
    INF,
    NAN,
    arranged,
    channel_counts,
    holds_input,
    layouts,
    normal,
    parity,
    per_dimension,
    seeds,
    set_seed,
    some,
    spatial_slack,
    special,
    spelled_out,
    times,
)
from torch import Tensor

from torchbp.nn import functional as F
from torchbp.ops.registry import memory_format_of

MAXIMA = ("normal", "ties", "constant", "nan", "minus infinity", "infinite")


def both(name: str, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return our function and the built-in with the same options."""
    return partial(getattr(F, name), **options), partial(getattr(builtin, name), **options)


def singly(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function computed in float32 where it has no bfloat16: the built-in averages no such volumes."""
    return lambda x: function(x.float()).to(x.dtype) if x.dtype == torch.bfloat16 else function(x)


def placed(draw: st.DrawFn, tensor: Tensor, dimensions: int) -> Tensor:
    """Draw a layout."""
    tensor = arranged(tensor, draw(layouts))
    if dimensions == 3 and tensor.dim() == 4:
        # One volume, C x D x H x W, with strides of channels-last images the built-in takes for a batch, and fails;
        # one whose channels lie innermost stays so in the built-in max pool, as no single image does in either's.
        innermost = tensor.unsqueeze(0).is_contiguous(memory_format=torch.channels_last_3d)
        assume(memory_format_of(tensor) != torch.channels_last and (tensor.is_contiguous() or not innermost))
    return tensor


def image(
    draw: st.DrawFn, spatial: Sequence[int], kinds: Sequence[str] = ("normal",), dtypes: Sequence[torch.dtype] = DTYPES
) -> Tensor:
    """Draw (N, C, *spatial) or (C, *spatial), with values of one of the kinds."""
    batch, kind = draw(some(st.integers(0, 3))), draw(st.sampled_from(kinds))
    seed, dtype = draw(seeds), draw(st.sampled_from(dtypes))
    x = normal([*([] if batch is None else [batch]), draw(channel_counts), *spatial], seed, dtype)
    values = {
        "normal": lambda: x,
        "positive": lambda: x.abs() + 0.25,
        "ties": lambda: x.round(),
        "constant": lambda: torch.zeros_like(x),
        "nan": lambda: special(x, seed, [NAN], 0.4),
        "minus infinity": lambda: special(x, seed, [-INF], 0.8),
        "infinite": lambda: special(x.round(), seed, [INF, -INF, NAN], 0.3),
    }[kind]()
    return placed(draw, values, len(spatial))


# --------------------------------------------------------------------------------------------------
# Windows at a stride


@st.composite
def pool_geometry(
    draw: st.DrawFn, dimensions: int, padded: bool = True, dilated: bool = False, within: bool = False
) -> tuple[list[int], dict[str, Any]]:
    """Draw a spatial size and the arguments of a pool that has at least one window.

    ``within``: the windows must be no larger than the input without its padding.
    """
    kernel = draw(per_dimension(dimensions, 1, 4 if dimensions < 3 else 3))
    k = spelled_out(kernel, dimensions)
    options: dict[str, Any] = {"kernel_size": kernel}
    stride = draw(some(per_dimension(dimensions, 1, 5)))
    if stride is not None or draw(st.booleans()):
        options["stride"] = stride
    padding = draw(st.integers(0, min(k) // 2) | st.tuples(*(st.integers(0, v // 2) for v in k))) if padded else 0
    if padding != 0:
        options["padding"] = padding
    if dilated:
        options["dilation"] = draw(per_dimension(dimensions, 1, 3))
    options["ceil_mode"] = draw(st.booleans())
    spread, pads = spelled_out(options.get("dilation", 1), dimensions), spelled_out(padding, dimensions)
    least = [max(1, d * (v - 1) + 1 - (0 if within else 2 * p)) for v, d, p in zip(k, spread, pads, strict=True)]
    return [low + more for low, more in zip(least, draw(spatial_slack(dimensions)), strict=True)], options


@st.composite
def max_pool_arguments(draw: st.DrawFn, dimensions: int) -> tuple[Tensor, dict[str, Any]]:
    spatial, options = draw(pool_geometry(dimensions, dilated=True))
    stride = options.get("stride")
    lists = [
        spelled_out(value, dimensions)
        for value in (
            options["kernel_size"],
            options["kernel_size"] if stride is None else stride,
            options.get("padding", 0),
            options["dilation"],
        )
    ]
    assume(all(holds_input(size, *one, options["ceil_mode"]) for size, *one in zip(spatial, *lists, strict=True)))
    options["return_indices"] = draw(st.booleans())
    return image(draw, spatial, MAXIMA), options


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(4)
def test_max_pool(dimensions: int, data: st.DataObject) -> None:
    """Values and places are exact; a gradient adds up what an input won, at most 64 taps of 64 windows."""
    x, options = data.draw(max_pool_arguments(dimensions))
    parity(*both(f"max_pool{dimensions}d", **options), x, terms=16**dimensions)


@st.composite
def average_pool_arguments(draw: st.DrawFn, dimensions: int) -> tuple[Tensor, dict[str, Any]]:
    # The built-in wants volumes to hold the kernel without their padding.
    spatial, options = draw(pool_geometry(dimensions, within=dimensions == 3))
    if draw(st.booleans()):
        options["count_include_pad"] = draw(st.booleans())
    divisor = draw(some(st.sampled_from((1, 3, -2, 7)))) if dimensions > 1 else None
    if divisor is not None:
        options["divisor_override"] = divisor
    return image(draw, spatial), options


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(3)
def test_avg_pool(dimensions: int, data: st.DataObject) -> None:
    x, options = data.draw(average_pool_arguments(dimensions))
    mine, theirs = both(f"avg_pool{dimensions}d", **options)
    parity(mine, theirs, x, terms=2 * 4**dimensions, linear=True, narrow=singly(theirs) if dimensions == 3 else None)


@st.composite
def power_pool_arguments(draw: st.DrawFn, dimensions: int) -> tuple[Tensor, dict[str, Any]]:
    """Draw powers of positive numbers, or whole powers whose sums are exact and may be zero or negative."""
    spatial, options = draw(pool_geometry(dimensions, padded=False, within=dimensions == 3))
    exact = draw(st.booleans())
    # The built-in multiplies by the kernel's size without spelling it out.
    if isinstance(options["kernel_size"], list) or dimensions == 1:
        options["kernel_size"] = spelled_out(options["kernel_size"], dimensions)
    if dimensions == 1:
        (options["kernel_size"],) = options["kernel_size"]
    options["norm_type"] = draw(st.sampled_from((1, 2, 3.0, INF, -INF) if exact else (1, 2.0, 3, 0.5, 2.5, -1)))
    # The built-in averages no volumes in bfloat16.
    return image(draw, spatial, ("ties",) if exact else ("positive",), DTYPES[: 5 - dimensions]), options


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(2)
def test_lp_pool(dimensions: int, data: st.DataObject) -> None:
    """The gradient x^(p-1) A (k y^(1-p) g) rounds after each of six steps, and y, of three, comes in |1 - p| times.

    For p = 1 the truth is the sum, as the built-in has no gradient where one is zero; see test_pooling.py.
    """
    x, options = data.draw(power_pool_arguments(dimensions))
    p, (mine, theirs) = options["norm_type"], both(f"lp_pool{dimensions}d", **options)
    roundings = 6 + 3 * abs(1 - p) if math.isfinite(p) else 3

    def total(x: Tensor) -> Tensor:
        kernel, rest = options["kernel_size"], {k: v for k, v in options.items() if k != "norm_type"}
        return getattr(builtin, f"avg_pool{dimensions}d")(x, **rest) * math.prod(spelled_out(kernel, dimensions))

    truth, narrow = (total, theirs) if p == 1 else (theirs, None)
    parity(mine, truth, x, terms=4 * 4**dimensions, roundings=roundings, narrow=narrow)


# --------------------------------------------------------------------------------------------------
# Windows that share the input, and windows at random distances


@st.composite
def adaptive_arguments(draw: st.DrawFn, dimensions: int, kinds: Sequence[str]) -> tuple[Tensor, Any]:
    one = st.integers(1, 9 if dimensions < 3 else 5)
    several = st.lists(one, min_size=1, max_size=1) if dimensions == 1 else st.tuples(*[some(one)] * dimensions)
    return image(draw, [1 + more for more in draw(spatial_slack(dimensions))], kinds), draw(one | several)


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(2)
def test_adaptive_avg_pool(dimensions: int, data: st.DataObject) -> None:
    x, size = data.draw(adaptive_arguments(dimensions, ("normal",)))
    terms = math.prod(x.shape[-dimensions:])
    parity(*both(f"adaptive_avg_pool{dimensions}d", output_size=size), x, terms=terms, linear=True)


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(3)
def test_adaptive_max_pool(dimensions: int, data: st.DataObject) -> None:
    x, size = data.draw(adaptive_arguments(dimensions, MAXIMA))
    options = {"output_size": size, "return_indices": data.draw(st.booleans())}
    # An input belongs to at most as many windows as there are.
    terms = math.prod(9 if dimensions < 3 else 13 for _ in range(dimensions))
    parity(*both(f"adaptive_max_pool{dimensions}d", **options), x, terms=terms)


@st.composite
def fractional_arguments(draw: st.DrawFn, dimensions: int) -> tuple[Tensor, dict[str, Any]]:
    # The built-in takes no list of one size, and volumes must be one larger than the last window needs.
    kernel = draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 3)] * dimensions))
    options: dict[str, Any] = {"kernel_size": kernel, "return_indices": draw(st.booleans())}
    k = spelled_out(kernel, dimensions)
    spare = dimensions - 2
    spatial = [v + more + spare for v, more in zip(k, draw(spatial_slack(dimensions)), strict=True)]
    most = [size - v + 1 - spare for size, v in zip(spatial, k, strict=True)]
    if draw(st.booleans()):
        options["output_size"] = draw(st.integers(1, min(most)) | st.tuples(*(st.integers(1, m) for m in most)))
    else:
        ratios = [draw(st.floats(1 / size, m / size)) for size, m in zip(spatial, most, strict=True)]
        assume(all(1 <= int(size * ratio) <= m for size, ratio, m in zip(spatial, ratios, most, strict=True)))
        options["output_ratio"] = tuple(ratios)
    x = image(draw, spatial, MAXIMA)
    if draw(st.booleans()):
        shape = (1 if x.dim() == dimensions + 1 else x.shape[0], x.shape[-dimensions - 1], dimensions)
        drawn = torch.rand(shape, dtype=x.dtype, generator=torch.Generator().manual_seed(draw(seeds)))
        largest = 1 - torch.finfo(x.dtype).eps / 2
        options["_random_samples"] = special(drawn, draw(seeds), [0.0, largest], draw(st.sampled_from((0.0, 0.3))))
    return x, options


@pytest.mark.parametrize("dimensions", (2, 3))
@given(data=st.data())
@times(3)
def test_fractional_max_pool(dimensions: int, data: st.DataObject) -> None:
    """The draws of one seed, and where they place the windows, depend on the dtype: the truth takes its places."""
    (x, options), seed = data.draw(fractional_arguments(dimensions)), data.draw(seeds)
    name, dtype = f"fractional_max_pool{dimensions}d", x.dtype
    mine, theirs = both(name, **options)

    def seeded(function: Callable[[Tensor], Any], x: Tensor) -> Any:
        set_seed(seed)
        return function(x)

    def at_places(x: Tensor) -> Any:
        _, places = seeded(both(name, **{**options, "return_indices": True})[1], x.detach().to(dtype))
        y = x.flatten(-dimensions).gather(-1, places.flatten(-dimensions)).view(places.shape)
        return (y, places) if options["return_indices"] else y

    parity(partial(seeded, mine), at_places, x, terms=27 * 27, narrow=partial(seeded, theirs))


# --------------------------------------------------------------------------------------------------
# Back to places


@st.composite
def unpool_arguments(draw: st.DrawFn, dimensions: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw values and places, no place twice: of several writers the built-in has a wrong gradient."""
    # The built-in takes no list of one size here.
    kernel = draw(st.integers(1, 4) | st.tuples(*[st.integers(1, 4)] * dimensions))
    k = spelled_out(kernel, dimensions)
    options: dict[str, Any] = {"kernel_size": kernel}
    options["stride"] = draw(some(st.integers(1, 4) | st.tuples(*[st.integers(1, 4)] * dimensions)))
    options["padding"] = draw(st.integers(0, min(k) // 2) | st.tuples(*(st.integers(0, v // 2) for v in k)))
    steps = k if options["stride"] is None else spelled_out(options["stride"], dimensions)
    pads = spelled_out(options["padding"], dimensions)
    spatial = [1 + more for more in draw(spatial_slack(dimensions))]
    usual = [(n - 1) * s + v - 2 * p for n, s, v, p in zip(spatial, steps, k, pads, strict=True)]
    if draw(st.booleans()):
        usual = [size + draw(st.integers(1 - s, s - 1)) for size, s in zip(usual, steps, strict=True)]
        options["output_size"] = draw(st.sampled_from((usual, tuple(usual), [7, 7, *usual])))
    assume(all(size > 0 for size in usual) and math.prod(usual) >= math.prod(spatial))
    x = image(draw, spatial, ("normal", "infinite"))
    generator = torch.Generator().manual_seed(draw(seeds))
    order = torch.rand(*x.shape[:-dimensions], math.prod(usual), generator=generator).argsort(-1)
    return x, placed(draw, order[..., : math.prod(spatial)].reshape(x.shape), dimensions), options


@pytest.mark.parametrize("dimensions", (1, 2, 3))
@given(data=st.data())
@times(2)
def test_max_unpool(dimensions: int, data: st.DataObject) -> None:
    x, indices, options = data.draw(unpool_arguments(dimensions))
    parity(*both(f"max_unpool{dimensions}d", **options), x, indices, terms=1, linear=True)
