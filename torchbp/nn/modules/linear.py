"""Linear layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class Linear(torch.nn.Linear):
    """y = x wᵀ + b, with the transposed products as its backward; see :func:`torchbp.nn.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.linear(input, self.weight, self.bias)


class LazyLinear(torch.nn.LazyLinear, Linear):
    """A :class:`Linear` whose ``in_features`` is the first input's."""

    cls_to_become = Linear


class Bilinear(torch.nn.Bilinear):
    """y[o] = x1ᵀ w[o] x2 + b[o]; see :func:`torchbp.nn.functional.bilinear`."""

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.bilinear(input1, input2, self.weight, self.bias)
