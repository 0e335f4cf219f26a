"""Bytes that a graph keeps for its backward pass, and how far two tensors are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_PART = 2**17


def saved_bytes(function: Callable[[], Any], exclude: Iterable[Tensor] = ()) -> int:
    """Return how many bytes autograd saves while ``function()`` runs.

    Every storage counts once, with the bytes of its largest saved tensor (a saved view counts for what it
    views, not for the whole storage).

    Args:
        function: runs the forward pass.
        exclude: tensors whose storage is not counted (parameters, say, which live on anyway).
    """
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        # Keeping the tensor keeps its address from being used again while we count.
        alive.append(tensor.detach())
        key = tensor.untyped_storage().data_ptr()
        elements = (
            0
            if tensor.numel() == 0
            else 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        )
        sizes[key] = max(sizes.get(key, 0), elements * tensor.element_size())
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    for tensor in exclude:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del result
    return sum(sizes.values())


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
