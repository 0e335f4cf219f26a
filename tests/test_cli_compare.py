"""The layer comparison of ``torchbp train``: what it finds, and what it counts."""

import math

import pytest
import torch
from torch import nn

from torchbp.cli.compare import compare_layers
from torchbp.testing import saved_bytes
from torchbp.testing.measure import relative_difference


def no_autocast():
    return torch.autocast("cpu", enabled=False)


class TwiceTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return input.clone()

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output


class WrongBackward(nn.ReLU):
    def forward(self, input):
        return TwiceTheGradient.apply(super().forward(input))


def test_a_wrong_backward_is_found_in_its_layer_only():
    right = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    wrong = nn.Sequential(nn.Linear(6, 5), WrongBackward(), nn.Linear(5, 3))
    wrong.load_state_dict(right.state_dict())
    loss = {"torch": nn.CrossEntropyLoss(), "torchbp": nn.CrossEntropyLoss()}
    layers = compare_layers(
        {"torch": right, "torchbp": wrong}, loss, torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), no_autocast
    )
    found = {layer.name: layer.differences for layer in layers}
    assert found["1"] == {"output": 0, "input": pytest.approx(1)}
    assert set(found) == {"0", "1", "2", "loss"}
    assert all(value == 0 for name in ("0", "2", "loss") for value in found[name].values())


def test_saved_bytes_leaves_parameters_out_and_counts_a_storage_once():
    layer, images = nn.Linear(6, 5), torch.randn(4, 6)
    assert saved_bytes(lambda: layer(images), exclude=layer.parameters()) == 4 * 6 * 4
    other = images[:2].repeat(2, 1)
    assert saved_bytes(lambda: layer(images) + layer(other), exclude=layer.parameters()) == 2 * (4 * 6 * 4)
    product = saved_bytes(lambda: layer(images) * layer(images), exclude=layer.parameters())
    assert product == 4 * 6 * 4 + 2 * (4 * 5 * 4)


def test_saved_bytes_counts_the_parts_of_a_storage_that_are_views():
    rows = torch.randn(6, 8, requires_grad=True).clone()
    assert saved_bytes(lambda: rows[:2].sin()) == 4 * 16
    assert saved_bytes(lambda: (rows[:2].sin(), rows[2:3].sin(), rows[5].sin())) == 4 * 8 * 4
    assert saved_bytes(lambda: (rows[:3].sin(), rows[1:4].sin(), rows[2].sin())) == 4 * 8 * 4
    assert saved_bytes(lambda: (rows[:, :2].sin(), rows[:, 6:].sin())) == rows.nbytes


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta:UserWarning")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc], ids=str)
def test_saved_bytes_of_a_sparse_matrix_are_those_of_its_parts(layout):
    matrix = torch.eye(5).to_sparse(layout=layout)
    x = torch.randn(5, 3, requires_grad=True)
    indices = 2 * 5 if layout == torch.sparse_coo else 5 + 6
    assert saved_bytes(lambda: matrix @ x) == 8 * indices + 4 * 5


def test_saved_bytes_of_a_frozen_layer_is_nothing():
    layer = nn.Linear(6, 5).requires_grad_(False)
    assert saved_bytes(lambda: layer(torch.randn(4, 6)), exclude=layer.parameters()) == 0


def test_saved_bytes_frees_the_graph():
    import gc
    import weakref

    layer, images = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid()), torch.randn(4, 6)
    outputs = []

    def run():
        output = layer(images)
        outputs.append(weakref.ref(output))
        return output

    assert saved_bytes(run, exclude=layer.parameters()) == 4 * 6 * 4 + 4 * 5 * 4
    gc.collect()
    assert outputs[0]() is None


@pytest.mark.parametrize(
    ("value", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 0.0], [0.0, 0.0], math.inf),
        ([math.nan, 0.0], [0.0, 1.0], math.inf),
        ([0.0, 1.0], [math.nan, 1.0], math.inf),
        ([math.inf, 1.0], [1.0, 1.0], math.inf),
    ],
)
def test_relative_difference(value, expected, difference):
    found = relative_difference(torch.tensor(value, dtype=torch.float64), torch.tensor(expected))
    assert found == pytest.approx(difference)
