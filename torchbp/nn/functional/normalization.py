"""Normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.nn.functional._arguments import as_int, as_number, check_flag, check_tensors


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
    if count > 0 and running_mean is not None and running_var is not None:
        # Neither requires a gradient here, so nothing is recorded.
        for running, batch, factor in ((running_mean, mean, 1.0), (running_var, variance, count / (count - 1))):
            new = batch.detach() if factor == 1.0 else batch.detach() * factor
            running.lerp_(new if new.dtype == running.dtype else new.to(running.dtype), momentum)
    return y


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
        if name.startswith("running") and vector.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{op}(): {name} must not require a gradient, got requires_grad = True")
