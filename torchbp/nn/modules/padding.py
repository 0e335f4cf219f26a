"""Padding layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import torchbp.nn.functional as F


class _Constant:
    padding: Any
    value: float

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pad(input, self.padding, "constant", self.value)


class _Reflection:
    padding: Any

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pad(input, self.padding, "reflect")


class _Replication:
    padding: Any

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.pad(input, self.padding, "replicate")


class _Circular:
    padding: Any
    _check_input_dim: Any

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        self._check_input_dim(input)
        return F.pad(input, self.padding, "circular")


class ZeroPad1d(_Constant, torch.nn.ZeroPad1d):
    """Zeros around one spatial dimension; see :func:`torchbp.nn.functional.pad`."""


class ZeroPad2d(_Constant, torch.nn.ZeroPad2d):
    """Zeros around two spatial dimensions; see :func:`torchbp.nn.functional.pad`."""


class ZeroPad3d(_Constant, torch.nn.ZeroPad3d):
    """Zeros around three spatial dimensions; see :func:`torchbp.nn.functional.pad`."""


class ConstantPad1d(_Constant, torch.nn.ConstantPad1d):
    """A constant around one spatial dimension; see :func:`torchbp.nn.functional.pad`."""


class ConstantPad2d(_Constant, torch.nn.ConstantPad2d):
    """A constant around two spatial dimensions; see :func:`torchbp.nn.functional.pad`."""


class ConstantPad3d(_Constant, torch.nn.ConstantPad3d):
    """A constant around three spatial dimensions; see :func:`torchbp.nn.functional.pad`."""


class ReflectionPad1d(_Reflection, torch.nn.ReflectionPad1d):
    """One spatial dimension, mirrored at its ends; see :func:`torchbp.nn.functional.pad`."""


class ReflectionPad2d(_Reflection, torch.nn.ReflectionPad2d):
    """Two spatial dimensions, mirrored at their ends; see :func:`torchbp.nn.functional.pad`."""


class ReflectionPad3d(_Reflection, torch.nn.ReflectionPad3d):
    """Three spatial dimensions, mirrored at their ends; see :func:`torchbp.nn.functional.pad`."""


class ReplicationPad1d(_Replication, torch.nn.ReplicationPad1d):
    """One spatial dimension, its ends repeated; see :func:`torchbp.nn.functional.pad`."""


class ReplicationPad2d(_Replication, torch.nn.ReplicationPad2d):
    """Two spatial dimensions, their ends repeated; see :func:`torchbp.nn.functional.pad`."""


class ReplicationPad3d(_Replication, torch.nn.ReplicationPad3d):
    """Three spatial dimensions, their ends repeated; see :func:`torchbp.nn.functional.pad`."""


class CircularPad1d(_Circular, torch.nn.CircularPad1d):
    """One spatial dimension, wrapped around; see :func:`torchbp.nn.functional.pad`."""


class CircularPad2d(_Circular, torch.nn.CircularPad2d):
    """Two spatial dimensions, wrapped around; see :func:`torchbp.nn.functional.pad`."""


class CircularPad3d(_Circular, torch.nn.CircularPad3d):
    """Three spatial dimensions, wrapped around; see :func:`torchbp.nn.functional.pad`."""
