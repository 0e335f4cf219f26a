"""The proof can fail: every mutant of ``torchbp.testing.mutants`` is caught, on a plain Function and on our layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.autograd import (
    activation,
    adjoint,
    contraction,
    dropout,
    loss,
    normalization,
    pointwise_loss,
    pooling,
    sampling,
    softmax,
)
from torchbp.autograd.replay import replaying
from torchbp.testing import layer_cases, mutants
from torchbp.testing.check import run_property
from torchbp.testing.mutants import MUTANTS, mutate, reason_to_leave_out


class Product(Function):
    """A matrix product that is right in every respect."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        x, w = inputs
        need_x, need_w = ctx.needs_input_grad
        ctx.save_for_backward(x if need_w else None, w if need_x else None)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad
        return Product.apply(g, w.mT) if need_x else None, Product.apply(x.mT, g) if need_w else None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None) -> Tensor:
        x, w = ctx.saved_tensors
        return (0 if tx is None else tx @ w) + (0 if tw is None else x @ tw)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, Any], x: Tensor, w: Tensor) -> tuple[Tensor, int]:
        x, w = (
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((x, w), in_dims, strict=True)
        )
        return Product.apply(x, w), 0


SQUARES = tuple(torch.randn(3, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
OPTIONS = {"reference": torch.matmul, "batched": [0], "compile": False}


def test_the_function_itself_passes() -> None:
    from torchbp.testing import check

    skip = {"unbatched": "a matrix product", "autocast": "casts nothing"}
    check(Product, SQUARES, skip=skip, strict=True, **OPTIONS).assert_ok()


@pytest.mark.parametrize("name", [name for name in MUTANTS if name != "unflipped_kernel"])
def test_every_mutant_of_a_plain_function_is_caught(name: str) -> None:
    assert not reason_to_leave_out(Product, MUTANTS[name], SQUARES)
    assert mutants.survivors(Product, SQUARES, [name], **OPTIONS) == {}


# The mutants that make no difference to a layer, and why. All others must be caught.
SCALAR = "the gradient that arrives is one number"
NOTHING_SAVED = "no floating-point tensor is saved"
UNBATCHED = "has no batch that may be empty"
EQUIVALENT: dict[str, dict[str, str]] = {
    "avg_pool2d[2x2]": {
        **dict.fromkeys(("unflipped_kernel", "saved_intermediate", "saves_copies", "overwrites_saved"), NOTHING_SAVED),
        "zero_third_derivative": "a linear map has no third derivative",
        "hides_nan": "no NaN reaches the gradient",
    },
    "max_pool2d[2x2]": {
        **dict.fromkeys(("unflipped_kernel", "saved_intermediate", "saves_copies", "overwrites_saved"), NOTHING_SAVED),
        "zero_third_derivative": "linear once the winners are known",
        "hides_nan": "no NaN reaches the gradient",
    },
    "alpha_dropout[mask drawn]": {
        **dict.fromkeys(("saved_intermediate", "saves_copies", "overwrites_saved"), NOTHING_SAVED),
        "zero_third_derivative": "affine once the mask is drawn",
        "hides_nan": "no NaN reaches the gradient",
    },
    "softmax[dim 1]": {"missing_term": "the mean of a softmax's gradient is zero"},
    "batch_norm[training]": {"empty_batch": UNBATCHED},
    "group_norm": {"empty_batch": UNBATCHED},
    "sync_batch_norm[one process]": {"empty_batch": UNBATCHED},
    "local_response_norm[5 channels]": {"empty_batch": "an empty batch is handed back"},
    "cross_entropy[mean]": {
        "missing_term": "the mean of its gradient is zero",
        **dict.fromkeys(("first_patch_only", "first_sample_only", "contiguous_only"), SCALAR),
        "empty_batch": UNBATCHED,
    },
    "mse_loss[mean]": {
        **dict.fromkeys(("first_patch_only", "first_sample_only", "contiguous_only"), SCALAR),
        "saves_everything": "both gradients read both inputs",
        "empty_batch": UNBATCHED,
    },
    "grid_sample[bilinear]": {"first_sample_only": "there is one sample"},
}
LAYERS = {
    "linear": contraction.Contraction,
    "conv2d[3x3 padding 1]": contraction.Contraction,
    "avg_pool2d[2x2]": adjoint.AdjointPair,
    "max_pool2d[2x2]": pooling.MaxPool,
    "lp_pool2d[2-norm]": pooling.PowerPool,
    "sigmoid": activation.PointwiseMap,
    "prelu[a weight per channel]": activation.PReLU,
    "glu": activation.GLU,
    "alpha_dropout[mask drawn]": dropout.AlphaDropout,
    "batch_norm[training]": normalization.BatchNorm,
    "group_norm": normalization.GroupNorm,
    "rms_norm[weight]": normalization.RMSNorm,
    "sync_batch_norm[one process]": normalization.SyncBatchNorm,
    "local_response_norm[5 channels]": normalization.LocalResponseNorm,
    "normalize[2-norm]": normalization.Normalize,
    "softmax[dim 1]": softmax.Softmax,
    "cross_entropy[mean]": loss.CrossEntropy,
    "mse_loss[mean]": pointwise_loss.PointwiseLossMap,
    "grid_sample[bilinear]": sampling.Sample,
}
QUICK = {"sigmoid", "max_pool2d[2x2]"}
CASES = {case.name: case for case in layer_cases() if case.name in LAYERS}


@contextmanager
def planted(explicit: Any, name: str) -> Iterator[None]:
    """Put a mutant in the place of a layer's Functions."""
    before = explicit.function, explicit.reverse, explicit._apply, explicit.named_by_first
    explicit.named_by_first = False  # one mutant for all names
    explicit.function = mutate(explicit.function, name)
    explicit._apply = super(Function, explicit.function).apply  # type: ignore[misc]
    if MUTANTS[name].method not in ("jvp", "vmap"):
        explicit.reverse = mutate(explicit.reverse, name)
    try:
        with replaying(-1):  # which would keep to the Functions that it has seen
            yield
    finally:
        explicit.function, explicit.reverse, explicit._apply, explicit.named_by_first = before


@pytest.mark.parametrize(
    "layer", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LAYERS]
)
def test_every_mutant_of_a_layer_is_caught(layer: str) -> None:
    explicit, case = LAYERS[layer], CASES[layer]
    survived = set()
    for name, mutant in MUTANTS.items():
        if reason_to_leave_out(explicit.function, mutant, case.subject.inputs):
            continue
        with planted(explicit, name):
            # A subject of its own: what it remembers is the mutant's.
            results = [run_property(replace(case.subject), one) for one in mutant.caught_by]
        if not any(result.status == "fail" for result in results):
            survived.add(name)
    assert survived == set(EQUIVALENT.get(layer, {}))


def test_every_mutant_makes_a_difference_to_some_layer_or_the_plain_function() -> None:
    for name, mutant in MUTANTS.items():
        met = [
            layer
            for layer, explicit in LAYERS.items()
            if not reason_to_leave_out(explicit.function, mutant, CASES[layer].subject.inputs)
            and name not in EQUIVALENT.get(layer, {})
        ]
        assert met or not reason_to_leave_out(Product, mutant, SQUARES), name


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="unknown mutant 'wrong'; there are scaled, "):
        mutate(Product, "wrong")

    class Bare(Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x

    with pytest.raises(TypeError, match="Bare has no vmap for the mutant 'wrong_vmap' to spoil"):
        mutate(Bare, "wrong_vmap")
