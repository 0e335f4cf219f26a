"""Cases of unfolding and folding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as builtin

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""

    def case(layer: str, name: str, shape: Sequence[int], batched: bool = True, **arguments: Any) -> LayerCase:
        subject = Subject(
            partial(getattr(F, layer), **arguments),
            (draw(*shape),),
            partial(getattr(builtin, layer), **arguments),
            small=math.prod(shape) <= 60,
            saved=lambda x: 0,
            batched=(0,) if batched else (),
        )
        return LayerCase(layer, f"{layer}[{name}]", subject)

    return [
        case("unfold", "2x2", (2, 2, 3, 4), kernel_size=2),
        case("unfold", "3x3 padding 1", (1, 2, 4, 5), kernel_size=3, padding=1),
        case("unfold", "stride, dilation", (1, 2, 6, 7), kernel_size=(2, 3), stride=(3, 2), dilation=(2, 1), padding=2),
        case("unfold", "1x1", (2, 3, 3, 3), kernel_size=1, stride=2),
        case("unfold", "unbatched", (2, 4, 4), batched=False, kernel_size=(1, 2)),
        case("fold", "2x2", (2, 8, 6), output_size=(3, 4), kernel_size=2),
        case("fold", "3x3 padding 1", (1, 9, 9), output_size=3, kernel_size=3, padding=1),
        case(
            "fold",
            "stride, dilation",
            (1, 12, 12),
            output_size=(7, 6),
            kernel_size=(2, 3),
            stride=(3, 2),
            dilation=(2, 1),
            padding=(2, 2),
        ),
        case("fold", "unbatched", (4, 4), batched=False, output_size=(4, 4), kernel_size=2, stride=2),
    ]
