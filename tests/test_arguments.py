"""Arguments as they come, valid and invalid, to every convolution and pool and to the built-in.

Either both return, then the same values and gradients, or both raise the same exception type, ours with a
message that names an argument. What torchbp does otherwise on purpose stands in differences.py.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as builtin
from differences import cast, differences, ints, several_writers
from hypothesis import assume, given
from hypothesis import strategies as st
from parity import holds_input, normal, set_seed, times
from torch import Tensor

from torchbp.nn import functional as F

FAMILIES = {
    "conv": (1, 2, 3),
    "conv_transpose": (1, 2, 3),
    "max_pool": (1, 2, 3),
    "avg_pool": (1, 2, 3),
    "lp_pool": (1, 2, 3),
    "adaptive_avg_pool": (1, 2, 3),
    "adaptive_max_pool": (1, 2, 3),
    "fractional_max_pool": (2, 3),
    "max_unpool": (1, 2, 3),
}
NAMES = [f"{family}{n}d" for family, dimensions in FAMILIES.items() for n in dimensions]


def rarely(chance: int) -> st.SearchStrategy[bool]:
    """Return True once in so many draws."""
    return st.integers(1, chance).map(lambda n: n == chance)


# --------------------------------------------------------------------------------------------------
# Arguments that are not what they should be

ODD = (None, True, False, "same", "valid", "2", "", 2.0, 0.5, math.nan, (), [], (None, 1), [1, 2.0], ["a"], 1j)
ODD_SIZES = st.sampled_from((*ODD, np.int64(2), np.float32(2), 2**63, -(2**63) - 1, {1, 2}, range(2), (2**63, 1)))
small = st.integers(-1, 4)
any_sizes = st.lists(small, max_size=4) | st.lists(small, max_size=4).map(tuple) | small | ODD_SIZES
any_flag = st.booleans() | st.sampled_from((None, 0, 1, 2.0, "yes", (True,), np.bool_(True)))
any_number = st.sampled_from((0, 1, 2, 3, -1, 2.5, 0.5, math.inf, -math.inf, math.nan, True, None, "2", 1j, (2,)))
any_ratio = st.sampled_from((0.5, 0.7, 1.0, 1.5, 0.0, -0.5, 1, None, "a", math.inf)) | st.lists(
    st.sampled_from((0.5, 0.9, 1.0, 0.0, 2.0, None)), max_size=4
).map(tuple)
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex128)


@st.composite
def any_tensor(draw: st.DrawFn, tensor: Tensor) -> Any:
    """Draw something else: no tensor, or one of another dtype, rank or size."""
    kind = draw(st.sampled_from(("dtype", "rank", "size", "empty", "other")))
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from(DTYPES)))
    if kind == "rank":
        more, axis = draw(st.booleans()), draw(st.integers(0, tensor.dim() - 1))
        return tensor.unsqueeze(axis) if more else tensor.select(axis, 0) if tensor.shape[axis] else tensor.sum(axis)
    if kind == "other":
        return draw(st.sampled_from((None, [1.0], 1.0, "x", np.ones((2, 2, 4)))))
    axis = draw(st.integers(0, tensor.dim() - 1))
    size = 0 if kind == "empty" else draw(st.integers(1, 5))
    index = torch.arange(size) % max(1, tensor.shape[axis])
    if not tensor.shape[axis]:
        return tensor
    return tensor.index_select(axis, index)


# --------------------------------------------------------------------------------------------------
# Calls


def sizes(dimensions: int, low: int, high: int) -> st.SearchStrategy[Any]:
    one = st.integers(low, high)
    return one | st.tuples(*[one] * dimensions) | st.lists(one, min_size=dimensions, max_size=dimensions)


@st.composite
def usual(draw: st.DrawFn, family: str, n: int) -> dict[str, Any]:
    """Draw arguments that mostly fit."""
    seed = draw(st.integers(0, 99))
    lead = draw(st.sampled_from(((2,), (2,), (1,), (0,), ())))
    given: dict[str, Any] = {}
    if family.startswith("conv"):
        groups = draw(st.sampled_from((1, 1, 2, 3)))
        one, other = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        kernel = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
        spatial = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
        shape = (groups * one, other) if "transpose" in family else (groups * other, one)
        given["input"] = normal((*lead, groups * one, *spatial), seed)
        given["weight"] = normal((*shape, *kernel), seed + 1)
        given["bias"] = draw(st.sampled_from((None, normal((groups * other,), seed + 2))))
        options = {"stride": sizes(n, 1, 3), "dilation": sizes(n, 1, 2), "padding": sizes(n, 0, 2)}
        if "transpose" in family:
            options["output_padding"] = sizes(n, 0, 2)
        else:
            options["padding"] |= st.sampled_from(("same", "valid"))
        given["groups"] = groups
        return given | {name: draw(strategy) for name, strategy in options.items() if draw(st.booleans())}
    channels = draw(st.integers(1, 3))
    spatial = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    x = normal((*lead, channels, *spatial), seed)
    given["input"] = x.abs() + 0.1 if family == "lp_pool" else x
    if family.startswith("adaptive"):
        given["output_size"] = draw(sizes(n, 0, 5) | st.tuples(*[st.none() | st.integers(1, 5)] * n))
        flags = ("return_indices",) if "max" in family else ()
        return given | {name: draw(st.booleans()) for name in flags}
    given["kernel_size"] = draw(sizes(n, 1, 3))
    if family == "fractional_max_pool":
        option = draw(st.sampled_from(("output_size", "output_ratio")))
        given[option] = draw(sizes(n, 1, 4) if option == "output_size" else st.tuples(*[st.floats(0.2, 0.9)] * n))
        given["return_indices"] = draw(st.booleans())
        generator = torch.Generator().manual_seed(seed)
        samples = torch.rand(lead[0] if lead else 1, channels, n, generator=generator, dtype=torch.float64)
        return given | {"_random_samples": draw(st.sampled_from((None, samples)))}
    options = {"stride": st.none() | sizes(n, 1, 3)}
    if family == "lp_pool":
        given["norm_type"] = draw(st.sampled_from((1, 2.0, 3, 0.5)))
        options["ceil_mode"] = st.booleans()
    elif family == "max_unpool":
        options["padding"] = sizes(n, 0, 1)
        # No place twice: of several writers the built-in has a wrong gradient.
        generator = torch.Generator().manual_seed(seed)
        places = torch.rand(*lead, channels, math.prod(spatial), generator=generator).argsort(-1)
        given["indices"] = places.reshape(x.shape) + draw(st.sampled_from((0, 0, 0, 1, -1)))
        options["output_size"] = st.none() | st.lists(st.integers(1, 9), min_size=n, max_size=n)
    else:
        options |= {"padding": sizes(n, 0, 2), "ceil_mode": st.booleans()}
        if family == "max_pool":
            options |= {"dilation": sizes(n, 1, 2), "return_indices": st.booleans()}
        else:
            options["count_include_pad"] = st.booleans()
            if n > 1:
                options["divisor_override"] = st.none() | st.sampled_from((1, 2, -3))
    return given | {name: draw(strategy) for name, strategy in options.items() if draw(st.booleans())}


def anything(name: str) -> st.SearchStrategy[Any]:
    """Return what may stand for an argument that is no tensor."""
    if name in ("ceil_mode", "count_include_pad", "return_indices"):
        return any_flag
    return {"norm_type": any_number, "output_ratio": any_ratio}.get(name, any_sizes)


@dataclass
class Call:
    """Arguments of a function, and which of them were put in place of ones that fit."""

    name: str
    fitting: dict[str, Any]
    spoilt: dict[str, Any]

    @property
    def given(self) -> dict[str, Any]:
        return self.fitting | self.spoilt

    def __repr__(self) -> str:
        def short(value: Any) -> str:
            return f"{str(value.dtype)[6:]}{list(value.shape)}" if isinstance(value, Tensor) else repr(value)

        listed = ", ".join(f"{k}={short(v)}" for k, v in self.given.items())
        return f"{self.name}({listed}), changed: {', '.join(self.spoilt) or 'nothing'}"


@st.composite
def calls(draw: st.DrawFn, name: str) -> Call:
    """Draw arguments of which none, one or a few are spoilt, those of several only if the others fit."""
    given = draw(usual(name[:-2], int(name[-2])))
    spoilt: dict[str, Any] = {}
    names = list(inspect.signature(getattr(F, name)).parameters)
    for which in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        if which in ("input", "weight", "bias", "indices", "_random_samples"):
            value = given.get(which)
            spoilt[which] = draw(any_tensor(value if isinstance(value, Tensor) else normal((2,), 3)))
        else:
            spoilt[which] = draw(anything(which))
    if draw(rarely(10)):
        tensors = {k: v for k, v in (given | spoilt).items() if isinstance(v, Tensor) and k != "indices"}
        spoilt |= cast(tensors, draw(st.sampled_from(DTYPES)))
    assume(not spoilt or truth(name, given)[0] is None)
    return Call(name, given, spoilt)


def safe(name: str, given: dict[str, Any]) -> bool:
    """Tell whether the built-in neither crashes nor reads or writes out of bounds."""
    n, x = int(name[-2]), given["input"]
    weight, samples = given.get("weight"), given.get("_random_samples")
    if isinstance(weight, Tensor) and 0 in weight.shape:  # divides by a kernel's size
        return False
    if isinstance(samples, Tensor) and samples.is_floating_point() and samples.numel():
        if not (0 <= samples.min() and samples.max() < 1):  # a window may begin before or behind the input
            return False
    if name.startswith("max_pool") and isinstance(x, Tensor) and x.dim() > n:  # a window without any element
        kernel, dilation = ints(given["kernel_size"], n), ints(given.get("dilation", 1), n)
        stride, padding = ints(given.get("stride") or given["kernel_size"], n), ints(given.get("padding", 0), n)
        if kernel and dilation and stride and padding and min(*kernel, *stride, *dilation) > 0:
            lists = zip(x.shape[-n:], kernel, stride, padding, dilation, strict=True)
            return all(holds_input(*one, bool(given.get("ceil_mode", False))) for one in lists)
    return True


# --------------------------------------------------------------------------------------------------
# Outcomes


@dataclass
class Outcome:
    """What a call did: an exception, or results and the gradients of the operands."""

    error: Exception | None = None
    results: tuple[Any, ...] = ()
    gradients: tuple[Tensor | None, ...] | None = None

    @property
    def kind(self) -> type[Exception] | None:
        return None if self.error is None else type(self.error)


def outcome(function: Callable[..., Any], given: dict[str, Any]) -> Outcome:
    leaves = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in given.items()}
    wanted = [
        v.requires_grad_()
        for k, v in leaves.items()
        if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) and k != "_random_samples"
    ]
    set_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = function(**leaves)
        except Exception as error:
            return Outcome(error)
        results = made if isinstance(made, tuple) else (made,)
        if not wanted or not results[0].requires_grad:
            return Outcome(None, results)
        cotangent = torch.linspace(-1, 1, results[0].numel(), dtype=torch.float64).reshape(results[0].shape)
        try:
            gradients = torch.autograd.grad(results[0], wanted, cotangent.to(results[0].dtype), allow_unused=True)
        except Exception:
            gradients = None
    return Outcome(None, results, gradients)


def same(what: str, mine: Sequence[Any], theirs: Sequence[Any]) -> None:
    assert len(mine) == len(theirs), what
    for a, b in zip(mine, theirs, strict=True):
        if a is None or b is None:
            assert (a is None or not a.any()) and (b is None or not b.any()), what
            continue
        assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {a.dtype} {a.shape}, expected {b.dtype} {b.shape}"
        if a.dtype in (torch.float64, torch.complex128, torch.int64):  # narrower ones are compared in test_parity_*
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True, msg=lambda m: f"{what}: {m}")


def truth(name: str, given: dict[str, Any]) -> tuple[type[Exception] | None, Outcome | None]:
    """Return what ours should raise, if anything, and the results to compare with, if there are any."""
    found = differences(name, given)
    for difference in found:
        if difference.ours is not None:
            return difference.ours, None
        if difference.instead is not None:
            given = dict(difference.instead(name, given))
    assume(safe(name, given))
    theirs = outcome(getattr(builtin, name), given)
    return theirs.kind, theirs if all(difference.values for difference in found) else None


def errors(call: Call) -> set[type[Exception] | None]:
    """Return what may be raised for several wrong arguments, of which any one may be found first."""
    kinds = {truth(call.name, call.fitting | {key: value})[0] for key, value in call.spoilt.items()}
    kinds |= {difference.ours for difference in differences(call.name, call.given)}
    if safe(call.name, call.given):
        kinds.add(outcome(getattr(builtin, call.name), call.given).kind)
    return kinds


def compare(call: Call) -> None:
    wanted, theirs = truth(call.name, call.given)
    mine = outcome(getattr(F, call.name), call.given)
    if mine.kind is not wanted:
        assert None not in (mine.kind, wanted) and len(call.spoilt) > 1 and mine.kind in errors(call), (
            f"{call}: {mine.error!r}; expected: {theirs.error if theirs else wanted!r}"
        )
    if mine.error is not None:
        names = "|".join(inspect.signature(getattr(F, call.name)).parameters)
        assert re.search(rf"\b({names})\b", str(mine.error)), f"{call}: {mine.error!r} names no argument"
    elif theirs is not None:
        same(f"{call}: value", mine.results, theirs.results)
        if theirs.gradients is not None and not several_writers(call.name, call.given):
            assert mine.gradients is not None, f"{call}: no gradients"
            same(f"{call}: gradient", mine.gradients, theirs.gradients)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@times(1)
def test_arguments(name: str, data: st.DataObject) -> None:
    compare(data.draw(calls(name)))
