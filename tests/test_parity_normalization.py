"""Batch, layer and group normalisation against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import assume, example, given
from hypothesis import strategies as st
from parity import arranged, channel_counts, largest_of, layouts, near, normal, parity, seeds, sizes, slack, times, wide
from torch import Tensor

from torchbp.nn import functional as F

# The last two values are a group whose gradient is right to 3e-13 of 0.35, the built-in's in float64 to 8e-13.
NEARLY_EQUAL = normal((2, 4), 2) * 2 + 1


def condition_of(groups: Tensor, eps: float) -> float:
    """Return how much larger a unit of rounding of a value is in deviations of its group, a row."""
    deviations = torch.var(groups.double(), 1, correction=0).add(eps).sqrt()
    return max(1.0, float((groups.abs().amax(1) / deviations).max()))


@st.composite
def batch_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    training, affine, tracked = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    channels = draw(channel_counts)
    spatial = draw(st.lists(sizes, max_size=3) | st.lists(slack.map(lambda n: n + 1), max_size=2))
    batch = draw(st.integers(2, 4))
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32)))
    x = arranged(normal([batch, channels, *spatial], seed, dtype) * 2 + 1, draw(layouts))
    w, b = (normal([channels], seed + i, dtype) if affine else None for i in (3, 4))
    statistics = None
    if tracked or not training:
        statistics = (normal([channels], seed + 5, dtype), normal([channels], seed + 6, dtype).abs() + 0.5)
    options = {
        "training": training,
        "momentum": draw(st.sampled_from((0.1, 0.0, 1.0, 0.37))),
        "eps": draw(st.sampled_from((1e-5, 1e-2))),
    }
    return {"tensors": (x, w, b), "statistics": statistics, "options": options, "seed": seed}


@given(batch_norm_arguments())
@times(3)
def test_batch_norm(arguments: dict[str, Any]) -> None:
    """Also what the call leaves in the running statistics."""
    statistics, options = arguments["statistics"], arguments["options"]
    left: dict[str, list[Tensor]] = {}

    def of(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
            mean, variance = (t.to(x.dtype).clone() for t in statistics) if statistics else (None, None)
            y = function(x, mean, variance, w, b, **options)
            if statistics:
                left[name] = [mean, variance]
            return y

        return call

    x, w, b = arguments["tensors"]
    condition = condition_of(x.movedim(1, 0).flatten(1), options["eps"])
    functions = of("mine", F.batch_norm), of("theirs", builtin.batch_norm)
    parity(*functions, x, w, b, terms=8 * x.numel(), seed=arguments["seed"], condition=condition)
    if statistics:
        of("theirs", builtin.batch_norm)(*wide((x, w, b)))
        of("mine", F.batch_norm)(x, w, b)
        # The terms that are added: the old mean or variance, and a mean of the inputs or of their squares.
        for actual, truth, old, power in zip(left["mine"], left["theirs"], statistics, (1, 2), strict=True):
            largest = max(largest_of(old), largest_of(x) ** power)
            near("running statistics", actual, truth, 8 * x.numel() * torch.finfo(x.dtype).eps * largest)


@st.composite
def layer_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    lead = draw(st.lists(sizes, max_size=3))
    shape = draw(st.lists(sizes, min_size=1, max_size=2) | st.sampled_from(([17], [33, 3], [130])))
    assume(math.prod(shape) > 1)  # the gradient of one value is a difference of equal terms; see below
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    x = arranged(normal([*lead, *shape], seed, dtype) * 2 + 1, draw(layouts))
    w, b = (normal(shape, seed + i, dtype) if draw(st.booleans()) else None for i in (3, 4))
    return {"tensors": (x, w, b), "shape": shape, "eps": draw(st.sampled_from((1e-5, 1e-2))), "seed": seed}


@given(layer_norm_arguments())
@times(3)
def test_layer_norm(arguments: dict[str, Any]) -> None:
    x, w, b = arguments["tensors"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, w, b: function(x, arguments["shape"], w, b, arguments["eps"])

    functions = of(F.layer_norm), of(builtin.layer_norm)
    condition = condition_of(x.reshape(-1, math.prod(arguments["shape"])), arguments["eps"])
    parity(*functions, x, w, b, terms=8 * x.numel(), seed=arguments["seed"], condition=condition)


@st.composite
def group_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    groups, channels = draw(st.integers(1, 4)), draw(st.sampled_from((1, 2, 3, 8)))
    spatial = draw(st.lists(sizes, max_size=3) | st.lists(slack.map(lambda n: n + 1), max_size=2))
    assume(channels * math.prod(spatial) > 1)
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    x = arranged(normal([draw(st.integers(2, 4)), groups * channels, *spatial], seed, dtype) * 2 + 1, draw(layouts))
    w, b = (normal([groups * channels], seed + i, dtype) if draw(st.booleans()) else None for i in (3, 4))
    b = b if w is not None else None  # the built-in fails in the gradient of a bias without a weight; see below
    return {"tensors": (x, w, b), "groups": groups, "eps": draw(st.sampled_from((1e-5, 1e-2))), "seed": seed}


@given(group_norm_arguments())
@example({"tensors": (NEARLY_EQUAL, None, None), "groups": 2, "eps": 1e-5, "seed": 2})
@times(3)
def test_group_norm(arguments: dict[str, Any]) -> None:
    x, w, b = arguments["tensors"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, w, b: function(x, arguments["groups"], w, b, arguments["eps"])

    functions = of(F.group_norm), of(builtin.group_norm)
    condition = condition_of(x.reshape(len(x) * arguments["groups"], -1), arguments["eps"])
    parity(*functions, x, w, b, terms=8 * x.numel(), seed=arguments["seed"], condition=condition)


def test_one_value_is_the_bias() -> None:
    x, w, b = (normal(shape, 3, torch.float64).requires_grad_() for shape in ((5, 3), (3,), (3,)))
    y = F.group_norm(x, 3, w, b)
    assert torch.equal(y, b.expand(5, 3))
    gx, gw, gb = torch.autograd.grad(y, (x, w, b), torch.ones_like(y))
    assert float(gx.abs().max()) < 1e-12 and not gw.any() and torch.equal(gb, torch.full((3,), 5.0).double())


def test_bias_without_a_weight() -> None:
    x, g = normal((2, 4, 3, 3), 1).requires_grad_(), normal((2, 4, 3, 3), 2)
    w, b = torch.ones(4, dtype=x.dtype), normal((4,), 3).requires_grad_()
    wanted = torch.autograd.grad(builtin.group_norm(x, 2, w, b), (x, b), g)
    found = torch.autograd.grad(F.group_norm(x, 2, None, b), (x, b), g)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match="device"):
        torch.autograd.grad(builtin.group_norm(x, 2, None, b), (x, b), g)
