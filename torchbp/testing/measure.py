"""How far two tensors are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_PART = 2**17


def relative_difference(value: Tensor, expected: Tensor) -> float:
    """Largest ``|value - expected|`` over largest ``|expected|``; infinite where a value is not finite."""
    distances, scales = [], []
    for part, expected_part in zip(_parts(value), _parts(expected), strict=True):
        exact = expected_part.double()
        distances.append(torch.linalg.vector_norm(part.double() - exact, math.inf))
        scales.append(torch.linalg.vector_norm(exact, math.inf))
    distance, scale = torch.stack(distances).max().item(), torch.stack(scales).max().item()
    if not math.isfinite(distance):
        return math.inf
    return distance / scale if scale else (0.0 if distance == 0 else math.inf)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """``tensor`` cut along its first axis into parts that fit the cache in float64, where that is possible."""
    if tensor.dim() == 0 or tensor.numel() <= _PART:
        return [tensor]
    return tensor.split(max(1, _PART * len(tensor) // tensor.numel()))
