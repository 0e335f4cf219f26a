"""The recurrent reference against PyTorch's layers, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference_helpers import check, gradients

from torchbp import reference


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.normal(size=shape) * 0.7 for shape in shapes]


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "gru"])
def test_one_state(kind: str) -> None:
    gates = 3 if kind == "gru" else 1
    x, h, *weights = drawn((5, 2, 3), (2, 4), (4 * gates, 3), (4 * gates, 4), (4 * gates,), (4 * gates,))
    (g,) = drawn((5, 2, 4))
    forward: Callable[..., Any] = reference.gru if kind == "gru" else reference.rnn
    backward: Callable[..., Any] = reference.gru_gradients if kind == "gru" else reference.rnn_gradients
    options = () if kind == "gru" else (kind == "rnn_relu",)

    def builtin(x, h, *weights):
        return getattr(torch, kind)(x, h.unsqueeze(0), weights, True, 1, 0.0, False, False, False)[0]

    check(forward(x, h, weights, *options), builtin(*map(torch.from_numpy, (x, h, *weights))))
    for a, e in zip(backward(g, x, h, weights, *options), gradients(builtin, (x, h, *weights), g), strict=True):
        check(a, e)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("projected", [False, True])
def test_lstm(projected: bool) -> None:
    out = 3 if projected else 4
    shapes = [(5, 2, 3), (2, out), (2, 4), (16, 3), (16, out), (16,), (16,)] + ([(out, 4)] if projected else [])
    x, h, c, *weights = drawn(*shapes)
    (g,) = drawn((5, 2, out))

    def builtin(x, h, c, *weights):
        return torch.lstm(x, (h.unsqueeze(0), c.unsqueeze(0)), weights, True, 1, 0.0, False, False, False)[0]

    check(reference.lstm(x, h, c, weights)[0], builtin(*map(torch.from_numpy, (x, h, c, *weights))))
    found = reference.lstm_gradients(g, x, h, c, weights)
    for a, e in zip(found, gradients(builtin, (x, h, c, *weights), g), strict=True):
        check(a, e)
