"""Cases of convolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as builtin

import torchbp.nn.functional as F
from torchbp.testing.cases._case import COMPOSITE_BITS, LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""

    def case(name: str, x: Sequence[int], w: Sequence[int], bias: bool = True, **arguments: Any) -> LayerCase:
        inputs = [draw(*x), draw(*w, seed=1)] + ([draw(w[0], seed=2)] if bias else [])
        subject = Subject(
            partial(F.conv2d, **arguments) if bias else (lambda x, w: F.conv2d(x, w, **arguments)),
            tuple(inputs),
            partial(builtin.conv2d, **arguments) if bias else (lambda x, w: builtin.conv2d(x, w, **arguments)),
            small=sum(t.numel() for t in inputs) <= 60,
            saved=lambda x, w, *b: bytes_of(x, w),
            batched=(0,) if len(x) == 4 else (),
        )
        return LayerCase("conv2d", f"conv2d[{name}]", subject, COMPOSITE_BITS)

    return [
        case("2x2", (1, 1, 3, 3), (2, 1, 2, 2)),
        case("3x3 padding 1", (2, 2, 5, 4), (3, 2, 3, 3), padding=1),
        case("stride 2, dilation 2", (2, 2, 7, 6), (2, 2, 2, 3), stride=2, dilation=(2, 1), padding=(0, 2)),
        case("stride larger than kernel", (1, 2, 7, 7), (2, 2, 2, 2), stride=3, bias=False),
        case("groups", (2, 4, 4, 4), (6, 2, 2, 2), groups=2),
        case("depthwise", (2, 3, 5, 5), (3, 1, 3, 3), groups=3, padding=1),
        case("depthwise multiplier", (1, 2, 4, 4), (4, 1, 2, 2), groups=2, stride=2),
        case("1x1", (2, 3, 3, 3), (2, 3, 1, 1), bias=False),
        case("same", (1, 2, 4, 4), (2, 2, 3, 3), padding="same", dilation=(1, 2)),
        case("unbatched", (2, 4, 4), (2, 2, 3, 3)),
    ]
