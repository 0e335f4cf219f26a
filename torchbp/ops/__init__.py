"""Raw operators, without gradient: C++ on the CPU, composite formulas anywhere else."""

from torchbp.ops import (
    activation,
    attention,
    convolution,
    dropout,
    folding,
    interpolation,
    linear,
    loss,
    normalization,
    padding,
    pooling,
    sampling,
    shuffle,
    softmax,
)
from torchbp.ops.convolution import convolution_algorithm, convolution_algorithms, force_convolution_algorithm

__all__ = [
    "activation",
    "attention",
    "convolution",
    "convolution_algorithm",
    "convolution_algorithms",
    "dropout",
    "folding",
    "force_convolution_algorithm",
    "interpolation",
    "linear",
    "loss",
    "normalization",
    "padding",
    "pooling",
    "sampling",
    "shuffle",
    "softmax",
]
