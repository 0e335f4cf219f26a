"""Convolution and transposed convolution in any number of spatial dimensions, and their gradients.

A convolution is one long sum of products, each of an input value and a weight. `_terms` lists those
products, as three indices: where the product goes in the output (y), and where its factors stand in the
input (x) and in the weight (w). The forward pass and both gradients walk the same list:

    output[y] += input[x] · weight[w]
    grad_input[x] += grad_output[y] · weight[w]
    grad_weight[w] += grad_output[y] · input[x]

Written as formulas on whole arrays, the gradients need flipped kernels and strides turned into dilations;
none of this appears here, since turning an assignment around already does it.

A transposed convolution is the same walk with the roles of input and output exchanged: every input value is
spread over a window of the output. It has its own list, `_spread_terms`.

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


def _check_groups(channels: int, groups: int, side: str = "output") -> None:
    if groups < 1:
        raise RuntimeError(f"groups must be at least 1, got {groups}")
    if channels % groups:
        raise RuntimeError(f"groups must divide the {channels} {side} channels, got {groups}")


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
    _check_groups(in_channels, groups, "input")
    sizes = output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    require_shape("grad_output", grad_output, (batch, out_channels, *sizes))
    grad_weight = zeros((out_channels, in_channels // groups, *kernel_size), dtype)
    for y, x, w in _terms(batch, grad_weight.shape, input.shape[2:], stride, padding, dilation, groups):
        grad_weight[w] += grad_output[y] * np.conj(input[x])
    return grad_weight.astype(dtype)


def convolution_bias(grad_output: Array) -> Array:
    """Carry a gradient from the output of `convolution` or `transposed_convolution` to its bias.

    b[o] is added at every position of output channel o, so

        gb[o] = Σ_n Σ_i gy[n, o, i]

    Args:
        grad_output: shape (N, O, *output_size).

    Returns:
        Shape (O,).

    Raises:
        RuntimeError: `grad_output` has no spatial dimension.

    Equals the bias gradient of `torch.nn.functional.conv1d`, `conv_transpose1d` and their siblings.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    _check_rank("grad_output", grad_output, grad_output.ndim)
    grad_bias = zeros((grad_output.shape[1],), dtype)
    for y in np.ndindex(*grad_output.shape):
        grad_bias[y[1]] += grad_output[y]
    return grad_bias.astype(dtype)


def transposed_output_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Return the spatial sizes of a transposed convolution's output.

    In every dimension, windows that span dilation · (kernel_size - 1) + 1 values start `stride` apart, and
    `padding` values are cut from both ends:

        size = (input_size - 1) · stride + dilation · (kernel_size - 1) + 1 - 2 · padding + output_padding

    This is the size of the input from which a convolution makes `input_size`. With a stride there are several;
    `output_padding` selects one by cutting less from the right end, or adding zeros to it.

    Args:
        input_size: the spatial sizes of the input, at least 1; the other arguments have as many entries.
        kernel_size: at least 1.
        stride: at least 1.
        padding: values cut from both ends, at least 0.
        output_padding: at least 0, and less than the stride or the dilation.
        dilation: distance between neighbouring taps, at least 1.

    Returns:
        One size for each spatial dimension.

    Raises:
        RuntimeError: an argument is out of range or has the wrong length, or nothing is left after the cut.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    check_window(len(input_size), kernel_size, stride, padding, dilation)
    if any(size < 1 for size in input_size):
        raise RuntimeError(f"input_size must have entries of at least 1, got {tuple(input_size)}")
    if len(output_padding) != len(input_size):
        raise RuntimeError(
            f"output_padding must have one entry for each spatial dimension ({len(input_size)}), got {output_padding}"
        )
    sizes = []
    for n, k, s, p, extra, d in zip(input_size, kernel_size, stride, padding, output_padding, dilation, strict=True):
        if not 0 <= extra < max(s, d):
            raise RuntimeError(
                f"output_padding must be at least 0 and less than stride {stride} or dilation {dilation}, "
                f"got {output_padding}"
            )
        sizes.append((n - 1) * s + d * (k - 1) + 1 - 2 * p + extra)
        if sizes[-1] < 1:
            raise RuntimeError(
                f"padding must leave something of the output, got {padding} for input_size {tuple(input_size)} "
                f"and kernel_size {kernel_size}"
            )
    return tuple(sizes)


def _spread_terms(
    batch: int,
    weight_shape: tuple[int, ...],
    input_size: tuple[int, ...],
    sizes: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the indices (y, x, w) of every product; y and w select all output channels of the group at once."""
    in_channels, group_channels, *kernel = weight_shape
    for position in np.ndindex(*input_size):
        # The window now stands at a position of the input and its taps in the output.
        for tap, target in taps_inside(position, sizes, tuple(kernel), stride, padding, dilation):
            for c in range(in_channels):
                group = c // (in_channels // groups)
                channels = slice(group * group_channels, (group + 1) * group_channels)
                for n in range(batch):
                    yield (n, channels, *target), (n, c, *position), (c, slice(None), *tap)


def transposed_convolution(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Put a copy of the kernel, times the input value, at every position of the output, and add them up.

        y[n, o, m] = b[o] + Σ x[n, c, i] · w[c, o, t]    where i · stride - padding + t · dilation = m

    summed over all i and t that meet this condition and over the input channels c of the group that o belongs
    to. What falls outside the output is lost.

    Args:
        input: shape (N, C, *input_size).
        weight: shape (C, O / groups, *kernel_size).
        bias: shape (O,), or None for no bias.
        stride: one entry, at least 1, for each spatial dimension.
        padding: one entry, at least 0, for each spatial dimension.
        output_padding: one entry, at least 0 and less than stride or dilation, for each spatial dimension.
        dilation: one entry, at least 1, for each spatial dimension.
        groups: into how many independent transposed convolutions the channels are divided.

    Returns:
        Shape (N, O, *transposed_output_size), see `transposed_output_size`.

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Equals `torch.nn.functional.conv_transpose1d`, `conv_transpose2d` and `conv_transpose3d`.
    """
    dtype = result_dtype(input, weight, bias)
    input, weight = widen(input), widen(weight)
    _check_rank("weight", weight, weight.ndim)
    _check_rank("input", input, weight.ndim)
    _check_groups(weight.shape[0], groups, "input")
    if input.shape[1] != weight.shape[0]:
        raise RuntimeError(
            f"input must have {weight.shape[0]} channels for a weight of shape {weight.shape}, got shape {input.shape}"
        )
    batch, _, *input_size = input.shape
    sizes = transposed_output_size(tuple(input_size), weight.shape[2:], stride, padding, output_padding, dilation)
    output = zeros((batch, weight.shape[1] * groups, *sizes), dtype)
    for y, x, w in _spread_terms(batch, weight.shape, tuple(input_size), sizes, stride, padding, dilation, groups):
        output[y] += input[x] * weight[w]
    if bias is not None:
        require_shape("bias", bias, (output.shape[1],))
        for o in range(output.shape[1]):
            output[:, o] += widen(bias)[o]
    return output.astype(dtype)


def transposed_convolution_input(
    grad_output: Array,
    weight: Array,
    input_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Carry a gradient from the output of `transposed_convolution` to its input.

    Each product x · w in the sum for y hands gy · w back to its x (the conjugate of w, if complex):

        gx[n, c, i] = Σ_o Σ_t gy[n, o, i · stride - padding + t · dilation] · w[c, o, t]

    over the taps t that fall inside the output. That is a convolution of gy; hence the name of the layer.

    Args:
        grad_output: shape (N, O, *transposed_output_size).
        weight: shape (C, O / groups, *kernel_size).
        input_size: the spatial sizes of the input.
        stride: as in `transposed_convolution`.
        padding: as in `transposed_convolution`.
        output_padding: as in `transposed_convolution`.
        dilation: as in `transposed_convolution`.
        groups: as in `transposed_convolution`.

    Returns:
        Shape (N, C, *input_size).

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. Equals
    the input gradient of `torch.nn.functional.conv_transpose2d` and its 1- and 3-dimensional siblings.
    """
    dtype = result_dtype(grad_output, weight)
    grad_output, weight = widen(grad_output), widen(weight)
    _check_rank("weight", weight, weight.ndim)
    _check_rank("grad_output", grad_output, weight.ndim)
    _check_groups(weight.shape[0], groups, "input")
    batch, input_size = grad_output.shape[0], tuple(input_size)
    sizes = transposed_output_size(input_size, weight.shape[2:], stride, padding, output_padding, dilation)
    require_shape("grad_output", grad_output, (batch, weight.shape[1] * groups, *sizes))
    grad_input = zeros((batch, weight.shape[0], *input_size), dtype)
    for y, x, w in _spread_terms(batch, weight.shape, input_size, sizes, stride, padding, dilation, groups):
        grad_input[x] += np.sum(grad_output[y] * np.conj(weight[w]))
    return grad_input.astype(dtype)


def transposed_convolution_weight(
    input: Array,
    grad_output: Array,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    """Carry a gradient from the output of `transposed_convolution` to its weight.

    Each product x · w in the sum for y hands gy · x back to its w (the conjugate of x, if complex):

        gw[c, o, t] = Σ_n Σ_i gy[n, o, i · stride - padding + t · dilation] · x[n, c, i]

    over the positions i whose tap t falls inside the output.

    Args:
        input: shape (N, C, *input_size).
        grad_output: shape (N, O, *transposed_output_size).
        kernel_size: the spatial sizes of the weight.
        stride: as in `transposed_convolution`.
        padding: as in `transposed_convolution`.
        output_padding: as in `transposed_convolution`.
        dilation: as in `transposed_convolution`.
        groups: as in `transposed_convolution`.

    Returns:
        Shape (C, O / groups, *kernel_size).

    Raises:
        RuntimeError: the shapes do not fit together, or an argument is out of range.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. Equals
    the weight gradient of `torch.nn.functional.conv_transpose2d` and its 1- and 3-dimensional siblings.
    """
    dtype = result_dtype(input, grad_output)
    input, grad_output = widen(input), widen(grad_output)
    _check_rank("input", input, len(kernel_size) + 2)
    _check_rank("grad_output", grad_output, len(kernel_size) + 2)
    batch, in_channels, *spatial = input.shape
    out_channels, input_size = grad_output.shape[1], tuple(spatial)
    _check_groups(in_channels, groups, "input")
    _check_groups(out_channels, groups)
    sizes = transposed_output_size(input_size, kernel_size, stride, padding, output_padding, dilation)
    require_shape("grad_output", grad_output, (batch, out_channels, *sizes))
    grad_weight = zeros((in_channels, out_channels // groups, *kernel_size), dtype)
    for y, x, w in _spread_terms(batch, grad_weight.shape, input_size, sizes, stride, padding, dilation, groups):
        grad_weight[w] += grad_output[y] * np.conj(input[x])
    return grad_weight.astype(dtype)
