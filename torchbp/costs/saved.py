"""Bytes that a graph keeps for its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor


class SavedStorages:
    """What autograd saves in a ``with`` block.

    Every part of a storage counts once (a saved view counts for what it spans, not for the whole storage), and belongs
    to whoever was the owner when it was saved first.
    """

    def __init__(self, owner: Callable[[], Hashable] = lambda: None) -> None:
        """``owner()`` tells whose each saved tensor is."""
        self._owner = owner
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._bytes: dict[int, Counter[Hashable]] = {}
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
        for part in _parts(tensor):
            if part.numel():
                self._add(part)
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    def _add(self, tensor: Tensor) -> None:
        start = int(tensor.storage_offset()) * tensor.element_size()
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        end = start + (1 + last) * tensor.element_size()
        key = _key(tensor)
        spans = self._spans.get(key, [])
        met = [span for span in spans if span[0] <= end and start <= span[1]]
        whole = (min([start, *(span[0] for span in met)]), max([end, *(span[1] for span in met)]))
        self._spans[key] = [*(span for span in spans if span not in met), whole]
        grown = whole[1] - whole[0] - sum(span[1] - span[0] for span in met)
        self._bytes.setdefault(key, Counter())[self._owner()] += grown

    def bytes(self, exclude: Iterable[Tensor] = ()) -> Counter[Hashable]:
        """Return the bytes by owner, without the storages of ``exclude``."""
        left_out = {_key(part) for tensor in exclude for part in _parts(tensor)}
        return sum((found for key, found in self._bytes.items() if key not in left_out), Counter())


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return the tensors with a storage that a tensor, sparse maybe, is made of."""
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


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
