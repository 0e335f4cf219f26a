"""Padding: linear maps, but for the constant that is not zero, which is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.function import ExplicitFunction, save


@dataclass(frozen=True)
class Border(LinearMap):
    """y[o] = x[source of o]; the adjoint adds g[o] to its source.

    With i = o - before, an input of n elements and what lies outside it, the source is -i and 2 (n - 1) - i
    (reflect), 0 and n - 1 (replicate), i mod n (circular), or nothing (zeros).
    """

    folds_batch = True

    input_size: tuple[int, ...]
    padding: tuple[int, ...]
    mode: str

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Repeat, or surround by zeros."""
        return ops.padding.pad(x, self.padding, self.mode)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Add up, or cut off."""
        return ops.padding.pad_adjoint(g, self.input_size, self.padding, self.mode)


def pad(x: Tensor, padding: Sequence[int], mode: str) -> Tensor:
    """Return x (N, C, *spatial) with its border repeated. Saved: nothing but sizes."""
    return linear_map(Border(tuple(x.shape[2:]), tuple(padding), mode), x)


@dataclass(frozen=True)
class ZeroBorder(LinearMap):
    """y is x between zeros, of any dimensions; the adjoint cuts them off. Cutting off is a negative padding."""

    padding: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Pad with zeros."""
        return ops.padding.constant_pad(x, self.padding)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Cut off."""
        return ops.padding.constant_pad(g, [-p for p in self.padding])


class ConstantPad(ExplicitFunction):
    """y = A x + c with A the padding by zeros and c the constant on the border: gx = Aᵀ gy, ty = A tx.

    Saved: nothing but sizes.
    """

    @staticmethod
    def forward(x: Tensor, border: ZeroBorder, value: float) -> Tensor:
        return ops.padding.constant_pad(x, border.padding, value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.border, _ = inputs
        save(ctx, (), ())

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        return linear_map(ctx.border.transposed, gy), None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _border: Any, _value: Any) -> Tensor:
        return linear_map(ctx.border, tx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, border: ZeroBorder, value: float) -> tuple[Tensor, int]:
        # The padding counts dimensions from the last one.
        return ConstantPad.call(x.movedim(in_dims[0], 0), border, value), 0


def constant_pad(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    """Return x with a constant around its last dimensions, as many as ``padding`` has pairs. Saved: nothing."""
    border = ZeroBorder(tuple(padding))
    if value != 0:
        return ConstantPad.call(x, border, value)
    if ops.padding.surrounds(x, padding):
        return pad(x, padding, "zeros")
    return linear_map(border, x)
