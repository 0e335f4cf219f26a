"""Bytes that a graph keeps for its backward pass, and how far two tensors are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


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
    value, expected = value.double(), expected.double()
    distance = torch.linalg.vector_norm(value - expected, math.inf).item()
    scale = torch.linalg.vector_norm(expected, math.inf).item()
    if not math.isfinite(distance):
        return math.inf
    return distance / scale if scale else (0.0 if distance == 0 else math.inf)
