"""The reference of embeddings against PyTorch, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_helpers import check, gradients

from torchbp import reference

GENERATOR = np.random.default_rng(5)
INDEX = np.array([[0, 3, 3], [1, 0, 3]])
OFFSETS = np.array([0, 2, 2])


@pytest.mark.parametrize(("padding", "by_frequency"), [(-1, False), (3, False), (0, True)])
def test_embedding(padding: int, by_frequency: bool) -> None:
    w, g = GENERATOR.normal(size=(4, 2)), GENERATOR.normal(size=(2, 3, 2))

    def builtin(w):
        index = torch.from_numpy(INDEX)
        given = None if padding < 0 else padding
        return torch.nn.functional.embedding(index, w, given, scale_grad_by_freq=by_frequency)

    check(reference.embedding(INDEX, w), builtin(torch.from_numpy(w)))
    check(reference.embedding_adjoint(g, INDEX, 4, padding, by_frequency), gradients(builtin, (w,), g)[0])


@pytest.mark.parametrize("padding", [-1, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str, padding: int) -> None:
    index, w, g = INDEX.flatten(), GENERATOR.normal(size=(4, 2)), GENERATOR.normal(size=(3, 2))
    s = GENERATOR.normal(size=6) if mode == "sum" else None

    def builtin(w, s=None):
        given = None if padding < 0 else padding
        bags = torch.from_numpy(index), w, torch.from_numpy(OFFSETS)
        return torch.nn.functional.embedding_bag(*bags, mode=mode, per_sample_weights=s, padding_idx=given)

    arrays = (w,) if s is None else (w, s)
    check(reference.embedding_bag(index, w, OFFSETS, mode, s, padding), builtin(*map(torch.from_numpy, arrays)))
    found = reference.embedding_bag_gradients(g, index, w, OFFSETS, mode, s, padding)
    for a, e in zip(found, gradients(builtin, arrays, g), strict=False):
        check(a, e)
