"""Shuffling layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class PixelShuffle(torch.nn.PixelShuffle):
    """Channels spread over pixels; see :func:`torchbp.nn.functional.pixel_shuffle`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(torch.nn.PixelUnshuffle):
    """Pixels gathered into channels; see :func:`torchbp.nn.functional.pixel_unshuffle`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pixel_unshuffle(input, self.downscale_factor)


class ChannelShuffle(torch.nn.ChannelShuffle):
    """Channels dealt out; see :func:`torchbp.nn.functional.channel_shuffle`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.channel_shuffle(input, self.groups)
