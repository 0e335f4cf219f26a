"""The graph behind tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def nodes_of(outputs: Sequence[Tensor]) -> Iterator[Any]:
    """Yield the nodes of a graph."""
    waiting: list[Any] = [t.grad_fn for t in outputs]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)
