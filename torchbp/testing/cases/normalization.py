"""Cases of normalization."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import COMPOSITE_BITS, LayerCase, bytes_of, draw
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
            {**COMPOSITE_BITS, **weighted},
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
            COMPOSITE_BITS,
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
                {**COMPOSITE_BITS, **weighted} if len(inputs) > 1 else COMPOSITE_BITS,
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
    ]
