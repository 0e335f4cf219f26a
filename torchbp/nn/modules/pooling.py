"""Pooling layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class MaxPool2d(torch.nn.MaxPool2d):
    """Maximum of every window; see :func:`torchbp.nn.functional.max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """Average of every window; see :func:`torchbp.nn.functional.avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """Averages over windows that share the input; see :func:`torchbp.nn.functional.adaptive_avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.adaptive_avg_pool2d(input, self.output_size)  # type: ignore[arg-type]  # None raises, as torch.nn's
