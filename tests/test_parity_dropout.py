"""Dropout against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, dtypes, layouts, mostly, normal, parity, seeds, set_seed, times
from torch import Tensor

from torchbp.nn import functional as F

DIMENSIONS = {
    "dropout": (0, 1, 2, 3, 4),
    "dropout1d": (2, 3),
    "dropout2d": (4,),
    "dropout3d": (4, 5),
    "alpha_dropout": (0, 1, 2, 3, 4),
    "feature_alpha_dropout": (2, 3, 4),
}


@pytest.mark.parametrize("name", DIMENSIONS)
@given(st.data())
@times(0.5)
def test_dropout(name: str, data: st.DataObject) -> None:
    """The draws are the built-in's for the same seed, so values and gradients are equal."""
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    dimensions = data.draw(st.sampled_from(DIMENSIONS[name]))
    shape = data.draw(st.lists(mostly(st.integers(1, 6), st.just(0)), min_size=dimensions, max_size=dimensions))
    x = arranged(normal(shape, seed, dtype), data.draw(layouts))
    p = data.draw(st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0)))
    training, inplace = data.draw(st.integers(0, 4)) > 0, data.draw(st.booleans())
    states = []

    def seeded(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            set_seed(seed)
            y = function(x + 0 if inplace else x, p, training, inplace)
            states.append(torch.get_rng_state())
            return y

        return call

    mine, theirs = (seeded(getattr(place, name)) for place in (F, builtin))
    shifted = "alpha" in name
    parity(mine, theirs, x, terms=4 if shifted else 1, linear=not shifted, seed=seed, keep_layout=True)
    assert all(torch.equal(state, states[0]) for state in states), "other numbers were drawn"
