"""Activations; each is described at the function of its name in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class ReLU(torch.nn.ReLU):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.relu(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """x where x > 0, else ``negative_slope`` x."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class Sigmoid(torch.nn.Sigmoid):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.tanh(input)


class ScaledTanh(torch.nn.Module):
    """1.7159 tanh(2 x / 3); torch.nn has no module of this kind."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.scaled_tanh(input)


class Softplus(torch.nn.Softplus):
    """log(1 + exp(beta x)) / beta."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.softplus(input, self.beta, self.threshold)


class GELU(torch.nn.GELU):
    """x Φ(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.gelu(input, self.approximate)


class SiLU(torch.nn.SiLU):
    """x sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.silu(input, self.inplace)


class Softmax(torch.nn.Softmax):
    """exp(x) / sum of exp(x) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.softmax(input, self.dim)


class LogSoftmax(torch.nn.LogSoftmax):
    """x minus the logarithm of the sum of exp(x) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.log_softmax(input, self.dim)
