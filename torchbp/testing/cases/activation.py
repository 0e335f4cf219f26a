"""Cases of activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.nn.modules import Softmax2d
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject
from torchbp.testing.subject import seeded

_SKIP = {
    "softsign": {"nonfinite": "at infinity PyTorch's gradient is NaN, where the derivative, 1 / (1 + |x|)², is 0"},
}

# Layer, name and arguments; "saved" below tells what is kept.
_ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("relu", "", {}),
    ("relu6", "", {}),
    ("leaky_relu", "0.01", {}),
    ("leaky_relu", "-0.3", {"negative_slope": -0.3}),
    ("rrelu", "evaluation", {}),
    ("elu", "", {}),
    ("elu", "alpha -0.5", {"alpha": -0.5}),
    ("celu", "alpha 2", {"alpha": 2.0}),
    ("celu", "alpha -2", {"alpha": -2.0}),
    ("selu", "", {}),
    ("hardtanh", "-0.5 to 1", {"min_val": -0.5}),
    ("threshold", "0.3, value 0.1", {"threshold": 0.3, "value": 0.1}),
    ("threshold", "0.3, value 2", {"threshold": 0.3, "value": 2.0}),
    ("hardshrink", "", {}),
    ("softshrink", "", {}),
    ("hardsigmoid", "", {}),
    ("hardswish", "", {}),
    ("sigmoid", "", {}),
    ("logsigmoid", "", {}),
    ("tanh", "", {}),
    ("scaled_tanh", "", {}),
    ("tanhshrink", "", {}),
    ("softsign", "", {}),
    ("softplus", "", {}),
    ("softplus", "beta 2, threshold 1", {"beta": 2.0, "threshold": 1.0}),
    ("gelu", "", {}),
    ("gelu", "tanh", {"approximate": "tanh"}),
    ("silu", "", {}),
    ("mish", "", {}),
    ("softmax", "dim 1", {"dim": 1}),
    ("softmax", "dim 0", {"dim": 0}),
    ("softmin", "dim 1", {"dim": 1}),
    ("log_softmax", "dim 1", {"dim": 1}),
    ("log_softmax", "dim -2", {"dim": -2}),
)


def _builtin(layer: str) -> Callable[..., Tensor]:
    if layer == "scaled_tanh":
        return lambda x: 1.7159 * torch.tanh(2 * x / 3)
    if layer == "hardsigmoid":  # whose built-in gradient has no more than float32's digits, and no second derivative
        return lambda x: builtin.relu6(x + 3) / 6
    return getattr(torch, layer) if layer in ("sigmoid", "tanh") else getattr(builtin, layer)


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    x, one = draw(3, 5), bytes_of
    found = []
    for layer, name, arguments in _ROWS:
        mine, theirs = (partial(function, **arguments) for function in (getattr(F, layer), _builtin(layer)))
        batched = () if "dim 0" in name or "-2" in name and "dim" in name else (0,)
        subject = Subject(mine, (x,), theirs, saved=one, batched=batched)
        found.append(LayerCase(layer, f"{layer}[{name}]" if name else layer, subject, _SKIP.get(layer, {})))
    for name, shape, dim in (("", (3, 6), -1), ("dim 1", (2, 4, 3), 1)):
        mine, theirs = (partial(place.glu, dim=dim) for place in (F, builtin))
        subject = Subject(mine, (draw(*shape),), theirs, saved=one, batched=(0,) if dim < 0 else ())
        found.append(LayerCase("glu", f"glu[{name}]" if name else "glu", subject))
    for name, shape, count in (("", (3, 5), 1), ("a weight per channel", (2, 3, 4), 3)):
        inputs = (draw(*shape), draw(count, seed=4))
        subject = Subject(F.prelu, inputs, builtin.prelu, saved=bytes_of, batched=(0,))
        found.append(LayerCase("prelu", f"prelu[{name}]" if name else "prelu", subject))
    mine, theirs = (partial(place.rrelu, training=True) for place in (F, builtin))
    subject = Subject(mine, (x,), seeded(theirs, 0), saved=one, random=True)
    skip = dict.fromkeys(("vmap", "functional_transforms"), "vmap allows random numbers with randomness= only")
    found.append(LayerCase("rrelu", "rrelu[training]", subject, skip))
    image = Subject(Softmax2d(), (draw(3, 2, 2),), torch.nn.Softmax2d(), saved=one)
    found.append(LayerCase("softmax2d", "softmax2d", image))
    return found
