"""The graph behind tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from torchbp.autograd import replay


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


def built_in_nodes(outputs: Sequence[Tensor]) -> Counter[str]:
    """Count the nodes of a graph that run no Function of torchbp, by name: ``"ConvolutionBackward"``, ..."""
    found: Counter[str] = Counter()
    for node in nodes_of(outputs):
        function = getattr(type(node), "_forward_cls", None)
        if not (replay.is_replayed(node) or (function is not None and function.__module__.startswith("torchbp."))):
            found[node.name().rpartition("::")[2].rstrip("0123456789")] += 1
    return found
