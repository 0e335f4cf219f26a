"""Cases of pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as builtin

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []

    def add(layer: str, name: str, shape: Sequence[int], saved: Callable[..., int] | None, **arguments: Any) -> None:
        subject = Subject(
            partial(getattr(F, layer), **arguments),
            (draw(*shape),),
            partial(getattr(builtin, layer), **arguments),
            small=math.prod(shape) <= 60,
            saved=saved,
            batched=(0,) if len(shape) == 4 else (),
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))

    def winners(**arguments: Any) -> Callable[..., int]:
        return lambda x: builtin.max_pool2d(x.detach(), **arguments).numel()

    for name, shape, arguments in (
        ("2x2", (2, 2, 4, 4), {"kernel_size": 2}),
        ("3x3 stride 2 padding 1", (2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("overlapping", (1, 2, 5, 5), {"kernel_size": (2, 3), "stride": 1}),
        ("ceil, dilation", (1, 2, 8, 7), {"kernel_size": 2, "stride": 2, "dilation": (2, 1), "ceil_mode": True}),
        ("stride larger than window", (1, 1, 7, 7), {"kernel_size": 2, "stride": 3}),
        ("unbatched", (2, 4, 4), {"kernel_size": 2}),
    ):
        add("max_pool2d", name, shape, winners(**arguments), **arguments)
    nothing = lambda x: 0  # noqa: E731
    for name, shape, arguments in (
        ("2x2", (2, 2, 4, 4), {"kernel_size": 2}),
        ("3x3 stride 2 padding 1", (2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
        (
            "ceil, padding not counted",
            (1, 2, 6, 5),
            {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        ),
        ("divisor", (1, 2, 5, 5), {"kernel_size": (2, 3), "stride": 1, "divisor_override": 5}),
        ("stride larger than window", (1, 1, 7, 7), {"kernel_size": 2, "stride": 3}),
        ("unbatched", (2, 4, 4), {"kernel_size": 2}),
    ):
        add("avg_pool2d", name, shape, nothing, **arguments)
    for name, shape, size in (
        ("3x2", (2, 2, 5, 5), (3, 2)),
        ("global", (2, 3, 4, 4), 1),
        ("larger", (1, 1, 3, 2), (5, None)),
    ):
        add("adaptive_avg_pool2d", name, shape, nothing, output_size=size)
    return found
