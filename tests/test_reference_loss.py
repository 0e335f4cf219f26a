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


def compare(function, theirs, arrays, g, back):
    """Compare a function of arrays and all of its gradients with PyTorch's."""
    check(function(*arrays), theirs(*(tensor(array) for array in arrays)))
    found = back(*arrays, g)
    for actual, expected in zip(found, gradients(theirs, arrays, g), strict=True):
        check(actual, expected, atol=1e-11)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_distance(values, shape, p):
    compare(
        lambda x, z: reference.distance(x, z, p, 0.1),
        lambda x, z: F.pairwise_distance(x, z, p, 0.1),
        (values(*shape), values(*shape)),
        values(*shape[:-1]),
        lambda x, z, g: reference.distance_gradients(x, z, g, p, 0.1),
    )


def test_distance_shared_by_two_largest():
    x, z, g = frozen([[3.0, 1.0, -3.0]]), frozen(np.zeros((1, 3))), frozen([2.0])
    (gx,) = gradients(lambda x: F.pairwise_distance(x, tensor(z), math.inf, 0.0), (x,), g)
    check(reference.distance_gradients(x, z, g, math.inf, 0.0)[0], gx)


@pytest.mark.parametrize("eps", [1e-8, 2.0])
@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 1), ((2, 3, 2), 1), ((2, 3), 0), ((3,), -1)])
def test_cosine_similarity(values, shape, dim, eps):
    x = np.array(values(*shape))
    x[0] = 0  # a vector of zeros, where vectors lie along the last dimension
    compare(
        lambda x, z: reference.cosine_similarity(x, z, dim, eps),
        lambda x, z: F.cosine_similarity(x, z, dim, eps),
        (frozen(x), values(*shape)),
        values(*np.delete(shape, dim)),
        lambda x, z, g: reference.cosine_similarity_gradients(x, z, g, dim, eps),
    )


@pytest.mark.parametrize("full", [False, True])
def test_gaussian_nll_loss(values, full):
    var = frozen([[0.5, 2.0, 1e-3], [0.04, 1.0, 0.0]])  # two below eps
    compare(
        lambda x, t, v: reference.gaussian_nll_loss(x, t, v, full, 0.05),
        lambda x, t, v: F.gaussian_nll_loss(x, t, v, full, 0.05, "none"),
        (values(2, 3), values(2, 3), var),
        values(2, 3),
        lambda x, t, v, g: reference.gaussian_nll_loss_gradients(x, t, v, g, 0.05),
    )


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_margin_ranking_loss(values, margin):
    a, b, t = values(2, 3), np.array(values(2, 3)), frozen([[1.0, -1, 1], [-1, 1, -1]])
    b[0, 0] = a[0, 0] - margin  # on the margin
    compare(
        lambda a, b, t: reference.margin_ranking_loss(a, b, t, margin),
        lambda a, b, t: F.margin_ranking_loss(a, b, t, margin, reduction="none"),
        (a, frozen(b), t),
        values(2, 3),
        lambda a, b, t, g: reference.margin_ranking_loss_gradients(a, b, t, g, margin),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_multilabel_soft_margin_loss(values, weighted):
    t, w = frozen(1 / (1 + np.exp(-values(2, 3)))), frozen(np.square(values(3))) if weighted else None
    given = None if w is None else tensor(w)
    compare(
        lambda x: reference.multilabel_soft_margin_loss(x, t, w),
        lambda x: F.multilabel_soft_margin_loss(x, tensor(t), given, reduction="none"),
        (values(2, 3),),
        values(2),
        lambda x, g: (reference.multilabel_soft_margin_loss_gradient(x, t, g, w),),
    )


@pytest.mark.parametrize("margin", [-0.2, 0.3])
def test_cosine_embedding_loss(values, margin):
    t = frozen([1, -1, -1, 1, -1])
    x, z = values(5, 3), np.array(values(5, 3))
    z[1] = 2 * x[1]  # beyond the margin
    compare(
        lambda x, z: reference.cosine_embedding_loss(x, z, t, margin),
        lambda x, z: F.cosine_embedding_loss(x, z, tensor(t), margin, reduction="none"),
        (x, frozen(z)),
        values(5),
        lambda x, z, g: reference.cosine_embedding_loss_gradients(x, z, t, g, margin),
    )


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_triplet_margin_loss(values, p, swap):
    a, n = values(5, 3), np.array(values(5, 3))
    n[0] = a[0] + 9  # far enough to cost nothing
    compare(
        lambda a, q, n: reference.triplet_margin_loss(a, q, n, 0.4, p, 0.01, swap),
        lambda a, q, n: F.triplet_margin_loss(a, q, n, 0.4, p, 0.01, swap, reduction="none"),
        (a, values(5, 3), frozen(n)),
        values(5),
        lambda a, q, n, g: reference.triplet_margin_loss_gradients(a, q, n, g, 0.4, p, 0.01, swap),
    )


def test_adaptive_log_softmax(values):
    torch.manual_seed(0)
    layer = torch.nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3, 5], div_value=2.0).double()
    weights = [frozen(w.detach().numpy()) for w in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    t, x, g = frozen([0, 4, 8, 2, 5, 3]), values(6, 4), values(6)

    def theirs(x, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(layer, parameters, (x, tensor(t))).output

    def split(weights):
        return weights[0], [(weights[1], weights[2]), (weights[3], weights[4])]

    def back(x, *rest):
        gx, head, tail = reference.adaptive_log_softmax_gradients(x, t, *split(rest), rest[-1])
        return gx, head, *(w for pair in tail for w in pair)

    compare(lambda x, *weights: reference.adaptive_log_softmax(x, t, *split(weights)), theirs, (x, *weights), g, back)


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
        (lambda: reference.distance(ones(2, 3), ones(2, 2)), RuntimeError, r"^z .* got \(2, 2\)"),
        (lambda: reference.cosine_similarity(1j * ones(2, 3), ones(2, 3)), TypeError, "^x"),
        (lambda: reference.gaussian_nll_loss(ones(2), ones(2), ones(3)), RuntimeError, r"^var .* got \(3,\)"),
        (lambda: reference.margin_ranking_loss(ones(2), 1j * ones(2), ones(2)), TypeError, "^input2"),
        (lambda: reference.multilabel_soft_margin_loss(ones(2, 3), ones(2, 3), ones(2)), RuntimeError, "^weight"),
        (lambda: reference.cosine_embedding_loss(ones(2, 3), ones(2, 3), ones(3)), RuntimeError, "^target"),
        (lambda: reference.triplet_margin_loss(ones(2, 3), ones(2, 3), ones(2)), RuntimeError, "^z"),
        (lambda: reference.adaptive_log_softmax(ones(1, 2), np.array([3]), ones(3, 2), []), RuntimeError, "got 3"),
        (lambda: reference.adaptive_log_softmax(ones(2), np.array([0]), ones(3, 2), []), RuntimeError, "^input"),
        (lambda: reference.ctc_loss(ones(2, 3), np.array([3])), RuntimeError, "^labels"),
        (lambda: reference.ctc_loss(1j * ones(2, 3), np.array([1])), TypeError, "^log_probs"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
