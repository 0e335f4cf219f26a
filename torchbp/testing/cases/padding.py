"""Cases of padding."""

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

    def case(name: str, shape: Sequence[int], batched: bool = True, **arguments: Any) -> LayerCase:
        subject = Subject(
            partial(F.pad, **arguments),
            (draw(*shape),),
            partial(builtin.pad, **arguments),
            small=math.prod(shape) <= 60,
            saved=lambda x: 0,
            batched=(0,) if batched else (),
        )
        return LayerCase("pad", f"pad[{name}]", subject)

    return [
        case("zeros", (2, 1, 3, 4), pad=(1, 2, 0, 1)),
        case("zeros, cut, all dimensions", (2, 3, 4), batched=False, pad=(-1, 2, 1, -1, 0, 1)),
        case("cut", (2, 2, 3, 4), pad=(-1, -1, 0, -1)),
        case("constant", (2, 2, 3, 3), pad=(1, 0, -1, 2), value=1.5),
        case("reflect 1d", (2, 2, 5), mode="reflect", pad=(4, 2)),
        case("reflect 2d", (2, 3, 4, 5), mode="reflect", pad=(1, 3, 2, 1)),
        case("reflect 2d, cut", (1, 2, 5, 4), mode="reflect", pad=(-1, 2, 3, -2)),
        case("reflect 3d", (1, 2, 3, 2, 3), mode="reflect", pad=(1, 1, 0, 1, 2, 0)),
        case("replicate 1d", (2, 2, 4), mode="replicate", pad=(2, 5)),
        case("replicate 2d", (2, 3, 3, 4), mode="replicate", pad=(1, 2, 0, 3)),
        case("replicate 3d", (1, 2, 2, 3, 2), mode="replicate", pad=(2, -1, 1, 1, 0, 1)),
        case("circular 1d", (2, 2, 4), mode="circular", pad=(4, 2)),
        case("circular 2d", (2, 3, 4, 4), mode="circular", pad=(1, 2, -1, 3)),
        case("circular 3d", (1, 1, 2, 3, 3), mode="circular", pad=(1, 1, 2, 0, 1, 2)),
        case("unbatched", (2, 4, 4), batched=False, mode="reflect", pad=(1, 1, 2, 2)),
    ]
