"""Raw operators, without gradient: C++ on the CPU, composite formulas anywhere else."""

from torchbp.ops import (
    activation,
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
    softmax,
)

__all__ = [
    "activation",
    "convolution",
    "dropout",
    "folding",
    "interpolation",
    "linear",
    "loss",
    "normalization",
    "padding",
    "pooling",
    "sampling",
    "softmax",
]
