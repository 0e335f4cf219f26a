"""Cases of the losses with a linear layer of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp import nn
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x, w, b = draw(5, 3), draw(4, 3, seed=7), draw(4, seed=2)
    target = torch.tensor([0, 2, 3, -100, 1])
    class_weight = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    found: list[LayerCase] = []

    def add(name: str, inputs: tuple[Tensor, ...], saved: Callable[..., int], rows: int, **arguments: Any) -> None:
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)

        def of(function: Callable[..., Tensor], options: Any) -> Callable[..., Tensor]:
            def loss(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
                fixed = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
                return function(x, w, target, linear_bias=b, options=options, **fixed)

            return loss

        mine, theirs = of(F.linear_cross_entropy, chunks), of(builtin.linear_cross_entropy, None)
        layer = "linear_cross_entropy"
        found.append(LayerCase(layer, f"{layer}[{name}]", Subject(mine, inputs, theirs, saved=saved)))

    two = lambda *given: bytes_of(*given, target) + 2 * 5 * 4  # noqa: E731
    add("mean", (x, w, b), lambda *given: two(*given) + 4, 2)
    add("none", (x, w), two, 3, reduction="none")
    options: dict[str, Any] = {"weight": class_weight, "label_smoothing": 0.2, "reduction": "sum"}
    add("weight, smoothing, sum", (x, w, b), lambda *given: two(*given) + 16, 5, **options)

    def adaptive(place: Any) -> Callable[..., Tensor]:
        module = place.AdaptiveLogSoftmaxWithLoss(4, 7, [2, 4], div_value=2.0)
        names = list(dict(module.named_parameters()))
        classes = torch.tensor([0, 5, 3, 6])

        def loss(x: Tensor, *parameters: Tensor) -> Tensor:
            given = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(module, given, (x, classes)).output

        return loss

    sizes = [tuple(p.shape) for p in nn.AdaptiveLogSoftmaxWithLoss(4, 7, [2, 4], div_value=2.0).parameters()]
    inputs = (draw(4, 4), *(draw(*size, seed=i) for i, size in enumerate(sizes)))
    subject = Subject(adaptive(nn), inputs, adaptive(torch.nn), small=False, saved=_adaptive_bytes)
    unknown = "how many rows a cluster has depends on the targets, which torch.compile does not look at"
    skip = dict.fromkeys(("compiled", "compiled_transform"), unknown)
    skip["autocast"] = "the built-in copies bfloat16 into float32 there, and raises"
    found.append(LayerCase("adaptive_log_softmax_with", "adaptive_log_softmax_with_loss", subject, skip))
    return found


def _adaptive_bytes(x: Tensor, head: Tensor, *tail: Tensor) -> int:
    """Return what three cross-entropies, five products and the choice of rows keep: one row and two of four."""
    size, total = x.element_size(), bytes_of(x, head, *tail)
    for rows, (down, up) in ((1, tail[:2]), (2, tail[2:])):
        total += rows * size * (down.shape[1] + down.shape[0] + up.shape[0] + 2)  # chosen, projected, logits, two
        total += rows * 8 * 2  # the places of the rows and the targets
    return total + 4 * (head.shape[0] + 2) * size + 4 * 8
