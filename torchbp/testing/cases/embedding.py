"""Cases of embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

_PADDED = {
    **dict.fromkeys(
        ("first_order", "adjoint_identity"),
        "the gradient that PyTorch defines is not the derivative: the padding row gets none, a frequent one a mean",
    ),
    "functional_transforms": "the built-in's second derivative leaves the frequencies out",
}


def _defined(
    w: Tensor, i: Tensor, offsets: Tensor, s: Tensor | None = None, mode: str = "mean", padding_idx: int = -1
) -> Tensor:
    """Return what embedding_bag is defined as; the built-in is differentiable once."""
    bags = []
    bounds = [*offsets.tolist(), len(i)]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        kept = [k for k in range(start, stop) if i[k] != padding_idx]
        rows = w[i[kept]] if s is None else w[i[kept]] * s[kept].unsqueeze(1)
        if mode == "max":
            best = rows[0] if kept else w.new_zeros(w.shape[1])
            for row in rows[1:]:  # the first of equal ones wins
                best = torch.where(row > best, row, best)
            bags.append(best)
        else:
            bags.append(rows.sum(0) / (max(len(kept), 1) if mode == "mean" else 1))
    return torch.stack(bags)


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    index, table = torch.tensor([[0, 3, 3], [1, 0, 3]]), draw(4, 2)
    only = lambda index, *_: bytes_of(index)  # noqa: E731
    found = []
    plain: tuple[tuple[str, dict[str, str], dict[str, Any]], ...] = (
        ("embedding", {}, {}),
        ("embedding[padding, by frequency]", _PADDED, {"padding_idx": 0, "scale_grad_by_freq": True}),
    )
    for name, skip, arguments in plain:

        def mine(i: Tensor, w: Tensor, arguments: Any = arguments) -> Tensor:
            return F.embedding(i, w, **arguments)

        def theirs(i: Tensor, w: Tensor, arguments: Any = arguments) -> Tensor:
            return builtin.embedding(i, w, **arguments)

        subject = Subject(mine, (index, table), theirs, saved=only, batched=(0,))
        found.append(LayerCase("embedding", name, subject, skip))
    flat, offsets, weights = index.flatten(), torch.tensor([0, 2, 2]), draw(6, seed=3)
    sizes, winners = 3 * 8, 3 * 2 * 8
    reduced: tuple[tuple[str, tuple[Tensor, ...], int, dict[str, Any]], ...] = (
        ("sum", (), 0, {"mode": "sum"}),
        ("sum, weights, padding", (weights,), bytes_of(table, weights) // 2, {"mode": "sum", "padding_idx": 1}),
        ("mean, padding", (), sizes, {"mode": "mean", "padding_idx": 1}),
        ("max", (), sizes + winners, {"mode": "max"}),
    )
    for name, given, kept, arguments in reduced:

        def bag(w: Tensor, i: Tensor, offsets: Tensor, s: Tensor | None = None, arguments: Any = arguments) -> Tensor:
            return F.embedding_bag(i, w, offsets, per_sample_weights=s, **arguments)

        def defined(*given: Any, arguments: Any = arguments) -> Tensor:
            return _defined(*given, **arguments)

        saved = lambda w, i, o, *s, kept=kept: bytes_of(i, o) + kept  # noqa: E731
        subject = Subject(bag, (table, flat, offsets, *given), defined, saved=saved)
        found.append(LayerCase("embedding_bag", f"embedding_bag[{name}]", subject))
    return found
