"""Distances and losses with margins against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, layouts, normal, parity, refused_alike, seeds, times
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torchbp.nn as nn
from torchbp.costs.graph import built_in_nodes
from torchbp.nn import functional as F

reductions = st.sampled_from(("mean", "sum", "none"))
norms = st.sampled_from((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, torch.inf))
dtypes = st.sampled_from((torch.float64, torch.float32))
sizes = st.integers(1, 5)


def with_options(function: Callable[..., Tensor], options: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda *tensors: function(
        *tensors, **{k: v.to(tensors[0].dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
    )


def compare(name: str, data: st.DataObject, tensors: list[Tensor], **options: Any) -> None:
    theirs = torch.cdist if name == "cdist" else getattr(builtin, name)
    tensors = [arranged(t, data.draw(layouts)) for t in tensors]
    both = with_options(getattr(F, name), options), with_options(theirs, options)
    parity(*both, *tensors, terms=8 * sum(t.numel() for t in tensors), condition=64)


@pytest.mark.parametrize("name", ("pairwise_distance", "cosine_similarity", "cdist", "pdist"))
@given(st.data())
@times(0.5)
def test_distance(name: str, data: st.DataObject) -> None:
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    rows, columns, features = (data.draw(sizes) for _ in range(3))
    if name == "pdist":
        compare(name, data, [normal((rows, features), seed, dtype)], p=data.draw(norms))
        return
    lead = data.draw(st.lists(st.integers(1, 3), max_size=2))
    other = [data.draw(st.sampled_from((n, 1))) for n in lead]
    if name == "cdist":
        shapes = (*lead, rows, features), (*other, columns, features)
        options: dict[str, Any] = {"p": data.draw(norms)}
        if data.draw(st.booleans()):
            options["compute_mode"] = "use_mm_for_euclid_dist"
    elif name == "pairwise_distance":
        shapes = (*lead, rows, features), (*other, rows, features)
        options = {"p": data.draw(norms.filter(bool)), "keepdim": data.draw(st.booleans())}
    else:
        shapes = (*lead, rows, features), (*other, rows, features)
        options = {"dim": data.draw(st.integers(-1, len(lead) + 1))}
        dtype = torch.float64  # of one number the gradient is 0 but for rounding
    compare(name, data, [normal(shape, seed + i, dtype) for i, shape in enumerate(shapes)], **options)


@pytest.mark.parametrize("name", ("multi_margin_loss", "multilabel_margin_loss"))
@given(st.data())
@times(0.5)
def test_margins_of_classes(name: str, data: st.DataObject) -> None:
    seed, dtype, classes = data.draw(seeds), data.draw(dtypes), data.draw(sizes)
    lead = data.draw(st.lists(sizes, max_size=1))
    generator = torch.Generator().manual_seed(seed)
    x = normal((*lead, classes), seed, dtype)
    options: dict[str, Any] = {"reduction": data.draw(reductions)}
    if name == "multi_margin_loss":
        target = torch.randint(classes, tuple(lead), generator=generator)
        options |= {"p": data.draw(st.sampled_from((1, 2))), "margin": data.draw(st.sampled_from((0.5, 1.0)))}
        if data.draw(st.booleans()):
            options["weight"] = normal((classes,), seed + 1, dtype).abs()
    else:
        target = torch.randint(-1, classes, (*lead, classes), generator=generator)
    compare(name, data, [x, target], **options)


@pytest.mark.parametrize("name", ("cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"))
@given(st.data())
@times(0.5)
def test_margins_of_vectors(name: str, data: st.DataObject) -> None:
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    lead = data.draw(st.lists(sizes, max_size=1))
    shape = (*lead, data.draw(sizes))
    options: dict[str, Any] = {"reduction": data.draw(reductions), "margin": data.draw(st.sampled_from((0.25, 1.0)))}
    tensors = [normal(shape, seed + i, dtype) for i in range(3)]
    if name == "cosine_embedding_loss":
        tensors[2] = torch.where(normal(lead, seed + 3) > 0, 1, -1)
    else:
        options["swap"] = data.draw(st.booleans())
        if name == "triplet_margin_loss":
            options["p"] = data.draw(st.sampled_from((1.0, 2.0, 3.0)))
    compare(name, data, tensors, **options)


@pytest.mark.parametrize("p", (0.0, 1.0, 1.5, 2.0, 3.0, torch.inf))
def test_second_derivatives_that_the_built_in_lacks(p: float) -> None:
    x, z = normal((4, 3), 1).requires_grad_(), normal((2, 3), 2).requires_grad_()
    assert gradcheck(lambda x, z: F.cdist(x, z, p), (x, z), check_forward_ad=True)
    assert gradgradcheck(lambda x, z: F.cdist(x, z, p), (x, z))
    assert gradgradcheck(lambda x: F.pdist(x, p), (x,))
    with pytest.raises(RuntimeError, match="not implemented"):
        gradgradcheck(lambda x: builtin.pdist(x, p), (x,))


def test_equal_vectors_have_gradient_zero() -> None:
    x = normal((3, 2), 1).requires_grad_()
    for p in (0.5, 1.0, 2.0, 3.0, torch.inf):
        for distance in (F.pairwise_distance(x, x.detach(), p, 0.0), F.cdist(x, x.detach(), p).diagonal()):
            for recorded in (False, True):
                (g,) = torch.autograd.grad(distance.sum(), x, retain_graph=True, create_graph=recorded)
                assert torch.equal(g, torch.zeros_like(g)), p


def test_margins_of_no_rows() -> None:
    """For which the built-in returns memory that was not initialised."""
    x = torch.zeros(0, 4, requires_grad=True)
    for name, target in (("multi_margin_loss", torch.zeros(0)), ("multilabel_margin_loss", torch.zeros(0, 4))):
        for reduction, expected in (("none", []), ("sum", 0.0), ("mean", torch.nan)):
            y = getattr(F, name)(x, target.long(), reduction=reduction)
            torch.testing.assert_close(y, torch.tensor(expected), equal_nan=True)
            assert torch.autograd.grad(y.sum(), x)[0].shape == (0, 4)


@pytest.mark.slow
def test_the_built_in_counts_class_0_when_compiled() -> None:
    """Both sides of docs/differences.md: a row with fewer targets than classes."""
    x, target = normal((1, 3), 1), torch.tensor([[2, -1, 0]])
    torch._dynamo.reset()
    results = []
    for place in (F, builtin):
        function = place.multilabel_margin_loss
        compiled = torch.compile(lambda x, function=function: function(x, target), backend="aot_eager")(x)
        results.append(torch.allclose(compiled, function(x, target)))
    torch._dynamo.reset()
    assert results == [True, False]


X = normal((3, 4), 1)
TARGET = torch.tensor([0, 1, 3])
LABELS = torch.tensor([[0, 1, -1, 2], [3, -1, 0, 0], [-1, 0, 0, 0]])
BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("pairwise_distance", (X, X[:, :3]), {}, r"x2 \(3, 3\)"),
    ("pairwise_distance", (X, X), {"p": "a"}, "p .* got 'a'"),
    ("cosine_similarity", (X, X[:, :3]), {}, r"x2 \(3, 3\)"),
    ("cosine_similarity", (X, X), {"dim": 2}, "dim .* got 2"),
    ("cosine_similarity", (X.long(), X.long()), {}, "got torch.int64"),
    ("pdist", (X[0],), {}, r"input .* got shape \(4,\)"),
    ("pdist", (X,), {"p": -1.0}, "p .* got -1.0"),
    ("multi_margin_loss", (X, TARGET[:2]), {}, r"target .* got \(2,\)"),
    ("multi_margin_loss", (X, TARGET + 9), {}, "target .* got 9"),
    ("multi_margin_loss", (X, -TARGET), {}, "target .* got -3"),
    ("multi_margin_loss", (X, TARGET.int()), {}, "target .* got torch.int32"),
    ("multi_margin_loss", (X, TARGET), {"p": 3}, "p .* got 3"),
    ("multi_margin_loss", (X, TARGET), {"weight": X[0, :3]}, r"weight .* got \(3,\)"),
    ("multi_margin_loss", (X, TARGET), {"weight": X}, r"weight .* got shape \(3, 4\)"),
    ("multi_margin_loss", (X, TARGET), {"reduction": "avg"}, "reduction .* got 'avg'"),
    ("multi_margin_loss", (X[:, :0], TARGET), {}, r"input .* got \(3, 0\)"),
    ("multi_margin_loss", (X.bfloat16(), TARGET), {}, "input .*got torch.bfloat16"),
    ("multilabel_margin_loss", (X, LABELS[:2]), {}, r"target .* got \(2, 4\)"),
    ("multilabel_margin_loss", (X, LABELS + 9), {}, "target .* got 8|target .* got 12"),
    ("multilabel_margin_loss", (X, LABELS - 9), {}, "target .* got -10"),
    ("multilabel_margin_loss", (X, LABELS), {"reduction": "avg"}, "reduction .* got 'avg'"),
    ("cosine_embedding_loss", (X, X, X), {}, r"target \(3, 4\)"),
    ("cosine_embedding_loss", (X[0], X, TARGET), {}, r"input1 \(4,\)"),
    ("cosine_embedding_loss", (X, X[:, :3], TARGET), {}, r"input2 \(3, 3\)"),
    ("triplet_margin_loss", (X, X[0], X), {}, r"\(4,\)"),
    ("triplet_margin_loss", (X, X, X), {"margin": 0}, "margin .* got 0"),
    ("triplet_margin_with_distance_loss", (X, X[0], X), {}, r"\(4,\)"),
    ("triplet_margin_with_distance_loss", (X, X, X), {"margin": -1.0}, "margin .* got -1.0"),
]


@pytest.mark.parametrize(("name", "arguments", "keywords", "says"), BAD)
def test_bad_arguments(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], says: str) -> None:
    refused_alike(getattr(F, name), getattr(builtin, name), says, *arguments, **keywords)


@pytest.mark.parametrize(
    ("arguments", "keywords", "says"),
    [
        ((X, X[:, :3]), {}, r"got \(3, 4\) and \(3, 3\)"),
        ((X, X[0]), {}, r"got \(3, 4\) and \(4,\)"),
        ((X, X), {"p": -1.0}, "p .* got -1.0"),
        ((X, X), {"compute_mode": "fast"}, "compute_mode .* got 'fast'"),
        ((X, X.float()), {}, "got torch.float64 and torch.float32"),
    ],
)
def test_bad_arguments_of_cdist(arguments: tuple[Any, ...], keywords: dict[str, Any], says: str) -> None:
    refused_alike(F.cdist, torch.cdist, says, *arguments, **keywords)


def test_modules_call_the_functions() -> None:
    x, z = X.clone().requires_grad_(), normal((3, 4), 2)
    for name, others in (
        ("CosineSimilarity", (z,)),
        ("PairwiseDistance", (z,)),
        ("TripletMarginLoss", (z, z + 1)),
        ("TripletMarginWithDistanceLoss", (z, z + 1)),
    ):
        mine, theirs = (getattr(place, name)()(x, *others) for place in (nn, torch.nn))
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert set(built_in_nodes([mine])) == {"AccumulateGrad"}, name


@pytest.mark.parametrize("p", (0.0, 1.0, 2.0, 3.0, float("inf")))
@pytest.mark.parametrize("rows", (0, 1))
def test_pdist_without_pairs(rows: int, p: float) -> None:
    """The built-in's backward crashes without rows."""
    x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    y = F.pdist(x, p)
    assert y.shape == (0,)
    assert gradcheck(lambda x: F.pdist(x, p), (x,))
    assert gradgradcheck(lambda x: F.pdist(x, p), (x,))
