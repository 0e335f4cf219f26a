"""Cases of convolution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp._extension import kernels_loaded
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

# Whether a kernel forms the products of a weight with padding, or with rows beyond its reach, is its own affair.
_PADDING = {"nonfinite": "a weight of NaN times zeros that no output needs may or may not be computed"}
# Without the kernels the sums are the built-in's.
_BITS = {} if kernels_loaded() else {"deterministic": "the bits of the built-in's sums depend on the number of threads"}


def _quiet(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Silence the built-in, which warns that it copies its input where an even kernel leaves it no middle."""

    def silenced(*args: Any, **kwargs: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
            return function(*args, **kwargs)

    return silenced


def cases() -> list[LayerCase]:
    """Return the cases of this family."""

    found: list[LayerCase] = []

    def add(
        layer: str, name: str, x: Sequence[int], w: Sequence[int], bias: int | None = None, **arguments: Any
    ) -> None:
        """Add a case; ``bias`` is the number of its values, if there is one."""
        inputs = [draw(*x), draw(*w, seed=1)] + ([] if bias is None else [draw(bias, seed=2)])
        mine, theirs = getattr(F, layer), getattr(builtin, layer)
        if arguments.get("padding") == "same" and not all(k % 2 for k in w[2:]):
            theirs = _quiet(theirs)
        skip = _BITS if all(k == 1 for k in w[2:]) else {**_BITS, **_PADDING}
        subject = Subject(
            lambda x, w, b=None: mine(x, w, b, **arguments),
            tuple(inputs),
            lambda x, w, b=None: theirs(x, w, b, **arguments),
            small=sum(t.numel() for t in inputs) <= 60,
            saved=lambda x, w, *b: bytes_of(x, w),
            batched=(0,) if len(x) == len(w) else (),
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject, skip))

    add("conv2d", "2x2", (1, 1, 3, 3), (2, 1, 2, 2), 2)
    add("conv2d", "3x3 padding 1", (2, 2, 5, 4), (3, 2, 3, 3), 3, padding=1)
    add("conv2d", "stride 2, dilation 2", (2, 2, 7, 6), (2, 2, 2, 3), 2, stride=2, dilation=(2, 1), padding=(0, 2))
    add("conv2d", "stride larger than kernel", (1, 2, 7, 7), (2, 2, 2, 2), stride=3)
    add("conv2d", "groups", (2, 4, 4, 4), (6, 2, 2, 2), 6, groups=2)
    add("conv2d", "depthwise", (2, 3, 5, 5), (3, 1, 3, 3), 3, groups=3, padding=1)
    add("conv2d", "depthwise multiplier", (1, 2, 4, 4), (4, 1, 2, 2), 4, groups=2, stride=2)
    add("conv2d", "1x1", (2, 3, 3, 3), (2, 3, 1, 1))
    add("conv2d", "same", (1, 2, 4, 4), (2, 2, 3, 3), 2, padding="same", dilation=(1, 2))
    add("conv2d", "unbatched", (2, 4, 4), (2, 2, 3, 3), 2)
    add("conv1d", "3 padding 1", (2, 2, 5), (3, 2, 3), 3, padding=1)
    add("conv1d", "stride 3, groups", (2, 4, 8), (2, 2, 2), stride=3, groups=2)
    add("conv1d", "same, depthwise", (1, 2, 6), (2, 1, 2), 2, padding="same", groups=2)
    add("conv3d", "2x2x2", (1, 1, 3, 2, 3), (2, 1, 2, 2, 2), 2)
    add("conv3d", "stride, dilation, groups", (2, 2, 4, 3, 5), (2, 1, 2, 1, 2), stride=2, dilation=2, groups=2)
    add("conv_transpose2d", "2x2", (1, 2, 2, 2), (2, 1, 2, 2), 1)
    add("conv_transpose2d", "stride 2", (2, 2, 3, 2), (2, 3, 3, 2), 3, stride=2, padding=1, output_padding=1)
    add("conv_transpose2d", "groups, dilation", (1, 4, 3, 3), (4, 1, 2, 2), 2, groups=2, dilation=2, output_padding=1)
    add("conv_transpose2d", "stride larger than kernel", (1, 1, 2, 3), (1, 2, 2, 2), 2, stride=3)
    add("conv_transpose2d", "unbatched, depthwise", (2, 3, 3), (2, 1, 3, 3), groups=2, padding=2)
    add("conv_transpose1d", "stride 2", (2, 2, 3), (2, 2, 3), 2, stride=2, padding=1)
    add("conv_transpose1d", "output padding of a stride", (1, 1, 3), (1, 2, 2), 2, dilation=3, output_padding=2)
    add("conv_transpose3d", "2x2x2", (1, 1, 2, 2, 2), (1, 2, 2, 2, 2), 2)
    add("conv_transpose3d", "stride, groups", (2, 2, 2, 3, 2), (2, 1, 2, 1, 2), stride=(2, 1, 3), groups=2)
    return found
