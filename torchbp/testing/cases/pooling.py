"""Cases of pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject


def _winners(function: Callable[..., Any]) -> Callable[..., int]:
    """Promise one byte per output."""
    return lambda x: function(x.detach()).numel()


def _nothing(x: Tensor) -> int:
    return 0


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []

    def add(
        layer: str, name: str, shape: Sequence[int], saved: Callable[..., Any], *given: Any, **arguments: Any
    ) -> None:
        """Add a case; ``saved`` is a promise, or turns the built-in function into one."""
        dimensions = int(layer[-2])

        def call(function: Callable[..., Any]) -> Callable[[Tensor], Any]:
            return lambda x: function(x, *given, **arguments)

        subject = Subject(
            call(getattr(F, layer)),
            (draw(*shape),),
            call(getattr(builtin, layer)),
            small=math.prod(shape) <= 60,
            saved=_winners(call(getattr(builtin, layer))) if saved is _winners else saved,
            batched=(0,) if len(shape) == dimensions + 2 else (),
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))

    add("max_pool2d", "2x2", (2, 2, 4, 4), _winners, 2)
    add("max_pool2d", "3x3 stride 2 padding 1", (2, 3, 7, 6), _winners, 3, stride=2, padding=1)
    add("max_pool2d", "overlapping", (1, 2, 5, 5), _winners, (2, 3), stride=1)
    add("max_pool2d", "ceil, dilation", (1, 2, 8, 7), _winners, 2, stride=2, dilation=(2, 1), ceil_mode=True)
    add("max_pool2d", "stride larger than window", (1, 1, 7, 7), _winners, 2, stride=3)
    add("max_pool2d", "unbatched", (2, 4, 4), _winners, 2)
    add("max_pool1d", "3 stride 2 padding 1", (2, 2, 7), _winners, 3, stride=2, padding=1)
    add("max_pool1d", "ceil, dilation", (1, 3, 9), _winners, 2, stride=3, dilation=2, ceil_mode=True)
    add("max_pool3d", "2x2x2", (1, 1, 4, 2, 4), _winners, 2)
    add("max_pool3d", "3x2x3 padding 1", (1, 2, 4, 3, 5), _winners, (3, 2, 3), stride=(2, 1, 2), padding=1)

    add("avg_pool2d", "2x2", (2, 2, 4, 4), _nothing, 2)
    add("avg_pool2d", "3x3 stride 2 padding 1", (2, 3, 7, 6), _nothing, 3, stride=2, padding=1)
    uncounted = {"padding": 1, "ceil_mode": True, "count_include_pad": False}
    add("avg_pool2d", "ceil, padding not counted", (1, 2, 6, 5), _nothing, 3, stride=2, **uncounted)
    add("avg_pool2d", "divisor", (1, 2, 5, 5), _nothing, (2, 3), stride=1, divisor_override=5)
    add("avg_pool2d", "stride larger than window", (1, 1, 7, 7), _nothing, 2, stride=3)
    add("avg_pool2d", "unbatched", (2, 4, 4), _nothing, 2)
    add("avg_pool1d", "3 stride 2", (2, 2, 7), _nothing, 3, stride=2, **uncounted)
    add("avg_pool3d", "2x1x3", (1, 2, 4, 3, 5), _nothing, (2, 1, 3), stride=(1, 2, 2), padding=(1, 0, 1))

    for layer, saved in (("adaptive_avg_pool", _nothing), ("adaptive_max_pool", _winners)):
        add(f"{layer}2d", "3x2", (2, 2, 5, 5), saved, (3, 2))
        add(f"{layer}2d", "global", (2, 3, 4, 4), saved, 1)
        add(f"{layer}2d", "larger", (1, 1, 3, 2), saved, (5, None))
        add(f"{layer}1d", "4 of 7", (2, 2, 7), saved, 4)
        add(f"{layer}3d", "2x3x2", (1, 2, 3, 4, 4), saved, (2, 3, 2))

    found.extend([*_power_pools(), *_fractional(), *_unpools()])
    return found


def _power_pools() -> list[LayerCase]:
    """Sums of powers of positive numbers, so that no root is taken of a negative one."""
    found = []
    for layer, name, shape, given in (
        ("lp_pool2d", "2-norm", (2, 2, 4, 4), (2.0, 2)),
        ("lp_pool2d", "3-norm, ceil", (1, 2, 5, 4), (3.0, (2, 3), 2, True)),
        ("lp_pool2d", "unbatched, 1-norm", (2, 4, 4), (1.0, 2, 1)),
        ("lp_pool1d", "2.5-norm", (2, 2, 6), (2.5, 3, 2)),
        ("lp_pool3d", "2-norm", (1, 2, 2, 3, 4), (2, 2, 1)),
    ):
        mine, theirs = getattr(F, layer), getattr(builtin, layer)
        subject = Subject(
            lambda x, mine=mine, given=given: mine(x, *given),
            (draw(*shape).abs() + 0.25,),
            lambda x, theirs=theirs, given=given: theirs(x, *given),
            saved=_nothing
            if given[0] == 1
            else lambda x, mine=mine, given=given: bytes_of(x, mine(x.detach(), *given)),
            batched=(0,) if name != "unbatched, 1-norm" else (),
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))
    return found


def _fractional() -> list[LayerCase]:
    found = []
    for dimensions, shape, kernel, size in ((2, (2, 2, 6, 7), (2, 3), (4, 3)), (3, (1, 2, 4, 5, 4), 2, (2, 3, 2))):
        layer = f"fractional_max_pool{dimensions}d"
        generator = torch.Generator().manual_seed(4)
        samples = torch.rand(*shape[:2], dimensions, generator=generator)

        def call(
            place: Any, layer: str = layer, kernel: Any = kernel, size: Any = size, samples: Tensor = samples
        ) -> Any:
            return lambda x: getattr(place, layer)(
                x, kernel, output_size=size, _random_samples=samples[: x.shape[0]].to(x.dtype)
            )

        subject = Subject(
            call(F),
            (draw(*shape),),
            call(builtin),
            saved=lambda x, size=size, samples=samples: math.prod(x.shape[:2]) * math.prod(size) + bytes_of(samples),
            batched=(0,),
        )
        found.append(LayerCase(layer, f"{layer}[{size}]", subject))
    return found


def _last_writers(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Unpool by its definition: look up who wrote last to each place."""
    dimensions, places = len(size), math.prod(size)
    values, index = x.flatten(-dimensions), indices.flatten(-dimensions)
    writer = torch.full((*index.shape[:-1], places), index.shape[-1])
    for plane, last in zip(index.flatten(0, -2), writer.view(-1, places), strict=True):
        for i, place in enumerate(plane.tolist()):
            last[place] = i
    padded = torch.cat([values, values.new_zeros((*values.shape[:-1], 1))], -1)
    return padded.gather(-1, writer).unflatten(-1, tuple(size))


def _unpools() -> list[LayerCase]:
    found = []
    for dimensions, shape, size, name in (
        (2, (2, 2, 2, 3), (4, 6), "2x2"),
        (2, (2, 2, 2), (4, 4), "unbatched"),
        (1, (2, 2, 3), (7,), "output size"),
        (3, (1, 2, 2, 1, 2), (4, 2, 4), "2x2x2"),
        (2, (1, 2, 3, 3), (6, 6), "several writers to a place"),
    ):
        layer, places = f"max_unpool{dimensions}d", math.prod(size)
        generator = torch.Generator().manual_seed(5)
        planes, count = math.prod(shape[:-dimensions]), math.prod(shape[-dimensions:])
        several = name.startswith("several")
        rows = [torch.randperm(places, generator=generator)[:count] for _ in range(planes)]
        indices = torch.stack(rows).view(shape) % (4 if several else places)
        mine, theirs = getattr(F, layer), getattr(builtin, layer)

        def unpool(function: Any, x: Tensor, indices: Tensor, size: Sequence[int] = size) -> Tensor:
            return function(x, indices, 2, output_size=size)

        def overwritten(function: Any, x: Tensor, indices: Tensor, size: Sequence[int] = size) -> Tensor:
            """Return the built-in's value without its gradient, which also goes to what was overwritten."""
            value = function(x.detach(), indices, 2, output_size=size)
            return _last_writers(x, indices, size).to(value.dtype)

        subject = Subject(
            partial(unpool, mine),
            (draw(*shape), indices),
            partial(overwritten if several else unpool, theirs),
            saved=lambda x, indices: bytes_of(indices),
            batched=(0, 1) if len(shape) == dimensions + 2 else (),
            layout=not several,
        )
        found.append(LayerCase(layer, f"{layer}[{name}]", subject))
    return found
