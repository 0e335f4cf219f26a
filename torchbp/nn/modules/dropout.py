"""Dropout layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class Dropout(torch.nn.Dropout):
    """Zero elements with probability ``p`` in training; see :func:`torchbp.nn.functional.dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.dropout(input, self.p, self.training, self.inplace)
