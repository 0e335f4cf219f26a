"""Convolution layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class Conv2d(torch.nn.Conv2d):
    """2-d convolution; see :func:`torchbp.nn.functional.conv2d`. Every ``padding_mode`` of torch.nn."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | int | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
