"""Cases of shuffling."""

from __future__ import annotations

import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, draw
from torchbp.testing.properties import Subject

# Of an empty tensor the built-in unshuffle returns it as it is, and the built-in shuffle's gradient with it.


def _pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    *lead, c, h, w = x.shape
    return builtin.pixel_shuffle(x, factor) if x.numel() else x.reshape(*lead, c // factor**2, h * factor, w * factor)


def _pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    *lead, c, h, w = x.shape
    shape = (*lead, c * factor**2, h // factor, w // factor)
    return builtin.pixel_unshuffle(x, factor) if x.numel() else x.reshape(shape)


_REFERENCES = {
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": builtin.channel_shuffle,
}


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found = []
    for layer, name, shape, factor in (
        ("pixel_shuffle", "2", (2, 8, 2, 3), 2),
        ("pixel_shuffle", "unbatched", (9, 1, 2), 3),
        ("pixel_unshuffle", "2", (2, 1, 4, 6), 2),
        ("pixel_unshuffle", "two batch dimensions", (2, 1, 2, 2, 4), 2),
        ("channel_shuffle", "2 groups", (2, 6, 2, 1), 2),
        ("channel_shuffle", "3 groups, (N, C, L)", (2, 6, 3), 3),
    ):
        mine, theirs = getattr(F, layer), _REFERENCES[layer]
        subject = Subject(
            lambda x, mine=mine, factor=factor: mine(x, factor),
            (draw(*shape),),
            lambda x, theirs=theirs, factor=factor: theirs(x, factor),
            saved=lambda x: 0,
            batched=() if name == "unbatched" else (0,),
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))
    return found
