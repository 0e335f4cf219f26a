"""The three products of a linear layer: matrix products of PyTorch, on flattened leading dimensions.

For T(x, w, g) = sum over rows b of ``g[b, o] * w[o, i] * x[b, i]``:

- ``linear``         y  = T(x, w, .) + bias = x wᵀ + bias
- ``linear_input``   dx = T(., w, g) = g w
- ``linear_weight``  dw = T(x, ., g) = gᵀ x
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return y = x wᵀ + bias, (*, out), for x (*, in) and w (out, in)."""
    if torch.compiler.is_compiling() or input.dim() <= 2 or input.is_contiguous():
        return F.linear(input, weight, bias)
    # Here PyTorch asks whether a gradient is wanted, and otherwise multiplies matrix by matrix.
    return F.linear(_rows(input), weight, bias).view(*input.shape[:-1], weight.shape[0])


def linear_input(grad_output: Tensor, weight: Tensor) -> Tensor:
    """Return dx = g w, (*, in): the product with the transposed map."""
    return torch.matmul(grad_output, weight)


def linear_weight(input: Tensor, grad_output: Tensor) -> Tensor:
    """Return dw = gᵀ x, (out, in), summed over every leading dimension."""
    return torch.mm(_rows(grad_output).t(), _rows(input))


def _rows(tensor: Tensor) -> Tensor:
    """Return (rows, features) from (*, features); the count is given, since -1 is ambiguous without elements."""
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])
