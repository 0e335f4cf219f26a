"""Pooling: linear maps, max pooling once its winners are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, fold_batch, keep_fixed, kept_fixed, linear_map, unfold_batch
from torchbp.autograd.function import ExplicitFunction, records_derivative, save
from torchbp.ops.registry import memory_format_of


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
    wants_winners: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the maxima of the windows of x (N, C, *spatial), and the winners' places in their windows.

    Of equals the first in row-major order wins; NaN wins over everything; padding never does. Where neither the
    caller nor a derivative wants the winners, none are recorded.
    """
    if not wants_winners and not records_derivative(x):
        return ops.pooling.max_pool_values(x, kernel_size, stride, padding, dilation, ceil_mode), None
    window = Window(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return MaxPool.call(x, window, ceil_mode)


@dataclass(frozen=True)
class RegionGather(LinearMap):
    """y[o] = x[winner of o] over windows that follow no stride; the adjoint adds g[o] to the input that won o.

    Sizes have one value per spatial dimension. Adaptive windows follow from them, random samples (N, C, d) give
    fractional ones.
    """

    folds_batch = True
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]  # the largest window

    def forward(self, x: Tensor, winner: Tensor, samples: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Gather the winners."""
        return ops.pooling.irregular_max_pool_gather(x, winner, samples, self.kernel_size)

    def adjoint(self, g: Tensor, winner: Tensor, samples: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Scatter to the winners."""
        return ops.pooling.irregular_max_pool_scatter(g, winner, samples, self.input_size, self.kernel_size)


class RegionMaxPool(ExplicitFunction):
    """y[o] = max of x over the window of o, and the winner's place in it, for windows that follow no stride.

    As for MaxPool, y is a linear map of x once the winners are known. Saved: the winners, and the random
    samples that place fractional windows; never x.
    """

    @staticmethod
    def forward(x: Tensor, map: RegionGather, samples: Tensor | None) -> tuple[Tensor, Tensor]:
        return ops.pooling.irregular_max_pool(x, samples, map.output_size, map.kernel_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.map, samples = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        keep_fixed(ctx, x, (output[1],) if samples is None else (output[1], samples))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, _gwinner: Any) -> tuple[Any, ...]:
        return None if gy is None else linear_map(ctx.map.transposed, gy, *kept_fixed(ctx)), None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _map: Any, _samples: Any) -> tuple[Tensor, None]:
        return linear_map(ctx.map, tx, *ctx.saved_tensors), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, map: RegionGather, samples: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size = info.batch_size
        folded = None if samples is None else fold_batch(samples, in_dims[2], size)
        y, winner = RegionMaxPool.call(fold_batch(x, in_dims[0], size), map, folded)
        return (unfold_batch(y, size), unfold_batch(winner, size)), (0, 0)


def adaptive_max_pool(x: Tensor, output_size: Sequence[int], return_indices: bool) -> tuple[Tensor, Tensor | None]:
    """Return the maxima of x (N, C, *spatial) over ``output_size`` windows, and on request their places, int64.

    Window o of n covers [floor(o i / n), ceil((o + 1) i / n)).
    """
    sizes = tuple(x.shape[2:])
    if all(n > 0 and i % n == 0 for i, n in zip(sizes, output_size, strict=True)):  # windows side by side
        kernel = tuple(i // n for i, n in zip(sizes, output_size, strict=True))
        zeros, ones = (0,) * len(kernel), (1,) * len(kernel)
        y, winner = max_pool(x, kernel, kernel, zeros, ones, False, return_indices)
        if not return_indices or winner is None:
            return y, None
        return y, ops.pooling.winner_indices(winner, sizes, kernel, kernel, zeros, ones)
    kernel = tuple(_longest_window(i, n) for i, n in zip(sizes, output_size, strict=True))
    return _region_max_pool(x, RegionGather(sizes, tuple(output_size), kernel), None, return_indices)


def _longest_window(size: int, windows: int) -> int:
    """Return the length of the longest of so many adaptive windows: those of a size that they do not divide overlap."""
    if torch.compiler.is_compiling():  # no longer than this, and no program of its own for every remainder
        return min(size, size // max(windows, 1) + 2)
    rest = size % max(windows, 1)
    if rest == 0:
        return max(size // max(windows, 1), 1)
    return size // windows + (1 if windows % rest == 0 else 2)


def fractional_max_pool(
    x: Tensor, kernel_size: Sequence[int], output_size: Sequence[int], samples: Tensor, return_indices: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the maxima of x (N, C, *spatial) over randomly placed windows, and on request their places, int64.

    ``samples`` (N, C, d) in [0, 1) place the windows.
    """
    map = RegionGather(tuple(x.shape[2:]), tuple(output_size), tuple(kernel_size))
    return _region_max_pool(x, map, samples, return_indices)


def _region_max_pool(
    x: Tensor, map: RegionGather, samples: Tensor | None, return_indices: bool
) -> tuple[Tensor, Tensor | None]:
    y, winner = RegionMaxPool.call(x, map, samples)
    if not return_indices:
        return y, None
    return y, ops.pooling.irregular_indices(winner, samples, map.input_size, map.kernel_size)


@dataclass(frozen=True)
class Unpool(LinearMap):
    """y[index of i] = x[i], zero elsewhere; of several writers to one place the last stays.

    The adjoint reads the places, for the values that stayed: an overwritten value has no influence.
    """

    folds_batch = True
    output_size: tuple[int, ...]

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:  # type: ignore[override]
        """Write."""
        return ops.pooling.max_unpool(x, indices, self.output_size)

    def adjoint(self, g: Tensor, indices: Tensor) -> Tensor:  # type: ignore[override]
        """Read."""
        return ops.pooling.max_unpool_adjoint(g, indices)


def max_unpool(x: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    """Return zeros (N, C, *output_size) with x (N, C, *spatial) at its places in the plane. Saved: the indices."""
    return linear_map(Unpool(tuple(output_size)), x, indices)


def _as_built_in(averages: Tensor) -> Tensor:
    """Return averages of volumes contiguous, whatever the layout that they were made in."""
    if averages.dim() != 5 or memory_format_of(averages) != torch.channels_last_3d:
        return averages
    return averages.clone(memory_format=torch.contiguous_format)


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
        return _as_built_in(ops.pooling.average_pool(x, *self._geometry))

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
        return _as_built_in(ops.pooling.adaptive_average_pool(x, self.output_size))

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Spread."""
        return ops.pooling.adaptive_average_pool_adjoint(g, self.input_size)


def adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Return x (N, C, *spatial) averaged into ``output_size`` windows. Saved: nothing but sizes."""
    return linear_map(AdaptiveWindows(tuple(x.shape[2:]), tuple(output_size)), x)


@dataclass(frozen=True)
class WindowSums(LinearMap):
    """y[o] = k times the average over the window of o, of k elements: the sum of a whole window."""

    folds_batch = True

    windows: AverageWindows

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Sum."""
        return self.windows.forward(x).mul_(math.prod(self.windows.kernel_size))

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Spread."""
        return self.windows.adjoint(g).mul_(math.prod(self.windows.kernel_size))


class PowerPool(ExplicitFunction):
    """y = (k A x^p)^(1/p), with A the average over windows of k elements: the p-norm of whole windows.

    ty = y^(1-p) k A (x^(p-1) tx), so gx = x^(p-1) Aᵀ (k y^(1-p) gy); where y = 0 the derivative is 0, as the
    built-in's. Saved: x and y.
    """

    @staticmethod
    def forward(x: Tensor, windows: AverageWindows, p: float) -> Tensor:
        return windows.forward(x.pow(p)).mul_(math.prod(windows.kernel_size)).pow_(1 / p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.windows, ctx.p = inputs
        save(ctx, (x, output), (x, output))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Any, ...]:
        x, y = ctx.saved_tensors
        gx = x.pow(ctx.p - 1) * linear_map(ctx.windows.transposed, gy * _power_slope(y, ctx.windows, ctx.p))
        return gx, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _windows: Any, _p: Any) -> Tensor:
        x, y = ctx.saved_tensors
        return _power_slope(y, ctx.windows, ctx.p) * linear_map(ctx.windows, x.pow(ctx.p - 1) * tx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, windows: AverageWindows, p: float) -> tuple[Tensor, int]:
        y = PowerPool.call(fold_batch(x, in_dims[0], info.batch_size), windows, p)
        return unfold_batch(y, info.batch_size), 0


def _power_slope(y: Tensor, windows: AverageWindows, p: float) -> Tensor:
    """Return k y^(1-p), zero where y is."""
    # The value under the mask is finite, or its derivative would be NaN times zero.
    zero = y == 0
    return (math.prod(windows.kernel_size) * y.masked_fill(zero, 1).pow(1 - p)).masked_fill(zero, 0)


def power_pool(x: Tensor, p: float, kernel_size: Sequence[int], stride: Sequence[int], ceil_mode: bool) -> Tensor:
    """Return (sum of x^p)^(1/p) over the windows of x (N, C, *spatial).

    A window that ``ceil_mode`` lets reach beyond the input counts as whole: its sum is scaled up. The limits for
    p = infinity and -infinity are the largest and the smallest absolute value. p = 1 is linear and keeps nothing.
    """
    zeros = (0,) * len(kernel_size)
    if math.isinf(p):
        sign = math.copysign(1, p)
        y, _ = max_pool(sign * x.abs(), kernel_size, stride, zeros, (1,) * len(kernel_size), ceil_mode, False)
        return sign * y
    windows = AverageWindows(tuple(x.shape[2:]), tuple(kernel_size), tuple(stride), zeros, ceil_mode, True, None)
    return linear_map(WindowSums(windows), x) if p == 1 else PowerPool.call(x, windows, p)
