"""Cases of dropout: the maps once their masks are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.dropout import SATURATION, AlphaDropout, MaskedScale
from torchbp.testing.cases._case import LayerCase, draw
from torchbp.testing.properties import Subject

_KEPT = 0.6
_GAIN = (_KEPT * (1 + (1 - _KEPT) * SATURATION**2)) ** -0.5


def _scaled(x: Tensor, mask: Tensor) -> Tensor:
    return autograd.linear_map(MaskedScale(1 / _KEPT), x, mask)


def _alpha(x: Tensor, mask: Tensor) -> Tensor:
    made: Tensor = AlphaDropout.call(x, mask, 1 - _KEPT)
    return made


def _scaled_reference(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask / _KEPT


def _alpha_reference(x: Tensor, mask: Tensor) -> Tensor:
    return _GAIN * (x * mask + SATURATION * (mask.to(x.dtype) - _KEPT))


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found = []
    for layer, name, shape, drawn, function, reference in (
        ("dropout", "mask drawn", (3, 4), (3, 4), _scaled, _scaled_reference),
        ("dropout1d", "mask drawn", (3, 4, 5), (3, 4, 1), _scaled, _scaled_reference),
        ("dropout2d", "mask drawn", (2, 3, 2, 2), (2, 3, 1, 1), _scaled, _scaled_reference),
        ("dropout3d", "mask drawn", (2, 3, 1, 2, 2), (2, 3, 1, 1, 1), _scaled, _scaled_reference),
        ("alpha_dropout", "mask drawn", (3, 4), (3, 4), _alpha, _alpha_reference),
        ("feature_alpha_dropout", "mask drawn", (2, 3, 2, 2), (2, 3, 1, 1), _alpha, _alpha_reference),
    ):
        mask = torch.rand(drawn, generator=torch.Generator().manual_seed(3)) < _KEPT
        subject = Subject(function, (draw(*shape), mask), reference, saved=lambda x, mask: mask.numel(), batched=(0, 1))
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))
    return found
