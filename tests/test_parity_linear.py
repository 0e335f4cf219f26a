"""Linear and bilinear layers against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, dtypes, layouts, normal, parity, seeds, sizes, times

from torchbp.nn import functional as F


@st.composite
def linear_arguments(draw: st.DrawFn) -> dict[str, Any]:
    inputs, outputs = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    vector = draw(st.integers(0, 4)) == 0
    lead = draw(st.lists(st.integers(0, 3), max_size=3))
    seed, dtype = draw(seeds), draw(dtypes)
    x = arranged(normal([*lead, inputs], seed, dtype), draw(layouts))
    weight_shape = [inputs] if vector else [outputs, inputs]
    w = arranged(normal(weight_shape, seed + 3, dtype), draw(layouts))
    # To a matrix times a vector the built-in adds no bias.
    biased = draw(st.booleans()) and not (vector and len(lead) == 1)
    b = normal(() if vector else (outputs,), seed + 4, dtype) if biased else None
    return {"tensors": (x, w, b), "terms": max(inputs, outputs, math.prod(lead)), "seed": seed}


@given(linear_arguments())
@times(1.5)
def test_linear(arguments: dict[str, Any]) -> None:
    parity(F.linear, builtin.linear, *arguments.pop("tensors"), linear=True, **arguments)


@st.composite
def bilinear_arguments(draw: st.DrawFn) -> dict[str, Any]:
    one, two, outputs = draw(sizes), draw(sizes), draw(sizes)
    lead = draw(st.lists(st.integers(0, 3), max_size=2))
    seed, dtype = draw(seeds), draw(dtypes)
    shapes = ([*lead, one], [*lead, two], [outputs, one, two])
    tensors = [arranged(normal(s, seed + i, dtype), draw(layouts)) for i, s in enumerate(shapes)]
    b = normal((outputs,), seed + 4, dtype) if draw(st.booleans()) else None
    return {"tensors": (*tensors, b), "terms": max(one * two, outputs * 4, math.prod(lead)), "seed": seed}


@given(bilinear_arguments())
@times(1)
def test_bilinear(arguments: dict[str, Any]) -> None:
    parity(F.bilinear, builtin.bilinear, *arguments.pop("tensors"), linear=True, **arguments)
