"""Cases of interpolation."""

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

    def case(name: str, shape: Sequence[int], **arguments: Any) -> LayerCase:
        subject = Subject(
            partial(F.interpolate, **arguments),
            (draw(*shape),),
            partial(builtin.interpolate, **arguments),
            small=math.prod(shape) <= 60,
            saved=lambda x: 0,
            batched=(0,),
        )
        return LayerCase("interpolate", f"interpolate[{name}]", subject)

    return [
        case("nearest 1d", (2, 2, 5), size=8),
        case("nearest 2d", (2, 3, 3, 4), scale_factor=2),
        case("nearest 2d, smaller", (1, 2, 5, 7), scale_factor=(0.6, 0.5)),
        case("nearest 3d", (1, 2, 2, 3, 2), size=(3, 2, 5)),
        case("nearest-exact", (2, 2, 3, 4), size=(5, 3), mode="nearest-exact"),
        case("area 1d", (2, 2, 5), size=3, mode="area"),
        case("area 2d", (2, 2, 4, 5), size=(2, 3), mode="area"),
        case("area 3d", (1, 2, 3, 2, 4), size=(2, 2, 3), mode="area"),
        case("linear", (2, 2, 5), scale_factor=1.7, mode="linear"),
        case("linear, corners", (2, 2, 4), size=7, mode="linear", align_corners=True),
        case("bilinear", (2, 3, 3, 4), scale_factor=2, mode="bilinear"),
        case("bilinear, recomputed", (1, 2, 3, 4), scale_factor=1.4, mode="bilinear", recompute_scale_factor=True),
        case("bilinear, corners", (1, 2, 4, 3), size=(3, 5), mode="bilinear", align_corners=True),
        case("bilinear, antialias", (1, 2, 7, 6), size=(3, 4), mode="bilinear", antialias=True),
        case("trilinear", (1, 2, 2, 3, 3), size=(3, 4, 2), mode="trilinear"),
        case("bicubic", (2, 2, 4, 3), scale_factor=(1.5, 2), mode="bicubic"),
        case("bicubic, corners", (1, 2, 5, 4), size=(3, 6), mode="bicubic", align_corners=True),
        case("bicubic, antialias", (1, 2, 8, 6), scale_factor=0.5, mode="bicubic", antialias=True),
    ]
