"""Convolution layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import torchbp.nn.functional as F


class _Convolution(_ConvNd):
    """What the convolutions of 1 to 3 dimensions share: every ``padding_mode`` of torch.nn."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | int | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        convolution = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        return convolution(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Convolution, torch.nn.Conv1d):
    """1-d convolution; see :func:`torchbp.nn.functional.conv1d`. Every ``padding_mode`` of torch.nn."""


class Conv2d(_Convolution, torch.nn.Conv2d):
    """2-d convolution; see :func:`torchbp.nn.functional.conv2d`. Every ``padding_mode`` of torch.nn."""


class Conv3d(_Convolution, torch.nn.Conv3d):
    """3-d convolution; see :func:`torchbp.nn.functional.conv3d`. Every ``padding_mode`` of torch.nn."""


class _TransposedConvolution(_ConvTransposeNd):
    """What the transposed convolutions of 1 to 3 dimensions share."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the layer's output, of ``output_size`` if it is given and possible."""
        dimensions = len(self.kernel_size)
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            dimensions,
            self.dilation,  # type: ignore[arg-type]
        )
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return transposed(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """1-d transposed convolution; see :func:`torchbp.nn.functional.conv_transpose1d`."""


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """2-d transposed convolution; see :func:`torchbp.nn.functional.conv_transpose2d`."""


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """3-d transposed convolution; see :func:`torchbp.nn.functional.conv_transpose3d`."""


# The lazy layers learn the number of input channels from the first input, and become the layers above.


class LazyConv1d(torch.nn.LazyConv1d, Conv1d):  # type: ignore[misc]
    """A :class:`Conv1d` whose ``in_channels`` is the first input's."""

    cls_to_become = Conv1d


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """A :class:`Conv2d` whose ``in_channels`` is the first input's."""

    cls_to_become = Conv2d


class LazyConv3d(torch.nn.LazyConv3d, Conv3d):  # type: ignore[misc]
    """A :class:`Conv3d` whose ``in_channels`` is the first input's."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(torch.nn.LazyConvTranspose1d, ConvTranspose1d):  # type: ignore[misc]
    """A :class:`ConvTranspose1d` whose ``in_channels`` is the first input's."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(torch.nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """A :class:`ConvTranspose2d` whose ``in_channels`` is the first input's."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(torch.nn.LazyConvTranspose3d, ConvTranspose3d):  # type: ignore[misc]
    """A :class:`ConvTranspose3d` whose ``in_channels`` is the first input's."""

    cls_to_become = ConvTranspose3d
