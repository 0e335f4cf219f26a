"""Cases of attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchbp.nn.functional as F
from torchbp import autograd
from torchbp.autograd.attention import Scores
from torchbp.nn.functional._arguments import autocast_to
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []

    def add(name: str, inputs: tuple[Tensor, ...], options: dict[str, Any] | None = None, skip: Any = None) -> None:
        subject = Subject(
            partial(F.scaled_dot_product_attention, **options or {}),
            inputs,
            _with_derivatives(partial(builtin.scaled_dot_product_attention, **options or {})),
            saved=_kept,
            batched=tuple(i for i, t in enumerate(inputs) if t.dim() == 4),
        )
        found.append(
            LayerCase("scaled_dot_product_attention", f"scaled_dot_product_attention[{name}]", subject, skip or {})
        )

    causal = {
        "nonfinite": "keys that a row does not see are left out; the built-in adds -inf to their scores, NaN or not"
    }
    q, k, v = draw(2, 1, 3, 2), draw(2, 1, 4, 2, seed=1), draw(2, 1, 4, 2, seed=2)
    seen = torch.tensor([[True, True, False, True], [False, False, False, True], [True, True, True, True]])
    add("fused", (q, k, v))
    add("fused, causal", (q, k, v), {"is_causal": True, "scale": 0.3}, causal)
    add("mask added", (q, k, v, draw(3, 4, seed=4)))
    add("boolean mask, values of another size", (q, k, draw(2, 1, 4, 3, seed=2), seen.expand(2, 1, 3, 4)))
    add("causal, values of another size", (q, k, draw(2, 1, 4, 1, seed=2)), {"is_causal": True}, causal)
    add("grouped", (draw(2, 4, 2, 2), *(draw(2, 2, 3, 2, seed=i) for i in (1, 2))), {"enable_gqa": True})

    drawn = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(3)) < 0.6
    dropping = Scores(0.7, growth=1 / 0.6)

    @autocast_to("lower precision")
    def dropped(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
        return autograd.attention.attention(q, k, v, None, kept, dropping)

    def formula(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
        weights = torch.softmax(0.7 * q @ k.mT, -1)
        return (weights * kept / 0.6) @ v

    found.append(
        LayerCase(
            "scaled_dot_product_attention",
            "scaled_dot_product_attention[dropout, mask drawn]",
            Subject(
                dropped,
                (q, k, v, drawn),
                formula,
                saved=lambda q, k, v, kept: _kept(q, k, v) + kept.numel(),
                batched=(0, 1, 2, 3),
            ),
            {"unbatched": "torchbp.autograd's form takes a batch of heads"},
        )
    )
    # Input, weight and bias of the one projection, weight and bias of the other.
    parameters = (draw(12, 4, seed=5), draw(12, seed=6), draw(4, 4, seed=7), draw(4, seed=8))
    for name, weights in (("output", False), ("output and weights", True)):
        found.append(
            LayerCase(
                "multihead_attention",
                f"multihead_attention[{name}]",
                Subject(
                    partial(_self_attention, F.multi_head_attention_forward, weights),
                    (draw(3, 2, 4), *parameters),
                    _with_derivatives(partial(_self_attention, builtin.multi_head_attention_forward, weights)),
                    saved=partial(_kept_of_heads, weights),
                ),
                {"saved_in_vain": "query, key and value are kept as parts of the one tensor that they are"},
            )
        )
    return found


def _with_derivatives(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the built-in in the form that has more than one derivative on the CPU."""

    def call(*args: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return function(*args)

    return call


def _kept(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> int:
    """Return the bytes of the inputs, the output and a number per row."""
    rows = q.numel() // q.shape[-1]
    return bytes_of(q, k, v, mask) + rows * (v.shape[-1] + 1) * q.element_size()


def _self_attention(function: Callable[..., Any], weights: bool, x: Tensor, *parameters: Tensor) -> Any:
    w, b, out, bias = parameters
    found = function(x, x, x, 4, 2, w, b, None, None, False, 0.0, out, bias, need_weights=weights)
    return found if weights else found[0]


def _kept_of_heads(weights: bool, x: Tensor, w: Tensor, b: Tensor, out: Tensor, bias: Tensor) -> int:
    """Return the bytes of x, the two weights, q, k and v in one piece, and the output of two heads.

    And of the probabilities, or of a number per row.
    """
    length, batch, _ = x.shape
    of_rows = length * batch * 2 * x.element_size()
    return bytes_of(x, w, out) + 4 * bytes_of(x) + of_rows * (length if weights else 1)
