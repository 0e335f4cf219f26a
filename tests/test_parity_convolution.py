"""Convolutions of 1 to 3 dimensions, plain and transposed, against the built-in; see parity.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import (
    arranged,
    channel_counts,
    dtypes,
    layouts,
    normal,
    parity,
    per_dimension,
    seeds,
    sizes,
    some,
    spatial_slack,
    spelled_out,
    times,
)
from torch import Tensor

from torchbp.nn import functional as F
from torchbp.ops.registry import memory_format_of


@st.composite
def channels(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw the groups, and the channels on either side of one."""
    kind = draw(st.sampled_from(("full", "grouped", "depthwise", "multiplier")))
    if kind == "full":
        return 1, draw(channel_counts), draw(channel_counts)
    if kind == "grouped":
        return draw(st.integers(1, 3)), draw(sizes), draw(sizes)
    return draw(channel_counts), 1, 1 if kind == "depthwise" else draw(sizes)


@st.composite
def convolution_arguments(draw: st.DrawFn, dimensions: int, transposed: bool) -> dict[str, Any]:
    """Draw the operands and options of a convolution, or of a transposed one, that has an output."""
    groups, one, other = draw(channels())
    kernel = [draw(st.integers(1, 3)) for _ in range(dimensions)]
    options: dict[str, Any] = {"stride": draw(per_dimension(dimensions, 1, 4)), "groups": groups}
    options["dilation"] = draw(per_dimension(dimensions, 1, 3))
    options["padding"] = draw(
        per_dimension(dimensions, 0, 2) | (st.nothing() if transposed else st.sampled_from(("same", "valid")))
    )
    if options["padding"] == "same":
        options["stride"] = 1
    steps, spread = (spelled_out(options[name], dimensions) for name in ("stride", "dilation"))
    pads = (0,) * dimensions if isinstance(options["padding"], str) else spelled_out(options["padding"], dimensions)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, spread, strict=True)]
    if transposed:
        # Below the stride, or where dilation is the larger of the two below that.
        extra = draw(st.tuples(*(st.integers(0, max(s, d) - 1) for s, d in zip(steps, spread, strict=True))))
        options["output_padding"] = draw(st.sampled_from((extra, min(extra))))
        extra = spelled_out(options["output_padding"], dimensions)
        ends = zip(extent, steps, pads, extra, strict=True)
        # What (n - 1) stride + extent + output_padding needs to reach beyond 2 padding.
        least = [1 + max(0, -(-(2 * p + 1 - k - e) // s)) for k, s, p, e in ends]
    else:
        least = [max(1, k - 2 * p) for k, p in zip(extent, pads, strict=True)]
    spatial = [low + more for low, more in zip(least, draw(spatial_slack(dimensions)), strict=True)]
    batch = draw(some(st.integers(0, 3)))
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal([*([] if batch is None else [batch]), groups * one, *spatial], seed, dtype)
    shape = (groups * one, other) if transposed else (groups * other, one)
    w = normal([*shape, *kernel], seed + 3, dtype)
    b = normal([groups * other], seed + 4, dtype) if draw(st.booleans()) else None
    taps = math.prod(kernel)
    beyond = [s + 4 for s in spatial] if not transposed else [n * (s + 8) for n, s in zip(spatial, steps, strict=True)]
    terms = max(taps * one, taps * other, (batch or 1) * math.prod(beyond))
    tensors = (arranged(x, draw(layouts)), arranged(w, draw(layouts)), b)
    return {"tensors": tensors, "options": options, "terms": terms, "seed": seed}


def volume(theirs: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Return the built-in's result in the layout that we give it.

    Volumes stay in channels-last where oneDNN computes (float32 and batches; see test_convolution.py), and
    come out contiguous elsewhere. Ours always stay, as all images do.
    """
    y, unbatched = theirs(x, w, b), x.dim() == 4
    format = memory_format_of(x.unsqueeze(0) if unbatched else x, w)
    batch = (y.unsqueeze(0) if unbatched else y).contiguous(memory_format=format)
    return batch.squeeze(0) if unbatched else batch


@pytest.mark.parametrize("name", [f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)])
@given(data=st.data())
@times(4)
def test_convolution(name: str, data: st.DataObject) -> None:
    arguments = data.draw(convolution_arguments(int(name[-2]), "transpose" in name))
    options, tensors = arguments.pop("options"), arguments.pop("tensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        mine, theirs = (partial(getattr(place, name), **options) for place in (F, builtin))
        narrow = partial(volume, theirs) if name.endswith("3d") else None
        parity(mine, theirs, *tensors, linear=True, narrow=narrow, **arguments)
