"""Matrix products and einsum: contractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchbp.autograd.contraction import Einsum, TrilinearForm, contract


@dataclass(frozen=True)
class MatrixProduct(TrilinearForm):
    """T(a, b, g) = scale times the sum over *, i, j, k of g[*, i, k] a[*, i, j] b[*, j, k].

    y = a b; da = g bᵀ; db = aᵀ g, each summed over the leading dimensions * along which the operand is broadcast.

    Attributes:
        ranks: the numbers of dimensions of a and b.
        spread: the dimensions of size one of a and of b, counted from the end, along which they are broadcast.
        scale: what multiplies the product.
    """

    ranks: tuple[int, int] = (2, 2)
    spread: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    scale: float = 1

    bias_dim = -1

    def output(self, x: Tensor, w: Tensor) -> Tensor:
        """Return a b."""
        return self._scaled(torch.matmul(x, w))

    def input(self, w: Tensor, g: Tensor) -> Tensor:
        """Return g bᵀ."""
        if self.ranks[0] == 2 and g.dim() > 2:  # one product over * and k
            return self._scaled(_beside(g) @ _beside(w).mT)
        return self._scaled(self._gathered(torch.matmul(g, w.mT), 0))

    def weight(self, x: Tensor, g: Tensor) -> Tensor:
        """Return aᵀ g."""
        if self.ranks[1] == 2 and g.dim() > 2:  # one product over * and i
            return self._scaled(x.flatten(0, -2).mT @ g.flatten(0, -2))
        return self._scaled(self._gathered(torch.matmul(x.mT, g), 1))

    def contract_bias(self, slot: int, operands: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """Return a b + bias in one product where there is one."""
        x, w = operands
        if x.dim() == w.dim() == 2:
            return torch.addmm(bias, x, w, alpha=self.scale)
        return self.output(x, w) + bias

    def _scaled(self, z: Tensor) -> Tensor:
        return z if self.scale == 1 else z * self.scale

    def _gathered(self, z: Tensor, which: int) -> Tensor:
        """Return the sum over the dimensions along which an operand is broadcast."""
        if self.spread[which]:
            z = z.sum(self.spread[which], keepdim=True)
        return z if z.dim() == self.ranks[which] else z.sum(list(range(z.dim() - self.ranks[which])))


def _beside(tensor: Tensor) -> Tensor:
    """Return (rows, * columns) from (*, rows, columns): the matrices side by side."""
    return tensor.movedim(-2, 0).flatten(1)


def matrix_product(a: Tensor, b: Tensor, bias: Tensor | None = None, scale: float = 1) -> Tensor:
    """Return y = scale a b + bias for a (*, n, m), b (*, m, k) and bias (k); y is (*, n, k), the * broadcast."""
    leads = (a.shape[:-2], b.shape[:-2])
    if leads[0] == leads[1] and scale == 1 and len(leads[0]) < len(_UNSPREAD):
        return contract(_UNSPREAD[len(leads[0])], 2, a, b, bias=bias)
    spread = tuple([_spread(own, other) for own, other in zip(leads, reversed(leads), strict=True)])
    return contract(MatrixProduct((a.dim(), b.dim()), spread, scale), 2, a, b, bias=bias)  # type: ignore[arg-type]


# The usual forms, by the number of leading dimensions.
_UNSPREAD = tuple(MatrixProduct((rank, rank)) for rank in range(2, 7))


def _spread(own: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Return where a leading dimension of size one meets another size, counted from the end of the tensor."""
    pairs = zip(reversed(own), reversed(other), strict=False)
    return tuple([-3 - i for i, (size, wanted) in enumerate(pairs) if size == 1 and wanted != 1])


def einsum(inputs: Sequence[str], output: str, operands: Sequence[Tensor]) -> Tensor:
    """Return the einsum of two or more operands, two at a time, so that each step is a contraction.

    Args:
        inputs: the labels of each operand, none twice.
        output: those of the result, each of some operand.
        operands: the tensors, of one size for each label.
    """
    waiting = list(zip(inputs, operands, strict=True))
    for i, j in _path(inputs, output, operands):
        (first, x), (second, y) = waiting[i], waiting[j]
        waiting = [pair for k, pair in enumerate(waiting) if k not in (i, j)]
        wanted = set(output).union(*(labels for labels, _ in waiting))
        first, x = _summed(first, x, wanted | set(second))
        second, y = _summed(second, y, wanted | set(first))
        labels = "".join([label for label in dict.fromkeys(first + second) if label in wanted])
        if not waiting:
            labels = output
        form = Einsum(f"{first},{second}->{labels}")
        waiting.append((labels, contract(form, 2, x, y)))
    return waiting[0][1]


def _summed(labels: str, tensor: Tensor, wanted: set[str]) -> tuple[str, Tensor]:
    """Sum a tensor over the labels that nothing else has."""
    alone = [i for i, label in enumerate(labels) if label not in wanted]
    if not alone:
        return labels, tensor
    return "".join([label for label in labels if label in wanted]), tensor.sum(alone)


def _path(inputs: Sequence[str], output: str, operands: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return which two are contracted next; the result comes last. torch.einsum's order, if it optimises that."""
    count = len(operands)
    if count > 2 and torch.backends.opt_einsum.enabled and torch.backends.opt_einsum.is_available():
        planner = torch.backends.opt_einsum.get_opt_einsum()
        strategy = torch.backends.opt_einsum.strategy
        path = planner.contract_path(f"{','.join(inputs)}->{output}", *operands, optimize=strategy)[0]
        if all(len(step) == 2 for step in path):
            return path
    return [(0, 1), *((0, last) for last in range(count - 2, 0, -1))]
