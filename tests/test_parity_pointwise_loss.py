"""Losses of every element against the built-in, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, layouts, normal, parity, refused_alike, seeds, shapes, times
from torch import Tensor

import torchbp.nn as nn
from torchbp.costs.graph import built_in_nodes
from torchbp.nn import functional as F

reductions = st.sampled_from(("mean", "sum", "none"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence kl_div, which warns of its own default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def between(x: Tensor) -> Tensor:
    return 0.05 + 0.9 * x.double().sigmoid().to(x.dtype)


def positive(x: Tensor) -> Tensor:
    return x.abs() + 0.3


def signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1, -1)


def same(x: Tensor) -> Tensor:
    return x


numbers = st.sampled_from((0.3, 1.0, 2.0))
flags = st.booleans()
# What input and target are made of, the arguments to draw, and the weights that they may have.
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], dict[str, Any], tuple[str, ...]]] = {
    "mse_loss": (same, same, {}, ("weight",)),
    "l1_loss": (same, same, {}, ("weight",)),
    "smooth_l1_loss": (same, same, {"beta": st.sampled_from((0.0, 0.5, 1.0, 2.0))}, ()),
    "huber_loss": (same, same, {"delta": numbers}, ("weight",)),
    "kl_div": (same, positive, {"log_target": flags}, ()),
    "poisson_nll_loss": (positive, positive, {"log_input": flags, "full": flags, "eps": numbers}, ()),
    "binary_cross_entropy": (between, between, {}, ("weight",)),
    "binary_cross_entropy_with_logits": (same, same, {}, ("weight", "pos_weight")),
    "soft_margin_loss": (same, signs, {}, ()),
    "hinge_embedding_loss": (same, signs, {"margin": numbers}, ()),
    "multilabel_soft_margin_loss": (same, same, {}, ("weight",)),
}


@pytest.mark.parametrize("name", LOSSES)
@given(st.data())
@times(0.5)
def test_loss(name: str, data: st.DataObject) -> None:
    make_input, make_target, arguments, weights = LOSSES[name]
    seed, dtype = data.draw(seeds), data.draw(st.sampled_from((torch.float64, torch.float32)))
    shape = data.draw(shapes.filter(lambda shape: name != "multilabel_soft_margin_loss" or 0 not in shape and shape))
    x, t = (make(normal(shape, seed + i, dtype)) for i, make in enumerate((make_input, make_target)))
    x, t = arranged(x, data.draw(layouts)), arranged(t, data.draw(layouts))
    options = {"reduction": data.draw(reductions), **{k: data.draw(v) for k, v in arguments.items()}}
    for weight in weights:
        if data.draw(flags):
            options[weight] = positive(normal(shape, seed + 5, dtype))

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, t: Tensor) -> Tensor:
            cast = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
            return function(x, t, **cast)

        return call

    parity(of(getattr(F, name)), of(getattr(builtin, name)), x, t, terms=4 * x.numel(), seed=seed, condition=16)


@given(st.data())
@times(0.5)
def test_gaussian_nll_loss(data: st.DataObject) -> None:
    seed, dtype = data.draw(seeds), data.draw(st.sampled_from((torch.float64, torch.float32)))
    shape = data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    variances = data.draw(st.sampled_from((shape, [*shape[:-1], 1])))
    tensors = normal(shape, seed, dtype), normal(shape, seed + 1, dtype), positive(normal(variances, seed + 2, dtype))
    options = {"reduction": data.draw(reductions), "full": data.draw(flags), "eps": data.draw(numbers)}

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, t, v: function(x, t, v, **options)

    both = of(F.gaussian_nll_loss), of(builtin.gaussian_nll_loss)
    parity(*both, *tensors, terms=8 * tensors[0].numel(), seed=seed, condition=16)


@given(st.data())
@times(0.5)
def test_margin_ranking_loss(data: st.DataObject) -> None:
    seed, shape = data.draw(seeds), data.draw(shapes)
    options = {"reduction": data.draw(reductions), "margin": data.draw(numbers)}
    tensors = [arranged(normal(shape, seed + i), data.draw(layouts)) for i in range(3)]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b, t: function(a, b, t, **options)

    both = of(F.margin_ranking_loss), of(builtin.margin_ranking_loss)
    parity(*both, *tensors, terms=4 * tensors[0].numel(), seed=seed)


X, T = normal((3, 4), 1), normal((3, 4), 2)
BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    *((name, (X, T), {"reduction": "avg"}, "reduction .* got 'avg'") for name in LOSSES),
    *((name, (X, T[:, :3]), {}, r"\(3, 3\)") for name in LOSSES if name not in ("mse_loss", "l1_loss")),
    ("l1_loss", (X, T), {"weight": T[0]}, r"weight .* got \(4,\)"),
    ("l1_loss", (X.long(), T.long()), {}, "input .* got torch.int64"),
    ("l1_loss", (X > 0, T > 0), {}, "input .* got torch.bool"),
    ("smooth_l1_loss", (X, T), {"beta": -1.0}, "beta .* got -1.0"),
    ("smooth_l1_loss", (X, T), {"beta": "a"}, "beta .* got 'a'"),
    ("smooth_l1_loss", (X.long(), T.long()), {}, "input .* got torch.int64"),
    ("huber_loss", (X, T), {"delta": 0.0}, "delta .* got 0.0"),
    ("huber_loss", (X.long(), T), {}, "input .* got torch.int64"),
    ("huber_loss", (X, T), {"weight": T[0]}, r"weight .* got \(4,\)"),
    ("kl_div", (X.long(), T), {}, "input .* got torch.int64"),
    ("kl_div", (X, T), {"log_target": 3}, "log_target .* got 3"),
    ("poisson_nll_loss", (X, T), {"log_input": 3}, "log_input .* got 3"),
    ("poisson_nll_loss", (X, T), {"eps": "a"}, "eps .* got 'a'"),
    ("binary_cross_entropy", (between(X), T.float()), {}, "target .* got torch.float32"),
    ("binary_cross_entropy", (between(X), between(T)), {"weight": T[None, :2]}, r"weight .* got \(1, 2, 4\)"),
    ("binary_cross_entropy", (2 * between(X) + 1, between(T)), {}, "input"),
    ("binary_cross_entropy", (X.long(), T.long()), {}, "input .* got torch.int64"),
    ("binary_cross_entropy_with_logits", (X, T), {"pos_weight": T[:, 0]}, r"pos_weight .* got \(3,\)"),
    ("binary_cross_entropy_with_logits", (X.long(), T), {}, "input .* got torch.int64"),
    ("binary_cross_entropy_with_logits", (X, T.long()), {}, "target .* got torch.int64"),
    ("soft_margin_loss", (X.long(), T.long()), {}, "input .* got torch.int64"),
    ("hinge_embedding_loss", (X, T), {"margin": "a"}, "margin .* got 'a'"),
    ("hinge_embedding_loss", (X.long(), T), {}, "input .* got torch.int64"),
    ("margin_ranking_loss", (X, X, T[0]), {}, r"got .*\(4,\)"),
    ("margin_ranking_loss", (X, X, T), {"margin": "a"}, "margin .* got 'a'"),
    ("gaussian_nll_loss", (X, T, -positive(T)), {}, "var .* got -"),
    ("gaussian_nll_loss", (X, T, -1.0), {}, "var .* got -1.0"),
    ("gaussian_nll_loss", (X, T, 1), {}, "var .* got int"),
    ("gaussian_nll_loss", (X, T, positive(T)[:2]), {}, r"var .* got \(2, 4\)"),
    ("gaussian_nll_loss", (X, T, positive(T)), {"reduction": "avg"}, "reduction .* got 'avg'"),
    ("multilabel_soft_margin_loss", (X[0, 0], T[0, 0]), {}, r"input .* got shape \(\)"),
    ("multilabel_soft_margin_loss", (X.long(), T), {}, "input .* got torch.int64"),
]


@pytest.mark.parametrize(("name", "arguments", "keywords", "says"), BAD)
def test_bad_arguments(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], says: str) -> None:
    refused_alike(getattr(F, name), getattr(builtin, name), says, *arguments, **keywords)


def test_what_the_built_in_gets_wrong() -> None:
    """Both sides of docs/differences.md."""
    x, t = torch.tensor([-2000.0], requires_grad=True), torch.tensor([1.0])
    values = [place.soft_margin_loss(x, t) for place in (F, builtin)]
    assert [float(v) for v in values] == [2000, torch.inf]
    slopes = [float(torch.autograd.grad(v, x)[0]) for v in values]
    assert slopes[0] == -1 and slopes[1] != slopes[1]
    p, t = torch.tensor([1e-5], dtype=torch.float64, requires_grad=True), torch.tensor([0.7], dtype=torch.float64)
    second = []
    for place in (F, builtin):
        (g,) = torch.autograd.grad(place.binary_cross_entropy(p, t), p, create_graph=True)
        second.append(float(torch.autograd.grad(g, p)[0]))
    exact = 0.7 / 1e-10 + 0.3 / (1 - 1e-5) ** 2
    assert second[0] == pytest.approx(exact, rel=1e-12)
    assert second[1] != pytest.approx(exact, rel=1e-8)


def test_weights_get_gradients() -> None:
    """The built-in refuses binary cross-entropy's."""
    w = positive(T).requires_grad_()
    for name, key in (
        ("binary_cross_entropy", "weight"),
        ("binary_cross_entropy_with_logits", "weight"),
        ("binary_cross_entropy_with_logits", "pos_weight"),
    ):
        function = getattr(F, name)
        assert torch.autograd.gradcheck(
            lambda w, function=function, key=key: function(between(X), between(T), **{key: w}), (w,)
        )
        with pytest.raises(RuntimeError, match="not differentiable"):
            getattr(builtin, name)(between(X), between(T), **{key: w})


def test_no_built_in_node_in_the_graph() -> None:
    x = between(X).requires_grad_()
    for name in LOSSES:
        loss = getattr(F, name)(x, signs(T) if name == "hinge_embedding_loss" else between(T))
        assert set(built_in_nodes([loss])) == {"AccumulateGrad"}, name
    assert set(built_in_nodes([nn.GaussianNLLLoss()(x, T, positive(T))])) == {"AccumulateGrad"}
