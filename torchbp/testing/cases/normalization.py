"""Cases of normalization."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.autograd.normalization import sync_batch_norm
from torchbp.nn.modules.normalization import CrossMapLRN2d
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def cases() -> list[LayerCase]:
    """Return the cases of this family."""

    def training(function: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return function(x, None, None, w, b, training=True)

    def evaluation(function: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return function(x, x.new_tensor([0.3, -0.2]), x.new_tensor([1.5, 0.7]), w, b)

    def with_options(function: Callable[..., Tensor], options: tuple[Any, float], x: Tensor, *affine: Tensor) -> Tensor:
        shape, eps = options
        return function(x, shape, *(affine or (None, None)), eps)

    # How an infinite weight meets the mean depends on the order of the products.
    weighted = {"nonfinite": "inf · x - inf · mean is NaN, inf · (x - mean) is not: the built-in's order is not ours"}
    inputs = (draw(3, 2, 2, 2), draw(2, seed=1), draw(2, seed=2))
    return [
        LayerCase(
            "batch_norm",
            "batch_norm[training]",
            Subject(
                partial(training, F.batch_norm),
                inputs,
                partial(training, builtin.batch_norm),
                saved=lambda x, w, b: bytes_of(x, w) + 2 * bytes_of(w),
            ),
            weighted,
        ),
        LayerCase(
            "batch_norm",
            "batch_norm[training, (N, C), no weight]",
            Subject(
                lambda x: F.batch_norm(x, None, None, training=True),
                (draw(4, 3),),
                lambda x: builtin.batch_norm(x, None, None, training=True),
                saved=lambda x: bytes_of(x) + 2 * 4 * x.shape[1],
            ),
        ),
        LayerCase(
            "batch_norm",
            "batch_norm[evaluation]",
            Subject(
                partial(evaluation, F.batch_norm),
                inputs,
                partial(evaluation, builtin.batch_norm),
                saved=lambda x, w, b: bytes_of(x, w) + 2 * bytes_of(w),
                batched=(0,),
            ),
            skip=weighted,
        ),
        *(
            LayerCase(
                layer,
                f"{layer}[{name}]" if name else layer,
                Subject(
                    partial(with_options, getattr(F, layer), options),
                    inputs,
                    partial(with_options, getattr(builtin, layer), options),
                    # the statistics are as wide as the input
                    saved=lambda x, w=None, b=None, groups=groups: bytes_of(x, w) + 2 * groups * x.element_size(),
                ),
                weighted if len(inputs) > 1 else {},
            )
            for layer, name, options, inputs, groups in (
                ("layer_norm", "", ((4,), 1e-5), (draw(3, 2, 4), draw(4, seed=1), draw(4, seed=2)), 6),
                (
                    "layer_norm",
                    "two dimensions",
                    ((2, 3), 0.1),
                    (draw(3, 2, 3), draw(2, 3, seed=1), draw(2, 3, seed=2)),
                    3,
                ),
                ("layer_norm", "no weight", ((5,), 1e-5), (draw(3, 5),), 3),
                ("group_norm", "", (2, 1e-5), (draw(2, 4, 2, 2), draw(4, seed=1), draw(4, seed=2)), 4),
                ("group_norm", "no weight", (1, 1e-5), (draw(2, 3, 3),), 2),
                ("group_norm", "(N, C)", (2, 1e-5), (draw(3, 6), draw(6, seed=1), draw(6, seed=2)), 6),
            )
        ),
        *_instances(weighted),
        *_root_mean_squares(),
        *_by_neighbours(),
        *_by_norms(),
        _synchronised(weighted),
    ]


def _instances(weighted: dict[str, str]) -> list[LayerCase]:
    def own(function: Callable[..., Tensor], x: Tensor, *affine: Tensor) -> Tensor:
        return function(x, None, None, *affine)

    def running(function: Callable[..., Tensor], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return function(x, x.new_tensor([0.3, -0.2]), x.new_tensor([1.5, 0.7]), w, b, False)

    empty = {"empty_batch": "the built-in fails where there is a weight, or are running statistics, to repeat"}
    inputs = (draw(2, 2, 2, 3), draw(2, seed=1), draw(2, seed=2))
    return [
        LayerCase(
            "instance_norm",
            f"instance_norm[{name}]",
            Subject(
                partial(call, F.instance_norm),
                given,
                partial(call, builtin.instance_norm),
                saved=lambda x, w=None, b=None, per_channel=per_channel: bytes_of(x, w) + 2 * per_channel * 4,
                batched=(0,),
            ),
            {**weighted, **empty} if len(given) > 1 else {},
        )
        for name, call, given, per_channel in (
            ("weight and bias", own, inputs, 4),
            ("(N, C, L)", own, (draw(2, 3, 4),), 6),
            ("volumes", own, (draw(1, 2, 2, 3, 2),), 2),
            ("running statistics", running, inputs, 2),
        )
    ]


def _root_mean_squares() -> list[LayerCase]:
    def norm(function: Callable[..., Tensor], options: tuple[Any, Any], x: Tensor, w: Tensor | None = None) -> Tensor:
        return function(x, options[0], w, options[1])

    return [
        LayerCase(
            "rms_norm",
            f"rms_norm[{name}]",
            Subject(
                partial(norm, F.rms_norm, options),
                given,
                partial(norm, builtin.rms_norm, options),
                saved=lambda x, w=None, rows=rows: bytes_of(x, w) + rows * 4,
                batched=(0,),
            ),
        )
        for name, options, given, rows in (
            ("weight", ((4,), 1e-5), (draw(3, 2, 4), draw(4, seed=1)), 6),
            ("two dimensions", ((2, 3), None), (draw(3, 2, 3), draw(2, 3, seed=1)), 3),
            ("no weight", ((5,), 0.1), (draw(3, 5),), 3),
        )
    ]


def _by_neighbours() -> list[LayerCase]:
    def cross_map(x: Tensor) -> Tensor:
        """Return the definition, which the built-in's CrossMapLRN2d is not."""
        if x.dim() != 4:
            raise ValueError
        return builtin.local_response_norm(x.flatten(2), 5, 0.5, 0.6, 1.5).unflatten(2, x.shape[2:])

    cases = [
        LayerCase(
            "local_response_norm",
            f"local_response_norm[{name}]",
            Subject(
                partial(F.local_response_norm, **options),
                (draw(*shape),),
                partial(builtin.local_response_norm, **options),
                saved=bytes_of,
                batched=(0,),
            ),
        )
        for name, shape, options in (
            ("5 channels", (2, 6, 3), {"size": 5}),
            ("4 channels", (1, 5, 2, 2), {"size": 4, "alpha": 0.5, "beta": 0.6, "k": 2.0}),
            ("more than there are", (2, 2, 1, 2, 1), {"size": 7, "alpha": 0.3}),
        )
    ]
    subject = Subject(
        CrossMapLRN2d(5, 0.5, 0.6, 1.5), (draw(2, 6, 2, 1),), cross_map, saved=bytes_of, batched=(0,), layout=False
    )
    return [*cases, LayerCase("CrossMapLRN2d", "CrossMapLRN2d", subject)]


def _by_norms() -> list[LayerCase]:
    def norms(x: Tensor, dim: Any) -> int:
        return x.norm(2, dim, keepdim=True).numel() * 4

    return [
        LayerCase(
            "normalize",
            f"normalize[{name}]",
            Subject(
                partial(F.normalize, **options),
                (draw(*shape),),
                partial(builtin.normalize, **options),
                saved=lambda x, options=options: bytes_of(x) + norms(x, options.get("dim", 1)),
                batched=(0,) if options.get("dim", 1) in (1, -1) else (),
            ),
        )
        for name, shape, options in (
            ("2-norm", (3, 4, 2), {}),
            ("1-norm", (3, 4), {"p": 1.0, "dim": 0}),
            ("3-norm, two dimensions", (2, 3, 2), {"p": 3, "dim": (0, 2)}),
            ("1.5-norm, large eps", (2, 5), {"p": 1.5, "dim": -1, "eps": 4.0}),
            ("largest", (3, 4), {"p": float("inf")}),
        )
    ]


def _synchronised(weighted: dict[str, str]) -> LayerCase:
    """A process alone: its sum over the processes is the identity, but what runs is what runs on many."""

    def synchronised(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sync_batch_norm(x, w, b, 1e-5, None)[0]

    subject = Subject(
        synchronised,
        (draw(3, 2, 2, 2), draw(2, seed=1), draw(2, seed=2)),
        lambda x, w, b: builtin.batch_norm(x, None, None, w, b, training=True),
        saved=lambda x, w, b: bytes_of(x, w) + 2 * bytes_of(w) + 8,
    )
    return LayerCase("sync_batch_norm", "sync_batch_norm[one process]", subject, weighted)
