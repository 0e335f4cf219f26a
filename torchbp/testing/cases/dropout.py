"""Cases of dropout."""

from __future__ import annotations

import torch

from torchbp import autograd
from torchbp.testing.cases._case import LayerCase, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x = draw(3, 4)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)) < 0.6
    map = autograd.dropout.MaskedScale(1 / 0.6)
    return [
        LayerCase(
            "dropout",
            "dropout[mask drawn]",
            Subject(
                lambda x, mask: autograd.linear_map(map, x, mask),
                (x, mask),
                lambda x, mask: x * mask / 0.6,
                saved=lambda x, mask: x.numel(),
                batched=(0, 1),
            ),
        )
    ]
