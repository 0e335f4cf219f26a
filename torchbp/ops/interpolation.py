"""Interpolation and its adjoint, as raw operators without gradient.

Tensors are (N, C, *spatial) with 1 to 3 spatial dimensions. Along each of them an output is a weighted sum of
one input (``nearest``, ``nearest-exact``), two (``linear``), four (``cubic``) or, with ``antialias``, as many as a
filter reaches that is widened where the image shrinks (``linear``, ``cubic``, ``lanczos``). ``scales`` is empty,
or has outputs per input, which then replace what the sizes say. Indices and weights are the built-in operators'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp.ops.registry import KERNEL_DTYPES, flops_none, laid_out, register, suggested_format

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
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=suggested_format(tensor))


def _fake_interpolate(input, output_size, mode, align_corners, antialias, scales):
    _check("interpolate", input.shape[2:], output_size, mode, align_corners, antialias, scales)
    return _empty(input, output_size)


def _fake_interpolate_adjoint(grad_output, input_size, mode, align_corners, antialias, scales):
    _check("interpolate_adjoint", input_size, grad_output.shape[2:], mode, align_corners, antialias, scales)
    return _empty(grad_output, input_size)


def _builtin(mode: str, dimensions: int, antialias: bool, backward: bool) -> Callable[..., Tensor]:
    """Return ATen's operator."""
    name = {"cubic": "bicubic", "linear": ("linear", "bilinear", "trilinear")[dimensions - 1]}.get(mode, mode)
    prefix = "_" if antialias or mode == "nearest-exact" else ""
    suffix = ("_aa" if antialias else "") + ("_backward" if backward else "")
    return getattr(torch.ops.aten, f"{prefix}upsample_{name.replace('-', '_')}{dimensions}d{suffix}").default


def _options(mode: str, dimensions: int, align_corners: bool, scales: Sequence[float]) -> tuple:
    corners = () if mode.startswith("nearest") else (align_corners,)
    return *corners, *(scales or (None,) * dimensions)


def _composite_interpolate(input, output_size, mode, align_corners, antialias, scales):
    _check("interpolate", input.shape[2:], output_size, mode, align_corners, antialias, scales)
    n, format = len(output_size), suggested_format(input)
    if input.shape[0] == 0 or input.shape[1] == 0:
        return _empty(input, output_size)
    half = antialias and input.dtype in (torch.bfloat16, torch.float16)
    wide = input.to(torch.float32) if half else input
    y = _builtin(mode, n, antialias, False)(wide, output_size, *_options(mode, n, align_corners, scales))
    return laid_out(y.to(input.dtype), format)


def _composite_interpolate_adjoint(grad_output, input_size, mode, align_corners, antialias, scales):
    _check("interpolate_adjoint", input_size, grad_output.shape[2:], mode, align_corners, antialias, scales)
    n, format = len(input_size), suggested_format(grad_output)
    if grad_output.shape[0] == 0 or grad_output.shape[1] == 0:
        return _empty(grad_output, input_size)
    half = antialias and grad_output.dtype in (torch.bfloat16, torch.float16)
    wide = (grad_output.to(torch.float32) if half else grad_output).contiguous()
    backward = _builtin(mode, n, antialias, True)
    shape = (*grad_output.shape[:2], *input_size)
    gx = backward(wide, grad_output.shape[2:], shape, *_options(mode, n, align_corners, scales))
    return laid_out(gx.to(grad_output.dtype), format)


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
