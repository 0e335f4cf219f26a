"""Every layer has every property of torchbp.testing."""

from __future__ import annotations

import re

import pytest

from torchbp import nn
from torchbp.autograd.activation import MAPS
from torchbp.testing import PROPERTIES, LayerCase, layer_cases
from torchbp.testing.cases import pointwise_loss
from torchbp.testing.check import run_property

CASES = layer_cases()


# Compiling takes most of the time: the quick part compiles one case of each layer, in one dimensionality, of the
# tables of pointwise maps and losses one each, and of some layers alone what a transform or the gradient compiles to.
# Third derivatives, and transforms one inside the other, are taken of the same cases.
def stem(layer: str) -> str:
    return re.sub("[123]d$", "", layer)


def kind(layer: str) -> str:
    return "pointwise" if layer in POINTWISE else "pointwise loss" if layer in POINTWISE_LOSSES else stem(layer)


POINTWISE = {*MAPS, "relu6", "celu", "selu"}
POINTWISE_LOSSES = {case.layer for case in pointwise_loss.cases()}
FIRST = {kind(case.layer): case.name for case in reversed(CASES)}
# One layer of every kind of Function, for what takes long and depends on little else.
SAMPLE = {"linear", "conv", "conv_transpose", "max_pool", "grid_sample", "relu", "batch_norm", "cross_entropy"}
# Layers of many inputs, whose graph grows with the steps: one case of each, without what goes through all subsets.
LONG = {"rnn", "gru", "lstm", "rnn_cell", "gru_cell", "lstm_cell"}


# Of attention the quick part has these cases: test_attention.py holds its ways to compute against each other.
ATTENTION = {
    "scaled_dot_product_attention[fused]",
    "scaled_dot_product_attention[mask added]",
    "multihead_attention[output]",
}


def is_slow(case: LayerCase, name: str) -> bool:
    if "attention" in case.layer and case.name not in ATTENTION:
        return True
    first = FIRST[kind(case.layer)] == case.name
    if case.layer in LONG and (not first or name in ("kinks", "saved_in_vain", "nested_forward", "compiled")):
        return True
    if name in ("compiled", "third_order", "functional_transforms"):
        return not first
    if name in ("compiled_gradient", "compiled_transform"):
        return not (first and stem(case.layer) in SAMPLE)
    # Of the further cases of a layer every other property, in turn.
    return not first and (CASES.index(case) + [*PROPERTIES].index(name)) % 2 == 1


PAIRS = [
    pytest.param(case, name, id=f"{case.name}-{name}", marks=[pytest.mark.slow] if is_slow(case, name) else [])
    for case in CASES
    for name in PROPERTIES
]


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_property(case: LayerCase, name: str) -> None:
    if name in case.skip:
        pytest.skip(case.skip[name])
    result = run_property(case.subject, name)
    if result.status == "not applicable":
        pytest.skip(result.detail)
    assert result.status == "pass", result.detail


# But for what crashes, what is up to the kernels, and what compiles for long.
SKIPS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in CASES
    for name in case.skip
    if case.layer != "grid_sample" and not case.layer.startswith("conv") and not name.startswith("compiled")
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), SKIPS)
def test_what_is_skipped_would_fail(case: LayerCase, name: str) -> None:
    assert run_property(case.subject, name).status == "fail"


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_explicit_layer_has_a_case() -> None:
    # Modules and functions differ in spelling only: MaxPool2d and max_pool2d, NLLLoss and nll_loss. What a
    # function takes as an argument, the mode of pad, some modules have in their name. Some are made of others.
    def plain(name: str) -> str:
        name = re.sub("^(Zero|Constant|Reflection|Replication|Circular)Pad[123]d$", "pad", name)
        name = re.sub("^Upsampl.*", "interpolate", name)
        name = re.sub("^Transformer.*", "MultiheadAttention", name)  # and other layers
        name = re.sub("^BCE", "BinaryCrossEntropy", name)
        name = name.lower().replace("_", "").replace("loss", "").removeprefix("lazy")
        return stem(name) if name.startswith(("batchnorm", "instancenorm")) else name

    covered = {plain(case.layer) for case in CASES}
    assert {plain(name) for name in nn.explicit_layers()} <= covered


def test_every_case_promises_what_it_saves() -> None:
    assert [case.name for case in CASES if case.subject.saved is None] == ["linear[vector]"]
