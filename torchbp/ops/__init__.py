"""Raw operators, without gradient: C++ on the CPU, composite formulas anywhere else."""

from torchbp.ops import convolution, folding, interpolation, linear, normalization, padding, pooling, sampling

__all__ = ["convolution", "folding", "interpolation", "linear", "normalization", "padding", "pooling", "sampling"]
