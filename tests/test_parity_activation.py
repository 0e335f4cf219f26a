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
from parity import DTYPES, INF, NAN, arranged, dtypes, layouts, normal, parity, seeds, shapes, special, times
from torch import Tensor

from torchbp.nn import functional as F


def scaled_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x * (2 / 3)) * 1.7159


ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], dict[str, st.SearchStrategy[Any]]]] = {
    "relu": (F.relu, builtin.relu, {}),
    "leaky_relu": (F.leaky_relu, builtin.leaky_relu, {"negative_slope": st.sampled_from((0.01, 0.0, 0.3, -0.5, 2.0))}),
    "sigmoid": (F.sigmoid, torch.sigmoid, {}),
    "tanh": (F.tanh, torch.tanh, {}),
    "scaled_tanh": (F.scaled_tanh, scaled_tanh, {}),
    "softplus": (
        F.softplus,
        builtin.softplus,
        {"beta": st.sampled_from((1, 0.5, 2.0)), "threshold": st.sampled_from((20, 1.0, 0.0))},
    ),
    "gelu": (F.gelu, builtin.gelu, {"approximate": st.sampled_from(("none", "tanh"))}),
    "silu": (F.silu, builtin.silu, {}),
}


@st.composite
def activation_arguments(draw: st.DrawFn, name: str) -> tuple[Tensor, dict[str, Any], int]:
    options = {key: draw(strategy) for key, strategy in ACTIVATIONS[name][2].items() if draw(st.booleans())}
    shape = draw(shapes)
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 5, 30)))
    # The built-in float32 gelu of infinity is NaN where its vector code runs, and infinity where it does not.
    infinite = [] if name == "gelu" else [INF, -INF]
    specials = draw(st.sampled_from(([], [0.0, -0.0], infinite, [NAN])))
    return arranged(special(x, seed, specials, 0.3), draw(layouts)), options, seed


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(st.data())
@times(1)
def test_activation(name: str, data: st.DataObject) -> None:
    x, options, seed = data.draw(activation_arguments(name))
    mine, theirs, _ = ACTIVATIONS[name]
    parity(partial(mine, **options), partial(theirs, **options), x, terms=64 if name == "gelu" else 4, seed=seed)


@st.composite
def softmax_arguments(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any], int]:
    shape = draw(shapes)
    dimensions = max(1, len(shape))
    options: dict[str, Any] = {"dim": draw(st.integers(-dimensions, dimensions - 1))}
    if draw(st.booleans()):
        options["dtype"] = draw(st.sampled_from((None, *DTYPES)))
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 20)))
    specials = draw(st.sampled_from(([], [-INF], [NAN])))
    return arranged(special(x, seed, specials, 0.2), draw(layouts)), options, seed


@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
@given(softmax_arguments())
@times(1.5)
def test_softmax(name: str, arguments: tuple[Tensor, dict[str, Any], int]) -> None:
    x, options, seed = arguments
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
