"""The reference's losses of every element, margins, distances and CTC against PyTorch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_helpers import check, frozen, gradients, ones, tensor

from torchbp import reference

LOSSES = {
    "l1_loss": {},
    "smooth_l1_loss": {"beta": 0.5},
    "huber_loss": {"delta": 0.7},
    "kl_div": {},
    "poisson_nll_loss": {},
    "binary_cross_entropy": {},
    "binary_cross_entropy_with_logits": {},
    "soft_margin_loss": {},
    "hinge_embedding_loss": {"margin": 0.5},
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
@pytest.mark.parametrize("name", LOSSES)
def test_pointwise_loss(values, name, shape, reduction):
    x, t = values(*shape), values(*shape)
    if name == "binary_cross_entropy":
        x = frozen(1 / (1 + np.exp(-x)))
    if name in ("binary_cross_entropy", "kl_div"):
        t = frozen(1 / (1 + np.exp(-t)))
    if name in ("soft_margin_loss", "hinge_embedding_loss"):
        t = frozen(np.where(t > 0, 1.0, -1.0))
    arguments = {"reduction": reduction, **LOSSES[name]}

    def theirs(x):
        return getattr(F, name)(x, tensor(t), **arguments)

    y = theirs(tensor(x))
    check(reference.pointwise_loss(name, x, t, **arguments), y)
    g = values(*y.shape)
    (gx,) = gradients(theirs, (x,), g)
    check(reference.pointwise_loss_gradient(name, x, t, g, **arguments), gx)


@pytest.mark.parametrize("p", [1, 2])
def test_margin_of_one_target(values, p):
    x, t, g = values(5, 4), frozen([0, 3, 1, 1, 2]), values(5)

    def theirs(x):
        return F.multi_margin_loss(x, tensor(t), p=p, margin=0.8, reduction="none")

    check(reference.margin_loss(x, t, p, 0.8), theirs(tensor(x)))
    check(reference.margin_loss_gradient(x, t, g, p, 0.8), gradients(theirs, (x,), g)[0])


def test_margin_of_several_targets(values):
    x, t, g = values(3, 4), frozen([[0, 2, -1, 1], [-1, 0, 0, 0], [3, 1, 0, 2]]), values(3)

    def theirs(x):
        return F.multilabel_margin_loss(x, tensor(t), reduction="none")

    check(reference.margin_loss(x, t), theirs(tensor(x)))
    check(reference.margin_loss_gradient(x, t, g), gradients(theirs, (x,), g)[0])


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0, math.inf])
def test_pair_distances(values, p):
    x, z, g = values(3, 2), values(4, 2), values(3, 4)
    z = frozen(np.concatenate([z[:3], x[:1]]))  # two rows are equal
    check(reference.pair_distances(x, z, p), torch.cdist(tensor(x), tensor(z), p))
    expected = gradients(lambda x, z: torch.cdist(x, z, p), (x, z), g)
    for actual, gradient in zip(reference.pair_distances_gradients(x, z, g, p), expected, strict=True):
        check(actual, gradient)


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2], [2, 2, 1]])
def test_ctc_loss(values, labels):
    """Against every path that collapses to the labels, and PyTorch."""
    x, g = values(5, 3), values()
    likelihood = 0.0
    share = np.zeros(x.shape)
    for path in itertools.product(range(3), repeat=5):
        merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
        if [c for c in merged if c] == labels:
            probability = math.exp(sum(x[t, c] for t, c in enumerate(path)))
            likelihood += probability
            for t, c in enumerate(path):
                share[t, c] += probability
    check(reference.ctc_loss(x, frozen(np.array(labels, int))), np.asarray(-math.log(likelihood)))
    actual = reference.ctc_loss_gradient(x, frozen(np.array(labels, int)), g)
    check(actual, np.asarray(-g * share / likelihood))
    if labels:
        check(
            reference.ctc_loss(x, frozen(labels)),
            F.ctc_loss(tensor(x), torch.tensor([labels]), (5,), (len(labels),), reduction="sum"),
        )


def test_a_target_without_alignment():
    assert reference.ctc_loss(np.zeros((2, 3)), np.array([1, 1])) == math.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reference.pointwise_loss("l2_loss", ones(2), ones(2)), ValueError, "^name .* got 'l2_loss'"),
        (lambda: reference.pointwise_loss("l1_loss", ones(2), ones(3)), RuntimeError, r"^target .* got \(3,\)"),
        (lambda: reference.pointwise_loss("l1_loss", ones(2), ones(2), "max"), ValueError, "^reduction .* 'max'"),
        (lambda: reference.pointwise_loss("l1_loss", 1j * ones(2), ones(2)), TypeError, "^input"),
        (lambda: reference.margin_loss(ones(1, 3), np.array([3])), RuntimeError, "^target .* got 3"),
        (lambda: reference.margin_loss(1j * ones(1, 3), np.array([0])), TypeError, "^input"),
        (lambda: reference.pair_distances(ones(2, 3), ones(2, 2)), RuntimeError, r"^z .* got shape \(2, 2\)"),
        (lambda: reference.pair_distances(ones(2, 3), 1j * ones(2, 3)), TypeError, "^z"),
        (lambda: reference.ctc_loss(ones(2, 3), np.array([3])), RuntimeError, "^labels"),
        (lambda: reference.ctc_loss(1j * ones(2, 3), np.array([1])), TypeError, "^log_probs"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
