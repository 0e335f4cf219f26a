"""Normalisation against the built-in, for arguments drawn by Hypothesis; see parity.py."""

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
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from torchbp import nn
from torchbp.nn import functional as F

# The last two values are a group whose gradient is right to 3e-13 of 0.35, the built-in's in float64 to 8e-13.
NEARLY_EQUAL = normal((2, 4), 2) * 2 + 1


def roundings_of(groups: Tensor, eps: float) -> float:
    """Return how many units of rounding the results of a norm of groups, the rows, may be off.

    Sums run along rows, those of the parameters' gradients along columns; each term is centred, scaled and multiplied
    twice, forward and backward. In deviations of its group a unit of rounding of a value is larger, and a gradient is
    a difference of terms as large as one over the deviation.
    """
    deviations = torch.var(groups.double(), 1, correction=0).add(eps).sqrt()
    lost = groups.abs().amax(1) / deviations / deviations.clamp(max=1)
    return 16 * max(groups.shape) * max(1.0, float(lost.max()))


def with_statistics(draw: st.DrawFn, own: str, shape: list[int]) -> dict[str, Any]:
    """Draw the arguments of a norm with running statistics; ``own`` is its option to use those of the input."""
    uses_own, affine, tracked = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    channels, seed, dtype = shape[1], draw(seeds), draw(st.sampled_from((torch.float64, torch.float32)))
    x = arranged(normal(shape, seed, dtype) * 2 + 1, draw(layouts))
    w, b = (normal([channels], seed + i, dtype) if affine else None for i in (3, 4))
    statistics = None
    if tracked or not uses_own:
        statistics = (normal([channels], seed + 5, dtype), normal([channels], seed + 6, dtype).abs() + 0.5)
    options = {
        own: uses_own,
        "momentum": draw(st.sampled_from((0.1, 0.0, 1.0, 0.37))),
        "eps": draw(st.sampled_from((1e-5, 1e-2))),
    }
    return {"tensors": (x, w, b), "statistics": statistics, "options": options, "seed": seed}


def check_with_statistics(name: str, arguments: dict[str, Any], groups: Tensor) -> None:
    """Compare a norm of groups, the rows, with the built-in one; also what it leaves in the running statistics."""
    statistics, options, (x, w, b) = arguments["statistics"], arguments["options"], arguments["tensors"]
    left: dict[Any, tuple[Tensor | None, ...]] = {}

    def of(place: Any) -> Callable[..., Tensor]:
        def call(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
            left[place] = tuple(t.to(x.dtype).clone() for t in statistics) if statistics else (None, None)
            return getattr(place, name)(x, *left[place], w, b, **options)

        return call

    parity(of(F), of(builtin), x, w, b, terms=roundings_of(groups, options["eps"]), seed=arguments["seed"])
    if statistics:
        of(builtin)(*wide((x, w, b)))
        of(F)(x, w, b)
        # The terms that are added: the old mean or variance, and a mean of the inputs or of their squares.
        for actual, truth, old, power in zip(left[F], left[builtin], statistics, (1, 2), strict=True):
            largest = max(largest_of(old), largest_of(x) ** power)
            near("running statistics", actual, truth, (groups.shape[1] + 3) * torch.finfo(x.dtype).eps * largest)


@st.composite
def batch_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    spatial = draw(st.lists(sizes, max_size=3) | st.lists(slack.map(lambda n: n + 1), max_size=2))
    return with_statistics(draw, "training", [draw(st.integers(2, 4)), draw(channel_counts), *spatial])


@given(batch_norm_arguments())
@times(3)
def test_batch_norm(arguments: dict[str, Any]) -> None:
    check_with_statistics("batch_norm", arguments, arguments["tensors"][0].movedim(1, 0).flatten(1))


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
    terms = roundings_of(x.reshape(-1, math.prod(arguments["shape"])), arguments["eps"])
    parity(*functions, x, w, b, terms=terms, seed=arguments["seed"])


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
    terms = roundings_of(x.reshape(len(x) * arguments["groups"], -1), arguments["eps"])
    parity(*functions, x, w, b, terms=terms, seed=arguments["seed"])


@st.composite
def instance_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    spatial = draw(st.lists(slack.map(lambda n: n + 2), min_size=1, max_size=3))
    return with_statistics(draw, "use_input_stats", [draw(st.integers(1, 4)), draw(channel_counts), *spatial])


@given(instance_norm_arguments())
@times(2)
def test_instance_norm(arguments: dict[str, Any]) -> None:
    check_with_statistics("instance_norm", arguments, arguments["tensors"][0].flatten(2).flatten(0, 1))


@st.composite
def rms_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    lead = draw(st.lists(sizes, max_size=3))
    shape = draw(st.lists(sizes, min_size=1, max_size=2) | st.sampled_from(([17], [33, 3], [130])))
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    x = arranged(normal([*lead, *shape], seed, dtype) * 2 + 1, draw(layouts))
    w = normal(shape, seed + 3, dtype) if draw(st.booleans()) else None
    return {"tensors": (x, w), "shape": shape, "eps": draw(st.sampled_from((1e-5, 0.3))), "seed": seed}


@given(rms_norm_arguments())
@times(2)
def test_rms_norm(arguments: dict[str, Any]) -> None:
    x, w = arguments["tensors"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, w: function(x, arguments["shape"], w, arguments["eps"])

    # Where a row is one number, its gradient is a difference of nearly equal terms.
    rows = x.reshape(-1, math.prod(arguments["shape"]))
    condition = max(1.0, float(rows.double().square().mean(1).max()) / arguments["eps"]) if rows.shape[1] == 1 else 1
    parity(
        of(F.rms_norm),
        of(builtin.rms_norm),
        x,
        w,
        terms=4 * max(rows.shape),
        seed=arguments["seed"],
        condition=condition,
        roundings=6,
    )


@pytest.mark.parametrize("kind", (torch.complex128, torch.float64))
def test_rms_norm_of_complex_numbers(kind: torch.dtype) -> None:
    """Also beside a real weight, whose gradient is real."""
    given = [normal(shape, seed) for seed, shape in enumerate(((3, 5), (3, 5), (5,), (5,), (3, 5), (3, 5)))]
    x, w = torch.complex(*given[:2]).requires_grad_(), torch.complex(*given[2:4]).real.to(kind).requires_grad_()
    g = torch.complex(*given[4:])
    found = []
    for place in (F, builtin):
        y = place.rms_norm(x, (5,), w, 0.1)
        plain = torch.autograd.grad(y, (x, w), g, retain_graph=True)
        first = torch.autograd.grad(y, (x, w), g, create_graph=True)
        second = torch.autograd.grad(sum(t.abs().square().sum() for t in first), (x, w))
        found.append([y, *plain, *first, *second])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@st.composite
def local_response_arguments(draw: st.DrawFn) -> dict[str, Any]:
    shape = [draw(st.integers(1, 3)), draw(channel_counts), *draw(st.lists(sizes, min_size=1, max_size=3))]
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32)))
    options = {
        "size": draw(st.integers(1, 7)),
        "alpha": draw(st.sampled_from((1e-4, 0.5, 2))),
        "beta": draw(st.sampled_from((0.75, 0.5, 0.0, 1.3))),
        "k": draw(st.sampled_from((1.0, 2.0))),
    }
    # The built-in views the last two dimensions of a volume as one.
    layout = draw(layouts if len(shape) < 5 else st.sampled_from(("contiguous", "channels_last")))
    return {"x": arranged(normal(shape, seed, dtype), layout), "options": options, "seed": seed}


@given(local_response_arguments())
@times(2)
def test_local_response_norm(arguments: dict[str, Any]) -> None:
    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: function(x, **arguments["options"])

    parity(of(F.local_response_norm), of(builtin.local_response_norm), arguments["x"], terms=50, seed=arguments["seed"])


@st.composite
def normalize_arguments(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(sizes, min_size=1, max_size=4) | st.sampled_from(([3, 40], [2, 130])))
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32)))
    dims = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
    options = {
        "p": draw(st.sampled_from((2.0, 1, 3, 1.5, 0.5, math.inf, 0, -math.inf, -1.0, 2))),
        "dim": draw(st.integers(-len(shape), len(shape) - 1) | dims.map(tuple) | st.none()),
        "eps": draw(st.sampled_from((1e-12, 0.5))),
    }
    x = arranged(normal(shape, seed, dtype), draw(layouts))
    return {"x": x + 0.25 * x.sign(), "options": options, "seed": seed}


@given(normalize_arguments())
@times(2)
def test_normalize(arguments: dict[str, Any]) -> None:
    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: function(x, **arguments["options"])

    x = arguments["x"]
    parity(of(F.normalize), of(builtin.normalize), x, terms=20 * x.numel(), seed=arguments["seed"])


@pytest.mark.parametrize("p", (0, 0.5, 1, 1.5, 2, 3, math.inf, -1.0))
def test_normalize_of_zeros_and_ties(p: float) -> None:
    x = torch.tensor([[0.0, 0, 0], [0.0, 2, -2], [1.0, 1, 0]], dtype=torch.float64)
    for values in (x, x + 1j * x.roll(1, 1)):
        found = []
        for place in (F, builtin):
            leaf = values.clone().requires_grad_()
            y = place.normalize(leaf, p, 1, 1e-3)
            found.append([y.detach(), *torch.autograd.grad(y.abs().sum(), leaf)])
        torch.testing.assert_close(*found, equal_nan=True)


def test_nothing_moves_no_running_statistics() -> None:
    x = torch.zeros(0, 3, 4)
    for place, left in ((F, [1.0] * 3), (builtin, [math.nan] * 3)):
        mean, variance = torch.ones(3), torch.ones(3)
        place.instance_norm(x, mean, variance)
        torch.testing.assert_close(mean, torch.tensor(left), equal_nan=True)
        torch.testing.assert_close(variance, torch.tensor(left), equal_nan=True)


def test_into_a_given_tensor() -> None:
    x, out = normal((2, 3), 1), torch.empty(2, 3, dtype=torch.float64)
    assert F.normalize(x, out=out) is out and torch.equal(out, builtin.normalize(x))
    with pytest.raises(RuntimeError, match="out="):
        F.normalize(x.clone().requires_grad_(), out=out)


def test_cross_map_is_the_definition_where_the_built_in_is_not() -> None:
    """PyTorch's never drops the first channel from a window, and its gradient is that of neither map."""
    x = normal((2, 8, 2, 2), 5)
    for size in (3, 4, 5):
        mine, theirs = (place.CrossMapLRN2d(size, 0.8, 0.7, 1.5) for place in (nn, torch.nn))
        half = (size - 1) // 2
        near = torch.ones(8, 8, dtype=x.dtype).tril(half).triu(-half)
        kept = near.clone()
        kept[half + 1 :, 0] = 1
        for layer, windows in ((mine, near), (theirs, kept)):
            squares = torch.einsum("ck,nkhw->nchw", windows, x * x)
            torch.testing.assert_close(layer(x), x * (1.5 + 0.8 / size * squares) ** -0.7)
        leaf = x.clone().requires_grad_()
        assert gradcheck(mine, (leaf,)) and gradgradcheck(mine, (leaf[:1, :, :1, :1],))
        with pytest.raises(GradcheckError):
            gradcheck(theirs, (leaf,))
        few = normal((2, half + 1, 2, 2), 6)
        torch.testing.assert_close(mine(few), theirs(few))
    with pytest.raises(ValueError, match=r"input must have shape .*\(2, 8, 2\)"):
        mine(x[..., 0])


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


@pytest.mark.parametrize("name", ("batch_norm", "instance_norm", "group_norm"))
def test_an_infinite_weight(name: str) -> None:
    """inf (x - mean) has a value; the built-in's inf x - inf mean, where both have one sign, has none."""
    x, w = normal((3, 2, 40), 4) + 0.5, torch.full((2,), math.inf, dtype=torch.float64)
    found = []
    for place in (F, builtin):
        if name == "group_norm":
            found.append(place.group_norm(x, 1, w))
        else:
            options = {"training": True} if name == "batch_norm" else {}
            found.append(getattr(place, name)(x, None, None, w, **options))
    assert not found[0].isnan().any() and found[1].isnan().any()
    assert torch.equal(found[0][~found[1].isnan()], found[1][~found[1].isnan()])
