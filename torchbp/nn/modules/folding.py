"""Folding layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class Fold(torch.nn.Fold):
    """Columns added up in an image; see :func:`torchbp.nn.functional.fold`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)


class Unfold(torch.nn.Unfold):
    """The windows of an image as columns; see :func:`torchbp.nn.functional.unfold`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)
