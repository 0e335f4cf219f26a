"""What the composite formulas of separable maps share: an index or a matrix for each spatial dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def multiply(matrices: Sequence[Tensor], x: Tensor, transpose: bool) -> Tensor:
    """Return (M_1 x M_2 x M_3) x, or the transpose's product, for x (N, C, *spatial)."""
    wide = x.to(torch.float32) if x.dtype in (torch.bfloat16, torch.float16) else x
    for axis, matrix in enumerate(matrices):
        matrix = (matrix.mT if transpose else matrix).to(wide.dtype)
        wide = torch.tensordot(wide, matrix, dims=([2 + axis], [1])).movedim(-1, 2 + axis)
    return wide.to(x.dtype)


def select(x: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """Return y[..., o, p] = x[..., indices[0][o], indices[1][p]] for x (N, C, *spatial)."""
    for axis, index in enumerate(indices):
        x = x.index_select(2 + axis, index)
    return x


def spread(g: Tensor, indices: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Add g[..., o, p] to x[..., indices[0][o], indices[1][p]] of spatial ``size``; the adjoint of ``select``."""
    half = g.dtype in (torch.bfloat16, torch.float16)
    x = g.to(torch.float32) if half else g
    for axis, index in enumerate(indices):
        shape = (*x.shape[: 2 + axis], size[axis], *x.shape[3 + axis :])
        x = x.new_zeros(shape).index_add_(2 + axis, index, x)
    return x.to(g.dtype)
