"""torch.nn.functional's names, computed by torchbp's explicit backwards.

Signatures, values, gradients, result layouts and exception types are the built-in's. A name that torchbp has
no layer for is torch.nn.functional's own. Under autocast each function casts as the built-in does.
"""

from __future__ import annotations

import functools
import numbers
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd, ops

P = ParamSpec("P")
R = TypeVar("R")
_Sizes = int | Sequence[int]


def __getattr__(name: str) -> Any:
    """Return torch.nn.functional's function for a name that is not here."""
    try:
        return getattr(builtin, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


# --------------------------------------------------------------------------------------------------
# Arguments


def _autocast(to: Literal["lower precision", "float32"]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cast floating tensors as the built-in operator does inside ``torch.autocast``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def cast(*args: P.args, **kwargs: P.kwargs) -> R:
            device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if device is None or device == "meta" or not torch.is_autocast_enabled(device):
                return function(*args, **kwargs)
            dtype = torch.float32 if to == "float32" else torch.get_autocast_dtype(device)

            def one(value: Any) -> Any:
                eligible = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
                return value.to(dtype) if eligible else value

            with torch.autocast(device, enabled=False):
                return function(*(one(a) for a in args), **{k: one(v) for k, v in kwargs.items()})

        return cast

    return decorate


def _tensors(op: str, /, *optional: str, **given: Any) -> None:
    """Raise unless every argument is a Tensor, or None if it is ``optional``."""
    for name, value in given.items():
        if not (isinstance(value, Tensor) or (value is None and name in optional)):
            raise TypeError(f"{op}(): {name} must be a Tensor, got {type(value).__name__}")


def _int(op: str, name: str, value: Any, wanted: str = "an int") -> int:
    """Return an int of 64 bits from what counts as one: also a NumPy integer or a 0-d tensor, never a bool."""
    if type(value) is not int and not isinstance(value, torch.SymInt):
        try:
            index = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            index = None
        if index is None:
            raise TypeError(f"{op}(): {name} must be {wanted}, got {value!r}")
        value = index
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{op}(): {name} must be {wanted} of 64 bits, got {value}")
    return value


def _tuple(op: str, name: str, value: Any, dimensions: int) -> tuple[int, ...]:
    """Return one int per spatial dimension from an int or a sequence of one or ``dimensions`` ints."""
    wanted = f"an int or {dimensions} ints"
    if not isinstance(value, list | tuple):
        return (_int(op, name, value, wanted),) * dimensions
    try:
        values = tuple([_int(op, name, v) for v in value])
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): {name} must be {wanted} of 64 bits, got {value!r}") from None
    if len(values) == 1:
        return values * dimensions
    if len(values) != dimensions:
        raise RuntimeError(f"{op}(): {name} must be {wanted}, got {value!r}")
    return values


def _number(op: str, name: str, value: Any) -> Any:
    """Return a real number; also a NumPy or a 0-d tensor's."""
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex():
        return value.item()
    if not isinstance(value, numbers.Real | torch.SymFloat | torch.SymInt):
        raise TypeError(f"{op}(): {name} must be a number, got {value!r}")
    return value


def _flag(op: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}(): {name} must be a bool, got {value!r}")


def _same_type(op: str, input: Tensor, **others: Tensor | None) -> None:
    """Raise unless the others have the input's dtype and device."""
    for name, tensor in others.items():
        if tensor is not None and (tensor.dtype != input.dtype or tensor.device != input.device):
            raise RuntimeError(
                f"{op}(): {name} must have input's dtype and device, {input.dtype} on {input.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )


def _batched(op: str, input: Tensor, dimensions: int, too_few: type[Exception] = RuntimeError) -> tuple[Tensor, bool]:
    """Return (N, C, *spatial) and whether a batch dimension had to be added."""
    _tensors(op, input=input)
    if input.dim() == dimensions + 2:
        return input, False
    if input.dim() == dimensions + 1:
        return input.unsqueeze(0), True
    raise (too_few if input.dim() <= dimensions else RuntimeError)(
        f"{op}(): input must be {dimensions + 1}D (unbatched) or {dimensions + 2}D (batched), "
        f"got shape {tuple(input.shape)}"
    )


def _not_empty(op: str, input: Tensor, start: int = 1) -> None:
    """Raise where a pool would have no elements to choose from; an empty batch is fine."""
    if 0 in input.shape[start:]:
        shape = tuple(input.shape)
        raise RuntimeError(f"{op}(): input must not be empty from dimension {start} on, got shape {shape}")


def _inplace(input: Tensor, output: Tensor, inplace: bool) -> Tensor:
    return input.copy_(output) if inplace else output


# --------------------------------------------------------------------------------------------------
# Linear


@_autocast("lower precision")
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y = x wᵀ + b.

    Shapes: input (*, in), weight (out, in) or (in,), bias (out) or (); output (*, out) or (*).

    Raises:
        RuntimeError: if the shapes or dtypes do not fit.
    """
    op = "linear"
    _tensors(op, "bias", input=input, weight=weight, bias=bias)
    if weight.dim() not in (1, 2):
        raise RuntimeError(f"{op}(): weight must have 1 or 2 dimensions, got shape {tuple(weight.shape)}")
    if input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"{op}(): input of shape {tuple(input.shape)} does not fit weight of shape {tuple(weight.shape)}: "
            "their last dimensions must be equal"
        )
    _same_type(op, input, weight=weight, bias=bias)
    shape = (*input.shape[:-1], *weight.shape[:-1])
    if bias is not None and not _broadcasts(bias.shape, shape):
        raise RuntimeError(f"{op}(): bias must fit an output of shape {shape}, got shape {tuple(bias.shape)}")
    if weight.dim() == 1:
        rows = autograd.linear.linear(input, weight.unsqueeze(0)).squeeze(-1)
        return rows if bias is None else rows + bias
    if bias is not None and bias.dim() > 1:
        return autograd.linear.linear(input, weight) + bias
    if bias is not None and (bias.dim() == 0 or bias.shape[0] == 1):
        bias = bias.expand(weight.shape[0])
    return autograd.linear.linear(input, weight, bias)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Tell whether a shape broadcasts to another without enlarging it."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return y[*, o] = sum over i, j of x1[*, i] w[o, i, j] x2[*, j] + b[o].

    Shapes: input1 (*, in1), input2 (*, in2), weight (out, in1, in2), bias (out); output (*, out).

    Raises:
        RuntimeError: if the shapes or dtypes do not fit.
        IndexError: if a tensor has too few dimensions to have features.
    """
    op = "bilinear"
    _tensors(op, "bias", input1=input1, input2=input2, weight=weight, bias=bias)
    fits = (
        weight.dim() == 3
        and input1.dim() == input2.dim() >= 1
        and input1.shape[:-1] == input2.shape[:-1]
        and (input1.shape[-1], input2.shape[-1]) == tuple(weight.shape[1:])
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        few = weight.dim() < 3 or input1.dim() == 0 or (bias is not None and bias.dim() == 0)
        raise (IndexError if few else RuntimeError)(
            f"{op}(): input1 {tuple(input1.shape)}, input2 {tuple(input2.shape)}, weight {tuple(weight.shape)} "
            f"and bias {None if bias is None else tuple(bias.shape)} must have shapes (*, in1), (*, in2), "
            "(out, in1, in2) and (out)"
        )
    if any(t is not None and t.dtype != input1.dtype for t in (input2, weight, bias)):
        raise RuntimeError(
            f"{op}(): input1, input2, weight and bias must have one dtype, got {input1.dtype}, {input2.dtype}, "
            f"{weight.dtype} and {None if bias is None else bias.dtype}"
        )
    lead = input1.shape[:-1]
    first, second = (x.reshape(lead.numel(), x.shape[-1]) for x in (input1, input2))
    return autograd.linear.bilinear(first, second, weight, bias).reshape(*lead, weight.shape[0])


# --------------------------------------------------------------------------------------------------
# Convolution


def _same_padding(
    op: str, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Return the symmetric part of padding="same" and what must be added on the right, per dimension."""
    if any(s != 1 for s in stride):
        raise RuntimeError(f"{op}(): padding='same' is not supported for strided convolutions, got stride {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    return tuple(t // 2 for t in total), [t % 2 for t in total]


def _convolution(
    op: str,
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Sizes,
    padding: _Sizes | str,
    dilation: _Sizes,
    groups: int,
) -> Tensor:
    _tensors(op, "bias", input=input, weight=weight, bias=bias)
    if weight.dim() != dimensions + 2:
        raise RuntimeError(f"{op}(): weight must have {dimensions + 2} dimensions, got shape {tuple(weight.shape)}")
    x, unbatched = _batched(op, input, dimensions)
    steps = _tuple(op, "stride", stride, dimensions)
    spread = _tuple(op, "dilation", dilation, dimensions)
    for name, values in (("stride", steps), ("dilation", spread)):
        if any(v <= 0 for v in values):
            raise RuntimeError(f"{op}(): {name} must be positive, got {values}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"{op}(): padding must be 'same', 'valid' or ints, got {padding!r}")
        pads: tuple[int, ...] = (0,) * dimensions
        if padding == "same":
            pads, extra = _same_padding(op, weight, steps, spread)
            if any(extra):
                x = builtin.pad(x, [side for e in reversed(extra) for side in (0, e)])
    else:
        pads = _tuple(op, "padding", padding, dimensions)
    if any(p < 0 for p in pads):
        raise RuntimeError(f"{op}(): padding must not be negative, got {pads}")
    groups = _int(op, "groups", groups)
    if groups <= 0:
        raise RuntimeError(f"{op}(): groups must be positive, got {groups}")
    if (
        weight.shape[0] < groups
        or weight.shape[0] % groups
        or x.shape[1] != weight.shape[1] * groups
        or 0 in weight.shape[2:]
    ):
        raise RuntimeError(
            f"{op}(): weight of shape {tuple(weight.shape)} with groups = {groups} does not fit an input of shape "
            f"{tuple(input.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise RuntimeError(f"{op}(): bias must have shape {(weight.shape[0],)}, got {tuple(bias.shape)}")
    _same_type(op, x, weight=weight, bias=bias)
    y = autograd.convolution.convolution(x, weight, bias, steps, pads, spread, groups)
    return y.squeeze(0) if unbatched else y


@_autocast("lower precision")
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2-d cross-correlation of input with weight, plus bias.

    y[n, o, p, q] = b[o] + sum over c, i, j of
    w[o, c, i, j] x[n, c, stride p + dilation i - padding, stride q + dilation j - padding].

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C / groups, kh, kw), bias (O); output (N, O, H', W')
    with H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.

    Args:
        input: the images.
        weight: the kernels.
        bias: added to every pixel of a channel.
        stride: of the windows, at least 1.
        padding: zeros on every side, or ``"valid"`` (none) or ``"same"`` (output size = input size, stride 1).
        dilation: between taps, at least 1.
        groups: blocks of channels that see each other; divides C and O.

    Raises:
        RuntimeError: if a shape, dtype or value does not fit.
        TypeError: if a size is not an int, or not ints.
    """
    return _convolution("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


# --------------------------------------------------------------------------------------------------
# Pooling


def _window(op: str, dimensions: int, **lists: Any) -> dict[str, tuple[int, ...]]:
    """Return each list with one int per dimension; a stride that is None or empty is the kernel's size."""
    if lists["stride"] is None or (isinstance(lists["stride"], list | tuple) and not lists["stride"]):
        lists["stride"] = lists["kernel_size"]
    window = {name: _tuple(op, name, value, dimensions) for name, value in lists.items()}
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


def max_pool2d(
    input: Tensor,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum of every window, and on request its place.

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
    op = "max_pool2d"
    x, unbatched = _batched(op, input, 2)
    _not_empty(op, x)
    window = _window(op, 2, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    _flag(op, "ceil_mode", ceil_mode)
    y, winner = autograd.pooling.max_pool(x, **window, ceil_mode=ceil_mode)
    if not return_indices:
        return y.squeeze(0) if unbatched else y
    places = ops.pooling.winner_indices(winner, x.shape[2:], **window)
    return (y.squeeze(0), places.squeeze(0)) if unbatched else (y, places)


def avg_pool2d(
    input: Tensor,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
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
    op = "avg_pool2d"
    x, unbatched = _batched(op, input, 2, too_few=IndexError)
    _not_empty(op, x)
    window = _window(op, 2, kernel_size=kernel_size, stride=stride, padding=padding)
    _flag(op, "ceil_mode", ceil_mode)
    _flag(op, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        divisor_override = _int(op, "divisor_override", divisor_override)
    if divisor_override == 0:
        raise RuntimeError(f"{op}(): divisor_override must not be zero, got {divisor_override}")
    if not (x.is_floating_point() or x.is_complex()):  # integers have no gradient, and divide in their own way
        return builtin.avg_pool2d(
            input, **window, ceil_mode=ceil_mode, count_include_pad=count_include_pad, divisor_override=divisor_override
        )
    y = autograd.pooling.average_pool(
        x,
        **window,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return y.squeeze(0) if unbatched else y


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Return averages over ``output_size`` windows that share the input evenly.

    Output o of n covers the inputs [floor(o i / n), ceil((o + 1) i / n)) of i.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, *output_size). A None keeps the input's size.

    Raises:
        RuntimeError: if a shape or value does not fit.
        ValueError: if the input has too few dimensions for a sequence of sizes.
        TypeError: if a size is neither an int nor None.
    """
    op = "adaptive_avg_pool2d"
    _tensors(op, input=input)
    wanted: Any = output_size
    if isinstance(output_size, list | tuple):
        if input.dim() <= len(output_size):
            raise ValueError(
                f"{op}(): input must have more dimensions than output_size {output_size} has sizes, "
                f"got shape {tuple(input.shape)}"
            )
        if len(output_size) != 2:
            raise RuntimeError(f"{op}(): output_size must be an int or 2 ints, got {output_size!r}")
        wanted = tuple(
            [size if given is None else given for given, size in zip(output_size, input.shape[-2:], strict=True)]
        )
    x, unbatched = _batched(op, input, 2)
    _not_empty(op, x, start=2)
    sizes = _tuple(op, "output_size", wanted, 2)
    if any(size < 0 for size in sizes):
        raise RuntimeError(f"{op}(): output_size must not be negative, got {sizes}")
    if not (x.is_floating_point() or x.is_complex()):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {x.dtype}")
    y = autograd.pooling.adaptive_average_pool(x, sizes)
    return y.squeeze(0) if unbatched else y


# --------------------------------------------------------------------------------------------------
# Activations. Integer tensors are accepted where the built-in accepts them.


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0), elementwise; the derivative at 0 is 0."""
    _tensors("relu", input=input)
    return _inplace(input, autograd.activation.relu(input), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else ``negative_slope`` x, elementwise."""
    _tensors("leaky_relu", input=input)
    slope = _number("leaky_relu", "negative_slope", negative_slope)
    kept = input.clone() if inplace and slope <= 0 else input  # then the backward reads the input
    return _inplace(input, autograd.activation.leaky_relu(kept, slope), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)), elementwise."""
    _tensors("sigmoid", input=input)
    return autograd.activation.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Return tanh(x), elementwise."""
    _tensors("tanh", input=input)
    return autograd.activation.tanh(input)


def scaled_tanh(input: Tensor) -> Tensor:
    """Return 1.7159 tanh(2 x / 3), elementwise (LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998)."""
    _tensors("scaled_tanh", input=input)
    return autograd.activation.scaled_tanh(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta x)) / beta, or x where beta x > threshold, elementwise."""
    op = "softplus"
    _tensors(op, input=input)
    return autograd.activation.softplus(input, _number(op, "beta", beta), _number(op, "threshold", threshold))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x Φ(x), elementwise; ``approximate="tanh"`` replaces Φ by a tanh (Hendrycks and Gimpel, 2016).

    Raises:
        RuntimeError: if ``approximate`` is neither ``"none"`` nor ``"tanh"``.
        TypeError: if it is not a string.
    """
    _tensors("gelu", input=input)
    if not isinstance(approximate, str):
        raise TypeError(f"gelu(): approximate must be 'none' or 'tanh', got {approximate!r}")
    return autograd.activation.gelu(input, approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x sigmoid(x), elementwise."""
    _tensors("silu", input=input)
    # The backward reads the input, which an in-place call overwrites.
    return _inplace(input, autograd.activation.silu(input.clone() if inplace else input), inplace)


def _softmax_arguments(
    op: str, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None
) -> tuple[Tensor, int]:
    """Return the cast input, and the dimension, chosen with a warning as the built-in does if it is not given."""
    _tensors(op, input=input)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"{op}(): dtype must be a torch.dtype, got {dtype!r}")
    dimensions = input.dim()
    if dim is None:
        warnings.warn(f"{op}(): dim should be given, got None; it is chosen by the rank", stacklevel=stacklevel)
        dim = 0 if dimensions in (0, 1, 3) else 1
    dim, bound = _int(op, "dim", dim), max(dimensions, 1)
    if not -bound <= dim < bound:
        raise IndexError(f"{op}(): dim must be in [{-bound}, {bound - 1}], got {dim}")
    return input if dtype is None else input.to(dtype), dim


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Return exp(x) / sum of exp(x) along ``dim``.

    Args:
        input: any shape.
        dim: the dimension that sums to one.
        dtype: cast the input to it first.

    Raises:
        IndexError: if ``dim`` is out of range.
    """
    return autograd.softmax.softmax(*_softmax_arguments("softmax", input, dim, _stacklevel, dtype))


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Return x minus the logarithm of the sum of exp(x) along ``dim``; arguments as :func:`softmax`."""
    return autograd.softmax.log_softmax(*_softmax_arguments("log_softmax", input, dim, _stacklevel, dtype))


# --------------------------------------------------------------------------------------------------
# Normalisation and dropout


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias per channel.

    In training the statistics are the batch's, and the running ones, if given, move towards them:
    running = (1 - momentum) running + momentum batch, with the unbiased variance. Otherwise the running
    statistics are used and are constants. (Ioffe and Szegedy, 2015.)

    Shapes: input (N, C, *), all vectors (C).

    Raises:
        RuntimeError: if a shape or dtype does not fit, or statistics are missing in evaluation or want a gradient.
        ValueError: if training has one value per channel only, one of the running statistics is missing, or
            ``eps`` is negative, or zero in training.
        NotImplementedError: if the input is not real and floating-point.
    """
    op = "batch_norm"
    _tensors(
        op,
        *("running_mean", "running_var", "weight", "bias"),
        input=input,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    _flag(op, "training", training)
    momentum, eps = _number(op, "momentum", momentum), _number(op, "eps", eps)
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"{op}(): eps must be positive, or zero in evaluation mode, got {eps}")
    if input.dim() < 2:
        raise RuntimeError(f"{op}(): input must have shape (N, C, *), got {tuple(input.shape)}")
    channels = input.shape[1]
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in vectors.items():
        if vector is not None and tuple(vector.shape) != (channels,):
            raise RuntimeError(f"{op}(): {name} must have shape {(channels,)}, got {tuple(vector.shape)}")
    _statistics_type(op, input.dtype, vectors)
    if training and (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{op}(): running_mean and running_var belong together, got {missing} = None")
    if not training:
        if running_mean is None or running_var is None:
            missing = "running_mean" if running_mean is None else "running_var"
            raise RuntimeError(f"{op}(): {missing} must be given in evaluation mode, got None")
        return autograd.normalization.channel_affine(input, weight, bias, running_mean, running_var, eps)
    count = input.numel() // max(1, channels)
    if count == 1:
        raise ValueError(f"{op}(): input must have more than 1 value per channel when training, got {input.shape}")
    y, mean, variance = autograd.normalization.batch_norm(input, weight, bias, eps)
    if count > 0:
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            if running_var is not None:
                unbiased = variance.detach() * (count / (count - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return y


def _statistics_type(op: str, dtype: torch.dtype, vectors: dict[str, Tensor | None]) -> None:
    """Raise unless all vectors have the input's dtype, or float32 beside a half-width input."""
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    narrow = dtype in (torch.bfloat16, torch.float16)
    wanted = torch.float32 if narrow and any(v.dtype != dtype for v in given.values()) else dtype
    for name, vector in given.items():
        if vector.dtype != wanted:
            raise RuntimeError(
                f"{op}(): {name} must have dtype {wanted} beside an input of {dtype}, got {vector.dtype}"
            )
        if name.startswith("running") and vector.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{op}(): {name} must not require a gradient, got requires_grad = True")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability ``p`` and scale the rest by 1 / (1 - p); no change in evaluation.

    The draws come from torch's generator and equal the built-in's for the same seed. (Srivastava et al., 2014.)

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input is not floating-point, or ``p`` is NaN.
    """
    op = "dropout"
    _tensors(op, input=input)
    _flag(op, "training", training)
    p = _number(op, "p", p)
    if not 0.0 <= p <= 1.0:
        raise (RuntimeError if p != p else ValueError)(f"{op}(): p must be between 0 and 1, got {p}")
    if not training or p == 0.0:
        return input
    if not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"{op}(): input must be floating-point, got {input.dtype}")
    return _inplace(input, autograd.dropout.dropout(input, p), inplace)


# --------------------------------------------------------------------------------------------------
# Losses


def _reduction(op: str, size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}(): reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return reduction


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


@_autocast("float32")
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return (x - t)², its mean or its sum.

    Shapes: input and target alike, or broadcast with a warning; weight likewise, multiplies the squares.

    Raises:
        ValueError: if ``reduction`` is unknown or weight does not fit.
        NotImplementedError: if input and target are integers.
    """
    op = "mse_loss"
    _tensors(op, "weight", input=input, target=target, weight=weight)
    reduction = _reduction(op, size_average, reduce, reduction)
    if input.shape != target.shape:
        warnings.warn(
            f"{op}(): input and target have different shapes, {tuple(input.shape)} and {tuple(target.shape)}, "
            "and are broadcast",
            stacklevel=3,  # past the autocast wrapper
        )
    dtype = torch.promote_types(input.dtype, target.dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {input.dtype}")
    x, t = torch.broadcast_tensors(input.to(dtype), target.to(dtype))
    loss = autograd.loss.squared_error(x, t)
    if weight is None:
        return _reduce(loss, reduction)
    if weight.shape != input.shape:
        raise ValueError(f"{op}(): weight must have shape {tuple(input.shape)}, got {tuple(weight.shape)}")
    loss = loss * weight
    return loss.sum() / weight.sum() if reduction == "mean" else _reduce(loss, reduction)


def _class_weight(op: str, weight: Tensor | None, classes: int) -> None:
    _tensors(op, "weight", weight=weight)
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(f"{op}(): weight must have one value per class, {(classes,)}, got {tuple(weight.shape)}")


def _pick(
    op: str, log_probability: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return -weight[t] x[t] per sample, zero where the target is ignored, and the sum of the weights."""
    classes = log_probability.shape[1]
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"{op}(): target must hold class indices, int64 or uint8, got {target.dtype}")
    ignore_index = _int(op, "ignore_index", ignore_index)
    if weight is not None and weight.dtype != log_probability.dtype:
        raise RuntimeError(f"{op}(): weight must have input's dtype {log_probability.dtype}, got {weight.dtype}")
    target = target.long()
    if target.device.type == "cpu" and not torch.compiler.is_compiling() and _concrete(target):
        least, most = (int(v) for v in target.aminmax()) if target.numel() else (0, 0)
        if least < 0 or most >= classes:
            bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
            if bool(bad.any()):
                raise IndexError(f"{op}(): Target {int(target[bad][0])} is out of bounds: there are {classes} classes")
    fixed = None if weight is None else weight.detach()
    loss = autograd.loss.negative_pick(log_probability, target, fixed, ignore_index)
    return loss, lambda: autograd.loss.sample_weight(target, fixed, ignore_index, log_probability.dtype).sum()


def _concrete(tensor: Tensor) -> bool:
    """Tell whether values can be looked at (not fake, not inside a torch.func transform)."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not wrapped and type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type != "meta"


def _samples(op: str, input: Tensor, target: Tensor, probabilities: bool) -> tuple[Tensor, Tensor, bool]:
    """Return input as (N, C, *), target with a batch too, and whether it was added."""
    _tensors(op, input=input, target=target)
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    if input.dim() == 0:
        error = ValueError if op == "nll_loss" else RuntimeError
        raise error(f"{op}(): input must have at least one dimension, got shape ()")
    unbatched = input.dim() == 1
    if unbatched and not probabilities and target.shape == (1,):
        target = target.squeeze(0)
    expected = tuple(input.shape) if probabilities else (*input.shape[:1], *input.shape[2:])
    if unbatched and not probabilities:
        expected = ()
    if tuple(target.shape) != expected:
        shapes = f"input {tuple(input.shape)}, target {tuple(target.shape)}"
        if target.shape[:1] != input.shape[:1]:
            raise ValueError(f"{op}(): target must have input's batch size and shape {expected}, got {shapes}")
        raise RuntimeError(f"{op}(): target must have shape {expected}, got {shapes}")
    return (input.unsqueeze(0), target.unsqueeze(0), True) if unbatched else (input, target, False)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood -weight[t] x[t]; the mean divides by the sum of the weights.

    Shapes: input (N, C, *) or (C) of log-probabilities, target (N, *) or () of class indices, weight (C).

    Args:
        input: log-probabilities.
        target: class indices; one equal to ``ignore_index`` contributes nothing.
        weight: per class; it gets no gradient.
        size_average: deprecated, see ``reduction``.
        ignore_index: a target to leave out.
        reduce: deprecated, see ``reduction``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        IndexError: if a target is not a class.
        RuntimeError, ValueError: if a shape, dtype or the reduction does not fit.
    """
    op = "nll_loss"
    reduction = _reduction(op, size_average, reduce, reduction)
    x, t, unbatched = _samples(op, input, target, probabilities=False)
    _class_weight(op, weight, x.shape[1])
    loss, total_weight = _pick(op, x, t, weight, ignore_index)
    if reduction == "mean":
        return loss.sum() / total_weight()
    return loss.squeeze(0) if reduction == "none" and unbatched else _reduce(loss, reduction)


@_autocast("float32")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of softmax(x) with classes or class probabilities.

    With q = log_softmax(x) along the class dimension and s = label_smoothing: for class indices t,
    -(1 - s) weight[t] q[t] - (s / C) sum over c of weight[c] q[c], and the mean divides by the sum of
    weight[t]; for probabilities p, -sum over c of weight[c] ((1 - s) p[c] + s / C) q[c], and the mean divides
    by the number of samples.

    Shapes: input (N, C, *) or (C); target (N, *) or () of class indices, or probabilities shaped as input;
    weight (C).

    Raises:
        IndexError: if a target is not a class.
        RuntimeError, ValueError: if a shape, dtype, the reduction or ``label_smoothing`` (0 to 1) does not fit.
    """
    op = "cross_entropy"
    reduction = _reduction(op, size_average, reduce, reduction)
    _tensors(op, "weight", input=input, target=target, weight=weight)
    ignore_index = _int(op, "ignore_index", ignore_index)
    if not 0.0 <= _number(op, "label_smoothing", label_smoothing) <= 1.0:
        raise RuntimeError(f"{op}(): label_smoothing must be between 0 and 1, got {label_smoothing}")
    probabilities = target.is_floating_point() and target.shape == input.shape
    x, t, unbatched = _samples(op, input, target, probabilities)
    classes = x.shape[1]
    _class_weight(op, weight, classes)
    q = autograd.softmax.log_softmax(x, 1)
    if probabilities:
        if _int(op, "ignore_index", ignore_index) >= 0:
            raise RuntimeError(f"{op}(): ignore_index is not supported for probabilities, got {ignore_index}")
        p = t if label_smoothing == 0 else t * (1 - label_smoothing) + label_smoothing / classes
        fixed = None if weight is None else weight.detach()
        dtype = functools.reduce(torch.promote_types, (v.dtype for v in (q, p, fixed) if v is not None))
        q, p, fixed = q.to(dtype), p.to(dtype), None if fixed is None else fixed.to(dtype)
        loss = autograd.loss.negative_expectation(q, p, fixed)
        if reduction == "mean":
            return loss.sum() / (x.numel() / classes if classes else 0)
        return loss.squeeze(0) if reduction == "none" and unbatched else _reduce(loss, reduction)
    loss, total_weight = _pick(op, q, t, weight, ignore_index)
    if label_smoothing > 0:
        share = q.new_full((), 1 / max(classes, 1)).expand_as(q)
        smooth = autograd.loss.negative_expectation(q, share, None if weight is None else weight.detach())
        smooth = smooth.masked_fill(t == ignore_index, 0)
        loss = (1 - label_smoothing) * loss + label_smoothing * smooth
    if reduction == "mean":
        return loss.sum() / total_weight()
    return loss.squeeze(0) if reduction == "none" and unbatched else _reduce(loss, reduction)
