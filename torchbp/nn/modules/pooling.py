"""Pooling layers."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class MaxPool1d(torch.nn.MaxPool1d):
    """Maximum of every window; see :func:`torchbp.nn.functional.max_pool1d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.max_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool2d(torch.nn.MaxPool2d):
    """Maximum of every window; see :func:`torchbp.nn.functional.max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool3d(torch.nn.MaxPool3d):
    """Maximum of every window; see :func:`torchbp.nn.functional.max_pool3d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.max_pool3d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxUnpool1d(torch.nn.MaxUnpool1d):
    """Values back at their places; see :func:`torchbp.nn.functional.max_unpool1d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the layer's output."""
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """Values back at their places; see :func:`torchbp.nn.functional.max_unpool2d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the layer's output."""
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(torch.nn.MaxUnpool3d):
    """Values back at their places; see :func:`torchbp.nn.functional.max_unpool3d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the layer's output."""
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class AvgPool1d(torch.nn.AvgPool1d):
    """Average of every window; see :func:`torchbp.nn.functional.avg_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
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


class AvgPool3d(torch.nn.AvgPool3d):
    """Average of every window; see :func:`torchbp.nn.functional.avg_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.avg_pool3d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    """Averages over windows that share the input; see :func:`torchbp.nn.functional.adaptive_avg_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """Averages over windows that share the input; see :func:`torchbp.nn.functional.adaptive_avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.adaptive_avg_pool2d(input, self.output_size)  # type: ignore[arg-type]  # None raises, as torch.nn's


class AdaptiveAvgPool3d(torch.nn.AdaptiveAvgPool3d):
    """Averages over windows that share the input; see :func:`torchbp.nn.functional.adaptive_avg_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.adaptive_avg_pool3d(input, self.output_size)  # type: ignore[arg-type]  # None raises, as torch.nn's


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    """Maxima over windows that share the input; see :func:`torchbp.nn.functional.adaptive_max_pool1d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """Maxima over windows that share the input; see :func:`torchbp.nn.functional.adaptive_max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)  # type: ignore[arg-type]  # None raises, as torch.nn's


class AdaptiveMaxPool3d(torch.nn.AdaptiveMaxPool3d):
    """Maxima over windows that share the input; see :func:`torchbp.nn.functional.adaptive_max_pool3d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)  # type: ignore[arg-type]  # None raises, as torch.nn's


class LPPool1d(torch.nn.LPPool1d):
    """The p-norm of every window; see :func:`torchbp.nn.functional.lp_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.lp_pool1d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(torch.nn.LPPool2d):
    """The p-norm of every window; see :func:`torchbp.nn.functional.lp_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.lp_pool2d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool3d(torch.nn.LPPool3d):
    """The p-norm of every window; see :func:`torchbp.nn.functional.lp_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.lp_pool3d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class FractionalMaxPool2d(torch.nn.FractionalMaxPool2d):
    """Maxima over windows at random distances; see :func:`torchbp.nn.functional.fractional_max_pool2d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.fractional_max_pool2d(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,  # type: ignore[arg-type]
        )


class FractionalMaxPool3d(torch.nn.FractionalMaxPool3d):
    """Maxima over windows at random distances; see :func:`torchbp.nn.functional.fractional_max_pool3d`."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output, and the winners' places if ``return_indices``."""
        return F.fractional_max_pool3d(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,  # type: ignore[arg-type]
        )
