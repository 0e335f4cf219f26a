"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd, ops
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import (
    Sizes,
    as_int,
    as_ints,
    as_number,
    as_tuple,
    as_tuples,
    autocast_to,
    check_flag,
    check_not_empty,
    check_tensors,
    remembers_plain,
    with_batch,
)


@remembers_plain
def _window(op: str, dimensions: int, **lists: Any) -> dict[str, tuple[int, ...]]:
    """Return each list with one int per dimension; a stride that is None or empty is the kernel's size."""
    if lists["stride"] is None or (isinstance(lists["stride"], list | tuple) and not lists["stride"]):
        lists["stride"] = lists["kernel_size"]
    window = dict(zip(lists, as_tuples(op, dimensions, **lists), strict=True))
    for name, values in window.items():
        minimum = 0 if name == "padding" else 1
        if any(v < minimum for v in values):
            raise RuntimeError(f"{op}(): {name} must be at least {minimum}, got {values}")
    if any(p > k // 2 for p, k in zip(window["padding"], window["kernel_size"], strict=True)):
        raise RuntimeError(
            f"{op}(): padding must be at most half of kernel_size, got padding {window['padding']} and "
            f"kernel_size {window['kernel_size']}"
        )
    return window


def _max_pool(
    dimensions: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    op = f"max_pool{dimensions}d"
    check_tensors(op, input=input)
    check_flag(op, "ceil_mode", ceil_mode)
    window = _window(op, dimensions, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    x, unbatched = with_batch(op, input, dimensions)
    check_not_empty(op, x)
    if x.dtype == torch.bool or x.is_complex():
        raise NotImplementedError(f"{op}(): input must be of real numbers, got {x.dtype}")
    y, winner = autograd.pooling.max_pool(x, **window, ceil_mode=ceil_mode, wants_winners=bool(return_indices))
    indices = None
    if return_indices and winner is not None:
        indices = ops.pooling.winner_indices(winner, x.shape[2:], **window)
    return _with_indices(y, indices, unbatched)


def _with_indices(y: Tensor, indices: Tensor | None, unbatched: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Return what a max pool returns: without the batch that was added, and the indices if there are any."""
    if indices is None:
        return y.squeeze(0) if unbatched else y
    return (y.squeeze(0), indices.squeeze(0)) if unbatched else (y, indices)


def _check_volume(op: str, x: Tensor, kernel_size: tuple[int, ...]) -> None:
    """Raise where a kernel does not fit into a volume without its padding, which the built-in averages want."""
    if len(kernel_size) == 3 and any(i < k for i, k in zip(x.shape[2:], kernel_size, strict=True)):
        raise RuntimeError(
            f"{op}(): kernel_size must not be larger than the input, got kernel_size {kernel_size} for an "
            f"input of shape {tuple(x.shape)}"
        )


def _avg_pool(
    dimensions: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    op = f"avg_pool{dimensions}d"
    check_tensors(op, input=input)
    check_flag(op, "ceil_mode", ceil_mode)
    check_flag(op, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        divisor_override = as_int(op, "divisor_override", divisor_override)
    window = _window(op, dimensions, kernel_size=kernel_size, stride=stride, padding=padding)
    x, unbatched = with_batch(op, input, dimensions, too_few=IndexError if dimensions == 2 else RuntimeError)
    check_not_empty(op, x)
    if divisor_override == 0:
        raise RuntimeError(f"{op}(): divisor_override must not be zero, got {divisor_override}")
    _check_volume(op, x, window["kernel_size"])
    if not (x.is_floating_point() or x.is_complex()):  # integers have no gradient, and divide in their own way
        if x.dtype != torch.int64:
            raise NotImplementedError(f"{op}(): input must be floating-point, complex or int64, got {x.dtype}")
        divisor = {} if dimensions == 1 else {"divisor_override": divisor_override}
        arguments = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad, **divisor}
        return getattr(builtin, op)(input, **window, **arguments)
    y = autograd.pooling.average_pool(
        x,
        **window,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return y.squeeze(0) if unbatched else y


def _adaptive_size(op: str, dimensions: int, input: Tensor, output_size: Any) -> Any:
    """Return ``output_size`` with the input's sizes in place of None, as the 2-d and 3-d built-ins allow."""
    check_tensors(op, input=input)
    if isinstance(output_size, tuple):
        given: Any = tuple([size for size in output_size if size is not None])
    else:
        given = [size for size in output_size if size is not None] if isinstance(output_size, list) else output_size
    as_ints(op, "output_size", given, dimensions)
    if dimensions == 1:
        return output_size
    if isinstance(output_size, list | tuple):
        if input.dim() <= len(output_size):
            raise ValueError(
                f"{op}(): input must have more dimensions than output_size {output_size} has sizes, "
                f"got shape {tuple(input.shape)}"
            )
        if len(output_size) != dimensions:
            raise RuntimeError(f"{op}(): output_size must be an int or {dimensions} ints, got {output_size!r}")
        sizes = input.shape[-dimensions:]
        return tuple([size if given is None else given for given, size in zip(output_size, sizes, strict=True)])
    return output_size


def _checked_adaptive_size(op: str, dimensions: int, x: Tensor, wanted: Any) -> tuple[int, ...]:
    sizes = as_tuple(op, "output_size", wanted, dimensions)
    if any(size < 0 for size in sizes):
        raise RuntimeError(f"{op}(): output_size must not be negative, got {sizes}")
    if not x.is_floating_point() and not (x.is_complex() and "avg" in op):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {x.dtype}")
    return sizes


def _adaptive_avg_pool(dimensions: int, input: Tensor, output_size: Any) -> Tensor:
    op = f"adaptive_avg_pool{dimensions}d"
    wanted = _adaptive_size(op, dimensions, input, output_size)
    x, unbatched = with_batch(op, input, dimensions)
    check_not_empty(op, x, start=1 if dimensions == 3 and not unbatched else 2)
    sizes = _checked_adaptive_size(op, dimensions, x, wanted)
    y = autograd.pooling.adaptive_average_pool(x, sizes)
    return y.squeeze(0) if unbatched else y


def _adaptive_max_pool(
    dimensions: int, input: Tensor, output_size: Any, return_indices: bool
) -> Tensor | tuple[Tensor, Tensor]:
    op = f"adaptive_max_pool{dimensions}d"
    wanted = _adaptive_size(op, dimensions, input, output_size)
    x, unbatched = with_batch(op, input, dimensions)
    check_not_empty(op, x, start=2 if unbatched else 1)
    sizes = _checked_adaptive_size(op, dimensions, x, wanted)
    if dimensions == 3:  # of volumes the built-in's results are contiguous
        x = x.contiguous()
    y, indices = autograd.pooling.adaptive_max_pool(x, sizes, return_indices)
    return _with_indices(y, indices, unbatched)


def _lp_pool(
    dimensions: int, input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None, ceil_mode: bool
) -> Tensor:
    op = f"lp_pool{dimensions}d"
    check_tensors(op, input=input)
    p = as_number(op, "norm_type", norm_type)
    check_flag(op, "ceil_mode", ceil_mode)
    window = _window(op, dimensions, kernel_size=kernel_size, stride=stride, padding=0)
    averages = not math.isinf(p)  # of powers; otherwise there is a maximum
    too_few = IndexError if averages and dimensions == 2 else RuntimeError
    x, unbatched = with_batch(op, input, dimensions, too_few)
    check_not_empty(op, x)
    if averages:
        _check_volume(op, x, window["kernel_size"])
    if not (x.is_floating_point() or x.is_complex() and not averages):
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {x.dtype}")
    if p == 0:
        raise ZeroDivisionError(f"{op}(): norm_type must not be zero, got {norm_type}")
    if unbatched:  # the powers of one image keep its strides, which could be those of channels-last
        x = x.contiguous()
    y = autograd.pooling.power_pool(x, p, window["kernel_size"], window["stride"], ceil_mode)
    return y.squeeze(0) if unbatched else y


def _fractional_max_pool(
    dimensions: int,
    input: Tensor,
    kernel_size: Sizes,
    output_size: Sizes | None,
    output_ratio: float | Sequence[float] | None,
    return_indices: bool,
    samples: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    op = f"fractional_max_pool{dimensions}d"
    check_tensors(op, "_random_samples", input=input, _random_samples=samples)
    if output_size is None and output_ratio is None:
        raise ValueError(f"{op}(): output_size or output_ratio must be given, got None for both")
    x, unbatched = with_batch(op, input, dimensions)
    if output_size is None:
        listed = output_ratio if isinstance(output_ratio, list | tuple) else (output_ratio,) * dimensions
        ratios = [as_number(op, "output_ratio", ratio) for ratio in listed]
        if len(ratios) != dimensions:
            raise ValueError(f"{op}(): output_ratio must be a number or {dimensions} numbers, got {output_ratio!r}")
        try:
            output_size = [int(size * ratio) for size, ratio in zip(x.shape[2:], ratios, strict=True)]
        except (OverflowError, ValueError) as error:
            raise type(error)(f"{op}(): output_ratio must be finite, got {output_ratio!r}") from None
    kernel, sizes = as_tuples(op, dimensions, kernel_size=kernel_size, output_size=output_size)
    refusal = NotImplementedError(f"{op}(): input must be real and floating-point, got {x.dtype}")
    if samples is None:
        if not x.is_floating_point():
            raise refusal
        samples = torch.rand(*x.shape[:2], dimensions, dtype=x.dtype, device=x.device)
    check_not_empty(op, x, start=2 if unbatched else 1)
    spare = 0 if dimensions == 2 else 1  # as the built-ins
    if any(k < 1 or n < 0 or n + k - 1 + spare > i for k, n, i in zip(kernel, sizes, x.shape[2:], strict=True)):
        raise RuntimeError(
            f"{op}(): kernel_size must be positive, output_size not negative, and their sum at most the input's size"
            f"{'' if spare else ' plus 1'}, got kernel_size {kernel} and output_size {sizes} for an input of shape "
            f"{tuple(input.shape)}"
        )
    wanted = (*x.shape[:2], dimensions)
    fits = samples.dim() == 3 and samples.shape[0] >= wanted[0] and tuple(samples.shape[1:]) == wanted[1:]
    if samples.dtype != x.dtype or not fits:
        raise RuntimeError(
            f"{op}(): _random_samples must be {x.dtype} of shape {wanted}, got {samples.dtype} "
            f"of shape {tuple(samples.shape)}"
        )
    if not x.is_floating_point():
        raise refusal
    samples = samples.detach()[: wanted[0]]
    y, indices = autograd.pooling.fractional_max_pool(x, kernel, sizes, samples, return_indices)
    return _with_indices(y, indices, unbatched)


def _max_unpool(
    dimensions: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    output_size: Sequence[int] | None,
) -> Tensor:
    op = f"max_unpool{dimensions}d"
    check_tensors(op, input=input, indices=indices)
    kernel, steps, pads = as_tuples(
        op,
        dimensions,
        kernel_size=kernel_size,
        stride=kernel_size if stride is None else stride,
        padding=padding,
    )
    x, unbatched = with_batch(op, input, dimensions)
    usual = tuple((i - 1) * s + k - 2 * p for i, s, k, p in zip(x.shape[2:], steps, kernel, pads, strict=True))
    sizes = usual
    if output_size is not None:
        if not isinstance(output_size, list | tuple):
            raise TypeError(f"{op}(): output_size must be {dimensions} or {dimensions + 2} ints, got {output_size!r}")
        given = as_ints(op, "output_size", output_size, dimensions)
        sizes = given[2:] if len(given) == dimensions + 2 else given
        if len(sizes) != dimensions:
            raise ValueError(f"{op}(): output_size must have {dimensions} or {dimensions + 2} ints, got {output_size}")
        if any(not u - s < size < u + s for u, s, size in zip(usual, steps, sizes, strict=True)):
            raise ValueError(f"{op}(): output_size must be less than a stride {steps} from {usual}, got {output_size}")
    if any(size < 0 for size in sizes):
        raise ValueError(f"{op}(): output_size must not be negative, got {sizes}")
    if indices.dtype != torch.int64:
        raise RuntimeError(f"{op}(): indices must be int64, got {indices.dtype}")
    if indices.shape != input.shape:
        raise RuntimeError(f"{op}(): indices must have input's shape {tuple(input.shape)}, got {tuple(indices.shape)}")
    check_not_empty(op, x, start=2 if unbatched else 1)
    if dimensions == 3 and any(step < 1 for step in steps):  # in fewer dimensions the built-in does not look
        raise RuntimeError(f"{op}(): stride must be positive, got {steps}")
    y = autograd.pooling.max_unpool(x, indices.unsqueeze(0) if unbatched else indices, sizes)
    return y.squeeze(0) if unbatched else y


@replayable
def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum of every window, and on request its place.

    Of equals the first in row-major order wins; NaN wins over everything; padding never does.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, H', W') with
    H' = floor((H + 2 padding - dilation (kernel - 1) - 1) / stride) + 1, rounded up with ``ceil_mode``.

    Args:
        input: the images.
        kernel_size: of the window.
        stride: of the windows; the kernel size by default.
        padding: on every side, never a winner; at most half of the kernel size.
        dilation: between the elements of a window.
        ceil_mode: whether a last window that is cut by the border counts.
        return_indices: whether to return also each winner's place in the flattened plane, int64.

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@replayable
def max_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum of every window, and on request its place; arguments as :func:`max_pool2d`.

    Shapes: input (N, C, L) or (C, L); output (N, C, L').

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@replayable
@autocast_to("float32", on="cpu")
def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum of every window, and on request its place; arguments as :func:`max_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D', H', W').

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@replayable
def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the average of every window.

    Shapes: as :func:`max_pool2d` without dilation.

    Args:
        input: the images.
        kernel_size: of the window.
        stride: of the windows; the kernel size by default.
        padding: zeros on every side; at most half of the kernel size.
        ceil_mode: whether a last window that is cut by the border counts.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: divides the sums instead of the window's size; not 0.

    Raises:
        RuntimeError: if a shape or value does not fit.
        IndexError: if the input has fewer than 3 dimensions.
        TypeError: if a size is not an int, or not ints.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@replayable
def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the average of every window; arguments as :func:`avg_pool2d`.

    Shapes: input (N, C, L) or (C, L); output (N, C, L').

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@replayable
@autocast_to("float32", on="cpu")
def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the average of every window; arguments as :func:`avg_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D', H', W'). The kernel must fit
    into the input without its padding.

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@replayable
def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Return averages over ``output_size`` windows that share the input evenly.

    Output o of n covers the inputs [floor(o i / n), ceil((o + 1) i / n)) of i.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size). A None keeps the input's size.

    Raises:
        RuntimeError: if a shape or value does not fit.
        ValueError: if the input has too few dimensions for a sequence of sizes.
        TypeError: if a size is neither an int nor None.
    """
    return _adaptive_avg_pool(2, input, output_size)


@replayable
def adaptive_avg_pool1d(input: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """Return averages over ``output_size`` windows that share the input evenly; see :func:`adaptive_avg_pool2d`.

    Shapes: input (N, C, L) or (C, L); output (N, C, *output_size).

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _adaptive_avg_pool(1, input, output_size)


@replayable
@autocast_to("float32", on="cpu")
def adaptive_avg_pool3d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Return averages over ``output_size`` windows that share the input evenly; see :func:`adaptive_avg_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size).

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _adaptive_avg_pool(3, input, output_size)


@replayable
def adaptive_max_pool2d(
    input: Tensor, output_size: int | Sequence[int | None], return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return maxima over ``output_size`` windows that share the input evenly, and on request their places.

    Output o of n covers the inputs [floor(o i / n), ceil((o + 1) i / n)) of i. Of equals the first in row-major
    order wins, and NaN wins over everything.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size). A None keeps the input's size.

    Raises:
        RuntimeError: if a shape or value does not fit.
        ValueError: if the input has too few dimensions for a sequence of sizes.
        TypeError: if a size is neither an int nor None.
        NotImplementedError: if the input is not real and floating-point.
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


@replayable
def adaptive_max_pool1d(
    input: Tensor, output_size: int | Sequence[int], return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return maxima over ``output_size`` windows that share the input evenly; see :func:`adaptive_max_pool2d`.

    Shapes: input (N, C, L) or (C, L); output (N, C, *output_size).

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


@replayable
@autocast_to("float32", on="cpu")
def adaptive_max_pool3d(
    input: Tensor, output_size: int | Sequence[int | None], return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return maxima over ``output_size`` windows that share the input evenly; see :func:`adaptive_max_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size).

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


@replayable
def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of every window, (sum of x^p)^(1/p), without absolute values.

    An odd p above 1 therefore gives NaN where a sum is negative. Where a sum is zero, so is its gradient, but for
    p = 1, where the sum is the value.

    Shapes: as :func:`max_pool2d` without padding and dilation.

    Args:
        input: the images.
        norm_type: p, not zero; for infinity and -infinity the largest and the smallest absolute value.
        kernel_size: of the window.
        stride: of the windows; the kernel size by default.
        ceil_mode: whether a last window that is cut by the border counts; its sum is scaled to a whole window's.

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
        ZeroDivisionError: if ``norm_type`` is zero.
        NotImplementedError: if the input is not real and floating-point.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@replayable
def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of every window; arguments as :func:`lp_pool2d`.

    Shapes: input (N, C, L) or (C, L); output (N, C, L').

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@replayable
@autocast_to("float32", on="cpu")
def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of every window; arguments as :func:`lp_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, D', H', W').

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


@replayable
@autocast_to("float32", on="cpu")
def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return a plane of zeros with each value at its index: a right inverse of :func:`max_pool2d`.

    Of several values with one index the last in row-major order stays. The others have no influence, so their
    gradient is zero (the built-in hands them the place's gradient as well).

    Shapes: input and indices (N, C, H, W) or (C, H, W), output (N, C, H', W') with
    H' = (H - 1) stride + kernel_size - 2 padding, or ``output_size``.

    Args:
        input: the values.
        indices: their places in the flattened output plane, int64.
        kernel_size: of the pool that is undone.
        stride: of that pool; the kernel size by default.
        padding: of that pool.
        output_size: the size before that pool, if it is not the usual one; less than a stride away from it.

    Raises:
        RuntimeError: if a shape, dtype or an index does not fit.
        ValueError: if ``output_size`` is not possible.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


@replayable
@autocast_to("float32", on="cpu")
def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return a line of zeros with each value at its index; arguments as :func:`max_unpool2d`.

    Shapes: input and indices (N, C, L) or (C, L); output (N, C, L').

    Raises:
        RuntimeError: if a shape, dtype or an index does not fit.
        ValueError: if ``output_size`` is not possible.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


@replayable
@autocast_to("float32", on="cpu")
def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return a volume of zeros with each value at its index; arguments as :func:`max_unpool2d`.

    Shapes: input and indices (N, C, D, H, W) or (C, D, H, W); output (N, C, D', H', W').

    Raises:
        RuntimeError: if a shape, dtype or an index does not fit.
        ValueError: if ``output_size`` is not possible.
        TypeError: if a size is not an int, or not ints.
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


@replayable
@autocast_to("float32", on="cpu")
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return maxima over windows at random distances (Graham, "Fractional Max-Pooling", 2014).

    The same seed gives the built-in's draws and so its windows.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size).

    Args:
        input: the images.
        kernel_size: of the window.
        output_size: how many windows; output_size + kernel_size - 1 is at most the input's size (less in 3-d).
        output_ratio: the same as a fraction of the input's size, if ``output_size`` is None.
        return_indices: whether to return also each winner's place in the flattened plane, int64.
        _random_samples: (N, C, 2) in [0, 1), drawn if not given.

    Raises:
        RuntimeError: if a shape or value does not fit.
        ValueError: if neither ``output_size`` nor ``output_ratio`` is given, or the latter has a wrong length.
        TypeError: if a size is not an int, or not ints.
        NotImplementedError: if the input is not real and floating-point.
    """
    return _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


@replayable
@autocast_to("float32", on="cpu")
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return maxima over windows at random distances; arguments as :func:`fractional_max_pool2d`.

    Shapes: input (N, C, D, H, W) or (C, D, H, W); output (N, C, *output_size); samples (N, C, 3).

    Raises:
        RuntimeError: if a shape or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)
