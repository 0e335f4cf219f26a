"""Convolution in any number of spatial dimensions, and its gradients.

A convolution is one long sum of products, each of an input value and a weight. `_terms` lists those
products, as three indices: where the product goes in the output (y), and where its factors stand in the
input (x) and in the weight (w). The forward pass and both gradients walk the same list:

    output[y] += input[x] · weight[w]
    grad_input[x] += grad_output[y] · weight[w]
    grad_weight[w] += grad_output[y] · input[x]

Written as formulas on whole arrays, the gradients need flipped kernels and strides turned into dilations;
none of this appears here, since turning an assignment around already does it.

As everywhere in deep learning, the kernel is not flipped in the forward pass: this is cross-correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arrays import Array, require_shape, result_dtype, widen, zeros
from ._windows import check_window, taps_inside


def output_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Return the spatial sizes of a convolution's output.

    In every dimension, a kernel that spans dilation · (kernel_size - 1) + 1 values fits this many times:

        output_size = floor((input_size + 2 · padding - dilation · (kernel_size - 1) - 1) / stride) + 1

    Args:
        input_size: the spatial sizes of the input; the other arguments have as many entries.
        kernel_size: at least 1.
        stride: at least 1.
        padding: zeros added on both sides, at least 0.
        dilation: distance between neighbouring taps, at least 1.

    Returns:
        One size for each spatial dimension.

    Raises:
        RuntimeError: an argument is out of range or has the wrong length, or the kernel does not fit.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    check_window(len(input_size), kernel_size, stride, padding, dilation)
    sizes = []
    for size, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True):
        span = d * (k - 1) + 1
        if span > size + 2 * p:
            raise RuntimeError(
                f"kernel_size {kernel_size} with dilation {dilation} must not exceed the padded input, "
                f"got input_size {tuple(input_size)} and padding {padding}"
            )
        sizes.append((size + 2 * p - span) // s + 1)
    return tuple(sizes)


def _terms(
    batch: int,
    weight_shape: tuple[int, ...],
    input_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the indices (y, x, w) of every product; x and w select all channels of the group at once."""
    out_channels, group_channels, *kernel = weight_shape
    kernel_size = tuple(kernel)
    for position in np.ndindex(*output_size(input_size, kernel_size, stride, padding, dilation)):
        for tap, source in taps_inside(position, input_size, kernel_size, stride, padding, dilation):
            for o in range(out_channels):
                group = o // (out_channels // groups)
                channels = slice(group * group_channels, (group + 1) * group_channels)
                for n in range(batch):
                    yield (n, o, *position), (n, channels, *source), (o, slice(None), *tap)


def _check_groups(out_channels: int, groups: int) -> None:
    if groups < 1:
        raise RuntimeError(f"groups must be at least 1, got {groups}")
    if out_channels % groups:
        raise RuntimeError(f"groups must divide the {out_channels} output channels, got {groups}")


def _check_rank(name: str, array: Array, rank: int) -> None:
    if np.ndim(array) < 3:
        raise RuntimeError(
            f"{name} must have at least 1 spatial dimension, after 2 others, got shape {np.shape(array)}"
        )
    if np.ndim(array) != rank:
        raise RuntimeError(f"{name} must have {rank} dimensions, got shape {np.shape(array)}")


def convolution(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Slide every kernel over the input and take the inner product at each position.

        y[n, o, i] = b[o] + Σ_c Σ_t x[n, c, i · stride - padding + t · dilation] · w[o, c, t]

    where i and t run over positions and taps of all spatial dimensions, c runs over the input channels of the
    group that o belongs to, and x is zero outside the input.

    Args:
        input: shape (N, C, *input_size).
        weight: shape (O, C / groups, *kernel_size).
        bias: shape (O,), or None for no bias.
        stride: one entry, at least 1, for each spatial dimension.
        padding: one entry, at least 0, for each spatial dimension.
        dilation: one entry, at least 1, for each spatial dimension.
        groups: into how many independent convolutions the channels are divided.

    Returns:
        Shape (N, O, *output_size), see `output_size`.

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Equals `torch.nn.functional.conv1d`, `conv2d` and `conv3d`.
    """
    dtype = result_dtype(input, weight, bias)
    input, weight = widen(input), widen(weight)
    _check_rank("weight", weight, weight.ndim)
    _check_rank("input", input, weight.ndim)
    _check_groups(weight.shape[0], groups)
    if input.shape[1] != weight.shape[1] * groups:
        raise RuntimeError(
            f"input must have {weight.shape[1] * groups} channels for a weight of shape {weight.shape} "
            f"and groups {groups}, got shape {input.shape}"
        )
    sizes = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    output = zeros((input.shape[0], weight.shape[0], *sizes), dtype)
    for y, x, w in _terms(input.shape[0], weight.shape, input.shape[2:], stride, padding, dilation, groups):
        output[y] += np.sum(input[x] * weight[w])
    if bias is not None:
        require_shape("bias", bias, (weight.shape[0],))
        for o in range(weight.shape[0]):
            output[:, o] += widen(bias)[o]
    return output.astype(dtype)


def convolution_input(
    grad_output: Array,
    weight: Array,
    input_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Carry a gradient from the output of `convolution` to its input.

    Each product x · w in the sum for y hands gy · w back to its x (the conjugate of w, if complex):

        gx[n, c, m] = Σ gy[n, o, i] · w[o, c, t]    where i · stride - padding + t · dilation = m

    summed over all o, i and t that meet this condition.

    Input values that no window covers get exactly zero.

    Args:
        grad_output: shape (N, O, *output_size).
        weight: shape (O, C / groups, *kernel_size).
        input_size: the spatial sizes of the input; with a stride, several lead to the same output size.
        stride: as in `convolution`.
        padding: as in `convolution`.
        dilation: as in `convolution`.
        groups: as in `convolution`.

    Returns:
        Shape (N, C, *input_size).

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. Equals
    `torch.nn.grad.conv2d_input` and its 1- and 3-dimensional siblings.
    """
    dtype = result_dtype(grad_output, weight)
    grad_output, weight = widen(grad_output), widen(weight)
    _check_rank("weight", weight, weight.ndim)
    _check_rank("grad_output", grad_output, weight.ndim)
    _check_groups(weight.shape[0], groups)
    sizes = output_size(input_size, weight.shape[2:], stride, padding, dilation)
    batch = grad_output.shape[0]
    require_shape("grad_output", grad_output, (batch, weight.shape[0], *sizes))
    grad_input = zeros((batch, weight.shape[1] * groups, *input_size), dtype)
    for y, x, w in _terms(batch, weight.shape, tuple(input_size), stride, padding, dilation, groups):
        grad_input[x] += grad_output[y] * np.conj(weight[w])
    return grad_input.astype(dtype)


def convolution_weight(
    input: Array,
    grad_output: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Carry a gradient from the output of `convolution` to its weight.

    Each product x · w in the sum for y hands gy · x back to its w (the conjugate of x, if complex):

        gw[o, c, t] = Σ_n Σ_i gy[n, o, i] · x[n, c, i · stride - padding + t · dilation]

    Args:
        input: shape (N, C, *input_size).
        grad_output: shape (N, O, *output_size).
        kernel_size: the spatial sizes of the weight; with a stride, several lead to the same output size.
        stride: as in `convolution`.
        padding: as in `convolution`.
        dilation: as in `convolution`.
        groups: as in `convolution`.

    Returns:
        Shape (O, C / groups, *kernel_size).

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. Equals
    `torch.nn.grad.conv2d_weight` and its 1- and 3-dimensional siblings.
    """
    dtype = result_dtype(input, grad_output)
    input, grad_output = widen(input), widen(grad_output)
    _check_rank("input", input, len(kernel_size) + 2)
    _check_rank("grad_output", grad_output, len(kernel_size) + 2)
    batch, in_channels = input.shape[:2]
    out_channels = grad_output.shape[1]
    _check_groups(out_channels, groups)
    if in_channels % groups:
        raise RuntimeError(f"groups must divide the {in_channels} input channels, got {groups}")
    sizes = output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    require_shape("grad_output", grad_output, (batch, out_channels, *sizes))
    grad_weight = zeros((out_channels, in_channels // groups, *kernel_size), dtype)
    for y, x, w in _terms(batch, grad_weight.shape, input.shape[2:], stride, padding, dilation, groups):
        grad_weight[w] += grad_output[y] * np.conj(input[x])
    return grad_weight.astype(dtype)


def convolution_bias(grad_output: Array) -> Array:
    """Carry a gradient from the output of `convolution` to its bias.

    b[o] is added at every position of output channel o, so

        gb[o] = Σ_n Σ_i gy[n, o, i]

    Args:
        grad_output: shape (N, O, *output_size).

    Returns:
        Shape (O,).

    Raises:
        RuntimeError: `grad_output` has no spatial dimension.

    Equals the bias gradient of `torch.nn.functional.conv1d`, `conv2d` and `conv3d`.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    _check_rank("grad_output", grad_output, grad_output.ndim)
    grad_bias = zeros((grad_output.shape[1],), dtype)
    for y in np.ndindex(*grad_output.shape):
        grad_bias[y[1]] += grad_output[y]
    return grad_bias.astype(dtype)
