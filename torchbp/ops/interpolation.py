"""Interpolation and its adjoint, as raw operators without gradient.

Tensors are (N, C, *spatial) with 1 to 3 spatial dimensions. Along each of them an output is a weighted sum of
one input (``nearest``, ``nearest-exact``), two (``linear``), four (``cubic``) or, with ``antialias``, as many as a
filter reaches that is widened where the image shrinks (``linear``, ``cubic``, ``lanczos``). ``scales`` is empty,
or has outputs per input, which then replace what the sizes say. Indices and weights are the built-in operators'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, memory_format_of, register
from torchbp.ops.separable import multiply, select, spread

Sizes = Sequence[int]
MODES = ("nearest", "nearest-exact", "linear", "cubic", "lanczos")


def _check(op: str, input_size: Sizes, output_size: Sizes, mode, align_corners, antialias, scales) -> None:
    for name, values in (("input_size", input_size), ("output_size", output_size)):
        torch._check(
            len(values) == len(input_size) and all(v >= 1 for v in values),
            lambda name=name, values=values: (
                f"{op}: {name} must be {len(input_size)} values of at least 1, but got {list(values)}"
            ),
        )
    torch._check(
        len(scales) in (0, len(input_size)),
        lambda: f"{op}: scales must be empty or have {len(input_size)} values, but got {list(scales)}",
    )
    torch._check(mode in MODES, lambda: f"{op}: mode must be one of {MODES}, but got {mode}")
    torch._check(
        not (mode.startswith("nearest") and (align_corners or antialias)),
        lambda: f"{op}: mode {mode} takes neither align_corners nor antialias",
    )
    torch._check(antialias or mode != "lanczos", lambda: f"{op}: mode lanczos needs antialias")
    torch._check(
        len(output_size) == 2 or not (antialias or mode == "cubic"),
        lambda: f"{op}: mode {mode} needs 2 spatial dimensions, but got {len(output_size)}",
    )


def _empty(tensor: Tensor, size: Sizes) -> Tensor:
    shape = (*tensor.shape[:2], *size)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format_of(tensor))


def _fake_interpolate(input, output_size, mode, align_corners, antialias, scales):
    _check("interpolate", input.shape[2:], output_size, mode, align_corners, antialias, scales)
    return _empty(input, output_size)


def _fake_interpolate_adjoint(grad_output, input_size, mode, align_corners, antialias, scales):
    _check("interpolate_adjoint", input_size, grad_output.shape[2:], mode, align_corners, antialias, scales)
    return _empty(grad_output, input_size)


# --------------------------------------------------------------------------------------------------
# The weights of one dimension, as csrc/cpu/interpolation.cpp computes them


def _step(input: int, output: int, corners: bool, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the inputs per output."""

    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=dtype)

    if corners:
        return number(input - 1) / number(output - 1) if output > 1 else number(0)
    return number(1 / scale) if scale > 0 else number(input) / number(output)


def _coordinates(step: Tensor, output: int, corners: bool) -> Tensor:
    """Return where each output stands among the inputs."""
    o = torch.arange(output, dtype=torch.float64)
    return step * o.to(step.dtype) if corners else (step.double() * (o + 0.5) - 0.5).to(step.dtype)


def _floor(x: Tensor) -> Tensor:
    return x.to(torch.float32).floor().long()


def _nearest(input: int, output: int, scale: float, exact: bool, small: bool, dtype: torch.dtype) -> Tensor:
    """Return the input that is nearest to each output; ``small`` is the built-in's rule for small images."""
    o = torch.arange(output)
    if small and not exact and output in (input, 2 * input):
        return o // (output // input)
    step = _step(input, output, False, scale, torch.float32 if small else dtype)
    if small:
        places = (o + 0.5).double() * step if exact else o.to(torch.float32) * step
    else:
        places = _coordinates(step, output, not exact)
        places = places.clamp(min=0).double() + 0.5 if exact else places
    return _floor(places).clamp(0, input - 1)


def _near(x: Tensor, a: float) -> Tensor:
    return ((a + 2) * x - (a + 3)) * x * x + 1


def _far(x: Tensor, a: float) -> Tensor:
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def _beside(input: int, output: int, scale: float, mode: str, corners: bool, dtype: torch.dtype) -> Tensor:
    """Return the matrix (output, input) of the two or four inputs beside each output."""
    if mode == "linear" and output == input:
        return torch.eye(input, dtype=dtype)
    x = _coordinates(_step(input, output, corners, scale, dtype), output, corners)
    x = x.clamp(min=0) if mode == "linear" else x
    index = _floor(x).clamp(max=input - 1)
    t = (x - index.to(dtype)).clamp(0, 1)
    weights = [1 - t, t]
    if mode == "cubic":
        weights = [_far(t + 1, -0.75), _near(t, -0.75), _near(1 - t, -0.75), _far(2 - t, -0.75)]
    matrix = torch.zeros(output, input, dtype=dtype)
    for k, weight in enumerate(weights, start=-1 if mode == "cubic" else 0):
        matrix.scatter_add_(1, (index + k).clamp(0, input - 1)[:, None], weight[:, None])
    return matrix


def _filter(x: Tensor, mode: str) -> Tensor:
    x, zero = x.abs(), torch.zeros_like(x)
    if mode == "linear":
        return torch.where(x < 1, 1 - x, zero)
    if mode == "cubic":
        return torch.where(x < 1, _near(x, -0.5), torch.where(x < 2, _far(x, -0.5), zero))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), zero)


def _filtered(input: int, output: int, scale: float, mode: str, corners: bool, dtype: torch.dtype) -> Tensor:
    """Return the matrix (output, input) of the inputs that the filter reaches."""
    if output == input:
        return torch.eye(input, dtype=dtype)
    step = _step(input, output, corners, scale, dtype)
    widened = step.clamp(min=1)
    reach = {"linear": 1, "cubic": 2, "lanczos": 3}[mode] * widened
    o = torch.arange(output, dtype=torch.float64)
    centre = (step.double() * (o + 0.5)).to(dtype)[:, None]
    place = torch.arange(input)
    first = ((centre - reach).double() + 0.5).clamp(0, input).long()
    end = ((centre + reach).double() + 0.5).clamp(0, input).long()
    end = torch.minimum(end, first + (2 * reach.ceil() + 1).clamp(max=input + 1).long())
    x = ((place.to(dtype) - centre).double() + 0.5) * (1 / widened.double()).to(dtype).double()
    weight = torch.where((place >= first) & (place < end), _filter(x.to(dtype), mode), torch.zeros((), dtype=dtype))
    total = weight.sum(1, keepdim=True)
    return weight / torch.where(total == 0, torch.ones_like(total), total)


def _apply(adjoint, x, input_size, output_size, mode, align_corners, antialias, scales):
    dtype = torch.float64 if x.dtype in (torch.float64, torch.complex128) else torch.float32
    factors = scales or [0.0] * len(input_size)
    axes = list(zip(input_size, output_size, factors, strict=True))
    if mode.startswith("nearest"):
        small = len(output_size) == 2 and sum(output_size) <= 128
        indices = [_nearest(n, m, s, mode == "nearest-exact", small, dtype).to(x.device) for n, m, s in axes]
        return laid_out(spread(x, indices, input_size) if adjoint else select(x, indices), memory_format_of(x))
    weigh = _filtered if antialias else _beside
    matrices = [weigh(n, m, s, mode, align_corners, dtype).to(x.device) for n, m, s in axes]
    return laid_out(multiply(matrices, x, adjoint), memory_format_of(x))


def _composite_interpolate(input, output_size, *method):
    _check("interpolate", input.shape[2:], output_size, *method)
    return _apply(False, input, input.shape[2:], output_size, *method)


def _composite_interpolate_adjoint(grad_output, input_size, *method):
    _check("interpolate_adjoint", input_size, grad_output.shape[2:], *method)
    return _apply(True, grad_output, input_size, grad_output.shape[2:], *method)


_interpolate = register("interpolate", fake=_fake_interpolate, composite=_composite_interpolate, flops=flops_none)
_interpolate_adjoint = register(
    "interpolate_adjoint",
    fake=_fake_interpolate_adjoint,
    composite=_composite_interpolate_adjoint,
    flops=flops_none,
)


def interpolate(
    input: Tensor, output_size: Sizes, mode: str, align_corners: bool, antialias: bool, scales: Sequence[float]
) -> Tensor:
    """Return the input at another size, (N, C, *output_size)."""
    call = _interpolate if input.dtype in KERNEL_DTYPES else _composite_interpolate
    return call(input, output_size, mode, align_corners, antialias, scales)


def interpolate_adjoint(
    grad_output: Tensor, input_size: Sizes, mode: str, align_corners: bool, antialias: bool, scales: Sequence[float]
) -> Tensor:
    """Give each output's value, weighted, to the inputs that it was made of, (N, C, *input_size)."""
    call = _interpolate_adjoint if grad_output.dtype in KERNEL_DTYPES else _composite_interpolate_adjoint
    return call(grad_output, input_size, mode, align_corners, antialias, scales)
