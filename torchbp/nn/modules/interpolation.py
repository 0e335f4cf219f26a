"""Interpolation layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class _Interpolates(torch.nn.Upsample):
    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
        )


class Upsample(_Interpolates, torch.nn.Upsample):
    """Another size; see :func:`torchbp.nn.functional.interpolate`."""


class UpsamplingNearest2d(_Interpolates, torch.nn.UpsamplingNearest2d):
    """Another size, from the nearest pixels; see :func:`torchbp.nn.functional.interpolate`."""


class UpsamplingBilinear2d(_Interpolates, torch.nn.UpsamplingBilinear2d):
    """Another size, bilinear with aligned corners; see :func:`torchbp.nn.functional.interpolate`."""
