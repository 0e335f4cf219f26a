"""Cases of the losses of every element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def _binary(x: Tensor, t: Tensor) -> Tensor:
    return -t * x.log() - (1 - t) * (1 - x).log()


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x, t = draw(4, 3), draw(4, 3, seed=7)
    between = 0.8 * draw(4, 3).sigmoid(), draw(4, 3, seed=7).sigmoid()
    signs = torch.tensor([[1.0, -1, 1], [-1, -1, 1], [1, 1, -1], [-1, 1, -1]], dtype=torch.float64)
    labels = signs.long()
    weight = draw(4, 3, seed=3).abs() + 0.2
    vector = draw(3, seed=4).abs() + 0.2
    counts = draw(4, 3, seed=5).abs() + 0.3
    found: list[LayerCase] = []

    def add(
        layer: str,
        name: str,
        inputs: tuple[Tensor, ...],
        saved: Callable[..., int] = bytes_of,
        weights: dict[str, Tensor] | None = None,
        skip: dict[str, str] | None = None,
        batched: bool = False,
        reference: Callable[..., Tensor] | None = None,
        **arguments: Any,
    ) -> None:
        def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def loss(*given: Tensor) -> Tensor:
                fixed = {k: v.to(given[0].dtype) for k, v in (weights or {}).items()}
                return function(*given, **fixed, **arguments)

            return loss

        every = tuple(range(len(inputs))) if batched else ()
        subject = Subject(
            of(getattr(F, layer)), inputs, reference or of(getattr(builtin, layer)), saved=saved, batched=every
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject, skip or {}))

    # A weight is kept in the shape that it came in, and the sum of weights that a mean divides by.
    vector_too = lambda x, t: bytes_of(x, t) + 3 * x.element_size()  # noqa: E731
    weight_too = lambda x, t: bytes_of(x, t) + 12 * x.element_size()  # noqa: E731
    mean_too = lambda x, t: bytes_of(x, t) + 13 * x.element_size()  # noqa: E731
    edge = {"kinks": "the built-in cannot be asked beyond the edge of the domain, at 0"}
    none: dict[str, Any] = {"reduction": "none", "batched": True}
    add("mse_loss", "mean", (x, t))
    add("mse_loss", "none", (x, t), **none)
    add("mse_loss", "weight", (x, t), mean_too, {"weight": weight})
    add("l1_loss", "mean", (x, t))
    add("l1_loss", "none", (x, t), **none)
    add("l1_loss", "complex", (torch.complex(x, t), torch.complex(t, x)), reduction="sum")
    add("l1_loss", "weight", (x, t), mean_too, {"weight": weight})
    add("smooth_l1_loss", "mean", (x, t))
    add("smooth_l1_loss", "beta 2.5, none", (x, t), beta=2.5, **none)
    add("smooth_l1_loss", "beta 0, sum", (x, t), beta=0.0, reduction="sum")
    add("huber_loss", "mean", (x, t))
    add("huber_loss", "delta 0.5, none", (x, t), delta=0.5, **none)
    add("huber_loss", "weight, sum", (x, t), weight_too, {"weight": weight}, reduction="sum", delta=2)
    add("kl_div", "batchmean", (x, between[0]), reduction="batchmean")
    add("kl_div", "logarithm, sum", (x, t), log_target=True, reduction="sum")
    add("kl_div", "none", (x, between[0]), **none)
    stirling = {"nonfinite": "at infinity the built-in's gradient of t log t is inf / inf"}
    add("poisson_nll_loss", "mean", (x, counts))
    add("poisson_nll_loss", "full, none", (x, counts * 2), skip=stirling, full=True, **none)
    add(
        "poisson_nll_loss",
        "rate, full, sum",
        (counts, 2 * counts),
        skip=stirling,
        log_input=False,
        full=True,
        reduction="sum",
    )
    inexact = {**edge, "functional_transforms": "the built-in's second derivative adds 1e-12 to x (1 - x)"}
    formula = {**edge, "autocast": "the reference is a formula of ours, which autocast does not know"}
    formula["nonfinite"] = "the function refuses what is not between 0 and 1, the formula takes it"
    add("binary_cross_entropy", "mean", between, skip=inexact)
    add("binary_cross_entropy", "none", between, skip=formula, reference=_binary, **none)
    add("binary_cross_entropy", "weight, sum", between, vector_too, {"weight": vector}, skip=inexact, reduction="sum")
    add("binary_cross_entropy_with_logits", "mean", (x, t))
    add("binary_cross_entropy_with_logits", "none", (x, t), **none)
    add("binary_cross_entropy_with_logits", "positive weight", (x, t), vector_too, {"pos_weight": vector})
    both = {"weight": weight, "pos_weight": vector}
    add(
        "binary_cross_entropy_with_logits",
        "both weights, sum",
        (x, t),
        lambda x, t: weight_too(x, t) + 3 * x.element_size(),
        both,
        reduction="sum",
    )
    infinite = {"nonfinite": "where exp(-t x) overflows the built-in's gradient is NaN"}
    add("soft_margin_loss", "mean", (x, labels), lambda x, t: 2 * bytes_of(x), skip=infinite)
    add("soft_margin_loss", "none", (x, labels), lambda x, t: 2 * bytes_of(x), skip=infinite, **none)
    add("hinge_embedding_loss", "mean", (x, labels), lambda x, t: bytes_of(x, t))
    add("hinge_embedding_loss", "margin 0.5, none", (x, labels), lambda x, t: bytes_of(x, t), margin=0.5, **none)
    add("margin_ranking_loss", "mean", (x[:, 0], t[:, 0], signs[:, 0] * 0.9))
    add("margin_ranking_loss", "margin 0.5, none", (x, t, signs * 1.1), margin=0.5, **none)
    add("multilabel_soft_margin_loss", "mean", (x, t))
    add("multilabel_soft_margin_loss", "weight, none", (x, t), vector_too, {"weight": vector}, **none)
    add("multilabel_soft_margin_loss", "sum", (x, t), reduction="sum")
    add("gaussian_nll_loss", "mean", (x, t, weight), skip=edge)
    add(
        "gaussian_nll_loss",
        "full, one variance a row, none",
        (x, t, weight[:, :1]),
        bytes_of,
        skip=edge,
        full=True,
        **none,
    )
    return found
