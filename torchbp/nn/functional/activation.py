"""Activations. Integer tensors are accepted where the built-in accepts them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from torchbp import autograd
from torchbp.autograd.activation import PointwiseMap, overwrite, row_of
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_int, as_number, autocast_to, check_flag, check_tensors, in_place

_SELU = autograd.activation.SELU


def _activation(
    op: str, input: Tensor, inplace: bool = False, map: str | None = None, fixed: tuple[float, ...] = (), **given: Any
) -> Tensor:
    """Return a map of the table, by default that of the function's name, with numbers given and fixed ones."""
    check_tensors(op, input=input)
    parameters = (*[as_number(op, name, value) for name, value in given.items()], *fixed) if given else fixed
    row = row_of(map or op, input.dtype, parameters)
    return overwrite(row, parameters, input) if inplace else PointwiseMap.call(row, parameters, input)


@replayable
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0), elementwise; the derivative at 0 is 0."""
    return _activation("relu", input, inplace)


def relu_(input: Tensor) -> Tensor:
    """Apply :func:`relu` in place."""
    return relu(input, inplace=True)


@replayable
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(x, 0), 6), elementwise; the derivative at 0 and 6 is 0 (Krizhevsky, 2010)."""
    return _activation("relu6", input, inplace, "hardtanh", (0, 6))


@replayable
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else ``negative_slope`` x, elementwise."""
    return _activation("leaky_relu", input, inplace, negative_slope=negative_slope)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Apply :func:`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


@replayable
@autocast_to("lower precision")
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Return x where x > 0, else w x, elementwise (He, Zhang, Ren, Sun, 2015).

    Shapes: input (N, C, *) with weight (C), or any with weight (1) or ().

    Raises:
        RuntimeError: if ``weight`` is not of that shape, or not of input's dtype.
    """
    op = "prelu"
    check_tensors(op, input=input, weight=weight)
    if weight.dtype != input.dtype:
        raise RuntimeError(f"{op}(): weight must have input's dtype {input.dtype}, got {weight.dtype}")
    if not input.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {input.dtype}")
    channels = input.shape[1] if input.dim() > 1 else 1
    if weight.dim() > 1 or weight.numel() not in (1, channels):
        sizes = "(1,)" if channels == 1 else f"(1,) or ({channels},)"
        raise RuntimeError(
            f"{op}(): weight must be a number or of shape {sizes} for input of shape {tuple(input.shape)}, "
            f"got {tuple(weight.shape)}"
        )
    shape = [1] * input.dim()
    if input.dim() > 1:
        shape[1] = weight.numel()
    return autograd.activation.prelu(input, weight.reshape(shape))


@replayable
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return x where x > 0, else r x, elementwise (Xu, Wang, Chen, Li, 2015).

    In training r is drawn between ``lower`` and ``upper`` for every element, from torch's generator and equal to
    the built-in's for the same seed; in evaluation it is their mean.

    Raises:
        RuntimeError: if a bound is not finite, or the lower one is larger.
    """
    op = "rrelu"
    check_tensors(op, input=input)
    lower, upper = as_number(op, "lower", lower), as_number(op, "upper", upper)
    check_flag(op, "training", training)
    for name, bound in (("lower", lower), ("upper", upper)):
        if not math.isfinite(bound):
            raise RuntimeError(f"{op}(): {name} must be finite, got {bound}")
    if lower > upper:
        raise RuntimeError(f"{op}(): lower must not be larger than upper, got {lower} and {upper}")
    if not training:
        return _activation(op, input, inplace, fixed=((lower + upper) / 2,))
    return in_place(input, autograd.activation.random_leaky_relu(input, lower, upper), inplace)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """Apply :func:`rrelu` in place."""
    return rrelu(input, lower, upper, training, inplace=True)


@replayable
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else alpha (exp(x) - 1), elementwise (Clevert, Unterthiner, Hochreiter, 2016)."""
    return _activation("elu", input, inplace, fixed=(1.0, 1.0), alpha=alpha)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Apply :func:`elu` in place."""
    return elu(input, alpha, inplace=True)


@replayable
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else alpha (exp(x / alpha) - 1), elementwise (Barron, 2017).

    Raises:
        RuntimeError: if ``alpha`` is 0.
    """
    op = "celu"
    alpha = as_number(op, "alpha", alpha)
    if alpha == 0:
        raise RuntimeError(f"{op}(): alpha must not be 0, got {alpha}")
    return _activation(op, input, inplace, "elu", (1.0, 1 / alpha), alpha=alpha)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Apply :func:`celu` in place."""
    return celu(input, alpha, inplace=True)


@replayable
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return 1.0507 elu(x) with alpha = 1.6733, elementwise (Klambauer, Unterthiner, Mayr, Hochreiter, 2017)."""
    return _activation("selu", input, inplace, "elu", _SELU)


def selu_(input: Tensor) -> Tensor:
    """Apply :func:`selu` in place."""
    return selu(input, inplace=True)


@replayable
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Return min(max(x, ``min_val``), ``max_val``), elementwise; the derivative at the bounds is 0.

    Raises:
        ValueError: if the bounds cross.
    """
    op = "hardtanh"
    if as_number(op, "min_val", min_val) > as_number(op, "max_val", max_val):
        raise ValueError(f"{op}(): min_val must not be larger than max_val, got {min_val} and {max_val}")
    return _activation(op, input, inplace, min_val=min_val, max_val=max_val)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Apply :func:`hardtanh` in place."""
    return hardtanh(input, min_val, max_val, inplace=True)


@replayable
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Return x where x > ``threshold``, else ``value``, elementwise."""
    return _activation("threshold", input, inplace, threshold=threshold, value=value)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """Apply :func:`threshold` in place."""
    return _activation("threshold_", input, True, "threshold", threshold=threshold, value=value)


@replayable
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return x where |x| > ``lambd``, else 0, elementwise (Donoho and Johnstone, 1994)."""
    return _activation("hardshrink", input, lambd=lambd)


@replayable
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return x - ``lambd`` sign(x) where |x| > ``lambd``, else 0, elementwise (Donoho, 1995).

    Raises:
        RuntimeError: if ``lambd`` is negative, or no number of input's dtype.
    """
    return _activation("softshrink", input, lambd=lambd)


@replayable
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(x + 3, 0), 6) / 6, elementwise; the derivative at -3 and 3 is 0."""
    return _activation("hardsigmoid", input, inplace)


@replayable
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x min(max(x + 3, 0), 6) / 6, elementwise (Howard et al., 2019)."""
    return _activation("hardswish", input, inplace)


@replayable
def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)), elementwise."""
    return _activation("sigmoid", input)


@replayable
def logsigmoid(input: Tensor) -> Tensor:
    """Return log(1 / (1 + exp(-x))), elementwise."""
    return _activation("logsigmoid", input)


@replayable
def tanh(input: Tensor) -> Tensor:
    """Return tanh(x), elementwise."""
    return _activation("tanh", input)


@replayable
def scaled_tanh(input: Tensor) -> Tensor:
    """Return 1.7159 tanh(2 x / 3), elementwise (LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998)."""
    return _activation("scaled_tanh", input)


@replayable
def tanhshrink(input: Tensor) -> Tensor:
    """Return x - tanh(x), elementwise."""
    return _activation("tanhshrink", input)


@replayable
def softsign(input: Tensor) -> Tensor:
    """Return x / (1 + |x|), elementwise (Bergstra, Desjardins, Lamblin, Bengio, 2009)."""
    return _activation("softsign", input)


@replayable
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta x)) / beta, or x where beta x > threshold, elementwise."""
    return _activation("softplus", input, beta=beta, threshold=threshold)


@replayable
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x Φ(x), elementwise; ``approximate="tanh"`` replaces Φ by a tanh (Hendrycks and Gimpel, 2016).

    Raises:
        RuntimeError: if ``approximate`` is neither ``"none"`` nor ``"tanh"``.
        TypeError: if it is not a string.
    """
    if approximate not in ("none", "tanh"):
        error = RuntimeError if isinstance(approximate, str) else TypeError
        check_tensors("gelu", input=input)
        raise error(f"gelu(): approximate must be 'none' or 'tanh', got {approximate!r}")
    return _activation("gelu", input, map="gelu" if approximate == "none" else "gelu_tanh")


@replayable
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x sigmoid(x), elementwise."""
    return _activation("silu", input, inplace)


@replayable
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x tanh(log(1 + exp(x))), elementwise (Misra, 2020)."""
    return _activation("mish", input, inplace)


@replayable
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return a times the sigmoid of b, the halves a and b of x along ``dim`` (Dauphin, Fan, Auli, Grangier, 2017).

    Raises:
        IndexError: if ``dim`` is out of range.
        RuntimeError: if there is no dimension, or it has no halves.
    """
    op = "glu"
    check_tensors(op, input=input)
    if input.dim() == 0:
        raise RuntimeError(f"{op}(): input must have a dimension to halve, got shape ()")
    dim, dimensions = as_int(op, "dim", dim), input.dim()
    if not -dimensions <= dim < dimensions:
        raise IndexError(f"{op}(): dim must be in [{-dimensions}, {dimensions - 1}], got {dim}")
    if input.shape[dim] % 2:
        raise RuntimeError(f"{op}(): input must have an even size along dim {dim}, got shape {tuple(input.shape)}")
    return autograd.activation.glu(input, dim)
