"""What torch.jit cannot record, refused by name instead of failing somewhere inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch


def refuse_torch_jit(layers: Iterable[type[torch.nn.Module]]) -> None:
    """Make torch.jit.script and torch.jit.trace of a model with one of the layers raise a RuntimeError."""
    for layer in layers:
        layer.__prepare_scriptable__ = _refusal("script")  # type: ignore[attr-defined]
        layer._slow_forward = _refusal("trace")  # type: ignore[method-assign]


def _refusal(function: str) -> Callable[..., NoReturn]:
    # torch.jit.script asks every module for what stands for it, by the first name; a module that is called while
    # torch.jit.trace records runs the second.
    def refuse(self: torch.nn.Module, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.{function} does not know torchbp's {type(self).__name__}: torchbp.revert(model) gives a "
            "converted model back its own layers, and torch.export takes either"
        )

    return refuse
