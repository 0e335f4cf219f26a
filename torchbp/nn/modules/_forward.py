"""How most modules compute: by a function of their attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor


class Forward(Protocol):
    """The ``forward`` of a module with one input, as its instances have it."""

    def __call__(self, input: Tensor) -> Tensor: ...


def computed_by(function: Callable[..., Tensor], *attributes: str) -> Forward:
    """Return a ``forward`` that hands the input and the module's attributes to a function."""
    name = attributes[0] if len(attributes) == 1 else ""

    def with_one(self: Any, input: Tensor) -> Tensor:
        return function(input, getattr(self, name))  # without a list, which is in the way of every call

    def with_all(self: Any, input: Tensor) -> Tensor:
        return function(input, *[getattr(self, name) for name in attributes])

    forward = with_one if name else with_all
    forward.__name__ = "forward"
    forward.__doc__ = f"Return :func:`{function.__module__}.{function.__name__}` of the input."
    return cast(Forward, forward)
