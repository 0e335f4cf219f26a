"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

import torchbp.nn.functional as F
from torchbp import autograd
from torchbp.nn.functional.normalization import cross_map_lrn, update_running


def _statistics(module: _BatchNorm) -> tuple[Tensor | None, Tensor | None, bool, float]:
    """Return running statistics, whether the batch's own serve, and momentum, chosen as torch.nn does."""
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
    return mean, variance, training or own, 0.0 if momentum is None else momentum


def _forward(module: _BatchNorm, input: Tensor) -> Tensor:
    """Normalise by batch or running statistics."""
    module._check_input_dim(input)
    mean, variance, training, momentum = _statistics(module)
    return F.batch_norm(input, mean, variance, module.weight, module.bias, training, momentum, module.eps)


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


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    """Batch normalisation of (N, C, *) by the batches of all processes of a group; :class:`BatchNorm2d` without one.

    Also of CPU tensors, which torch.nn.SyncBatchNorm refuses, and with derivatives of any order, which it lacks. All
    processes must take the same ones.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output.

        Raises:
            ValueError: if the input has less than two dimensions or no channels, or there is one value per channel in
                all processes together.
        """
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        mean, variance, training, momentum = _statistics(self)
        together = self.training and distributed.is_available() and distributed.is_initialized()
        group = self.process_group or (distributed.group.WORLD if together else None)
        if not together or distributed.get_world_size(group) == 1:
            return F.batch_norm(input, mean, variance, self.weight, self.bias, training, momentum, self.eps)
        sync_batch_norm = autograd.normalization.sync_batch_norm
        y, batch_mean, batch_variance, count = sync_batch_norm(input, self.weight, self.bias, self.eps, group)
        if float(count) == 1:
            raise ValueError(f"SyncBatchNorm: input must have more than 1 value per channel, got {tuple(input.shape)}")
        if mean is not None and float(count) > 0:
            update_running(mean, variance, batch_mean, batch_variance, count, momentum)
        return y

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Return the module with every batch normalisation in it turned into this layer, sharing its tensors.

        It is torch.nn.SyncBatchNorm.convert_sync_batchnorm, with torchbp's class.
        """
        converted = super().convert_sync_batchnorm(module, process_group)
        for layer in converted.modules():
            if type(layer) is torch.nn.SyncBatchNorm:
                layer.__class__ = cls
        return converted


class InstanceNorm1d(torch.nn.InstanceNorm1d):
    """Instance normalisation of (C, L) or (N, C, L); see :func:`torchbp.nn.functional.instance_norm`."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


class InstanceNorm2d(torch.nn.InstanceNorm2d):
    """Instance normalisation of (C, H, W) or (N, C, H, W); see :func:`torchbp.nn.functional.instance_norm`."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


class InstanceNorm3d(torch.nn.InstanceNorm3d):
    """Instance normalisation of (C, D, H, W) or (N, C, D, H, W); see :func:`torchbp.nn.functional.instance_norm`."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


def _instance_norm(module: _InstanceNorm, input: Tensor) -> Tensor:
    statistics = (module.running_mean, module.running_var)
    own = module.training or not module.track_running_stats
    momentum = 0.0 if module.momentum is None else module.momentum
    return F.instance_norm(input, *statistics, module.weight, module.bias, own, momentum, module.eps)


# The lazy layers learn the number of channels from the first input, and become the layers above.


class LazyBatchNorm1d(torch.nn.LazyBatchNorm1d, BatchNorm1d):
    """A :class:`BatchNorm1d` whose ``num_features`` is the first input's."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(torch.nn.LazyBatchNorm2d, BatchNorm2d):
    """A :class:`BatchNorm2d` whose ``num_features`` is the first input's."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(torch.nn.LazyBatchNorm3d, BatchNorm3d):
    """A :class:`BatchNorm3d` whose ``num_features`` is the first input's."""

    cls_to_become = BatchNorm3d


class LazyInstanceNorm1d(torch.nn.LazyInstanceNorm1d, InstanceNorm1d):
    """An :class:`InstanceNorm1d` whose ``num_features`` is the first input's."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(torch.nn.LazyInstanceNorm2d, InstanceNorm2d):
    """An :class:`InstanceNorm2d` whose ``num_features`` is the first input's."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(torch.nn.LazyInstanceNorm3d, InstanceNorm3d):
    """An :class:`InstanceNorm3d` whose ``num_features`` is the first input's."""

    cls_to_become = InstanceNorm3d


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


class RMSNorm(torch.nn.RMSNorm):
    """Normalisation by the root mean square of (*, *normalized_shape); see :func:`torchbp.nn.functional.rms_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """Local response normalisation of (N, C, *); see :func:`torchbp.nn.functional.local_response_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class CrossMapLRN2d(torch.nn.CrossMapLRN2d):
    """Local response normalisation of (N, C, H, W) by (size - 1) // 2 channels either way.

    torch.nn.CrossMapLRN2d keeps the first channel in every window, and its gradient is that of another map.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return cross_map_lrn(input, self.size, self.alpha, self.beta, self.k)
