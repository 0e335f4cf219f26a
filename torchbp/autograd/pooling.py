"""Pooling: linear maps, max pooling once its winners are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, fold_batch, linear_map, unfold_batch
from torchbp.autograd.function import ExplicitFunction, save


@dataclass(frozen=True)
class Window:
    """Geometry of a pool, one value per spatial dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class WinnerGather(LinearMap):
    """y[o] = x[winner of o]; the adjoint adds g[o] to the input that won o."""

    folds_batch = True
    window: Window
    input_size: tuple[int, ...]

    def forward(self, x: Tensor, winner: Tensor) -> Tensor:  # type: ignore[override]
        """Gather the winners."""
        w = self.window
        return ops.pooling.max_pool_gather(x, winner, w.kernel_size, w.stride, w.padding, w.dilation)

    def adjoint(self, g: Tensor, winner: Tensor) -> Tensor:  # type: ignore[override]
        """Scatter to the winners."""
        w = self.window
        return ops.pooling.max_pool_scatter(g, winner, self.input_size, w.kernel_size, w.stride, w.padding, w.dilation)


class MaxPool(ExplicitFunction):
    """y[o] = max of x over the window of o, and the winner's place in the window.

    Once the winners are known, y is a linear map of x: backward scatters gy to the winners, and the
    derivative of that gathers. Saved: the winners, one byte per output up to 256 taps; never x.
    """

    @staticmethod
    def forward(x: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
        return ops.pooling.max_pool(x, window.kernel_size, window.stride, window.padding, window.dilation, ceil_mode)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, window, _ = inputs
        ctx.map = WinnerGather(window, tuple(x.shape[2:]))
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        save(ctx, (output[1],), (output[1],))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, _gwinner: Any) -> tuple[Any, ...]:
        (winner,) = ctx.saved_tensors
        return None if gy is None else linear_map(ctx.map.transposed, gy, winner), None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _window: Any, _ceil_mode: Any) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        return linear_map(ctx.map, tx, winner), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, window: Window, ceil_mode: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        y, winner = MaxPool.call(fold_batch(x, in_dims[0], info.batch_size), window, ceil_mode)
        return (unfold_batch(y, info.batch_size), unfold_batch(winner, info.batch_size)), (0, 0)


def max_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """Return the maxima of the windows of x (N, C, *spatial), and the winners' places in their windows.

    Of equals the first in row-major order wins; NaN wins over everything; padding never does.
    """
    window = Window(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return MaxPool.call(x, window, ceil_mode)


@dataclass(frozen=True)
class AverageWindows(LinearMap):
    """y[o] = sum of x over the window of o, over its divisor; the adjoint spreads g[o] evenly back."""

    folds_batch = True

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None

    @property
    def _geometry(self) -> tuple[Any, ...]:
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Average."""
        return ops.pooling.average_pool(x, *self._geometry)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Spread."""
        return ops.pooling.average_pool_adjoint(g, self.input_size, *self._geometry)


def average_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Return the averages over the windows of x (N, C, *spatial). Saved: nothing but sizes."""
    windows = AverageWindows(
        tuple(x.shape[2:]),
        tuple(kernel_size),
        tuple(stride),
        tuple(padding),
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    return linear_map(windows, x)


@dataclass(frozen=True)
class AdaptiveWindows(LinearMap):
    """Averages over [floor(o i / n), ceil((o + 1) i / n)); the adjoint spreads each back evenly."""

    folds_batch = True

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Average."""
        return ops.pooling.adaptive_average_pool(x, self.output_size)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Spread."""
        return ops.pooling.adaptive_average_pool_adjoint(g, self.input_size)


def adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Return x (N, C, *spatial) averaged into ``output_size`` windows. Saved: nothing but sizes."""
    return linear_map(AdaptiveWindows(tuple(x.shape[2:]), tuple(output_size)), x)
