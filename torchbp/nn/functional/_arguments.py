"""What the functions of every family share: the checks of their arguments, and autocast."""

from __future__ import annotations

import functools
import numbers
import operator
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from torchbp.autograd import replay

P = ParamSpec("P")
R = TypeVar("R")
Sizes = int | Sequence[int]


def autocast_to(
    to: Literal["lower precision", "float32"], on: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cast floating tensors as the built-in operator does inside ``torch.autocast``, on one device type or all."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def cast(*args: P.args, **kwargs: P.kwargs) -> R:
            if not torch._C._is_any_autocast_enabled():
                return function(*args, **kwargs)
            device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if device is None or device == "meta" or on not in (None, device) or not torch.is_autocast_enabled(device):
                return function(*args, **kwargs)
            dtype = torch.float32 if to == "float32" else torch.get_autocast_dtype(device)

            def one(value: Any) -> Any:
                eligible = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
                return value.to(dtype) if eligible else value

            with torch.autocast(device, enabled=False):
                return function(*(one(a) for a in args), **{k: one(v) for k, v in kwargs.items()})

        return cast

    return decorate


def warn(message: str, stacklevel: int = 2) -> None:
    """Do what ``warnings.warn`` does in a function that may be replayed, at every call.

    ``stacklevel`` counts as there, from the function that calls this one; what makes a function replayable counts as no
    level.
    """
    if replay.state.recording is not None:
        raise replay.Refusal(message)  # or only the first calls would warn
    if not torch.compiler.is_compiling():
        frame, level = sys._getframe(1), 1
        while frame.f_back is not None and level < stacklevel:
            frame, level = frame.f_back, level + 1
            if frame.f_globals is vars(replay):
                stacklevel += 1
    warnings.warn(message, stacklevel=stacklevel + 1)


def check_tensors(op: str, /, *optional: str, **given: Any) -> None:
    """Raise unless every argument is a Tensor, or None if it is ``optional``."""
    for name, value in given.items():
        if not (isinstance(value, Tensor) or (value is None and name in optional)):
            raise TypeError(f"{op}(): {name} must be a Tensor, got {type(value).__name__}")


def as_int(op: str, name: str, value: Any, wanted: str = "an int") -> int:
    """Return an int of 64 bits from what counts as one: also a NumPy integer or a 0-d tensor, never a bool."""
    if type(value) is not int and not isinstance(value, torch.SymInt):
        try:
            index = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            index = None
        if index is None:
            raise TypeError(f"{op}(): {name} must be {wanted}, got {value!r}")
        value = index
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{op}(): {name} must be {wanted} of 64 bits, got {value}")
    return value


def remembers_plain(parse: Callable[..., R]) -> Callable[..., R]:
    """Remember what ``parse(op, dimensions, **given)`` makes of ints and tuples of ints, which most calls give.

    Results are shared between calls: nobody may change them.
    """
    remembered = functools.lru_cache(maxsize=1024)(parse)

    @functools.wraps(parse)
    def parsed(op: str, dimensions: int, /, **given: Any) -> R:
        if torch.compiler.is_compiling() or not all([_is_plain(value) for value in given.values()]):
            return parse(op, dimensions, **given)
        return remembered(op, dimensions, **given)

    return parsed


def _is_plain(value: Any) -> bool:
    """Tell whether equal values of this type mean the same: True equals 1, but is no size."""
    kind = type(value)
    return kind is int or value is None or (kind is tuple and all([type(v) is int for v in value]))


@remembers_plain
def as_tuples(op: str, dimensions: int, /, **given: Any) -> tuple[tuple[int, ...], ...]:
    """Return one int per spatial dimension for each of the given, an int or a sequence of one or ``dimensions`` ints.

    All types are checked before any length, as the built-in operators do.
    """
    types = [as_ints(op, name, value, dimensions) for name, value in given.items()]
    return tuple([_spelled_out(op, name, given[name], v, dimensions) for name, v in zip(given, types, strict=True)])


def as_tuple(op: str, name: str, value: Any, dimensions: int) -> tuple[int, ...]:
    """Return one int per spatial dimension from an int or a sequence of one or ``dimensions`` ints."""
    return _spelled_out(op, name, value, as_ints(op, name, value, dimensions), dimensions)


def as_ints(op: str, name: str, value: Any, dimensions: int) -> tuple[int, ...]:
    """Return the ints of a sequence, of whatever length, or one int as one per dimension."""
    wanted = f"an int or {dimensions} ints"
    if not isinstance(value, list | tuple):
        return (as_int(op, name, value, wanted),) * dimensions
    try:
        return tuple([as_int(op, name, v) for v in value])
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): {name} must be {wanted} of 64 bits, got {value!r}") from None


def _spelled_out(op: str, name: str, value: Any, values: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    if len(values) == 1:
        return values * dimensions
    if len(values) != dimensions:
        raise RuntimeError(f"{op}(): {name} must be an int or {dimensions} ints, got {value!r}")
    return values


def as_number(op: str, name: str, value: Any) -> Any:
    """Return a real number; also a NumPy or a 0-d tensor's."""
    if type(value) is float or type(value) is int:  # nearly always, and the classes below take their time
        return value
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex():
        return value.item()
    if not isinstance(value, numbers.Real | torch.SymFloat | torch.SymInt):
        raise TypeError(f"{op}(): {name} must be a number, got {value!r}")
    return value


def check_flag(op: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}(): {name} must be a bool, got {value!r}")


def check_same_type(op: str, input: Tensor, **others: Tensor | None) -> None:
    """Raise unless the others have the input's dtype and device."""
    for name, tensor in others.items():
        if tensor is not None and (tensor.dtype != input.dtype or tensor.device != input.device):
            raise RuntimeError(
                f"{op}(): {name} must have input's dtype and device, {input.dtype} on {input.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )


def with_batch(op: str, input: Tensor, dimensions: int, too_few: type[Exception] = RuntimeError) -> tuple[Tensor, bool]:
    """Return (N, C, *spatial) and whether a batch dimension had to be added."""
    check_tensors(op, input=input)
    if input.dim() == dimensions + 2:
        return input, False
    if input.dim() == dimensions + 1:
        return input.unsqueeze(0), True
    raise (too_few if input.dim() <= dimensions else RuntimeError)(
        f"{op}(): input must be {dimensions + 1}D (unbatched) or {dimensions + 2}D (batched), "
        f"got shape {tuple(input.shape)}"
    )


def check_not_empty(op: str, input: Tensor, start: int = 1) -> None:
    """Raise where a pool would have no elements to choose from; an empty batch is fine."""
    if 0 in input.shape[start:]:
        shape = tuple(input.shape)
        raise RuntimeError(f"{op}(): input must not be empty from dimension {start} on, got shape {shape}")


def in_place(input: Tensor, output: Tensor, inplace: bool) -> Tensor:
    return input.copy_(output) if inplace else output
