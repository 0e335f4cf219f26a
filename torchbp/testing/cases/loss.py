"""Cases of loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x, target = draw(4, 3), torch.tensor([0, 2, 1, 2])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    images, labels = draw(2, 3, 2, 2), torch.tensor([[[0, 1], [2, 1]], [[1, -100], [0, 2]]])
    probability = torch.softmax(draw(4, 3, seed=5), 1)

    def of(function: Callable[..., Tensor], **arguments: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(x: Tensor, t: Tensor) -> Tensor:
            given = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
            return function(x, t, **given)

        return loss

    found: list[LayerCase] = []

    def add(
        layer: str, name: str, inputs: tuple[Tensor, ...], saved: Callable[..., int] | None = None, **arguments: Any
    ) -> None:
        subject = Subject(
            of(getattr(F, layer), **arguments), inputs, of(getattr(builtin, layer), **arguments), saved=saved
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))

    # The targets, the class weights, the total weight of a mean; cross_entropy also the scores, two numbers a sample.
    scores = lambda x, t: bytes_of(x) + 8 * t.numel()  # noqa: E731
    nothing = lambda x, t: 0  # noqa: E731
    for layer, kept in (("nll_loss", nothing), ("cross_entropy", scores)):
        add(layer, "mean", (x, target), lambda x, t, kept=kept: kept(x, t) + bytes_of(t) + 4)
        add(
            layer,
            "weight, sum",
            (x, target),
            lambda x, t, kept=kept: kept(x, t) + bytes_of(t) + 12,
            weight=weight,
            reduction="sum",
        )
        add(
            layer,
            "images, ignored, none",
            (images, labels),
            lambda x, t, kept=kept: kept(x, t) + bytes_of(t),
            reduction="none",
        )
        add(
            layer,
            "images, weight, mean",
            (images, labels),
            lambda x, t, kept=kept: kept(x, t) + bytes_of(t) + 12 + 4,
            weight=weight,
        )
    # Probabilities keep themselves and one weight per class.
    add(
        "cross_entropy",
        "smoothing, weight",
        (x, target),
        lambda x, t: scores(x, t) + bytes_of(t) + 12 + 4,
        weight=weight,
        label_smoothing=0.2,
    )
    add("cross_entropy", "probabilities", (x, probability), lambda x, p: bytes_of(x, p) + 12)
    add(
        "cross_entropy",
        "probabilities, smoothing, weight, none",
        (x, probability),
        lambda x, p: bytes_of(x, p) + 12,
        weight=weight,
        label_smoothing=0.1,
        reduction="none",
    )
    return found
