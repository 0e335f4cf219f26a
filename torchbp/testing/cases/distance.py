"""Cases of distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

_FIRST_ORDER = {"functional_transforms": "the built-in has no second derivative"}
_FORMULA = {"autocast": "the reference is a formula of ours, which autocast does not know"}
_EQUAL = {"kinks": "of equal rows the formula's derivative is 0 · inf, where the function's is 0"}


def _all_pairs(x: Tensor, z: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - z.unsqueeze(-3)).abs().pow(3).sum(-1).pow(1 / 3)


def _own_pairs(x: Tensor) -> Tensor:
    first, second = torch.triu_indices(x.shape[0], x.shape[0], 1)
    return (x[first] - x[second]).abs().pow(3).sum(-1).pow(1 / 3)


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []
    a, b = draw(4, 3), draw(4, 3, seed=7)

    def add(
        layer: str,
        name: str,
        inputs: Sequence[Tensor],
        lengths: int = 0,
        output: bool = True,
        skip: dict[str, str] | None = None,
        formula: Callable[..., Tensor] | None = None,
        **arguments: Any,
    ) -> None:
        mine: Callable[..., Tensor] = partial(getattr(F, layer), **arguments)
        theirs = formula or partial(torch.cdist if layer == "cdist" else getattr(builtin, layer), **arguments)

        def saved(*given: Tensor) -> int:
            y = bytes_of(mine(*(t.detach() for t in given)))
            return bytes_of(*given) + (y if output else 0) + lengths * given[0].element_size()

        batched = tuple(range(len(inputs))) if layer != "pdist" and inputs[0].shape[0] == inputs[-1].shape[0] else ()
        if layer == "cdist" and inputs[0].dim() == 2:
            batched = ()
        subject = Subject(mine, tuple(inputs), theirs, saved=saved, batched=batched)
        found.append(LayerCase(layer, f"{layer}[{name}]", subject, skip or {}))

    add("cosine_similarity", "dim 1", (a, b), 8)
    add("cosine_similarity", "dim 0, broadcast", (draw(2, 4, 3), draw(4, 1, seed=7)), 12, dim=-2)
    add("pairwise_distance", "2-norm", (a, b))
    add("pairwise_distance", "3-norm, kept dimension", (a, b), p=3.0, keepdim=True)
    add("pairwise_distance", "1-norm, broadcast", (draw(2, 4, 3), b), output=False, p=1)
    add("pairwise_distance", "1.5-norm", (a, b), p=1.5)
    add("pairwise_distance", "0.5-norm", (a, b), p=0.5)
    add("pairwise_distance", "maximum", (a, b), p=torch.inf)
    many = draw(27, 2), draw(3, 2, seed=7)
    for p in (1.0, 1.5, 2.0, 3.0, torch.inf):
        add("cdist", f"{p:g}-norm", (a, draw(2, 3, seed=7)), output=p != 1, skip=_FIRST_ORDER, p=p)
        add("pdist", f"{p:g}-norm", (a,), output=p != 1, skip=_FIRST_ORDER, p=p)
    add("cdist", "batch", (draw(2, 3, 2), draw(2, 4, 2, seed=7)), skip=_FIRST_ORDER)
    add("cdist", "3-norm, formula", (a, draw(2, 3, seed=7)), formula=_all_pairs, skip=_FORMULA, p=3.0)
    add("pdist", "3-norm, formula", (a,), formula=_own_pairs, skip={**_FORMULA, **_EQUAL}, p=3.0)
    add("cdist", "products", many)
    return found
