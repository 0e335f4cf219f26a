"""Gives each operator of ``schemas.def`` its fake kernel, composite formula and FLOP formula."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._prims_common import suggest_memory_format
from torch.utils.flop_counter import register_flop_formula

from torchbp._extension import extension, kernels_loaded

NAMESPACE = "torchbp"
# What the C++ loops take; anything else goes through the composite formula.
KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def read_schemas() -> dict[str, str]:
    """Return every operator's schema, ``"(arguments) -> results"``, by name."""
    text = Path(__file__).with_name("schemas.def").read_text()
    return dict(re.findall(r'^TORCHBP_OPERATOR\((\w+), "(.*)"\)$', text, flags=re.MULTILINE))


_library = torch.library.Library(NAMESPACE, "FRAGMENT" if kernels_loaded() else "DEF")
if not kernels_loaded():
    for _name, _schema in read_schemas().items():
        _library.define(_name + _schema)


def _refuse_gradient(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "an operator of torch.ops.torchbp has no gradient of its own; call torchbp.autograd or torchbp.nn instead"
    )


def register(
    name: str,
    *,
    fake: Callable[..., Any],
    composite: Callable[..., Any],
    flops: Callable[..., int],
) -> Callable[..., Any]:
    """Complete one operator and return what calls it, with positional arguments.

    Args:
        name: the operator's name in ``schemas.def``.
        fake: shapes, dtypes and strides of the results, given fake tensors.
        composite: the same results from operators of PyTorch, for devices without a kernel of ours.
        flops: floating-point operations, given the argument *shapes* and ``out_shape``.
    """
    qualified = f"{NAMESPACE}::{name}"
    packet = getattr(torch.ops.torchbp, name)
    _library.impl(name, composite, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    register_flop_formula(packet)(flops)
    if not kernels_loaded():  # csrc/ops.cpp does this for compiled operators
        torch.library.register_autograd(qualified, _refuse_gradient, lib=_library)
        return packet.default
    overload, direct = packet.default, extension.operator_call(qualified, packet.default)

    def call(*args: Any) -> Any:
        # Dynamo knows the operator, not the callable.
        return overload(*args) if torch.compiler.is_compiling() else direct(*args)

    return call


def memory_format_of(*tensors: torch.Tensor) -> torch.memory_format:
    """Return the first format that the strides of a tensor suggest and is not contiguous, else contiguous.

    As the kernels and the built-in operators read strides: a part of a channels-last tensor counts as one, and
    where a size of one leaves a choice the strides that mean nothing decide.
    """
    for tensor in tensors:
        format = suggest_memory_format(tensor)
        if format != torch.contiguous_format:
            return format
    return torch.contiguous_format


def flops_none(*args: Any, **kwargs: Any) -> int:
    """Return 0, as the built-in operators count: moving and weighing data is no product of matrices."""
    return 0


def laid_out(tensor: torch.Tensor, format: torch.memory_format) -> torch.Tensor:
    """Return the tensor with exactly the strides of the format, those of dimensions of size one included."""
    stride = torch.empty(tensor.shape, device="meta", memory_format=format).stride()
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
