"""The three products of a convolution, as raw operators without gradient.

For the trilinear form T(x, w, g) = sum over n, o, q, c, k of
``g[n, o, q] * w[o, c, k] * x[n, c, stride * q + dilation * k - padding]`` (channels within their group):

- ``convolution``         y  = T(x, w, .) + bias
- ``convolution_input``   dx = T(., w, g) + bias (the transposed convolution has one)
- ``convolution_weight``  dw = T(x, ., g)

Shapes: x (N, C, *spatial), w (O, C / groups, *kernel), y and g (N, O, *output) with
output = floor((spatial + 2 padding - dilation (kernel - 1) - 1) / stride) + 1; 1 to 3 spatial
dimensions. Each list has one value per spatial dimension; padding may have two, all those before the input
and then all those after it (negative ones cut), in place of 2 padding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from torchbp._extension import extension
from torchbp.ops.registry import KERNEL_DTYPES, laid_out, memory_format_of, register

Sizes = Sequence[int]


def output_size(input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    """Return the spatial size of a convolution's output."""
    before, after = _sides(padding, len(input_size))
    return [
        (i + p + q - d * (k - 1) - 1) // s + 1
        for i, k, s, p, q, d in zip(input_size, kernel_size, stride, before, after, dilation, strict=True)
    ]


def _sides(padding: Sizes, dimensions: int) -> tuple[Sizes, Sizes]:
    """Return the padding before and after the input."""
    return (padding, padding) if len(padding) == dimensions else (padding[:dimensions], padding[dimensions:])


def _padded(input: Tensor, padding: Sizes, stride: Sizes) -> tuple[Tensor, Sizes]:
    """Return the input and the padding left to do: none where the two sides differ, or where nothing is padded."""
    if len(padding) == len(stride) and 0 not in input.shape[2:]:
        return input, padding
    before, after = _sides(padding, len(stride))
    sides = [side for p, q in zip(reversed(before), reversed(after), strict=True) for side in (p, q)]
    return torch.constant_pad_nd(input, sides), [0] * len(stride)


def _check(input_size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> None:
    dimensions = len(input_size)
    lists = {"kernel_size": (kernel_size, 1), "stride": (stride, 1), "dilation": (dilation, 1)}
    torch._check(
        len(padding) == dimensions or len(padding) == 2 * dimensions,
        lambda: f"convolution: padding must be {dimensions} values, or {2 * dimensions}, but got {list(padding)}",
    )
    before, after = _sides(padding, dimensions)
    torch._check(
        all(p >= 0 for p in before)
        and all(q >= (0 if len(padding) == dimensions else -i) for q, i in zip(after, input_size, strict=True)),
        lambda: f"convolution: padding must not be negative, or cut more than there is, but got {list(padding)}",
    )
    torch._check(1 <= dimensions <= 3, lambda: f"convolution: input_size must have 1 to 3 values, got {input_size}")
    for name, (values, minimum) in lists.items():
        torch._check(
            len(values) == dimensions and all(v >= minimum for v in values),
            lambda name=name, values=values, minimum=minimum: (
                f"convolution: {name} must be {dimensions} values of at least {minimum}, but got {list(values)}"
            ),
        )
    torch._check(groups >= 1, lambda: f"convolution: groups must be positive, but got {groups}")
    sizes = output_size(input_size, kernel_size, stride, padding, dilation)
    torch._check(
        all(size >= 1 for size in sizes),
        lambda: (
            f"convolution: kernel_size {list(kernel_size)} with dilation {list(dilation)} is larger than the padded "
            f"input of size {list(input_size)} with padding {list(padding)}"
        ),
    )


def _new(like: Tensor, other: Tensor, shape: Sizes) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format_of(like, other))


def _fake_output(input, weight, bias, stride, padding, dilation, groups):
    _check(input.shape[2:], weight.shape[2:], stride, padding, dilation, groups)
    torch._check(
        weight.shape[1] * groups == input.shape[1] and weight.shape[0] % groups == 0,
        lambda: f"convolution: weight {tuple(weight.shape)}, input {tuple(input.shape)}, groups {groups} do not fit",
    )
    sizes = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _new(input, weight, (input.shape[0], weight.shape[0], *sizes))


def _fake_input(grad_output, weight, bias, input_size, stride, padding, dilation, groups):
    _check(input_size, weight.shape[2:], stride, padding, dilation, groups)
    return _new(grad_output, weight, (grad_output.shape[0], weight.shape[1] * groups, *input_size))


def _fake_weight(input, grad_output, kernel_size, stride, padding, dilation, groups):
    _check(input.shape[2:], kernel_size, stride, padding, dilation, groups)
    return _new(input, grad_output, (grad_output.shape[1], input.shape[1] // groups, *kernel_size))


def _composite_output(input, weight, bias, stride, padding, dilation, groups):
    x, rest = _padded(input, padding, stride)
    y = torch.ops.aten.convolution(x, weight, bias, stride, rest, dilation, False, [0] * len(stride), groups)
    return laid_out(y, memory_format_of(input, weight))


def _composite_input(grad_output, weight, bias, input_size, stride, padding, dilation, groups):
    shape = (grad_output.shape[0], weight.shape[1] * groups, *input_size)
    format = memory_format_of(grad_output, weight)
    if grad_output.numel() == 0 or weight.numel() == 0:
        gx = torch.zeros(shape, dtype=grad_output.dtype, device=grad_output.device)
        return laid_out(_plus(gx, bias), format)
    # All that the windows see, then the part of it that is the input; where no window looks it is zero.
    zeros, before = [0] * len(stride), _sides(padding, len(stride))[0]
    gx = torch.ops.aten.convolution(grad_output, weight, None, stride, zeros, dilation, True, zeros, groups)
    for axis, p in enumerate(before, start=2):
        gx = gx.narrow(axis, min(p, gx.shape[axis]), max(gx.shape[axis] - p, 0))  # nothing if all is padding
    beyond = [size - seen for size, seen in zip(input_size, gx.shape[2:], strict=True)]
    sides = [side for e in reversed(beyond) for side in (0, e)]
    return laid_out(_plus(torch.constant_pad_nd(gx, sides), bias), format)


def _composite_weight(input, grad_output, kernel_size, stride, padding, dilation, groups):
    shape = (grad_output.shape[1], input.shape[1] // groups, *kernel_size)
    format = memory_format_of(input, grad_output)
    if grad_output.numel() == 0 or input.numel() == 0:
        return laid_out(torch.zeros(shape, dtype=input.dtype, device=input.device), format)
    x, rest = _padded(input, padding, stride)
    weight = input.new_zeros(()).expand(shape)  # its values are not read; one element, expanded, gives its shape
    zeros, wanted = [0] * len(stride), [False, True, False]
    gw = torch.ops.aten.convolution_backward(
        grad_output, x, weight, None, stride, rest, dilation, False, zeros, groups, wanted
    )[1]
    return laid_out(gw, format)


def _flops(batch: int, output: Sizes, weight: Sizes) -> int:
    """Two operations per multiply-add, the same number for each of the three products."""
    return 2 * batch * math.prod(output) * math.prod(weight)


def _flops_output(input_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return _flops(input_shape[0], out_shape[2:], weight_shape)


def _flops_input(grad_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return _flops(grad_shape[0], grad_shape[2:], weight_shape)


def _flops_weight(input_shape, grad_shape, *args, out_shape=None, **kwargs) -> int:
    return _flops(grad_shape[0], grad_shape[2:], out_shape)


_output = register("convolution", fake=_fake_output, composite=_composite_output, flops=_flops_output)
_input = register("convolution_input", fake=_fake_input, composite=_composite_input, flops=_flops_input)
_weight = register("convolution_weight", fake=_fake_weight, composite=_composite_weight, flops=_flops_weight)


def _plus(tensor: Tensor, bias: Tensor | None) -> Tensor:
    return tensor if bias is None else tensor + bias.view(-1, *[1] * (tensor.dim() - 2))


def _complex(product: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return a bilinear product of complex operands from four real ones."""
    a, b = a.resolve_conj(), b.resolve_conj()
    real = product(a.real, b.real) - product(a.imag, b.imag)
    return torch.complex(real, product(a.real, b.imag) + product(a.imag, b.real))


def convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Return y = T(x, w, .) + bias, shape (N, O, *output)."""
    if input.is_complex():
        y = _complex(lambda x, w: convolution(x, w, None, stride, padding, dilation, groups), input, weight)
        return _plus(y, bias)
    call = _output if input.dtype in KERNEL_DTYPES else _composite_output
    return call(input, weight, bias, stride, padding, dilation, groups)


def convolution_input(
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """Return dx = T(., w, g) + bias, shape (N, C, *input_size): the full correlation with the flipped kernel."""
    if grad_output.is_complex():
        gx = _complex(
            lambda g, w: convolution_input(g, w, None, input_size, stride, padding, dilation, groups),
            grad_output,
            weight,
        )
        return _plus(gx, bias)
    call = _input if grad_output.dtype in KERNEL_DTYPES else _composite_input
    return call(grad_output, weight, bias, input_size, stride, padding, dilation, groups)


def convolution_weight(
    input: Tensor,
    grad_output: Tensor,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """Return dw = T(x, ., g), shape (O, C / groups, *kernel_size): the input correlated with the gradient."""
    if input.is_complex():
        return _complex(
            lambda x, g: convolution_weight(x, g, kernel_size, stride, padding, dilation, groups), input, grad_output
        )
    call = _weight if input.dtype in KERNEL_DTYPES else _composite_weight
    return call(input, grad_output, kernel_size, stride, padding, dilation, groups)


def convolution_algorithms() -> tuple[str, ...]:
    """Return the names of the algorithms that the kernels have; none without the compiled extension.

    - ``winograd_2x4``, ``winograd_4x4``: kernels of 3x3 taps and stride 1 by Winograd's minimal filtering
      (Winograd 1980; Lavin and Gray 2016), in tiles of so many outputs: 24 products per 8 outputs in place of 72, and
      36 per 16 in place of 144. Kernels of volumes are sums of such planes, dilated ones meet images of every residue,
      here and in the next two.
    - ``winograd_2x2``: the same for 5x5 taps, 49 products per 4 outputs in place of 100, and for 3x3, 4x4 and 5x5 taps
      of stride 2 and dilation 1 whose paddings are both even or both odd, 25 in place of 36, 36 of 64 and 49 of 100.
    - ``winograd_4``: the same for one row of three taps, 6 products per 4 outputs in place of 12.
    - ``matrix_product``: kernels of one element with stride 1 and no padding, by the matrix product of ATen.
    - ``patches``: windows that do not overlap, without padding or groups, as rows of a matrix.
    - ``depthwise``: groups with a single channel on one side.
    - ``direct``: a product of matrices for every tap, with channels as vectors; it takes every convolution, but falls
      back to ``panels`` where taps reach so far that a workspace would exceed 8 MiB.
    - ``panels``: matrix products of gathered panels, with positions as vectors; they take every convolution.
    """
    return tuple(extension.convolution_algorithms()) if extension is not None else ()


def convolution_algorithm(
    product: str,
    input_shape: Sizes,
    weight_shape: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> str:
    """Return the algorithm that one product of a convolution would run with, one of :func:`convolution_algorithms`.

    At ``torch.get_float32_matmul_precision() == "highest"``, the default, no algorithm has more than twice the error
    of the built-in convolution on the same data; at ``"high"`` or ``"medium"`` the fastest one runs,
    ``winograd_4x4``. float64 is always computed as at ``"highest"``, and types of 16 bits as float32. Without a
    compiled extension, or for a dtype without kernels, the answer is ``"composite"``: operators of PyTorch.

    Args:
        product: ``"output"``, ``"input"`` or ``"weight"``: the output, or the gradient of the input or the weight.
        input_shape: (N, C, *spatial).
        weight_shape: (O, C / groups, *kernel).
        stride: one value per spatial dimension.
        padding: one value per spatial dimension, or all those before and then all those after the input.
        dilation: one value per spatial dimension.
        groups: number of groups.
        dtype: of the operands.
        memory_format: of the result; any but ``torch.contiguous_format`` means channels last.

    Raises:
        ValueError: if the product has another name, or the shapes do not fit each other.
        RuntimeError: if the geometry is impossible, or not for the algorithm that is forced.
    """
    if product not in ("output", "input", "weight"):
        raise ValueError(f"convolution_algorithm: product must be 'output', 'input' or 'weight', but got {product!r}")
    fits = len(input_shape) == len(weight_shape) >= 3 and groups > 0 and weight_shape[0] % groups == 0
    if not fits or weight_shape[1] * groups != input_shape[1]:
        raise ValueError(
            f"convolution_algorithm: input_shape {tuple(input_shape)}, weight_shape {tuple(weight_shape)} and "
            f"groups {groups} do not fit"
        )
    if extension is None or dtype not in KERNEL_DTYPES:
        return "composite"
    sizes = (input_shape[0], list(input_shape[2:]), list(weight_shape[2:]), list(stride), list(padding), list(dilation))
    channels = (weight_shape[1], weight_shape[0] // groups)
    channels_last = memory_format != torch.contiguous_format
    return extension.convolution_algorithm(product, *sizes, groups, *channels, dtype != torch.float64, channels_last)


@contextlib.contextmanager
def force_convolution_algorithm(name: str) -> Iterator[None]:
    """Run every convolution of the process by one of :func:`convolution_algorithms`, for comparisons.

    Inside the block a convolution that the algorithm does not take raises RuntimeError. Without a compiled extension
    there is nothing to force.

    Raises:
        ValueError: if there is no algorithm of this name.
    """
    if name not in convolution_algorithms():
        raise ValueError(
            f"force_convolution_algorithm: name must be one of {list(convolution_algorithms())}, but got {name!r}"
        )
    before = extension.force_convolution_algorithm(name)
    try:
        yield
    finally:
        extension.force_convolution_algorithm(before)
