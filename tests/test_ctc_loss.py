"""Connectionist temporal classification: against the built-in where that is right, and by the definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradgradcheck

from torchbp.nn import functional as F
from torchbp.testing.cases.ctc_loss import _all_alignments


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, object]]:
    steps, samples, classes = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(2, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def up_to(limit: int, *shape: int) -> Tensor:
        return torch.randint(0, limit + 1, shape, generator=generator)

    x = torch.randn(steps, samples, classes, generator=generator, dtype=torch.float64).log_softmax(2)
    if draw(st.integers(0, 3)) == 0:
        x[0, 0, 0] = -math.inf
    lengths = up_to(draw(st.integers(0, 3)), samples)
    targets = up_to(classes - 1, samples, max(1, int(lengths.max())))
    blank = draw(st.integers(0, classes - 1))
    targets[targets == blank] = (blank + 1) % classes
    if draw(st.booleans()):
        targets = torch.cat([row[:n] for row, n in zip(targets, lengths, strict=True)])
    options = {
        "blank": blank,
        "reduction": draw(st.sampled_from(("none", "mean", "sum"))),
        "zero_infinity": draw(st.booleans()),
    }
    return x, targets, up_to(steps - 1, samples) + 1, lengths, options


@given(sequences())
def test_ctc_loss(arguments: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, object]]) -> None:
    """Value, and the gradient behind log_softmax, where the built-in's is the derivative."""
    x, *rest, options = arguments
    results = []
    for function in (F.ctc_loss, builtin.ctc_loss):
        logits = x.clone().requires_grad_()
        y = function(torch.log_softmax(logits, 2), *rest, **options)
        finite = torch.where(y.isfinite(), y, 0).sum()
        results.append((y.detach(), torch.autograd.grad(finite, logits)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12, equal_nan=True)
    if bool(results[1][0].isfinite().all()):
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("recorded", [False, True], ids=["in one pass", "recorded"])
def test_the_gradient_is_the_derivative_and_the_built_in_s_is_not(recorded: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64).log_softmax(2).requires_grad_()
    rest = torch.tensor([[1, 2], [2, 2]]), torch.tensor([4, 3]), torch.tensor([2, 2])
    exact = torch.autograd.grad(_all_alignments(x, *rest).sum(), x)[0]
    own = torch.autograd.grad(F.ctc_loss(x, *rest, reduction="sum"), x, create_graph=recorded)[0]
    torch.testing.assert_close(own, exact, rtol=1e-10, atol=1e-12)
    theirs = torch.autograd.grad(builtin.ctc_loss(x, *rest, reduction="sum"), x)[0]
    counted = (torch.arange(4).unsqueeze(1) < rest[1]).unsqueeze(2)
    torch.testing.assert_close(theirs, exact + x.exp() * counted, rtol=1e-10, atol=1e-12)


def test_a_target_without_alignment() -> None:
    x = torch.zeros(2, 2, 3, dtype=torch.float64).log_softmax(2).requires_grad_()
    rest = torch.tensor([[1, 1], [1, 2]]), torch.tensor([2, 2]), torch.tensor([2, 2])
    assert F.ctc_loss(x, *rest, reduction="none").tolist() == [math.inf, pytest.approx(2 * math.log(3))]
    for recorded in (False, True):
        y = F.ctc_loss(x, *rest, reduction="none", zero_infinity=True)
        assert y.tolist() == [0, pytest.approx(2 * math.log(3))]
        gx = torch.autograd.grad(y.sum(), x, create_graph=recorded)[0]
        assert gx[:, 0].abs().max() == 0 and gx.isfinite().all()
        torch.testing.assert_close(gx[:, 1].sum(), torch.tensor(-2.0, dtype=torch.float64))


@pytest.mark.parametrize("lifted", [0.0, 3.0], ids=["probabilities", "above zero"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_behind_the_last_step_does_not_count(value: float, lifted: float) -> None:
    """Steps that fill up a batch may hold anything."""
    rest, found = (LABELS, STEPS, LENGTHS), []
    for filled in (0.0, value):
        x = X.double() + lifted
        x[STEPS[1] :, 1] = filled
        x.requires_grad_()
        y = F.ctc_loss(x, *rest, reduction="none")
        once = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
        first = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), x)[0]
        found.append((y, once, first, second))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_an_infinite_score_that_no_path_goes_through() -> None:
    """The loss stays what it is, as the built-in's."""
    x = X.double()
    x[0, 0, 2] = math.inf
    losses = [place.ctc_loss(x, LABELS, STEPS, LENGTHS, reduction="none") for place in (F, builtin)]
    assert losses[0].isfinite().all()
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_second_derivative_of_concatenated_targets() -> None:
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    rest = torch.tensor([1, 2, 2]), (5, 4), (1, 2)
    assert gradgradcheck(lambda x: F.ctc_loss(x, *rest), (x,), atol=1e-6)


X = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(3)).log_softmax(2)
LABELS, STEPS, LENGTHS = torch.tensor([[1, 2], [2, 1]]), torch.tensor([4, 3]), torch.tensor([2, 1])


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "says"),
    [
        ((X, LABELS + 9, STEPS, LENGTHS), {}, RuntimeError, "targets .* got 10"),
        ((X, LABELS, STEPS + 1, LENGTHS), {}, RuntimeError, "input_lengths .* got 5"),
        ((X, LABELS, STEPS, LENGTHS + 1), {}, RuntimeError, "target_lengths .* got 3"),
        ((X, LABELS, STEPS, -LENGTHS), {}, RuntimeError, "target_lengths .* got -2"),
        ((X, LABELS, STEPS[:1], LENGTHS), {}, RuntimeError, r"input_lengths .* got \(1,\)"),
        ((X, LABELS, STEPS.float(), LENGTHS), {}, RuntimeError, "input_lengths .*float32"),
        ((X, LABELS, 4, LENGTHS), {}, TypeError, "int"),
        ((X, LABELS[:1], STEPS, LENGTHS), {}, RuntimeError, r"targets .* got shape \(1, 2\)"),
        ((X, LABELS[0], STEPS, LENGTHS), {}, RuntimeError, "targets .* 3, got 2"),
        ((X[:0], LABELS, STEPS * 0, LENGTHS), {}, RuntimeError, r"log_probs .* got \(0, 2, 3\)"),
        ((X.bfloat16(), LABELS, STEPS, LENGTHS), {}, NotImplementedError, "log_probs .*bfloat16"),
        ((X, LABELS, STEPS, LENGTHS), {"blank": 3}, RuntimeError, "blank .* got 3"),
        ((X, LABELS, STEPS, LENGTHS), {"blank": "a"}, TypeError, "blank .* got 'a'"),
        ((X, LABELS, STEPS, LENGTHS), {"reduction": "avg"}, ValueError, "reduction .* got 'avg'"),
        ((X, LABELS, STEPS, LENGTHS), {"zero_infinity": 3}, TypeError, "zero_infinity .* got 3"),
        ((None, LABELS, STEPS, LENGTHS), {}, TypeError, "log_probs .* NoneType"),
    ],
)
def test_bad_arguments(arguments: tuple, keywords: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        F.ctc_loss(*arguments, **keywords)
    if "got 10" not in says:  # for which the built-in reads beyond the end of a row
        with pytest.raises(error):
            builtin.ctc_loss(*arguments, **keywords)
