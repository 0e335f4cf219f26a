"""Interpolation: linear maps of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map


@dataclass(frozen=True)
class Interpolation(LinearMap):
    """y = (M_1 x M_2 x M_3) x, a sparse matrix of weights per spatial dimension; the adjoint has their transposes."""

    folds_batch = True

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    mode: str
    align_corners: bool
    antialias: bool
    scales: tuple[float, ...]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Interpolate."""
        return ops.interpolation.interpolate(
            x, self.output_size, self.mode, self.align_corners, self.antialias, self.scales
        )

    def adjoint(self, g: Tensor) -> Tensor:  # type: ignore[override]
        """Give back."""
        return ops.interpolation.interpolate_adjoint(
            g, self.input_size, self.mode, self.align_corners, self.antialias, self.scales
        )


def interpolate(
    x: Tensor,
    output_size: Sequence[int],
    mode: str,
    align_corners: bool = False,
    antialias: bool = False,
    scales: Sequence[float] = (),
) -> Tensor:
    """Return x (N, C, *spatial) interpolated to (N, C, *output_size). Saved: nothing but sizes."""
    resized = Interpolation(tuple(x.shape[2:]), tuple(output_size), mode, align_corners, antialias, tuple(scales))
    return linear_map(resized, x)
