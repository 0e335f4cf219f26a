"""Cases of connectionist temporal classification."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def _all_alignments(x: Tensor, targets: Tensor, steps: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """Return the losses by the definition: add up every path of classes that collapses to the target."""
    losses = []
    for n in range(x.shape[1]):
        target = targets[n, : lengths[n]].tolist()
        count = int(steps[n])
        likelihood = []
        for path in product(range(x.shape[2]), repeat=count):
            merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
            if [c for c in merged if c != blank] == target:
                likelihood.append(sum((x[t, n, c] for t, c in enumerate(path)), x.new_zeros(())))
        losses.append(-torch.stack(likelihood).logsumexp(0))
    return torch.stack(losses)


_FIXED = {"size_one": "targets and lengths, which are no inputs here, fit one size only"}


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []

    def add(name: str, x: Tensor, targets: Tensor, steps: Tensor, lengths: Tensor, **arguments: Any) -> None:
        states = 2 * targets.shape[1] + 1
        reduction = arguments.get("reduction", "mean")

        def reference(x: Tensor) -> Tensor:
            losses = _all_alignments(x, targets, steps, lengths, arguments.get("blank", 0))
            if reduction == "mean":
                return (losses / lengths.clamp(min=1)).mean()
            return losses if reduction == "none" else losses.sum()

        def saved(x: Tensor) -> int:
            size, count = x.element_size(), x.shape[1]
            divisor = count * size if reduction == "mean" else 0
            return bytes_of(x, targets, steps, lengths) + size * (count + x.shape[0] * count * states) + divisor

        subject = Subject(lambda x: F.ctc_loss(x, targets, steps, lengths, **arguments), (x,), reference, saved=saved)
        skip = {
            "autocast": "the reference is a formula of ours, which autocast does not know",
            "nonfinite": "by a NaN that no path goes through the formula's gradient is 0, the built-in's and ours NaN",
            "magnitudes": "logarithms of 10¹⁵ differ by more than float32 can tell from their sums along a path",
            **(_FIXED if x.shape[1] > 1 else {}),
        }
        found.append(LayerCase("ctc_loss", f"ctc_loss[{name}]", subject, skip))

    pair = torch.tensor([[1, 2], [2, 0]]), torch.tensor([4, 3]), torch.tensor([2, 1])
    add("mean", draw(4, 2, 3), *pair)
    repeated = torch.tensor([[1, 1]]), torch.tensor([4]), torch.tensor([2])
    add("none, repeated label", draw(4, 1, 3), *repeated, reduction="none")
    empty = torch.tensor([[0, 1], [1, 1]]), torch.tensor([3, 3]), torch.tensor([2, 0])
    add("blank 2, an empty target, sum", draw(3, 2, 3), *empty, blank=2, reduction="sum")

    def behind_softmax(function: Any) -> Any:
        def loss(logits: Tensor) -> Tensor:
            targets, steps, lengths = pair
            return function(F.log_softmax(logits, 2), targets, steps, lengths, reduction="none")

        return loss

    subject = Subject(
        behind_softmax(F.ctc_loss),
        (draw(4, 2, 3, seed=4),),
        behind_softmax(builtin.ctc_loss),
        saved=lambda x: bytes_of(x, *pair) + x.element_size() * (2 + 4 * 2 * 5),
    )
    skip = {"functional_transforms": "the built-in has no second derivative", **_FIXED}
    found.append(LayerCase("ctc_loss", "ctc_loss[behind log_softmax]", subject, skip))
    return found
