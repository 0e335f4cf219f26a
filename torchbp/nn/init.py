"""torch.nn.init's functions, and LeCun's initialisation."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.init import *  # noqa: F403


def _fan_in(tensor: Tensor) -> int:
    if tensor.dim() < 2:
        raise ValueError(f"tensor must have at least 2 dimensions to have a fan-in, got shape {tuple(tensor.shape)}")
    return tensor.shape[1] * math.prod(tensor.shape[2:])


def lecun_normal_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill with draws of mean 0 and standard deviation 1 / sqrt(fan_in), in place.

    With inputs of unit variance and the scaled tanh, outputs keep unit variance (LeCun, Bottou, Orr, Müller:
    Efficient BackProp, 1998, section 4.6). fan_in is the number of inputs of one output.

    Raises:
        ValueError: if the tensor has fewer than 2 dimensions.
    """
    with torch.no_grad():
        return tensor.normal_(0.0, 1 / math.sqrt(max(1, _fan_in(tensor))), generator=generator)


def lecun_uniform_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill with uniform draws in [-b, b], b = sqrt(3 / fan_in), of the same deviation; see :func:`lecun_normal_`."""
    bound = math.sqrt(3 / max(1, _fan_in(tensor)))
    with torch.no_grad():
        return tensor.uniform_(-bound, bound, generator=generator)
