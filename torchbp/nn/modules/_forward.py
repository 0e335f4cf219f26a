"""How most modules compute: by a function of their attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor


class Forward(Protocol):
    """The ``forward`` of a module with one input, as its instances have it."""

    def __call__(self, input: Tensor) -> Tensor: ...  # noqa: D102


def computed_by(function: Callable[..., Tensor], *attributes: str) -> Forward:
    """Return a ``forward`` that hands the input and the module's attributes to a function."""

    def forward(self: Any, input: Tensor) -> Tensor:
        return function(input, *[getattr(self, name) for name in attributes])

    forward.__doc__ = f"Return :func:`{function.__module__}.{function.__name__}` of the input."
    return cast(Forward, forward)
