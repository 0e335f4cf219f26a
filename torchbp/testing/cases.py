"""Every layer of torchbp as a subject: what ``torchbp check`` and the test suite prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp import autograd
from torchbp._extension import kernels_loaded
from torchbp.testing.check import check_subject
from torchbp.testing.properties import Subject
from torchbp.testing.report import Report


@dataclass(frozen=True)
class LayerCase:
    """A layer with arguments.

    Attributes:
        layer: the layer's name, e.g. ``"max_pool2d"``.
        name: a unique name, e.g. ``"max_pool2d[3x3 stride 2]"``.
        subject: what is checked.
        skip: properties that do not apply, with reasons.
    """

    layer: str
    name: str
    subject: Subject
    skip: Mapping[str, str] = field(default_factory=dict)

    def check(self, properties: Sequence[str] | None = None) -> Report:
        """Run the properties (all by default) and report."""
        return check_subject(self.name, self.subject, properties, self.skip)


# Where a composite formula stands in for a kernel, its sums are PyTorch's.
_COMPOSITE_BITS = (
    {}
    if kernels_loaded()
    else {"pure": "without the kernels, the bits of sums are the built-in's and depend on threads"}
)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal draws that keep clear of each other and of zero, so that no kink is met."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    count = math.prod(shape)
    # A permutation of distinct values: the smallest gap is far above a finite-difference step.
    values = (torch.randperm(count, generator=generator) + 0.5 - count / 2) * (4.0 / max(count, 1))
    noise = torch.rand(count, generator=generator, dtype=torch.float64) * (0.5 / max(count, 1))
    return (values.double() + noise).reshape(shape)


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _linear() -> list[LayerCase]:
    inputs = (_draw(3, 4), _draw(2, 4, seed=1), _draw(2, seed=2))
    both = lambda x, w, *b: _bytes(x, w)  # noqa: E731
    return [
        LayerCase("linear", "linear", Subject(F.linear, inputs, builtin.linear, saved=both, batched=(0,))),
        LayerCase(
            "linear",
            "linear[no bias, 3-d input]",
            Subject(F.linear, (_draw(2, 2, 3), _draw(2, 3, seed=1)), builtin.linear, saved=both, batched=(0,)),
        ),
        LayerCase("linear", "linear[vector]", Subject(F.linear, (_draw(4), _draw(3, 4, seed=1)), builtin.linear)),
        LayerCase(
            "bilinear",
            "bilinear",
            Subject(
                F.bilinear,
                (_draw(2, 2), _draw(2, 3, seed=1), _draw(2, 2, 3, seed=2), _draw(2, seed=3)),
                builtin.bilinear,
                saved=lambda x1, x2, w, b: _bytes(x1, x2, w),
                batched=(0, 1),
            ),
        ),
    ]


def _conv2d() -> list[LayerCase]:
    def case(name: str, x: Sequence[int], w: Sequence[int], bias: bool = True, **arguments: Any) -> LayerCase:
        inputs = [_draw(*x), _draw(*w, seed=1)] + ([_draw(w[0], seed=2)] if bias else [])
        subject = Subject(
            partial(F.conv2d, **arguments) if bias else (lambda x, w: F.conv2d(x, w, **arguments)),
            tuple(inputs),
            partial(builtin.conv2d, **arguments) if bias else (lambda x, w: builtin.conv2d(x, w, **arguments)),
            small=sum(t.numel() for t in inputs) <= 60,
            saved=lambda x, w, *b: _bytes(x, w),
            batched=(0,) if len(x) == 4 else (),
        )
        return LayerCase("conv2d", f"conv2d[{name}]", subject, _COMPOSITE_BITS)

    return [
        case("2x2", (1, 1, 3, 3), (2, 1, 2, 2)),
        case("3x3 padding 1", (2, 2, 5, 4), (3, 2, 3, 3), padding=1),
        case("stride 2, dilation 2", (2, 2, 7, 6), (2, 2, 2, 3), stride=2, dilation=(2, 1), padding=(0, 2)),
        case("stride larger than kernel", (1, 2, 7, 7), (2, 2, 2, 2), stride=3, bias=False),
        case("groups", (2, 4, 4, 4), (6, 2, 2, 2), groups=2),
        case("depthwise", (2, 3, 5, 5), (3, 1, 3, 3), groups=3, padding=1),
        case("depthwise multiplier", (1, 2, 4, 4), (4, 1, 2, 2), groups=2, stride=2),
        case("1x1", (2, 3, 3, 3), (2, 3, 1, 1), bias=False),
        case("same", (1, 2, 4, 4), (2, 2, 3, 3), padding="same", dilation=(1, 2)),
        case("unbatched", (2, 4, 4), (2, 2, 3, 3)),
    ]


def _winners(x: Tensor, output: tuple[int, ...]) -> int:
    return math.prod(output)


def _pooling() -> list[LayerCase]:
    cases = []

    def add(layer: str, name: str, shape: Sequence[int], saved: Callable[..., int] | None, **arguments: Any) -> None:
        subject = Subject(
            partial(getattr(F, layer), **arguments),
            (_draw(*shape),),
            partial(getattr(builtin, layer), **arguments),
            small=math.prod(shape) <= 60,
            saved=saved,
            batched=(0,) if len(shape) == 4 else (),
        )
        cases.append(LayerCase(layer, f"{layer}[{name}]", subject))

    def winners(**arguments: Any) -> Callable[..., int]:
        return lambda x: builtin.max_pool2d(x.detach(), **arguments).numel()

    for name, shape, arguments in (
        ("2x2", (2, 2, 4, 4), {"kernel_size": 2}),
        ("3x3 stride 2 padding 1", (2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("overlapping", (1, 2, 5, 5), {"kernel_size": (2, 3), "stride": 1}),
        ("ceil, dilation", (1, 2, 8, 7), {"kernel_size": 2, "stride": 2, "dilation": (2, 1), "ceil_mode": True}),
        ("stride larger than window", (1, 1, 7, 7), {"kernel_size": 2, "stride": 3}),
        ("unbatched", (2, 4, 4), {"kernel_size": 2}),
    ):
        add("max_pool2d", name, shape, winners(**arguments), **arguments)
    nothing = lambda x: 0  # noqa: E731
    for name, shape, arguments in (
        ("2x2", (2, 2, 4, 4), {"kernel_size": 2}),
        ("3x3 stride 2 padding 1", (2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
        (
            "ceil, padding not counted",
            (1, 2, 6, 5),
            {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        ),
        ("divisor", (1, 2, 5, 5), {"kernel_size": (2, 3), "stride": 1, "divisor_override": 5}),
        ("stride larger than window", (1, 1, 7, 7), {"kernel_size": 2, "stride": 3}),
        ("unbatched", (2, 4, 4), {"kernel_size": 2}),
    ):
        add("avg_pool2d", name, shape, nothing, **arguments)
    for name, shape, size in (
        ("3x2", (2, 2, 5, 5), (3, 2)),
        ("global", (2, 3, 4, 4), 1),
        ("larger", (1, 1, 3, 2), (5, None)),
    ):
        add("adaptive_avg_pool2d", name, shape, nothing, output_size=size)
    return cases


def _activations() -> list[LayerCase]:
    x = _draw(3, 5)
    one = lambda x: _bytes(x)  # noqa: E731
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


def _normalization() -> list[LayerCase]:
    def training(function: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return function(x, None, None, w, b, training=True)

    def evaluation(function: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return function(x, x.new_tensor([0.3, -0.2]), x.new_tensor([1.5, 0.7]), w, b)

    inputs = (_draw(3, 2, 2, 2), _draw(2, seed=1), _draw(2, seed=2))
    return [
        LayerCase(
            "batch_norm",
            "batch_norm[training]",
            Subject(
                partial(training, F.batch_norm),
                inputs,
                partial(training, builtin.batch_norm),
                saved=lambda x, w, b: _bytes(x, w) + 2 * _bytes(w),
            ),
            _COMPOSITE_BITS,
        ),
        LayerCase(
            "batch_norm",
            "batch_norm[training, (N, C), no weight]",
            Subject(
                lambda x: F.batch_norm(x, None, None, training=True),
                (_draw(4, 3),),
                lambda x: builtin.batch_norm(x, None, None, training=True),
                saved=lambda x: _bytes(x) + 2 * 4 * x.shape[1],
            ),
            _COMPOSITE_BITS,
        ),
        LayerCase(
            "batch_norm",
            "batch_norm[evaluation]",
            Subject(
                partial(evaluation, F.batch_norm),
                inputs,
                partial(evaluation, builtin.batch_norm),
                saved=lambda x, w, b: _bytes(x, w) + 2 * _bytes(w),
                batched=(0,),
            ),
            skip={"third_order": "evaluation is linear in x; second order covers its products"},
        ),
    ]


def _dropout() -> list[LayerCase]:
    x = _draw(3, 4)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)) < 0.6
    map = autograd.dropout.MaskedScale(1 / 0.6)
    return [
        LayerCase(
            "dropout",
            "dropout[mask drawn]",
            Subject(
                lambda x, mask: autograd.linear_map(map, x, mask),
                (x, mask),
                lambda x, mask: x * mask / 0.6,
                saved=lambda x, mask: x.numel(),
                batched=(0, 1),
            ),
        )
    ]


def _losses() -> list[LayerCase]:
    x, target = _draw(4, 3), torch.tensor([0, 2, 1, 2])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    images, labels = _draw(2, 3, 2, 2), torch.tensor([[[0, 1], [2, 1]], [[1, -100], [0, 2]]])
    probability = torch.softmax(_draw(4, 3, seed=5), 1)

    def of(function: Callable[..., Tensor], **arguments: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(x: Tensor, t: Tensor) -> Tensor:
            given = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in arguments.items()}
            return function(x, t, **given)

        return loss

    cases = []

    def add(
        layer: str, name: str, inputs: tuple[Tensor, ...], saved: Callable[..., int] | None = None, **arguments: Any
    ) -> None:
        subject = Subject(
            of(getattr(F, layer), **arguments), inputs, of(getattr(builtin, layer), **arguments), saved=saved
        )
        cases.append(LayerCase(layer, f"{layer}[{name}]", subject))

    # The log-probabilities (cross_entropy only), the targets, the class weights, and the total weight of a mean.
    for layer, kept in (("nll_loss", 0), ("cross_entropy", 1)):
        add(layer, "mean", (x, target), lambda x, t, kept=kept: kept * _bytes(x) + _bytes(t) + 4)
        add(
            layer,
            "weight, sum",
            (x, target),
            lambda x, t, kept=kept: kept * _bytes(x) + _bytes(t) + 12,
            weight=weight,
            reduction="sum",
        )
        add(
            layer,
            "images, ignored, none",
            (images, labels),
            lambda x, t, kept=kept: kept * _bytes(x) + _bytes(t),
            reduction="none",
        )
        add(
            layer,
            "images, weight, mean",
            (images, labels),
            lambda x, t, kept=kept: kept * _bytes(x) + _bytes(t) + 12 + 4,
            weight=weight,
        )
    # Smoothing keeps also one share per sample; probabilities keep themselves and one weight per class.
    add(
        "cross_entropy",
        "smoothing, weight",
        (x, target),
        lambda x, t: _bytes(x) + _bytes(t) + len(t) + 12 + 8,
        weight=weight,
        label_smoothing=0.2,
    )
    add("cross_entropy", "probabilities", (x, probability), lambda x, p: _bytes(x, p) + 12)
    add(
        "cross_entropy",
        "probabilities, smoothing, weight, none",
        (x, probability),
        lambda x, p: _bytes(x, p) + 12,
        weight=weight,
        label_smoothing=0.1,
        reduction="none",
    )
    both = lambda x, t: _bytes(x, t)  # noqa: E731
    add("mse_loss", "mean", (x, _draw(4, 3, seed=7)), both)
    add("mse_loss", "none", (x, _draw(4, 3, seed=7)), both, reduction="none")
    return cases


def layer_cases() -> list[LayerCase]:
    """Return every layer with arguments that between them meet each of its branches."""
    return [
        *_linear(),
        *_conv2d(),
        *_pooling(),
        *_activations(),
        *_normalization(),
        *_dropout(),
        *_losses(),
    ]
