"""Linear and bilinear layers: contractions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchbp import ops
from torchbp.autograd.contraction import Einsum, TrilinearForm, contract


@dataclass(frozen=True)
class LinearForm(TrilinearForm):
    """T(x, w, g) = sum over rows b, outputs o, inputs i of g[b, o] w[o, i] x[b, i].

    y = x wᵀ; dx = g w, the transposed map; dw = gᵀ x.
    """

    bias_dim = -1

    def output(self, x: Tensor, w: Tensor) -> Tensor:
        """Return x wᵀ."""
        return ops.linear.linear(x, w, None)

    def input(self, w: Tensor, g: Tensor) -> Tensor:
        """Return g w."""
        return ops.linear.linear_input(g, w)

    def weight(self, x: Tensor, g: Tensor) -> Tensor:
        """Return gᵀ x."""
        return ops.linear.linear_weight(x, g)

    def contract_bias(self, slot: int, operands: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """Return x wᵀ + bias in one product."""
        x, w = operands
        return ops.linear.linear(x, w, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y = x wᵀ + b for x (*, in), w (out, in) and b (out); y is (*, out)."""
    return contract(LinearForm(), 2, x, weight, bias=bias)


_BILINEAR = Einsum("bi,oij,bj->bo")


def bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y[b, o] = sum over i, j of x1[b, i] w[o, i, j] x2[b, j] + bias[o].

    A form in four operands, so each gradient is the contraction with that operand missing; only the
    inputs are saved.
    """
    return contract(_BILINEAR, 3, x1, weight, x2, bias=bias)
