"""Cases of linear."""

from __future__ import annotations

import torch.nn.functional as builtin

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    inputs = (draw(3, 4), draw(2, 4, seed=1), draw(2, seed=2))
    both = lambda x, w, *b: bytes_of(x, w)  # noqa: E731
    return [
        LayerCase("linear", "linear", Subject(F.linear, inputs, builtin.linear, saved=both, batched=(0,))),
        LayerCase(
            "linear",
            "linear[no bias, 3-d input]",
            Subject(F.linear, (draw(2, 2, 3), draw(2, 3, seed=1)), builtin.linear, saved=both, batched=(0,)),
        ),
        LayerCase("linear", "linear[vector]", Subject(F.linear, (draw(4), draw(3, 4, seed=1)), builtin.linear)),
        LayerCase(
            "bilinear",
            "bilinear",
            Subject(
                F.bilinear,
                (draw(2, 2), draw(2, 3, seed=1), draw(2, 2, 3, seed=2), draw(2, seed=3)),
                builtin.bilinear,
                saved=lambda x1, x2, w, b: bytes_of(x1, x2, w),
                batched=(0, 1),
            ),
        ),
    ]
