"""Every explicit backward, and the two generic mechanisms to write more.

- :func:`contract` with a :class:`TrilinearForm` or an :class:`Einsum` (and :func:`trilinear` for three plain
  functions): linear layers, convolution, whatever is linear in each of its operands;
- :func:`linear_map` with a :class:`LinearMap` (and :func:`adjoint_pair` for two plain functions): pooling,
  shifts, padding, masks.

A layer made of them is differentiable to any order, in forward and reverse mode, under torch.func and
torch.compile.
"""

from torchbp.autograd import (
    activation,
    attention,
    convolution,
    ctc_loss,
    distance,
    dropout,
    embedding,
    folding,
    interpolation,
    linear,
    linear_cross_entropy,
    loss,
    margin_loss,
    normalization,
    padding,
    pointwise_loss,
    pooling,
    product,
    recurrent,
    sampling,
    shuffle,
    softmax,
)
from torchbp.autograd.adjoint import LinearMap, adjoint_pair, linear_map
from torchbp.autograd.contraction import Einsum, MultilinearForm, TrilinearForm, contract, trilinear
from torchbp.autograd.function import ExplicitFunction

__all__ = [
    "Einsum",
    "ExplicitFunction",
    "LinearMap",
    "MultilinearForm",
    "TrilinearForm",
    "activation",
    "adjoint_pair",
    "attention",
    "contract",
    "convolution",
    "ctc_loss",
    "distance",
    "dropout",
    "embedding",
    "folding",
    "interpolation",
    "linear",
    "linear_cross_entropy",
    "linear_map",
    "loss",
    "margin_loss",
    "normalization",
    "padding",
    "pointwise_loss",
    "pooling",
    "product",
    "recurrent",
    "sampling",
    "shuffle",
    "softmax",
    "trilinear",
]
