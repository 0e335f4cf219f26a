"""Unfolding and folding: a linear map and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map


@dataclass(frozen=True)
class Unfolding(LinearMap):
    """y[n, (c, k), o] = x[n, c, stride o + dilation k - padding], zero outside x; the adjoint adds up."""

    folds_batch = True

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """List the windows."""
        return ops.folding.unfold(x, self.kernel_size, self.stride, self.padding, self.dilation)

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Add the windows up."""
        return ops.folding.fold(g, self.input_size, self.kernel_size, self.stride, self.padding, self.dilation)


def unfold(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return the windows of x (N, C, *spatial) as columns (N, C * window, positions). Saved: nothing but sizes."""
    windows = Unfolding(tuple(x.shape[2:]), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return linear_map(windows, x)


def fold(
    x: Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return the sum of the columns x (N, C * window, positions) in an image. Saved: nothing but sizes."""
    windows = Unfolding(tuple(output_size), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return linear_map(windows.transposed, x)
