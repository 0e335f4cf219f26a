"""Attention against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as builtin_nn
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import FORMATS, arranged, mostly, normal, parity, seeds, set_seed, sizes, times
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchbp import nn
from torchbp.nn import functional as F

lengths = mostly(st.integers(1, 6), st.sampled_from((0, 17, 130)))
scales = st.none() | st.sampled_from((0.5, -1.5, 0.0))


@st.composite
def attention_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes that broadcast, groups of heads, every kind of mask, causal or not, with or without dropout."""
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    length, keys = draw(lengths), draw(lengths)
    size, value_size = draw(sizes), draw(sizes)
    if draw(st.booleans()):
        value_size = size
    lead = draw(st.sampled_from(((2, 3), (1, 1), (3,), (), (2, 1, 2), (0, 2))))
    group = draw(st.sampled_from((1, 1, 2, 3))) if lead else 1
    heads = (*lead[:-1], lead[-1] * group) if lead else ()
    shared = lead
    if group == 1 and draw(st.integers(0, 3)) == 3:  # a dimension that is broadcast
        shared = tuple(1 if draw(st.booleans()) else n for n in lead)
    shapes = ((*heads, length, size), (*shared, keys, size), (*shared, keys, value_size))
    layout = draw(st.sampled_from(FORMATS))
    tensors: list[Tensor | None] = [arranged(normal(shape, seed + i, dtype), layout) for i, shape in enumerate(shapes)]
    kind = draw(st.sampled_from(("none", "none", "added", "boolean", "causal")))
    if kind == "added" and 0 in (*lead, length, keys):
        kind = "boolean"  # the built-in has no gradient for the mask of no scores
    mask = None
    if kind in ("added", "boolean"):
        full = (*heads, length, keys)
        start = draw(st.integers(0, len(full) - 2))
        shape = [1 if draw(st.integers(0, 3)) == 3 else n for n in full[start:]]
        if len(heads) == 2 and len(shape) == 4 and draw(st.booleans()):
            shape[:2] = heads
        mask = normal(shape, seed + 5, dtype)
        mask = mask > -0.5 if kind == "boolean" else mask
    options = {
        "is_causal": kind == "causal",
        "dropout_p": draw(st.sampled_from((0.0, 0.0, 0.0, 0.3, 1.0))),
        "scale": draw(scales),
        "enable_gqa": group > 1,
    }
    return {"tensors": (*tensors, mask), "options": options, "seed": seed}


def plain(*args: Any, **options: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return builtin.scaled_dot_product_attention(*args, **options)


@given(attention_arguments())
@times(1.5)
def test_scaled_dot_product_attention(arguments: dict[str, Any]) -> None:
    """Values, gradients, the mask's too, and the layout; dropout draws what the built-in draws."""
    tensors, options, seed = arguments["tensors"], arguments["options"], arguments["seed"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            set_seed(seed)
            return function(q, k, v, mask, **options)

        return call

    # Scores add up `size` products, outputs and gradients one number per key or row; dropout's factor is exact.
    q, k, _, _ = tensors
    terms = 8 * max(q.shape[-1] * q.shape[-2] * k.shape[-2], 1)
    # The truth is the built-in's plain form; the fused one is wrong for a causal mask and a scale that is not positive.
    parity(
        of(F.scaled_dot_product_attention),
        of(plain),
        *tensors,
        narrow=of(builtin.scaled_dot_product_attention),
        terms=terms,
        seed=seed,
        keep_layout=True,
        roundings=16,
    )


@st.composite
def heads_arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of MultiheadAttention and of a call."""
    heads, head_size = draw(st.sampled_from((1, 2, 3))), draw(st.integers(1, 3))
    size = heads * head_size
    batched, batch_first = draw(st.integers(0, 3)) > 0, draw(st.booleans())
    batch, length, keys = draw(sizes), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    options = {
        "dropout": draw(st.sampled_from((0.0, 0.0, 0.4))),
        "bias": draw(st.booleans()),
        "add_bias_kv": draw(st.booleans()),
        "add_zero_attn": draw(st.booleans()),
        "batch_first": batch_first,
    }
    same = draw(st.sampled_from(("self", "keys", "none", "sizes")))
    if same == "sizes":
        options |= {"kdim": draw(sizes), "vdim": draw(sizes)}
    if same == "self":
        keys = length
    seed = draw(seeds)

    def sequence(rows: int, features: int, number: int) -> Tensor:
        shape = ((batch, rows) if batch_first else (rows, batch)) if batched else (rows,)
        return normal((*shape, features), seed + number)

    query = sequence(length, size, 0)
    key = query if same == "self" else sequence(keys, options.get("kdim", size), 1)
    value = key if same in ("self", "keys") else sequence(keys, options.get("vdim", size), 2)
    kind = draw(st.sampled_from((torch.bool, torch.float64)))

    def mask(*shape: int, number: int) -> Tensor:
        drawn = normal(shape, seed + number)
        if kind == torch.bool:
            drawn = drawn > 0.7
            drawn[..., 0] = False  # the built-in's probabilities of a row that sees no key are NaN
        return drawn

    call: dict[str, Any] = {"need_weights": draw(st.booleans()), "average_attn_weights": draw(st.booleans())}
    if draw(st.booleans()):
        call["key_padding_mask"] = mask(*((batch, keys) if batched else (keys,)), number=3)
    which = draw(st.sampled_from(("none", "all", "each", "causal")))
    if which in ("all", "each"):
        lead = () if which == "all" else ((batch if batched else 1) * heads,)
        call["attn_mask"] = mask(*lead, length, keys, number=4)
    if which == "causal":
        causal = torch.ones(length, keys, dtype=torch.bool).triu(1)
        call["attn_mask"] = (
            causal if kind == torch.bool else torch.zeros(causal.shape).double().masked_fill(causal, -math.inf)
        )
        call["is_causal"] = draw(st.booleans())
    return {
        "size": size,
        "heads": heads,
        "options": options,
        "tensors": (query, key, value),
        "call": call,
        "seed": seed,
    }


@given(heads_arguments())
@times(1.5)
def test_multihead_attention(arguments: dict[str, Any]) -> None:
    """Outputs, weights, and the gradients of inputs and parameters; in training and evaluation."""
    results = []
    for place in (nn, builtin_nn):
        set_seed(7)
        module = place.MultiheadAttention(arguments["size"], arguments["heads"], **arguments["options"]).double()
        found = []
        for training in (True, False):
            module.train(training)
            leaves = {id(t): t.clone().requires_grad_() for t in arguments["tensors"]}
            set_seed(arguments["seed"])
            output, weights = module(*(leaves[id(t)] for t in arguments["tensors"]), **arguments["call"])
            assert (weights is None) == (not arguments["call"]["need_weights"])
            loss = (output * output).sum() + (0 if weights is None else (weights * weights).sum())
            wanted = [*leaves.values(), *module.parameters()]
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            found += [output, *([] if weights is None else [weights]), *gradients]
        results.append(found)
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
