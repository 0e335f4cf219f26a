"""Multiply-adds of whatever runs: PyTorch's FLOP counter with the formulas that it lacks on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


class _NoModules:
    """Tracks no modules: PyTorch's tracker puts hooks into graphs, which torch.utils.checkpoint does not bear."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class MultiplyAdds(FlopCounterMode):
    """Counts the multiply-adds of products of matrices, convolutions and the like in a ``with`` block.

    Half the floating-point operations by the formulas of :mod:`torch.utils.flop_counter`, of torchbp's operators, and
    of this module. What moves, weighs or sums data (pooling, normalisation, activations, losses) counts as none;
    products with a border of zeros count in full, and so does what a causal mask leaves out.
    """

    def __init__(self) -> None:
        """Count nothing yet."""
        super().__init__(display=False, custom_mapping=_FORMULAS)
        self.mod_tracker: Any = _NoModules()

    @property
    def total(self) -> int:
        """How many there were."""
        flops: int = self.get_total_flops()
        return flops // 2


Shape = Sequence[int]


def _added_product(added: Shape, a: Shape, b: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(a) * b[-1]


def _matrix_vector(matrix: Shape, vector: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _added_matrix_vector(added: Shape, matrix: Shape, vector: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _attention(q: Shape, k: Shape, v: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(grad_output: Shape, q: Shape, k: Shape, v: Shape, *args: Any, **kwargs: Any) -> int:
    """The scores again, the gradients of query and key; the gradients of the probabilities and of the values."""
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


def _convolution_backward(
    grad_output: Shape,
    input: Shape,
    weight: Shape,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **kwargs: Any,
) -> int:
    """As many as forward for each of the two products; PyTorch's formula counts the weight's once for every group."""
    places = (input if transposed else grad_output)[2:]
    return 2 * input[0] * prod(places) * prod(weight) * (int(wanted[0]) + int(wanted[1]))


def _trilinear(
    a: Shape,
    b: Shape,
    c: Shape,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    """The product of the first two, summed over what the third lacks, and the product of that with the third."""
    dims = len(a) + len(expand_a)
    shapes = [_unsqueezed(shape, expand) for shape, expand in ((a, expand_a), (b, expand_b), (c, expand_c))]
    pair = [max(x, y) for x, y in zip(shapes[0], shapes[1], strict=True)]
    left = [1 if d in summed and d in expand_c else pair[d] for d in range(dims)]
    return 2 * (prod(pair) + prod(max(x, y) for x, y in zip(left, shapes[2], strict=True)))


def _unsqueezed(shape: Shape, places: Sequence[int]) -> list[int]:
    sizes = iter(shape)
    return [1 if d in places else next(sizes) for d in range(len(shape) + len(places))]


def _recurrent_layer(input: Shape, weight: Shape, recurrent_weight: Shape, *args: Any, **kwargs: Any) -> int:
    rows = prod(input[:-1])
    return 2 * rows * (prod(weight) + prod(recurrent_weight))


def _recurrent_layer_backward(*args: Any, **kwargs: Any) -> int:
    """The gradients of inputs and of weights, all of them, whichever are wanted."""
    return 2 * _recurrent_layer(*args, **kwargs)


_FORMULAS: dict[Any, Callable[..., int]] = {
    **dict.fromkeys(
        (_aten.addmm_, _aten._addmm_activation, _aten.baddbmm_, _aten.addbmm, _aten.addbmm_), _added_product
    ),
    **dict.fromkeys((_aten.mv, _aten.dot, _aten.vdot), _matrix_vector),
    **dict.fromkeys((_aten.addmv, _aten.addmv_), _added_matrix_vector),
    _aten.convolution_backward: _convolution_backward,
    _aten._trilinear: _trilinear,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.mkldnn_rnn_layer: _recurrent_layer,
    _aten.mkldnn_rnn_layer_backward: _recurrent_layer_backward,
}
