"""Linear maps and their adjoints: the one mechanism behind pooling, padding, gathering and masks.

For y = A x the gradient is gx = Aᴴ gy, and the gradient of *that* is A again: the pair is closed, so one
Function parameterised by the map is differentiable to any order. A map may depend on tensors that are
fixed (the winners of a max pool, a dropout mask): they are passed along and get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchbp.autograd.function import ExplicitFunction, save, without_base


class LinearMap:
    """A linear map A and its adjoint, <A x, g> = <x, Aᴴ g>.

    A subclass is immutable (a frozen dataclass, say) and implements ``forward`` and ``adjoint``.
    """

    #: True where every element along the first dimension of x and of the fixed tensors is treated alike:
    #: then vmap folds the mapped dimension into it.
    folds_batch = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the map its title."""
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            cls._title = cls.__name__

    _title: ClassVar[str] = "AdjointPair"

    @property
    def title(self) -> str:
        """What graphs and profiles call it: the class's name, of private ones that of their base."""
        return self._title

    def forward(self, x: Tensor, *fixed: Tensor) -> Tensor:
        """Return A x."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def adjoint(self, g: Tensor, *fixed: Tensor) -> Tensor:
        """Return Aᴴ g, of the shape and dtype of x."""
        raise NotImplementedError(f"{type(self).__name__}.adjoint")

    @property
    def transposed(self) -> LinearMap:
        """The adjoint as a map of its own."""
        return _Transposed(self)


@dataclass(frozen=True)
class _Transposed(LinearMap):
    map: LinearMap

    @property
    def title(self) -> str:
        return f"{self.map.title}Adjoint"

    @property
    def folds_batch(self) -> bool:  # type: ignore[override]
        return self.map.folds_batch

    def forward(self, x: Tensor, *fixed: Tensor) -> Tensor:
        return self.map.adjoint(x, *fixed)

    def adjoint(self, g: Tensor, *fixed: Tensor) -> Tensor:
        return self.map.forward(g, *fixed)

    @property
    def transposed(self) -> LinearMap:
        return self.map


@dataclass(frozen=True)
class _Mapped(LinearMap):
    """A map over one more dimension of x (at ``in_dim``, or absent) and of the fixed tensors."""

    map: LinearMap
    in_dim: int | None
    fixed_dims: tuple[int | None, ...]

    def forward(self, x: Tensor, *fixed: Tensor) -> Tensor:
        return torch.vmap(self.map.forward, in_dims=(self.in_dim, *self.fixed_dims))(x, *fixed)

    def adjoint(self, g: Tensor, *fixed: Tensor) -> Tensor:
        gx = torch.vmap(self.map.adjoint, in_dims=(0, *self.fixed_dims))(g, *fixed)
        return gx.sum(0) if self.in_dim is None else gx.movedim(0, self.in_dim)


def keep_fixed(ctx: Any, x: Tensor, fixed: tuple[Tensor, ...]) -> None:
    """Save the fixed tensors of a map of x, for :func:`kept_fixed`."""
    ctx.shaped = torch.compiler.is_compiling()
    # Dynamo loses a dynamic size that only the map knows, unless a tensor of the backward pass has it.
    shape = (x.new_empty(()).expand(x.shape),) if ctx.shaped else ()
    save(ctx, (*fixed, *shape), fixed)


def kept_fixed(ctx: Any) -> tuple[Tensor, ...]:
    """Return the fixed tensors in a backward pass."""
    if not ctx.shaped:
        return ctx.saved_tensors
    *fixed, shape = ctx.saved_tensors
    shape.size()
    return tuple(fixed)


class AdjointPair(ExplicitFunction):
    """y = A x. Backward: gx = Aᴴ gy, itself a linear map whose backward is A.

    Saved: the fixed tensors only.
    """

    named_by_first = True

    @staticmethod
    def forward(map: LinearMap, x: Tensor, *fixed: Tensor) -> Tensor:
        return without_base(map.forward(x, *fixed), x, *fixed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.map, x, *fixed = inputs
        keep_fixed(ctx, x, tuple(fixed))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        fixed = kept_fixed(ctx)
        gx = linear_map(ctx.map.transposed, gy, *fixed) if ctx.needs_input_grad[1] else None
        return None, gx, *[None] * len(fixed)

    @staticmethod
    def jvp(ctx: Any, _map: Any, tx: Tensor | None, *_fixed: Any) -> Tensor | None:
        return None if tx is None else linear_map(ctx.map, tx, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], map: LinearMap, x: Tensor, *fixed: Tensor) -> tuple[Tensor, int]:
        if map.folds_batch:
            folded = [fold_batch(t, d, info.batch_size) for t, d in zip((x, *fixed), in_dims[1:], strict=True)]
            return unfold_batch(linear_map(map, *folded), info.batch_size), 0
        return linear_map(_Mapped(map, in_dims[1], tuple(in_dims[2:])), x, *fixed), 0


def linear_map(map: LinearMap, x: Tensor, *fixed: Tensor) -> Tensor:
    """Apply a linear map, y = A x, with gx = Aᴴ gy: any order, forward mode, vmap, torch.compile.

    Args:
        map: the map and its adjoint.
        x: what it is applied to.
        fixed: tensors the map depends on; they get no gradient.

    Raises:
        TypeError: if ``map`` is not a LinearMap.
        RuntimeError: if a fixed tensor requires a gradient.
    """
    if not isinstance(map, LinearMap):
        raise TypeError(f"map must be a LinearMap, got {type(map).__name__}")
    for tensor in fixed:
        if tensor.requires_grad:
            raise RuntimeError(f"fixed tensors of {type(map).__name__} get no gradient, but one requires it")
    return AdjointPair.call(map, x, *fixed)


@dataclass(frozen=True)
class _Callables(LinearMap):
    maps: tuple[Callable[..., Tensor], Callable[..., Tensor]]

    def forward(self, x: Tensor, *fixed: Tensor) -> Tensor:
        return self.maps[0](x, *fixed)

    def adjoint(self, g: Tensor, *fixed: Tensor) -> Tensor:
        return self.maps[1](g, *fixed)


@dataclass(frozen=True)
class Scaling(LinearMap):
    """y = x times a number; its own adjoint."""

    factor: float

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply."""
        return x * self.factor

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply."""
        return g * self.factor


def adjoint_pair(forward: Callable[..., Tensor], adjoint: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a differentiable layer y = A x from a linear map and its adjoint.

    Args:
        forward: ``(x, *fixed) -> A x``.
        adjoint: ``(g, *fixed) -> Aᴴ g``; <A x, g> = <x, Aᴴ g> must hold (``torchbp.testing.check`` proves it).

    Example::

        shift = adjoint_pair(lambda x: x.roll(1, -1), lambda g: g.roll(-1, -1))
        y = shift(x)
    """
    for name, value in (("forward", forward), ("adjoint", adjoint)):
        if not callable(value):
            raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    map = _Callables((forward, adjoint))
    return lambda x, *fixed: linear_map(map, x, *fixed)


def fold_batch(tensor: Tensor, dim: int | None, batch_size: int, axis: int = 0) -> Tensor:
    """Multiply ``axis`` by a mapped dimension: (batch_size * N, ...) from (N, ...), expanded where it is absent."""
    if dim is None:
        shape = tensor.shape
        tensor = tensor.unsqueeze(axis).expand(*shape[:axis], batch_size, *shape[axis:])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


def unfold_batch(tensor: Tensor, batch_size: int, axis: int = 0) -> Tensor:
    """Return (batch_size, N, ...) from (batch_size * N, ...): the mapped dimension first, whatever the axis."""
    tensor = tensor.unflatten(axis, (batch_size, tensor.shape[axis] // batch_size if batch_size else 0))
    return tensor.movedim(axis, 0) if axis else tensor
