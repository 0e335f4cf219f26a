"""Dropout against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, dtypes, layouts, normal, parity, seeds, shapes, times
from torch import Tensor

from torchbp.nn import functional as F


@given(st.data())
@times(1.5)
def test_dropout(data: st.DataObject) -> None:
    """The draws are the built-in's for the same seed, so values and gradients are equal."""
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    shape = data.draw(shapes)
    x = arranged(normal(shape, seed, dtype), data.draw(layouts))
    p = data.draw(st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0)))
    training = data.draw(st.integers(0, 4)) > 0

    def seeded(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return function(x, p, training)

        return call

    parity(seeded(F.dropout), seeded(builtin.dropout), x, terms=1, linear=True, seed=seed, keep_layout=True)
