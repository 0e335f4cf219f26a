"""Bytes that a graph keeps for its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor


class SavedStorages:
    """What autograd saves in a ``with`` block.

    Every storage counts once, with the bytes of its largest saved tensor (a saved view counts for what it
    views, not for the whole storage), and belongs to whoever was the owner when it was saved first.
    """

    def __init__(self, owner: Callable[[], Hashable] = lambda: None) -> None:
        """``owner()`` tells whose each saved tensor is."""
        self._owner = owner
        self._found: dict[int, tuple[Hashable, int]] = {}
        self._alive: list[Tensor] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedStorages:
        """Start to count."""
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        # Keeping the tensor keeps its address from being used again while we count.
        self._alive.append(tensor.detach())
        key = _key(tensor)
        elements = (
            0
            if tensor.numel() == 0
            else 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        )
        owner, size = self._found.get(key) or (self._owner(), 0)
        self._found[key] = (owner, max(size, elements * tensor.element_size()))
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    def bytes(self, exclude: Iterable[Tensor] = ()) -> Counter[Hashable]:
        """Return the bytes by owner, without the storages of ``exclude``."""
        left_out = {_key(tensor) for tensor in exclude}
        counted: Counter[Hashable] = Counter()
        for key, (owner, size) in self._found.items():
            if key not in left_out:
                counted[owner] += size
        return counted


def _key(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata  # on the meta device no storage has an address


def saved_bytes(function: Callable[[], Any], exclude: Iterable[Tensor] = ()) -> int:
    """Return how many bytes autograd saves while ``function()`` runs; see :class:`SavedStorages`.

    Args:
        function: runs the forward pass.
        exclude: tensors whose storage is not counted (parameters, say, which live on anyway).
    """
    with SavedStorages() as saved:
        result = function()
    kept = saved.bytes(exclude).total()
    del result
    return kept
