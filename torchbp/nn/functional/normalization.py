"""Normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, as_number, autocast_to, check_flag, check_tensors
from torchbp.ops.normalization import statistics_dtype


@replayable
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
    vectors = (running_mean, running_var, weight, bias)
    if not _usual(input, vectors, eps) or type(training) is not bool:
        named = dict(zip(("running_mean", "running_var", "weight", "bias"), vectors, strict=True))
        check_tensors(op, *named, input=input, **named)
        if not input.is_floating_point():
            raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
        check_flag(op, "training", training)
        momentum, eps = as_number(op, "momentum", momentum), as_number(op, "eps", eps)
        if eps < 0 or (training and eps == 0):
            raise ValueError(f"{op}(): eps must be positive, or zero in evaluation mode, got {eps}")
        if input.dim() < 2:
            raise RuntimeError(f"{op}(): input must have shape (N, C, *), got {tuple(input.shape)}")
        for name, vector in named.items():
            if vector is not None and tuple(vector.shape) != (input.shape[1],):
                raise RuntimeError(f"{op}(): {name} must have shape {(input.shape[1],)}, got {tuple(vector.shape)}")
        _statistics_type(op, input.dtype, named)
        _constant(op, running_mean=running_mean, running_var=running_var)
    momentum = as_number(op, "momentum", momentum)
    if training and (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{op}(): running_mean and running_var belong together, got {missing} = None")
    if not training:
        if running_mean is None or running_var is None:
            missing = "running_mean" if running_mean is None else "running_var"
            raise RuntimeError(f"{op}(): {missing} must be given in evaluation mode, got None")
        return autograd.normalization.channel_affine(input, weight, bias, running_mean, running_var, eps)
    count = input.numel() // max(1, input.shape[1])
    if count == 1:
        raise ValueError(f"{op}(): input must have more than 1 value per channel when training, got {input.shape}")
    y, mean, variance = autograd.normalization.batch_norm(input, weight, bias, eps)
    if count > 0:
        update_running(running_mean, running_var, mean, variance, count, momentum)
    return y


def update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: int | Tensor,
    momentum: float,
) -> None:
    """Move running statistics, if there are, towards the mean and the unbiased variance of ``count`` elements."""
    if running_mean is None or running_var is None:
        return
    # Neither requires a gradient here, so nothing is recorded.
    for running, new in ((running_mean, mean.detach()), (running_var, variance.detach() * (count / (count - 1)))):
        new = new if new.dtype == running.dtype else new.to(running.dtype)
        if torch._C._are_functorch_transforms_active():  # vmap has no rule for lerp_, and warns
            running.copy_(torch.lerp(running, new, momentum))
        else:
            running.lerp_(new, momentum)


@replayable
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias, with statistics of each channel of each sample.

    It is group normalisation with a group per channel. The running statistics, if given, move towards the means over
    the samples of mean and unbiased variance: running = (1 - momentum) running + momentum mean. Without
    ``use_input_stats`` they are used in place of the input's and are constants. (Ulyanov, Vedaldi and Lempitsky,
    "Instance normalization", 2016; equals ``torch.nn.functional.instance_norm``.)

    Shapes: input (N, C, *), all vectors (C).

    Raises:
        RuntimeError: if a shape or dtype does not fit, or statistics are missing without ``use_input_stats`` or want a
            gradient.
        ValueError: if ``use_input_stats`` meets one value per channel, or one of the running statistics is missing.
        NotImplementedError: if the input is not real and floating-point.
    """
    op = "instance_norm"
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    usual = _usual(input, tuple(vectors.values()), eps) and type(use_input_stats) is bool
    if not usual:
        check_tensors(op, *vectors, input=input, **vectors)
        check_flag(op, "use_input_stats", use_input_stats)
        eps = as_number(op, "eps", eps)
    positions = math.prod(input.shape[2:])
    if use_input_stats and positions == 1:
        raise ValueError(f"{op}(): input must have more than 1 value per channel, got shape {tuple(input.shape)}")
    if not usual:
        if not input.is_floating_point():
            raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
        if input.dim() < 2:
            raise IndexError(f"{op}(): input must have shape (N, C, *), got {tuple(input.shape)}")
        for name, vector in vectors.items():
            if vector is not None and tuple(vector.shape) != (input.shape[1],):
                raise RuntimeError(f"{op}(): {name} must have shape {(input.shape[1],)}, got {tuple(vector.shape)}")
        _statistics_type(op, input.dtype, {"weight": weight, "bias": bias})
        _constant(op, running_mean=running_mean, running_var=running_var)
    momentum = as_number(op, "momentum", momentum)
    missing = "running_mean" if running_mean is None else "running_var"
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError(f"{op}(): {missing} must be given without use_input_stats, got None")
        mean, variance = (t.to(statistics_dtype(input.dtype)) for t in (running_mean, running_var))
        # The layout is the built-in's.
        return autograd.normalization.channel_affine(input, weight, bias, mean, variance, eps).contiguous()
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}(): running_mean and running_var belong together, got {missing} = None")
    sizes = (*input.shape[:2], 1, positions)
    y, mean, variance = autograd.normalization.group_norm(input, weight, bias, sizes, eps)
    if running_mean is not None and input.numel() > 0:
        update_running(running_mean, running_var, mean.mean(0), variance.mean(0), positions, momentum)
    return y.contiguous()


@replayable
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias, with statistics over the last dimensions of each sample.

    mean and the biased var run over the dimensions ``normalized_shape``, the last ones of the input. (Ba, Kiros and
    Hinton, "Layer normalization", 2016; equals ``torch.nn.functional.layer_norm``.)

    Shapes: input (*, *normalized_shape), weight and bias normalized_shape.

    Raises:
        RuntimeError: if a shape or dtype does not fit, or ``normalized_shape`` is empty.
        NotImplementedError: if the input is not real and floating-point.
    """
    op = "layer_norm"
    vectors = (weight, bias)
    if not isinstance(normalized_shape, list | tuple):
        check_tensors(op, "weight", "bias", input=input, weight=weight, bias=bias)
        raise TypeError(f"{op}(): normalized_shape must be a sequence of ints, got {normalized_shape!r}")
    shape = tuple(normalized_shape)
    if not _usual(input, vectors, eps, shape):
        check_tensors(op, "weight", "bias", input=input, weight=weight, bias=bias)
        shape = tuple([as_int(op, "normalized_shape", size, "a sequence of ints") for size in shape])
        if not shape or len(shape) > input.dim() or shape != tuple(input.shape[-len(shape) :]):
            raise RuntimeError(
                f"{op}(): normalized_shape must be the last sizes, one at least, of an input of shape "
                f"{tuple(input.shape)}, got {shape}"
            )
        for name, vector in (("weight", weight), ("bias", bias)):
            if vector is not None and tuple(vector.shape) != shape:
                raise RuntimeError(f"{op}(): {name} must have the shape {shape}, got {tuple(vector.shape)}")
        eps = as_number(op, "eps", eps)
        _check_types(op, input, weight, bias)
    if len(shape) > 1:
        weight, bias = (None if t is None else t.flatten() for t in vectors)
    sizes = (math.prod(input.shape[: input.dim() - len(shape)]), 1, math.prod(shape), 1)
    return autograd.normalization.group_norm(input, weight, bias, sizes, eps)[0]


@replayable
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Return x / sqrt(mean of x² + eps) * weight, with the mean over the last dimensions of each sample.

    They are ``normalized_shape``; eps is by default the machine epsilon of the type that computes, which is float32 for
    half-width types. Of a complex x the square is taken, not that of its modulus. (Zhang and Sennrich, "Root mean
    square layer normalization", 2019; equals ``torch.nn.functional.rms_norm``.)

    Shapes: input (*, *normalized_shape), weight normalized_shape.

    Raises:
        RuntimeError: if a shape does not fit, ``normalized_shape`` is empty, or a complex weight meets a real input.
        ValueError: if ``normalized_shape`` has more dimensions than the input.
        NotImplementedError: if the input is not floating-point.
    """
    op = "rms_norm"
    check_tensors(op, "weight", input=input, weight=weight)
    if not isinstance(normalized_shape, list | tuple):
        raise TypeError(f"{op}(): normalized_shape must be a sequence of ints, got {normalized_shape!r}")
    shape = tuple([as_int(op, "normalized_shape", size, "a sequence of ints") for size in normalized_shape])
    eps = None if eps is None else as_number(op, "eps", eps)
    if len(shape) > input.dim():
        raise ValueError(f"{op}(): normalized_shape must not be longer than {tuple(input.shape)}, got {shape}")
    if not shape or shape != tuple(input.shape[-len(shape) :]):
        raise RuntimeError(
            f"{op}(): normalized_shape must be the last sizes, one at least, of an input of shape "
            f"{tuple(input.shape)}, got {shape}"
        )
    if weight is not None and tuple(weight.shape) != shape:
        raise RuntimeError(f"{op}(): weight must have the shape {shape}, got {tuple(weight.shape)}")
    if not (input.is_floating_point() or input.is_complex()):
        raise NotImplementedError(f"{op}(): input must be floating-point, got {input.dtype}")
    if weight is not None and weight.is_complex() and not input.is_complex():
        raise RuntimeError(f"{op}(): weight must be real beside a real input, got {weight.dtype}")
    if eps is None:
        eps = torch.finfo(statistics_dtype(input.dtype)).eps
    if len(shape) > 1 and weight is not None:
        weight = weight.flatten()
    sizes = (math.prod(input.shape[: input.dim() - len(shape)]), math.prod(shape))
    return autograd.normalization.rms_norm(input, weight, sizes, eps)


@replayable
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias, with statistics of each group of channels of each sample.

    The channels are divided into ``num_groups`` runs of equal length; mean and the biased var of a run go over its
    channels and all their positions. (Wu and He, "Group normalization", 2018; equals
    ``torch.nn.functional.group_norm``.)

    Shapes: input (N, C, *), weight and bias (C).

    Raises:
        RuntimeError: if a shape or dtype does not fit, or ``num_groups`` is negative or does not divide C.
        ZeroDivisionError: if ``num_groups`` is zero.
        ValueError: if the samples together have one value per group only.
        NotImplementedError: if the input is not real and floating-point.
    """
    op = "group_norm"
    usual = _usual(input, (weight, bias), eps)
    if not usual:
        check_tensors(op, "weight", "bias", input=input, weight=weight, bias=bias)
    groups = as_int(op, "num_groups", num_groups)
    if input.dim() < 2:
        raise RuntimeError(f"{op}(): input must have shape (N, C, *), got {tuple(input.shape)}")
    if groups == 0:
        raise ZeroDivisionError(f"{op}(): num_groups must not be zero, got {num_groups}")
    samples, channels, *spatial = input.shape
    positions = math.prod(spatial)
    if samples * channels // groups * positions == 1:
        raise ValueError(f"{op}(): input must have more than 1 value per group, got {tuple(input.shape)}")
    if groups < 0 or channels % groups != 0:
        raise RuntimeError(f"{op}(): num_groups must be positive and divide {channels} channels, got {groups}")
    if not usual:
        for name, vector in (("weight", weight), ("bias", bias)):
            if vector is not None and tuple(vector.shape) != (channels,):
                raise RuntimeError(f"{op}(): {name} must have shape {(channels,)}, got {tuple(vector.shape)}")
        eps = as_number(op, "eps", eps)
        _check_types(op, input, weight, bias)
    sizes = (samples, groups, channels // groups, positions)
    return autograd.normalization.group_norm(input, weight, bias, sizes, eps)[0]


@replayable
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Return x / (k + alpha/size * sum of x² over neighbouring channels) ** beta.

    The sum runs over ``size`` channels, from size // 2 before to (size - 1) // 2 after. (Krizhevsky, Sutskever and
    Hinton, "ImageNet classification with deep convolutional neural networks", 2012, section 3.3; equals
    ``torch.nn.functional.local_response_norm``.)

    Shapes: (N, C, *) with at least one *.

    Raises:
        ValueError: if the input has less than three dimensions.
        RuntimeError: if ``size`` is not positive.
        NotImplementedError: if the input is complex.
    """
    op = "local_response_norm"
    check_tensors(op, input=input)
    if input.dim() < 3:
        raise ValueError(f"{op}(): input must have shape (N, C, *) with at least one *, got {tuple(input.shape)}")
    if input.numel() == 0:
        return input
    if not (input.is_floating_point() or input.is_complex()):  # integers have no gradient, and divide in their own way
        return torch.nn.functional.local_response_norm(input, size, alpha, beta, k)
    before = as_int(op, "size", size) // 2
    if input.dim() == 3:
        return _response_norm(op, input, size, alpha, beta, k, before)
    return _response_norm_of_images(op, input, size, alpha, beta, k, before)


def _response_norm(op: str, input: Tensor, size: int, alpha: float, beta: float, k: float, before: int) -> Tensor:
    """Return the normalisation by ``before`` channels before and as many after, but at most half of the others."""
    size = as_int(op, "size", size)
    alpha, beta, k = (as_number(op, name, v) for name, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    if size <= 0:
        raise RuntimeError(f"{op}(): size must be positive, got {size}")
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    after = min(before, (size - 1) // 2)
    return autograd.normalization.local_response_norm(input, before, after, size, alpha, beta, k)


# What the built-in averages these with is cast.
_response_norm_of_images = autocast_to("float32", "cpu")(_response_norm)


@replayable
def cross_map_lrn(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return the local response normalisation of images with a window that reaches as far ahead as back.

    That is (size - 1) // 2 channels either way; the sum is divided by ``size`` all the same. Torch 7's
    SpatialCrossMapLRN, which :class:`torch.nn.CrossMapLRN2d` was ported from.

    Shapes: (N, C, H, W).

    Raises:
        ValueError: if the input is not four-dimensional.
        RuntimeError: if ``size`` is not positive.
        NotImplementedError: if the input is not real and floating-point.
    """
    op = "CrossMapLRN2d"
    check_tensors(op, input=input)
    if input.dim() != 4:
        raise ValueError(f"{op}(): input must have shape (N, C, H, W), got {tuple(input.shape)}")
    return _response_norm(op, input, size, alpha, beta, k, max(0, (as_int(op, "size", size) - 1) // 2))


@replayable
def normalize(
    input: Tensor,
    p: float = 2.0,
    dim: int | Sequence[int] | None = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:
    """Return x / max(norm, eps), with the p-norm over the dimension or dimensions ``dim``, all of them for None.

    Equals ``torch.nn.functional.normalize``. Into ``out``, which records no gradient, it is the built-in itself.

    Shapes: any.

    Raises:
        RuntimeError: if the input is not floating-point, ``dim`` repeats itself, or the norm of nothing has no value.
        IndexError: if ``dim`` is out of range.
    """
    op = "normalize"
    check_tensors(op, "out", input=input, out=out)
    if out is not None:
        return torch.nn.functional.normalize(input, p, dim, eps, out)  # type: ignore[arg-type]
    if p is None or isinstance(p, str) and p == "fro":
        p = 2.0
    p, eps = as_number(op, "p", p), as_number(op, "eps", eps)
    if dim is None or isinstance(dim, list | tuple) and not dim:
        dim = tuple(range(input.dim()))
    given = dim if isinstance(dim, list | tuple) else (dim,)
    span, dims = max(1, input.dim()), []
    for one in given:
        d = as_int(op, "dim", one, "an int or a sequence of ints")
        if not -span <= d < span:
            raise IndexError(f"{op}(): dim must be in [{-span}, {span - 1}] for shape {tuple(input.shape)}, got {d}")
        dims.append(d % span)
    if len(set(dims)) < len(dims):
        raise RuntimeError(f"{op}(): dim must not repeat itself, got {dim}")
    if not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"{op}(): input must be floating-point or complex, got {input.dtype}")
    if input.numel() == 0 and (p < 0 or p == math.inf) and any(input.shape[d] == 0 for d in dims):
        raise RuntimeError(f"{op}(): dim must not be empty for p = {p}, got shape {tuple(input.shape)} and dim {dim}")
    if input.dim() == 0:
        return autograd.normalization.normalize(input.unsqueeze(0), p, (0,), eps).squeeze(0)
    return autograd.normalization.normalize(input, p, tuple(dims), eps)


def _usual(input: Any, vectors: tuple[Any, ...], eps: Any, normalized_shape: tuple[Any, ...] | None = None) -> bool:
    """Tell at little cost whether these arguments fit; where it cannot, they are looked at one by one.

    The vectors have the sizes ``normalized_shape``, the last ones of the input, or that of its channels.
    """
    if not isinstance(input, Tensor) or type(eps) is not float or eps <= 0:
        return False
    shape, dtype = input.shape, input.dtype
    if dtype not in (torch.float32, torch.float64) or len(shape) < 2:
        return False
    wanted = shape[1:2] if normalized_shape is None else normalized_shape
    if normalized_shape is not None:
        if not wanted or shape[-len(wanted) :] != wanted or any(isinstance(size, bool | float) for size in wanted):
            return False
    for i, vector in enumerate(vectors):
        if vector is None:
            continue
        if not isinstance(vector, Tensor) or vector.dtype is not dtype or vector.shape != wanted:
            return False
        if i < len(vectors) - 2 and vector.requires_grad:
            return False
    return True


def _check_types(op: str, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise unless the input is real and floating-point and the vectors' dtype goes with it."""
    _statistics_type(op, input.dtype, {"weight": weight, "bias": bias})
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")


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


def _constant(op: str, **statistics: Tensor | None) -> None:
    """Raise where a statistic would want a gradient."""
    for name, vector in statistics.items():
        if vector is not None and vector.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{op}(): {name} must not require a gradient, got requires_grad = True")
