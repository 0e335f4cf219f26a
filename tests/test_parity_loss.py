"""Losses against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import INF, NAN, arranged, layouts, normal, parity, seeds, special, times
from torch import Tensor

from torchbp.nn import functional as F

reductions = st.sampled_from(("mean", "sum", "none"))


@st.composite
def class_arguments(draw: st.DrawFn, smoothing: bool) -> dict[str, Any]:
    """Draw scores (C) or (N, C, *extra), and class indices or probabilities."""
    classes, seed = draw(st.integers(1, 5)), draw(seeds)
    dtype = draw(st.sampled_from((torch.float64, torch.float32)))
    unbatched = draw(st.integers(0, 4)) == 0
    lead = [] if unbatched else [draw(st.integers(1, 4))]
    extra = [] if unbatched else draw(st.lists(st.integers(1, 3), max_size=2))
    x = normal([*lead, classes, *extra], seed, dtype) * 2
    x = arranged(special(x, seed, draw(st.sampled_from(([], [], [-INF], [NAN]))), 0.15), draw(layouts))
    options: dict[str, Any] = {"reduction": draw(reductions)}
    if draw(st.booleans()):
        options["weight"] = normal([classes], seed + 5, dtype).abs() + 0.1
    if smoothing and draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from((0.0, 0.1, 1.0)))
    if smoothing and draw(st.integers(0, 2)) == 0:
        target = torch.softmax(normal(x.shape, seed + 6), 0 if unbatched else 1).to(dtype)
    else:
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(classes, (*lead, *extra), generator=generator)
        ignored = draw(st.sampled_from((None, -100, -3, 0)))
        if ignored is not None:
            options["ignore_index"] = ignored
            target = special(target, seed, [ignored], 0.3)
    return {"x": x, "target": target, "options": options, "seed": seed}


@pytest.mark.parametrize("name", ("nll_loss", "cross_entropy"))
@given(st.data())
@times(3)
def test_class_loss(name: str, data: st.DataObject) -> None:
    arguments = data.draw(class_arguments(smoothing=name == "cross_entropy"))
    options = arguments["options"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, target: Tensor) -> Tensor:
            cast = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
            return function(x, target, **cast)

        return call

    mine, theirs = of(getattr(F, name)), of(getattr(builtin, name))
    x = arguments["x"]
    parity(mine, theirs, x, arguments["target"], terms=4 * x.numel(), seed=arguments["seed"])
