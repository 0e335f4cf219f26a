"""Convolution: a contraction in one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import fold_batch, unfold_batch
from torchbp.autograd.contraction import TrilinearForm, contract


@dataclass(frozen=True)
class ConvolutionForm(TrilinearForm):
    """T(x, w, g) = sum of g[n, o, q] w[o, c, k] x[n, c, stride q + dilation k - padding].

    y correlates the input with the kernel; dx is the full correlation of g with the flipped kernel (the
    transposed convolution); dw correlates the input with g. Sizes and lists have one value per spatial
    dimension; padding may have two, all before the input and then all after it.
    """

    bias_slots = (0, 2)  # the transposed convolution's and the convolution's

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def output(self, x: Tensor, w: Tensor) -> Tensor:
        """Return y, (N, O, *output)."""
        return ops.convolution.convolution(x, w, None, self.stride, self.padding, self.dilation, self.groups)

    def input(self, w: Tensor, g: Tensor) -> Tensor:
        """Return dx, (N, C, *input_size)."""
        return ops.convolution.convolution_input(
            g, w, None, self.input_size, self.stride, self.padding, self.dilation, self.groups
        )

    def weight(self, x: Tensor, g: Tensor) -> Tensor:
        """Return dw, (O, C / groups, *kernel_size)."""
        return ops.convolution.convolution_weight(
            x, g, self.kernel_size, self.stride, self.padding, self.dilation, self.groups
        )

    def contract_bias(self, slot: int, operands: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """Return y + bias or dx + bias in one pass."""
        if slot == 2:
            x, w = operands
            return ops.convolution.convolution(x, w, bias, self.stride, self.padding, self.dilation, self.groups)
        w, g = operands
        return ops.convolution.convolution_input(
            g, w, bias, self.input_size, self.stride, self.padding, self.dilation, self.groups
        )

    def batched(
        self, slot: int, operands: tuple[Tensor, ...], in_dims: tuple[int | None, ...], batch_size: int
    ) -> Tensor:
        """Fold the mapped dimension into the batch, or into groups where the weight is mapped or missing."""
        positions = [p for p in range(3) if p != slot]
        dims = dict(zip(positions, in_dims, strict=True))
        if slot != 1 and dims[1] is None:
            folded = tuple(
                operand if p == 1 else fold_batch(operand, dims[p], batch_size)
                for p, operand in zip(positions, operands, strict=True)
            )
            return unfold_batch(contract(self, slot, *folded), batch_size)
        form = replace(self, groups=self.groups * batch_size)
        grouped = tuple(
            (fold_batch if p == 1 else _fold_channels)(operand, dims[p], batch_size)
            for p, operand in zip(positions, operands, strict=True)
        )
        z = contract(form, slot, *grouped)
        if slot == 1:
            return unfold_batch(z, batch_size)
        return z.unflatten(1, (batch_size, z.shape[1] // batch_size)).movedim(1, 0)


def _fold_channels(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    """Return (N, batch_size * C, ...) from (N, C, ...) with a mapped dimension."""
    if dim is None:
        tensor = tensor.unsqueeze(1).expand(tensor.shape[0], batch_size, *tensor.shape[1:])
    else:
        tensor = tensor.movedim(dim, 0).movedim(0, 1)
    return tensor.flatten(1, 2)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the convolution (cross-correlation) of x (N, C, *spatial) with weight (O, C / groups, *kernel).

    y[n, o, q] = bias[o] + sum over c, k of w[o, c, k] x[n, c, stride q + dilation k - padding].
    """
    form = ConvolutionForm(
        tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups
    )
    return contract(form, 2, x, weight, bias=bias)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the transposed convolution of x (N, C, *spatial) with weight (C, O / groups, *kernel).

    The same form with x where the gradient stood and the input missing: y = T(., w, x) + bias, that is
    y[n, o, stride q + dilation k - padding] += w[c, o, k] x[n, c, q]. Its gradients are the convolution of gy
    with w, and the weight's product with gy as the input. ``output_size`` must be one from which the
    convolution gives x's size.
    """
    form = ConvolutionForm(
        tuple(output_size), tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups
    )
    return contract(form, 0, weight, x, bias=bias)
