"""Activations and softmax against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import DTYPES, INF, NAN, arranged, dtypes, layouts, normal, parity, seeds, set_seed, shapes, special, times
from torch import Tensor

from torchbp.nn import functional as F


def scaled_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x * (2 / 3)) * 1.7159


def some_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": some_of(0.01, 0.0, 0.3, -0.5, 2.0)},
    "rrelu": {"lower": some_of(0.0, 0.1, -0.5), "upper": some_of(0.35, 1.0)},
    "elu": {"alpha": some_of(1, 0.5, 0.0, -2.0)},
    "celu": {"alpha": some_of(1, 0.5, 4.0)},  # of other numbers PyTorch's float64 gradient has float32's digits
    "selu": {},
    "hardtanh": {"min_val": some_of(-1, -0.3, 0.1), "max_val": some_of(1.0, 0.1, 3)},
    "threshold": {"threshold": some_of(0, 0.1, -1.5), "value": some_of(0.1, -20, 1)},
    "hardshrink": {"lambd": some_of(0.5, 0, 1.3, -1)},
    "softshrink": {"lambd": some_of(0.5, 0, 1.3)},
    "hardsigmoid": {},
    "hardswish": {},
    "sigmoid": {},
    "logsigmoid": {},
    "tanh": {},
    "scaled_tanh": {},
    "tanhshrink": {},
    "softsign": {},
    "softplus": {"beta": some_of(1, 0.5, 2.0), "threshold": some_of(20, 1.0, 0.0)},
    "gelu": {"approximate": some_of("none", "tanh")},
    "silu": {},
    "mish": {},
}
REQUIRED = {"threshold", "value"}
# At NaN the built-in's derivative depends on whether its loop or its vector code runs, and so does ours.
UNCERTAIN = {"elu", "celu", "selu", "relu6", "hardtanh", "hardshrink", "softshrink", "hardswish"}
# At infinity it is NaN where ours is the limit, 0; of gelu and mish in one of the two.
INFINITE = {"gelu", "softsign", "mish"}


def pair_of(name: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    theirs = {"scaled_tanh": scaled_tanh, "sigmoid": torch.sigmoid, "tanh": torch.tanh}.get(name)
    return getattr(F, name), theirs or getattr(builtin, name)


@st.composite
def activation_arguments(draw: st.DrawFn, name: str) -> tuple[Tensor, dict[str, Any], int]:
    options = {k: draw(strategy) for k, strategy in OPTIONS[name].items() if k in REQUIRED or draw(st.booleans())}
    shape = draw(shapes)
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 5, 30)))
    infinite, nan = [] if name in INFINITE else [INF, -INF], [] if name in UNCERTAIN else [NAN]
    specials = draw(st.sampled_from(([], [0.0, -0.0], infinite, nan)))
    return arranged(special(x, seed, specials, 0.3), draw(layouts)), options, seed


@pytest.mark.parametrize("name", OPTIONS)
@given(st.data())
@times(0.4)
def test_activation(name: str, data: st.DataObject) -> None:
    x, options, seed = data.draw(activation_arguments(name))
    mine, theirs = (partial(function, **options) for function in pair_of(name))
    # PyTorch's hardsigmoid has float32's digits.
    terms = {"gelu": 64, "mish": 64, "hardsigmoid": 64 if x.dtype != torch.float64 else 2**29}.get(name, 4)
    parity(mine, theirs, x, terms=terms, seed=seed)


@given(st.data())
@times(0.5)
def test_rrelu_in_training(data: st.DataObject) -> None:
    """The draws are the built-in's for the same seed, so values and gradients are equal."""
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    x = arranged(normal(data.draw(shapes), seed, dtype), data.draw(layouts))
    lower, upper = data.draw(some_of(0.1, -0.5)), data.draw(some_of(0.35, 1.0))

    def seeded(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            set_seed(seed)
            return function(x, lower, upper, True)

        return call

    parity(seeded(F.rrelu), seeded(builtin.rrelu), x, terms=2, linear=False, seed=seed, keep_layout=True)


@given(st.data())
@times(0.5)
def test_prelu(data: st.DataObject) -> None:
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    shape = data.draw(shapes)
    x = special(normal(shape, seed, dtype), seed, data.draw(some_of([], [0.0, -0.0], [INF, -INF], [NAN])), 0.2)
    sizes = [(1,), (), *([(shape[1],)] if len(shape) > 1 else [])]
    weight = arranged(normal(data.draw(st.sampled_from(sizes)), seed + 1, dtype), data.draw(layouts))
    x = arranged(x, data.draw(layouts))
    parity(F.prelu, builtin.prelu, x, weight, terms=max(4, x.numel()), seed=seed)


@given(st.data())
@times(0.5)
def test_glu(data: st.DataObject) -> None:
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    shape[dim] *= 2
    x = special(normal(shape, seed, dtype) * 3, seed, data.draw(some_of([], [NAN], [0.0])), 0.2)
    mine, theirs = (partial(place.glu, dim=dim) for place in (F, builtin))
    parity(mine, theirs, arranged(x, data.draw(layouts)), terms=8, seed=seed)


@st.composite
def softmax_arguments(draw: st.DrawFn, name: str) -> tuple[Tensor, dict[str, Any], int]:
    shape = draw(shapes)
    dimensions = max(1, len(shape))
    options: dict[str, Any] = {"dim": draw(st.integers(-dimensions, dimensions - 1))}
    if draw(st.booleans()):
        options["dtype"] = draw(st.sampled_from((None, *DTYPES)))
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 20)))
    specials = draw(st.sampled_from(([], [INF if name == "softmin" else -INF], [NAN])))
    return arranged(special(x, seed, specials, 0.2), draw(layouts)), options, seed


@pytest.mark.parametrize("name", ("softmax", "softmin", "log_softmax"))
@given(st.data())
@times(1)
def test_softmax(name: str, data: st.DataObject) -> None:
    x, options, seed = data.draw(softmax_arguments(name))
    exact = {**options, "dtype": torch.float64}
    mine, theirs, narrow = (
        partial(getattr(F, name), **options),
        partial(getattr(builtin, name), **exact),
        partial(getattr(builtin, name), **options),
    )
    lowest = max((x.dtype, options.get("dtype") or x.dtype), key=lambda d: torch.finfo(d).eps)
    # Where the dtype argument is the coarser of the two it rounds what goes in and what comes out.
    factor = round(torch.finfo(lowest).eps / torch.finfo(x.dtype).eps) if lowest != x.dtype else 1
    parity(mine, theirs, x, terms=64 * factor, seed=seed, narrow=narrow)
