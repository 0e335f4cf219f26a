"""Comparing tensors, with the worst element of those that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Worst:
    """The element that is farthest from what was expected.

    Attributes:
        tensor: which tensor, e.g. ``"gradient of input 0"``.
        index: the element's index in it.
        got: its value.
        expected: what it should be.
        tolerance: by how much it may differ.
    """

    tensor: str
    index: tuple[int, ...]
    got: float | complex
    expected: float | complex
    tolerance: float

    def __str__(self) -> str:
        """Return it in one line."""
        return (
            f"{self.tensor}{list(self.index) if self.index else ''}: got {_number(self.got)}, expected "
            f"{_number(self.expected)} (off by {abs(self.got - self.expected):.2g}, allowed {self.tolerance:.2g})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it with plain values only; complex numbers as text."""
        plain = asdict(self)
        for key in ("got", "expected"):
            if isinstance(plain[key], complex):
                plain[key] = str(plain[key])
        return {**plain, "index": list(self.index)}


class Failure(AssertionError):
    """Raised by a property that does not hold, with the worst element where there is one."""

    def __init__(self, message: str, worst: Worst | None = None) -> None:
        """Keep the worst element beside the message."""
        super().__init__(message)
        self.worst = worst


def _number(value: float | complex) -> str:
    return f"{value:.10g}"


def require_close(what: str, got: Tensor, expected: Tensor, tolerance: float, *, message: str = "") -> float:
    """Compare shapes, dtypes and elements; NaN and infinity must stand in the same places.

    Args:
        what: names the tensor.
        got: what was found.
        expected: what it should be.
        tolerance: by how much any element may differ.
        message: replaces the text of the failure, before the worst element.

    Returns:
        The largest difference.

    Raises:
        Failure: if the tensors differ.
    """
    if got.shape != expected.shape:
        raise Failure(f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if got.dtype != expected.dtype:
        raise Failure(f"{what}: dtype {got.dtype}, expected {expected.dtype}")
    if got.numel() == 0:
        return 0.0
    wide = torch.complex128 if got.is_complex() else torch.float64
    a, b = got.detach().to(wide), expected.detach().to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros((), dtype=torch.float64), (a - b).abs().nan_to_num(math.inf))
    largest = float(difference.max())
    if largest <= tolerance:
        return largest
    place = index_of(int(difference.argmax()), got.shape)
    worst = Worst(what, place, a[place].item(), b[place].item(), tolerance)
    raise Failure(f"{message}: {worst}" if message else str(worst), worst)


def require_equal_bits(what: str, got: Tensor, expected: Tensor) -> None:
    """Compare two tensors bit by bit, NaN equal to NaN.

    Raises:
        Failure: if they differ.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise Failure(f"{what}: {tuple(got.shape)} {got.dtype}, before {tuple(expected.shape)} {expected.dtype}")
    if not torch.equal(got, expected):
        require_close(what, got, expected, 0.0)


def index_of(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of an element from its number in row-major order."""
    index = []
    for size in reversed(shape):
        flat, rest = divmod(flat, size)
        index.append(rest)
    return tuple(reversed(index))
