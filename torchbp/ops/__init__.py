"""Raw operators, without gradient: C++ on the CPU, composite formulas anywhere else."""

from torchbp.ops import convolution, linear, normalization, pooling, sampling

__all__ = ["convolution", "linear", "normalization", "pooling", "sampling"]
