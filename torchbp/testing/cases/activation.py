"""Cases of activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x = draw(3, 5)
    one = lambda x: bytes_of(x)  # noqa: E731
    rows: list[tuple[str, str, Callable[..., Tensor], Callable[..., Tensor]]] = [
        ("relu", "", F.relu, builtin.relu),
        ("leaky_relu", "0.01", F.leaky_relu, builtin.leaky_relu),
        (
            "leaky_relu",
            "-0.3",
            partial(F.leaky_relu, negative_slope=-0.3),
            partial(builtin.leaky_relu, negative_slope=-0.3),
        ),
        ("sigmoid", "", F.sigmoid, torch.sigmoid),
        ("tanh", "", F.tanh, torch.tanh),
        ("scaled_tanh", "", F.scaled_tanh, lambda x: 1.7159 * torch.tanh(2 * x / 3)),
        ("softplus", "", F.softplus, builtin.softplus),
        (
            "softplus",
            "beta 2, threshold 1",
            partial(F.softplus, beta=2.0, threshold=1.0),
            partial(builtin.softplus, beta=2.0, threshold=1.0),
        ),
        ("gelu", "", F.gelu, builtin.gelu),
        ("gelu", "tanh", partial(F.gelu, approximate="tanh"), partial(builtin.gelu, approximate="tanh")),
        ("silu", "", F.silu, builtin.silu),
        ("softmax", "dim 1", partial(F.softmax, dim=1), partial(builtin.softmax, dim=1)),
        ("softmax", "dim 0", partial(F.softmax, dim=0), partial(builtin.softmax, dim=0)),
        ("log_softmax", "dim 1", partial(F.log_softmax, dim=1), partial(builtin.log_softmax, dim=1)),
        ("log_softmax", "dim -2", partial(F.log_softmax, dim=-2), partial(builtin.log_softmax, dim=-2)),
    ]
    return [
        LayerCase(layer, f"{layer}[{name}]" if name else layer, Subject(mine, (x,), theirs, saved=one, batched=(0,)))
        if "dim 0" not in name and "-2" not in name
        else LayerCase(layer, f"{layer}[{name}]", Subject(mine, (x,), theirs, saved=one))
        for layer, name, mine, theirs in rows
    ]
