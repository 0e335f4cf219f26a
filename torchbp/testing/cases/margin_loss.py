"""Cases of the losses with margins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

_FIRST_ORDER = {"functional_transforms": "the built-in has no second derivative"}
_SKIPS = {
    "multi_margin_loss": _FIRST_ORDER,
    "multilabel_margin_loss": _FIRST_ORDER,
}
_FORMULA = {
    "autocast": "the reference is a formula of ours, which autocast does not know",
    "nonfinite": "a margin that is NaN is not above 0, so it costs nothing; the formula's clamp leaves it NaN",
}


def _multi_margin(x: Tensor, target: Tensor) -> Tensor:
    margins = (1 - x.gather(1, target.unsqueeze(1)) + x).clamp(min=0).square()
    return margins.scatter(1, target.unsqueeze(1), 0).sum() / x.shape[1]


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x, target = draw(4, 3), torch.tensor([0, 2, 1, 2])
    labels = torch.tensor([[2, 0, -1], [1, -1, 0], [0, 2, 1], [-1, 1, 1]])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    a, b, c = draw(4, 3), draw(4, 3, seed=7), draw(4, 3, seed=9)
    signs = torch.tensor([1, -1, -1, -1])
    found: list[LayerCase] = []

    def add(
        layer: str,
        name: str,
        inputs: tuple[Tensor, ...],
        saved: Callable[..., int],
        formula: Callable[..., Tensor] | None = None,
        **arguments: Any,
    ) -> None:
        def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def loss(*given: Tensor) -> Tensor:
                fixed = {k: v.to(given[0].dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
                return function(*given, **fixed)

            return loss

        every = tuple(range(len(inputs))) if arguments.get("reduction") == "none" else ()
        theirs = formula or of(getattr(builtin, layer))
        subject = Subject(of(getattr(F, layer)), inputs, theirs, saved=saved, batched=every)
        skip = _FORMULA if formula else _SKIPS.get(layer, {})
        found.append(LayerCase(layer, f"{layer}[{name}]", subject, skip))

    add("multi_margin_loss", "mean", (x, target), bytes_of)
    add("multi_margin_loss", "squares, none", (x, target), bytes_of, p=2, reduction="none")
    add("multi_margin_loss", "squares, formula", (x, target), bytes_of, _multi_margin, p=2, reduction="sum")
    weighted = lambda x, t: bytes_of(x, t) + 3 * x.element_size()  # noqa: E731
    add("multi_margin_loss", "weight, sum", (x, target), weighted, weight=weight, margin=0.5, p=2, reduction="sum")
    marked = lambda x, t: bytes_of(x, t, x)  # noqa: E731
    add("multilabel_margin_loss", "mean", (x, labels), marked)
    add("multilabel_margin_loss", "none", (x, labels), marked, reduction="none")
    add("multilabel_margin_loss", "unbatched, sum", (x[0], labels[0]), marked, reduction="sum")
    # The vectors, their lengths, the cosines and the targets.
    cosines = lambda a, b, t: bytes_of(a, b, t) + 3 * 4 * a.element_size()  # noqa: E731
    close = draw(4, 3, seed=8)
    add("cosine_embedding_loss", "mean", (a, close, signs), cosines)
    add("cosine_embedding_loss", "margin 0.3, none", (a, close, signs), cosines, margin=0.3, reduction="none")
    # The three tensors and the distances.
    two = lambda a, b, c: bytes_of(a, b, c) + 2 * 4 * a.element_size()  # noqa: E731
    three = lambda a, b, c: bytes_of(a, b, c) + 3 * 4 * a.element_size()  # noqa: E731
    add("triplet_margin_loss", "mean", (a, b, c), two)
    add("triplet_margin_loss", "swapped, 3-norm, none", (a, b, c), three, swap=True, p=3, reduction="none", margin=2)
    add("triplet_margin_with_distance_loss", "mean", (a, b, c), two)
    add("triplet_margin_with_distance_loss", "swapped, sum", (a, b, c), three, swap=True, reduction="sum")
    return found
