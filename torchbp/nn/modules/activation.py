"""Activations; each is described at the function of its name in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.nn.modules._forward import computed_by


class ReLU(torch.nn.ReLU):
    """max(x, 0)."""

    forward = computed_by(F.relu, "inplace")


class ReLU6(torch.nn.ReLU6):
    """min(max(x, 0), 6)."""

    forward = computed_by(F.hardtanh, "min_val", "max_val", "inplace")


class LeakyReLU(torch.nn.LeakyReLU):
    """x where x > 0, else ``negative_slope`` x."""

    forward = computed_by(F.leaky_relu, "negative_slope", "inplace")


class PReLU(torch.nn.PReLU):
    """x where x > 0, else w x, with a learned w."""

    forward = computed_by(F.prelu, "weight")


class RReLU(torch.nn.RReLU):
    """x where x > 0, else r x, with r drawn between ``lower`` and ``upper`` in training."""

    forward = computed_by(F.rrelu, "lower", "upper", "training", "inplace")


class ELU(torch.nn.ELU):
    """x where x > 0, else alpha (exp(x) - 1)."""

    forward = computed_by(F.elu, "alpha", "inplace")


class CELU(torch.nn.CELU):
    """x where x > 0, else alpha (exp(x / alpha) - 1)."""

    forward = computed_by(F.celu, "alpha", "inplace")


class SELU(torch.nn.SELU):
    """1.0507 elu(x) with alpha = 1.6733."""

    forward = computed_by(F.selu, "inplace")


class Hardtanh(torch.nn.Hardtanh):
    """min(max(x, ``min_val``), ``max_val``)."""

    forward = computed_by(F.hardtanh, "min_val", "max_val", "inplace")


class Threshold(torch.nn.Threshold):
    """x where x > ``threshold``, else ``value``."""

    forward = computed_by(F.threshold, "threshold", "value", "inplace")


class Hardshrink(torch.nn.Hardshrink):
    """x where |x| > ``lambd``, else 0."""

    forward = computed_by(F.hardshrink, "lambd")


class Softshrink(torch.nn.Softshrink):
    """x - ``lambd`` sign(x) where |x| > ``lambd``, else 0."""

    forward = computed_by(F.softshrink, "lambd")


class Hardsigmoid(torch.nn.Hardsigmoid):
    """min(max(x + 3, 0), 6) / 6."""

    forward = computed_by(F.hardsigmoid, "inplace")


class Hardswish(torch.nn.Hardswish):
    """x min(max(x + 3, 0), 6) / 6."""

    forward = computed_by(F.hardswish, "inplace")


class Sigmoid(torch.nn.Sigmoid):
    """1 / (1 + exp(-x))."""

    forward = computed_by(F.sigmoid)


class LogSigmoid(torch.nn.LogSigmoid):
    """log(1 / (1 + exp(-x)))."""

    forward = computed_by(F.logsigmoid)


class Tanh(torch.nn.Tanh):
    """tanh(x)."""

    forward = computed_by(F.tanh)


class ScaledTanh(torch.nn.Module):
    """1.7159 tanh(2 x / 3); torch.nn has no module of this kind."""

    forward = computed_by(F.scaled_tanh)


class Tanhshrink(torch.nn.Tanhshrink):
    """x - tanh(x)."""

    forward = computed_by(F.tanhshrink)


class Softsign(torch.nn.Softsign):
    """x / (1 + |x|)."""

    forward = computed_by(F.softsign)


class Softplus(torch.nn.Softplus):
    """log(1 + exp(beta x)) / beta."""

    forward = computed_by(F.softplus, "beta", "threshold")


class GELU(torch.nn.GELU):
    """x Φ(x)."""

    forward = computed_by(F.gelu, "approximate")


class SiLU(torch.nn.SiLU):
    """x sigmoid(x)."""

    forward = computed_by(F.silu, "inplace")


class Mish(torch.nn.Mish):
    """x tanh(log(1 + exp(x)))."""

    forward = computed_by(F.mish, "inplace")


class GLU(torch.nn.GLU):
    """a times the sigmoid of b, the halves a and b of x along ``dim``."""

    forward = computed_by(F.glu, "dim")


class Softmax(torch.nn.Softmax):
    """exp(x) / sum of exp(x) along ``dim``."""

    forward = computed_by(F.softmax, "dim")


class Softmax2d(torch.nn.Softmax2d):
    """Softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: input must be 3D or 4D, got shape {tuple(input.shape)}")
        return F.softmax(input, -3)


class Softmin(torch.nn.Softmin):
    """exp(-x) / sum of exp(-x) along ``dim``."""

    forward = computed_by(F.softmin, "dim")


class LogSoftmax(torch.nn.LogSoftmax):
    """x minus the logarithm of the sum of exp(x) along ``dim``."""

    forward = computed_by(F.log_softmax, "dim")
