"""Batch, layer and group normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import torchbp.nn.functional as F


def _forward(module: _BatchNorm, input: Tensor) -> Tensor:
    """Choose statistics and momentum as torch.nn does, and normalise."""
    module._check_input_dim(input)
    training, momentum = module.training, module.momentum
    mean, variance = module.running_mean, module.running_var  # each attribute of a module costs a search
    own = mean is None and variance is None
    if training:
        tracked = module.num_batches_tracked if module.track_running_stats else None
        if tracked is not None:
            tracked.add_(1)
            if momentum is None:  # cumulative average
                momentum = 1.0 / float(tracked)
        if not module.track_running_stats:
            mean = variance = None
    momentum = 0.0 if momentum is None else momentum
    return F.batch_norm(input, mean, variance, module.weight, module.bias, training or own, momentum, module.eps)


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
