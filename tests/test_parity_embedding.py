"""Embeddings against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, normal, parity, seeds, some, times
from torch import Tensor
from torch.autograd import gradgradcheck

from torchbp import nn
from torchbp.nn import functional as F

dtypes = st.sampled_from((torch.float64, torch.float32, torch.bfloat16))
integers = st.sampled_from((torch.int64, torch.int32))
layouts = st.sampled_from(("contiguous", "permuted", "strided"))


def indices(shape: list[int], rows: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, rows, shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def embedding_arguments(draw: st.DrawFn) -> dict[str, Any]:
    rows, seed = draw(st.integers(1, 6)), draw(seeds)
    index = indices(draw(st.lists(st.integers(0, 4), max_size=3)), rows, seed, draw(integers))
    return {
        "weight": arranged(normal((rows, draw(st.integers(1, 5))), seed, draw(dtypes)), draw(layouts)),
        "index": arranged(index, draw(layouts)) if index.dim() else index,
        "options": {
            "padding_idx": draw(some(st.integers(-rows, rows - 1))),
            "max_norm": draw(some(st.sampled_from((0.5, 2.0)))),
            "norm_type": draw(st.sampled_from((2.0, 1.0))),
            "scale_grad_by_freq": draw(st.booleans()),
        },
        "seed": seed,
    }


@given(embedding_arguments())
@times(3)
def test_embedding(arguments: dict[str, Any]) -> None:
    weight, index, options = arguments["weight"], arguments["index"], arguments["options"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # A table that is renormalised is no leaf, so that its gradient may be taken.
        return lambda w: function(index, w, **options)

    terms = max(index.numel(), 1) * 4
    parity(of(F.embedding), of(builtin.embedding), weight, terms=terms, seed=arguments["seed"])


@st.composite
def bag_arguments(draw: st.DrawFn) -> dict[str, Any]:
    rows, seed, mode = draw(st.integers(1, 6)), draw(seeds), draw(st.sampled_from(("sum", "mean", "max")))
    kind, dtype, last = draw(integers), draw(dtypes), draw(st.booleans())
    if draw(st.booleans()):
        index, offsets = indices([draw(st.integers(1, 4)), draw(st.integers(1, 4))], rows, seed, kind), None
    else:
        count = draw(st.integers(0, 8))
        index = indices([count], rows, seed, kind)
        starts = sorted(draw(st.lists(st.integers(0, count), max_size=4)))
        offsets = torch.tensor([0, *starts, *([count] if last else [])], dtype=kind)
    weights = normal(index.shape, seed + 2, dtype) if mode == "sum" and draw(st.booleans()) else None
    return {
        "weight": normal((rows, draw(st.integers(1, 5))), seed, dtype),
        "index": index,
        "per_sample_weights": weights,
        "options": {
            "offsets": offsets,
            "mode": mode,
            "include_last_offset": last and offsets is not None,
            "padding_idx": draw(some(st.integers(-rows, rows - 1))),
            "max_norm": draw(some(st.just(1.0))),
            "scale_grad_by_freq": mode != "max" and draw(st.booleans()),
        },
        "seed": seed,
    }


@given(bag_arguments())
@times(3)
def test_embedding_bag(arguments: dict[str, Any]) -> None:
    index, options = arguments["index"], arguments["options"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda w, s: function(index, w, per_sample_weights=s, **options)

    tensors = arguments["weight"], arguments["per_sample_weights"]
    terms = max(index.numel(), 1) * 8
    parity(of(F.embedding_bag), of(builtin.embedding_bag), *tensors, terms=terms, seed=arguments["seed"])


@pytest.mark.parametrize("name", ["Embedding", "EmbeddingBag"])
def test_sparse_gradients(name: str) -> None:
    results = []
    for place in (nn, torch.nn):
        torch.manual_seed(0)
        module = getattr(place, name)(6, 3, padding_idx=2, sparse=True)
        module(torch.tensor([[0, 2, 2], [5, 1, 0]])).square().sum().backward()
        assert module.weight.grad.is_sparse
        torch.optim.SparseAdam(module.parameters()).step()
        results.append([module.weight.grad.to_dense(), module.weight.detach()])
    torch.testing.assert_close(results[0], results[1])


def test_the_second_derivative_by_frequency() -> None:
    """The built-in forgets the frequencies there; finite differences judge."""
    index, w = torch.tensor([1, 2, 2, 0, 2]), normal((3, 2), 1).requires_grad_()
    g, v = normal((5, 2), 2).requires_grad_(), normal((3, 2), 3)

    def product(place: Any, g: Tensor) -> Tensor:
        y = place.embedding(index, w, scale_grad_by_freq=True)
        return (torch.autograd.grad(y, w, g, create_graph=True)[0] * v).sum()

    frequency = torch.tensor([1.0, 1, 3])
    expected = (v / frequency.double().unsqueeze(1))[index]
    torch.testing.assert_close(torch.autograd.grad(product(F, g), g)[0], expected)
    torch.testing.assert_close(torch.autograd.grad(product(builtin, g), g)[0], v[index])
    move = normal((5, 2), 4)
    difference = product(builtin, g + move) - product(builtin, g)  # linear in g
    torch.testing.assert_close(difference.detach(), (expected * move).sum())


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_the_second_derivative_of_a_bag(mode: str) -> None:
    """Which the built-in has not got."""
    index, offsets = torch.tensor([1, 2, 2, 0, 2]), torch.tensor([0, 2, 2])
    w = normal((3, 2), 1).requires_grad_()
    s = normal((5,), 2).requires_grad_() if mode == "sum" else None

    def function(w: Tensor, s: Tensor | None = None) -> Tensor:
        return F.embedding_bag(index, w, offsets, mode=mode, per_sample_weights=s, padding_idx=1).square()

    assert gradgradcheck(function, (w,) if s is None else (w, s))
    y = builtin.embedding_bag(index, w, offsets, mode=mode, per_sample_weights=s)
    (gw,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(gw.sum(), w)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("mode", ("sum", "mean", "max"))
@pytest.mark.parametrize("given", ([0, 5, 2], [0, -3, 3], [0, 10**6, 2], [1, 2], [0, 7]))
def test_offsets_that_do_not_ascend_are_refused(given: list[int], mode: str, dtype: torch.dtype) -> None:
    """The built-in looks at the first and the last only, and reads beyond the indices for some of the others."""
    index, offsets = torch.tensor([0, 3, 3, 1, 0, 3]), torch.tensor(given)
    for wanted in (False, True):
        table = torch.randn(4, 2, dtype=dtype, requires_grad=wanted)
        with pytest.raises(RuntimeError, match=r"offsets must ascend from 0 up to the 6 indices .*, got \[") as error:
            F.embedding_bag(index, table, offsets, mode=mode)
        assert str(given) in str(error.value)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("mode", ("sum", "mean", "max"))
def test_indices_without_bags(mode: str, dtype: torch.dtype) -> None:
    """The built-in crashes for float32."""
    index, offsets = torch.tensor([0, 3, 3]), torch.tensor([], dtype=torch.int64)
    table = torch.randn(4, 8, dtype=dtype, requires_grad=True)
    y = F.embedding_bag(index, table, offsets, mode=mode)
    assert y.shape == (0, 8)
    (gradient,) = torch.autograd.grad(y.sum(), table)
    assert torch.equal(gradient, torch.zeros_like(table))
