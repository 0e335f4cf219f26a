"""Batch, layer and group normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import torchbp.nn.functional as F


def _forward(module: _BatchNorm, input: Tensor) -> Tensor:
    """Choose statistics and momentum as torch.nn does, and normalise."""
    module._check_input_dim(input)
    momentum = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:  # cumulative average
            momentum = 1.0 / float(module.num_batches_tracked)
    own = module.running_mean is None and module.running_var is None
    tracked = not module.training or module.track_running_stats
    return F.batch_norm(
        input,
        module.running_mean if tracked else None,
        module.running_var if tracked else None,
        module.weight,
        module.bias,
        module.training or own,
        momentum,
        module.eps,
    )


class BatchNorm1d(torch.nn.BatchNorm1d):
    """Batch normalisation of (N, C) or (N, C, L); see :func:`torchbp.nn.functional.batch_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return _forward(self, input)


class BatchNorm2d(torch.nn.BatchNorm2d):
    """Batch normalisation of (N, C, H, W); see :func:`torchbp.nn.functional.batch_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return _forward(self, input)


class BatchNorm3d(torch.nn.BatchNorm3d):
    """Batch normalisation of (N, C, D, H, W); see :func:`torchbp.nn.functional.batch_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return _forward(self, input)


class LayerNorm(torch.nn.LayerNorm):
    """Layer normalisation of (*, *normalized_shape); see :func:`torchbp.nn.functional.layer_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(torch.nn.GroupNorm):
    """Group normalisation of (N, C, *); see :func:`torchbp.nn.functional.group_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
