"""Inputs written as text: ``"randn(2, 3, 8, 8)"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def draw_inputs(text: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """Return the inputs that a text describes, the same ones for the same seed.

    The text is Python with torch's names: ``randn``, ``rand``, ``randint``, ``randperm``, ``zeros``, ``ones``,
    ``arange`` and all the others, which may be calculated with: ``"rand(3, 4) + 0.5, randint(0, 4, (3,)), 2"``.
    Floating-point draws are of ``dtype``.

    Raises:
        ValueError: if the text cannot be evaluated.
    """
    generator = torch.Generator().manual_seed(seed)

    def defaulted(name: str, **defaults: Any) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: getattr(torch, name)(*args, **{**defaults, **kwargs})

    names = {name: getattr(torch, name) for name in dir(torch) if not name.startswith("_")}
    names |= {name: defaulted(name, dtype=dtype) for name in ("zeros", "ones", "linspace")}
    names |= {name: defaulted(name, dtype=dtype, generator=generator) for name in ("randn", "rand")}
    names |= {name: defaulted(name, generator=generator) for name in ("randint", "randperm")}
    try:
        value = eval(text, {"__builtins__": {}, "torch": torch, **names})
    except Exception as error:
        raise ValueError(f"inputs {text!r} cannot be evaluated: {type(error).__name__}: {error}") from error
    return value if isinstance(value, tuple) else (value,)


def written(inputs: Any, limit: int = 200) -> str:
    """Return inputs as Python text, "..." where they are too many to write."""
    if isinstance(inputs, str):
        return repr(inputs)
    if isinstance(inputs, Tensor):
        if inputs.numel() > limit:
            return f"...,  # {tuple(inputs.shape)} {inputs.dtype}: the tensor that was given"
        return f"torch.tensor({inputs.detach().tolist()}, dtype={inputs.dtype})"
    if isinstance(inputs, (tuple, list)):
        parts = [written(part, limit) for part in inputs]
        lines = "".join(f"    {part if part.startswith('...,') else part + ','}\n" for part in parts)
        return f"(\n{lines})" if isinstance(inputs, tuple) else f"[\n{lines}]"
    return repr(inputs)
