"""Distances; each is described at its function in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class CosineSimilarity(torch.nn.CosineSimilarity):
    """The cosine of the angle between vectors along ``dim``."""

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(torch.nn.PairwiseDistance):
    """The p-norm of the difference of vectors."""

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
