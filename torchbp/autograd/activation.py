"""Pointwise maps: gx = g f'(x), with f' written from what is cheapest to keep; and gates and learned slopes.

One table, ``MAPS``, declares the maps. ``gradient`` is a differentiable expression in g and in the kept tensor,
so every order follows; ``fused`` is a one-pass operator of the same value, PyTorch's where that runs at the
speed of memory, used where no higher derivative is asked for. Only the input or the output is ever kept, never
an intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp import ops
from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.function import ExplicitFunction, records_only_reverse, save

_aten = torch.ops.aten


@dataclass(frozen=True)
class Pointwise:
    """A pointwise map f with parameters.

    Attributes:
        forward: ``(x, *parameters) -> f(x)``.
        keeps: whether the gradient is written from the input or the output.
        gradient: ``(g, kept, *parameters) -> g f'``, differentiable in g and kept.
        fused: the same value in one pass, without derivatives of its own; optional.
        serves: ``(dtype, *parameters) -> whether`` this row is right for them, where the next one takes the others.
        in_place: ``forward`` over x itself; optional, and of rows that keep the output.
        title: what graphs and profiles call it, of rows of the table after their name.
        holomorphic: whether f' is a number for complex x too; otherwise ``gradient`` is a self-adjoint map of g.
    """

    forward: Callable[..., Tensor]
    keeps: Literal["input", "output"]
    gradient: Callable[..., Tensor]
    fused: Callable[..., Tensor] | None = None
    serves: Callable[..., bool] | None = None
    in_place: Callable[..., Tensor] | None = None
    holomorphic: bool = True
    title: str = "PointwiseMap"


class PointwiseMap(ExplicitFunction):
    """y = f(x). Backward: gx = g f', from the input or the output as the table says."""

    named_by_first = True

    @staticmethod
    def forward(map: Pointwise, parameters: tuple[float, ...], x: Tensor) -> Tensor:
        return map.forward(x, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.map, ctx.parameters, x = inputs
        kept = (x if ctx.map.keeps == "input" else output,)
        save(ctx, kept, kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (kept,) = ctx.saved_tensors
        one_pass = ctx.map.fused is not None and not torch.is_grad_enabled() and not kept.is_complex()
        formula = ctx.map.fused if one_pass else ctx.map.gradient
        conjugated = kept.is_complex() and ctx.map.holomorphic
        return None, None, formula(g, kept.conj() if conjugated else kept, *ctx.parameters)

    @staticmethod
    def jvp(ctx: Any, _map: Any, _parameters: Any, t: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        return ctx.map.gradient(t, kept, *ctx.parameters)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], map: Pointwise, parameters: tuple[float, ...], x: Tensor
    ) -> tuple[Tensor, Any]:
        return PointwiseMap.call(map, parameters, x), in_dims[2]


class OverwritingPointwiseMap(Function):
    """x becomes f(x), of which the gradient is written: so there is one tensor where there would be two."""

    @staticmethod
    def forward(map: Pointwise, parameters: tuple[float, ...], x: Tensor) -> Tensor:
        assert map.in_place is not None
        return map.in_place(x, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_dirty(inputs[2])
        PointwiseMap.setup_context(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return PointwiseMap.backward(ctx, g)


# Without the inspection of forward's signature, as in ExplicitFunction.call.
_overwriting = super(Function, OverwritingPointwiseMap).apply


# --------------------------------------------------------------------------------------------------
# The derivatives. Each is written in g and the kept tensor with differentiable steps.


def _relu(g: Tensor, y: Tensor) -> Tensor:
    """f' = 1 where y > 0, else 0; the derivative at 0 is 0, and NaN passes g on."""
    return g.masked_fill(y <= 0, 0)


def _leaky_relu(g: Tensor, kept: Tensor, slope: float) -> Tensor:
    """f' = 1 where kept > 0, else the slope; a positive slope keeps the sign, so the output serves."""
    return torch.where(kept > 0, g, g * slope)


def _elu(g: Tensor, x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    """f' = scale where x > 0, else scale alpha k exp(k x), k the input's scale."""
    # Beyond zero the exponential, which is not asked for, must not overflow: 0 times infinity is NaN.
    slope = (scale * alpha * input_scale) * torch.exp(x.clamp(max=0) * input_scale)
    return g * torch.where(x > 0, scale, slope)


def _elu_from_output(g: Tensor, y: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    """f' = scale where y > 0, else k (y + scale alpha), k the input's scale; sign(y) = sign(x) as alpha >= 0."""
    return g * torch.where(y > 0, scale, (y + scale * alpha) * input_scale)


def _hardtanh(g: Tensor, kept: Tensor, low: float, high: float) -> Tensor:
    """f' = 1 between the bounds, 0 at and beyond them; the output is between them where the input is."""
    return torch.where((kept > low) & (kept < high), g, 0)


def _threshold(g: Tensor, kept: Tensor, threshold: float, value: float) -> Tensor:
    """f' = 0 where kept <= threshold, else 1; a value up to the threshold keeps the order, so the output serves."""
    return g.masked_fill(kept <= threshold, 0)


def _shrink(g: Tensor, kept: Tensor, lambd: float) -> Tensor:
    """f' = 1 where |kept| > lambda, else 0.

    What hardshrink returns is x there, and elsewhere 0; what softshrink returns, x - lambda sign(x), is to be
    compared with 0 instead.
    """
    return torch.where((kept < -lambd) | (kept > lambd), g, 0)


def _hardsigmoid(g: Tensor, x: Tensor) -> Tensor:
    """f' = 1/6 where -3 < x < 3, else 0; an output of 1 belongs to the number below 3 too, by rounding."""
    return torch.where((x > -3) & (x < 3), g / 6, 0)


def _hardsigmoid_fused(g: Tensor, x: Tensor) -> Tensor:
    # PyTorch's operator multiplies by 1/6 rounded to float32, whatever the dtype.
    return _hardsigmoid(g, x) if x.dtype == torch.float64 else _aten.hardsigmoid_backward(g, x)


def _hardswish(g: Tensor, x: Tensor) -> Tensor:
    """f' = 0 where x <= -3, x / 3 + 1/2 up to 3, then 1."""
    return g * torch.where(x <= -3, 0, torch.where(x >= 3, 1, x / 3 + 0.5))


def _mish(g: Tensor, x: Tensor) -> Tensor:
    """f' = t + x (1 - t²) sigmoid(x) with t = tanh(softplus(x))."""
    t = torch.tanh(torch.nn.functional.softplus(x))
    return g * (t + x * (1 - t * t) * torch.sigmoid(x))


def _softsign(g: Tensor, x: Tensor) -> Tensor:
    """f' = s² with s = 1 / (1 + |x|); 1 - |y| is the same, but has no digits left where x is large.

    For complex x, dy = s (dx - s x Re(u* dx)) with u = x / |x|: a stretching along x, so its own adjoint.
    """
    s = 1 / (1 + x.abs())
    if x.is_complex():
        return s * (g - s * x * (x.sgn().conj() * g).real)
    return g * s * s


def _softsign_fused(g: Tensor, x: Tensor) -> Tensor:
    denominator = x.abs().add_(1)
    return (g / denominator).div_(denominator)


def _tanhshrink(g: Tensor, x: Tensor) -> Tensor:
    """f' = tanh²(x)."""
    t = torch.tanh(x)
    return g * (t * t)


def _sigmoid(g: Tensor, y: Tensor) -> Tensor:
    """f' = y (1 - y)."""
    return g * (y * (1 - y))


def _tanh(g: Tensor, y: Tensor) -> Tensor:
    """f' = 1 - y²."""
    return g * (1 - y * y)


# LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), section 4.4.
SCALED_TANH = (1.7159, 2.0 / 3.0)


def _scaled_tanh(g: Tensor, y: Tensor) -> Tensor:
    """f' = b (a - y² / a) for f = a tanh(b x)."""
    a, b = SCALED_TANH
    return g * (b * (a - y * y / a))


def _softplus(g: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """f' = sigmoid(beta x), or 1 where beta x > threshold.

    Written from the input: beside the threshold an output belongs to two inputs, one on each branch.
    """
    return torch.where(x * beta > threshold, g, g * torch.sigmoid(x * beta))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _gelu(g: Tensor, x: Tensor) -> Tensor:
    """f' = Φ(x) + x φ(x), the normal distribution and its density."""
    density = torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return g * (_normal_cdf(x) + x * density)


def _gelu_tanh(g: Tensor, x: Tensor) -> Tensor:
    """f' = (1 + t) / 2 + x (1 - t²) u' / 2 with t = tanh(u), u = sqrt(2/π) (x + 0.044715 x³)."""
    scale = math.sqrt(2 / math.pi)
    t = torch.tanh(scale * (x + 0.044715 * x * x * x))
    slope = scale * (1 + 3 * 0.044715 * x * x)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def _silu(g: Tensor, x: Tensor) -> Tensor:
    """f' = s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = torch.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


# --------------------------------------------------------------------------------------------------
# The table


def _kernel(name: str, *fixed: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return forward and fused gradient of a map of ops.activation."""
    return (
        lambda x, *parameters: ops.activation.activation(x, name, (*fixed, *parameters)),
        lambda g, kept, *parameters: ops.activation.activation_gradient(g, kept, name, (*fixed, *parameters)),
    )


def _from(kernel: str, keeps: Literal["input", "output"], gradient: Callable[..., Tensor], *fixed: float) -> Pointwise:
    """Return a row whose forward and fused gradient are those of ops.activation."""
    forward, fused = _kernel(kernel, *fixed)
    return Pointwise(forward, keeps, gradient, fused)


def _either(
    forward: Callable[..., Tensor],
    serves: Callable[..., bool],
    from_output: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    from_input: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    in_place: Callable[..., Tensor] | None = None,
) -> tuple[Pointwise, Pointwise]:
    """Return a row that keeps the output, where it serves, and one that keeps the input: gradient and fused of each."""
    return Pointwise(forward, "output", *from_output, serves, in_place), Pointwise(forward, "input", *from_input)


def _leaky(forward: Callable[..., Tensor]) -> tuple[Pointwise, Pointwise]:
    fused = _aten.leaky_relu_backward
    return _either(
        forward,
        lambda dtype, slope: slope > 0,
        (_leaky_relu, lambda g, y, slope: fused(g, y, slope, True)),
        (_leaky_relu, lambda g, x, slope: fused(g, x, slope, False)),
        _aten.leaky_relu_,
    )


def _holds(dtype: torch.dtype, *values: float) -> bool:
    """Tell whether a half-width type has the values themselves; with others, operators take the float32 ones."""
    if dtype not in (torch.float16, torch.bfloat16):
        return True
    finfo = torch.finfo(dtype)
    digits = 2 / finfo.eps
    return all(
        v == 0 or (finfo.tiny <= abs(v) <= finfo.max and (math.frexp(v)[0] * digits).is_integer()) for v in values
    )


# Scale and rate of elu make selu and celu of it: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural
# networks" (2017); Barron, "Continuously differentiable exponential linear units" (2017).
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)

# log σ(x) is softplus with beta -1; below -40 it is x, to the last digit of float64. The built-in's is contiguous.
_SOFTPLUS, _SOFTPLUS_FUSED = _kernel("softplus")
_LOG_SIGMOID = Pointwise(
    lambda x: _SOFTPLUS(x.contiguous(), -1.0, 40.0),
    "input",
    lambda g, x: _softplus(g, x, -1.0, 40.0),
    lambda g, x: _SOFTPLUS_FUSED(g, x, -1.0, 40.0),
)

MAPS: dict[str, tuple[Pointwise, ...]] = {
    "relu": (
        Pointwise(torch.relu, "output", _relu, lambda g, y: _aten.threshold_backward(g, y, 0), in_place=torch.relu_),
    ),
    "leaky_relu": _leaky(_aten.leaky_relu),
    "rrelu": _leaky(lambda x, slope: _aten.leaky_relu(x.contiguous(), slope)),  # contiguous, as while it is training
    "elu": _either(
        _aten.elu,
        lambda dtype, alpha, scale, k: 0 <= alpha < math.inf,
        (_elu_from_output, lambda g, y, alpha, scale, k: _aten.elu_backward(g, alpha, scale, k, True, y)),
        (_elu, lambda g, x, alpha, scale, k: _aten.elu_backward(g, alpha, scale, k, False, x)),
        _aten.elu_,
    ),
    "hardtanh": _either(
        _aten.hardtanh,
        _holds,
        (_hardtanh, _aten.hardtanh_backward),
        (_hardtanh, _aten.hardtanh_backward),
        _aten.hardtanh_,
    ),
    "threshold": _either(
        _aten.threshold,
        lambda dtype, threshold, value: value <= threshold and _holds(dtype, value),
        (_threshold, lambda g, y, threshold, value: _aten.threshold_backward(g, y, threshold)),
        (_threshold, lambda g, x, threshold, value: _aten.threshold_backward(g, x, threshold)),
        _aten.threshold_,
    ),
    "hardshrink": (Pointwise(_aten.hardshrink, "output", _shrink, _aten.hardshrink_backward),),
    "softshrink": _either(
        _aten.softshrink,
        _holds,
        (lambda g, y, lambd: _shrink(g, y, 0), lambda g, y, lambd: _aten.softshrink_backward(g, y, 0)),
        (_shrink, _aten.softshrink_backward),
    ),
    "hardsigmoid": (Pointwise(_aten.hardsigmoid, "input", _hardsigmoid, _hardsigmoid_fused),),
    "hardswish": (Pointwise(_aten.hardswish, "input", _hardswish, _aten.hardswish_backward),),
    "sigmoid": (_from("sigmoid", "output", _sigmoid),),
    "tanh": (Pointwise(torch.tanh, "output", _tanh, _aten.tanh_backward),),
    "scaled_tanh": (_from("scaled_tanh", "output", _scaled_tanh, *SCALED_TANH),),
    "tanhshrink": (
        Pointwise(lambda x: x - torch.tanh(x), "input", _tanhshrink, lambda g, x: g * torch.tanh(x).square_()),
    ),
    "softsign": (Pointwise(lambda x: x / (x.abs() + 1), "input", _softsign, _softsign_fused, holomorphic=False),),
    "softplus": (_from("softplus", "input", _softplus),),
    "logsigmoid": (_LOG_SIGMOID,),
    "gelu": (_from("gelu", "input", _gelu),),
    "gelu_tanh": (_from("gelu_tanh", "input", _gelu_tanh),),
    "silu": (_from("silu", "input", _silu),),
    "mish": (Pointwise(_aten.mish, "input", _mish, _aten.mish_backward),),
}


MAPS = {
    name: tuple(replace(row, title="".join(word.capitalize() for word in name.split("_"))) for row in rows)
    for name, rows in MAPS.items()
}


def row_of(name: str, dtype: torch.dtype, parameters: tuple[float, ...]) -> Pointwise:
    """Return the row of a map that serves a dtype and parameters."""
    for row in MAPS[name]:
        if row.serves is None or row.serves(dtype, *parameters):
            break
    return row


def overwrite(row: Pointwise, parameters: tuple[float, ...], x: Tensor) -> Tensor:
    """Apply a map to x in place."""
    recorded = torch.is_grad_enabled() and x.requires_grad
    if row.in_place is None or not records_only_reverse() or (recorded and (x.is_leaf or x._is_view())):
        kept = x.clone() if row.keeps == "input" else x  # the backward reads what is overwritten
        return x.copy_(PointwiseMap.call(row, parameters, kept))
    return _overwriting(row, parameters, x) if recorded else row.in_place(x, *parameters)


def pointwise(name: str, x: Tensor, *parameters: float) -> Tensor:
    """Apply a map of the table. Keeps what its row says."""
    return PointwiseMap.call(row_of(name, x.dtype, parameters), parameters, x)


# --------------------------------------------------------------------------------------------------
# Maps with more to them than one tensor


class GLU(ExplicitFunction):
    """y = a σ(b), the halves a and b of x along ``dim``.

    With s = σ(b): ga = g s, gb = g a s (1 - s), ty = s (ta + a (1 - s) tb). Saved: x. (Dauphin, Fan, Auli,
    Grangier, "Language modeling with gated convolutional networks", 2017.)
    """

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return _aten.glu(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.dim = inputs
        save(ctx, (x,), (x,))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            if x.is_contiguous():
                return _aten.glu_backward(g, x, ctx.dim), None
            # Of other layouts the operator is slow, unless their dimensions stand in the order of their strides.
            order = sorted(range(x.dim()), key=x.stride, reverse=True)
            if x.permute(order).is_contiguous():
                gx = _aten.glu_backward(g.permute(order), x.permute(order), order.index(ctx.dim % x.dim()))
                return gx.permute([order.index(i) for i in range(x.dim())]), None
        a, b = x.chunk(2, ctx.dim)
        s = torch.sigmoid(b)
        ga = g * s
        return torch.cat((ga, ga * a * (1 - s)), ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _dim: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        (a, b), (ta, tb) = x.chunk(2, ctx.dim), t.chunk(2, ctx.dim)
        s = torch.sigmoid(b)
        return s * (ta + a * (1 - s) * tb)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, dim: int) -> tuple[Tensor, int]:
        return GLU.call(x.movedim(in_dims[0], 0), dim % (x.dim() - 1) + 1), 0


class PReLU(ExplicitFunction):
    """y = x where x > 0, else w x; w has as many dimensions as x and is broadcast.

    With m = [x > 0]: gx = g (m + (1 - m) w), gw = sum of g (1 - m) x over what is broadcast, and
    ty = (m + (1 - m) w) tx + (1 - m) x tw. Saved: x, and w if the gradient of x is wanted. (He, Zhang, Ren, Sun,
    "Delving deep into rectifiers", 2015.)
    """

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return _aten._prelu_kernel(x, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w = inputs
        ctx.broadcast = [i for i, (size, own) in enumerate(zip(x.shape, w.shape, strict=True)) if size != own]
        save(ctx, (x, w if ctx.needs_input_grad[0] else None), (x, w))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        wanted_x, wanted_w = ctx.needs_input_grad
        if wanted_x and wanted_w and not torch.is_grad_enabled():
            gx, gw = _aten._prelu_kernel_backward(g, x, w)
        else:
            gx = torch.where(x > 0, g, g * w) if wanted_x else None
            gw = torch.where(x > 0, 0, g * x) if wanted_w else None
        return gx, gw.sum(ctx.broadcast, keepdim=True) if wanted_w and ctx.broadcast else gw

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None) -> Tensor:
        x, w = ctx.saved_tensors
        below = [part for part in (None if tx is None else w * tx, None if tw is None else x * tw) if part is not None]
        return torch.where(x > 0, 0 if tx is None else tx, sum(below[1:], below[0]))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, w: Tensor) -> tuple[Tensor, int]:
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        w = w.unsqueeze(0) if in_dims[1] is None else w.movedim(in_dims[1], 0)
        return PReLU.call(x, w), 0


@dataclass(frozen=True)
class Slopes(LinearMap):
    """y = x times a slope of its own for every element; its own adjoint."""

    def forward(self, x: Tensor, slopes: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply."""
        return x * slopes

    def adjoint(self, g: Tensor, slopes: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply."""
        return g * slopes


class RReLU(ExplicitFunction):
    """y = x where x > 0, else r x, with a slope r drawn from torch's generator; the draws are the built-in's.

    Once they are drawn, y is x times a slope, 1 or r: a linear map, its own adjoint. Outputs: y and the slopes.
    Saved: the slopes. (Xu, Wang, Chen, Li, "Empirical evaluation of rectified activations in convolutional
    network", 2015.)
    """

    @staticmethod
    def forward(x: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
        slopes = torch.empty_like(x, memory_format=torch.contiguous_format)
        return _aten.rrelu_with_noise(x.contiguous(), slopes, lower, upper, True), slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        save(ctx, (output[1],), (output[1],))

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _gslopes: Any) -> tuple[Any, ...]:
        return None if g is None else linear_map(Slopes(), g, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _lower: Any, _upper: Any) -> tuple[Tensor, None]:
        return linear_map(Slopes(), t, *ctx.saved_tensors), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, lower: float, upper: float
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        x = x.movedim(in_dims[0], 0)
        if info.randomness == "error":
            raise RuntimeError(
                "rrelu(): called random operation under vmap; its randomness must be 'same' or 'different'"
            )
        if info.randomness == "different":
            return RReLU.call(x, lower, upper), (0, 0)
        # Which elements draw depends on the sample: for the same numbers in all of them each draws for every element.
        drawn = torch.empty_like(x[0]).uniform_(lower, upper)
        slopes = torch.where(x.detach() > 0, 1, drawn)
        return (linear_map(Slopes(), x, slopes), slopes), (0, 0)


def glu(x: Tensor, dim: int) -> Tensor:
    """Return the first half of x along ``dim`` times the sigmoid of the second. Keeps the input."""
    return GLU.call(x, dim)


def prelu(x: Tensor, w: Tensor) -> Tensor:
    """Return x where x > 0, else w x, with w broadcast. Keeps the input."""
    return PReLU.call(x, w)


def random_leaky_relu(x: Tensor, lower: float, upper: float) -> Tensor:
    """Return x where x > 0, else r x, with r drawn between the bounds for every such element. Keeps the slopes."""
    y, _ = RReLU.call(x, lower, upper)
    return y
