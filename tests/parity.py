"""Comparison of a function of torchbp.nn.functional with the built-in one, for the files test_parity_*.py.

One comparison serves all. The truth is the built-in in float64. Results must keep its dtype and strides,
have NaN and infinity where it has them, and be as near to it as the rounding of the dtype allows: for a
layer that is linear in each operand, (number of terms) units of rounding of the sum of the terms' absolute
values, which the built-in itself computes from the absolute values of the operands; otherwise of the
largest result, or twice the error that the built-in makes in that dtype. Gradients are taken for a random
cotangent in the output's layout and for the expanded one that ``sum()`` hands over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

INF, NAN = math.inf, math.nan
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
FORMATS = ("contiguous", "channels_last", "part of channels_last", "permuted", "strided")
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def seed(value: int) -> None:
    """Seed the generator of the CPU; torch.manual_seed looks for other devices, 0.7 ms a call inside pytest."""
    torch.default_generator.manual_seed(value)


def times(count: float) -> settings:
    """Return the chosen profile with another number of examples, in proportion."""
    return settings(max_examples=max(1, int(count * settings().max_examples)))


# --------------------------------------------------------------------------------------------------
# Drawing tensors


def arranged(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values in another layout."""
    if layout == "channels_last" and tensor.dim() in CHANNELS_LAST:
        return tensor.contiguous(memory_format=CHANNELS_LAST[tensor.dim()])
    if layout == "part of channels_last" and tensor.dim() in CHANNELS_LAST:
        return arranged(torch.cat([tensor, tensor], 1), "channels_last")[:, : tensor.shape[1]]
    if layout == "permuted":
        order = tuple(reversed(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute(order)
    if layout == "strided":
        return torch.stack(
            [tensor, torch.full_like(tensor, 7 if tensor.dtype in (torch.int64, torch.int32) else NAN)], dim=-1
        )[..., 0]
    return tensor.contiguous()


def normal(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal draws, representable in ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)


def special(tensor: Tensor, seed: int, values: Sequence[float], share: float) -> Tensor:
    """Put the values at a random share of the places."""
    generator = torch.Generator().manual_seed(seed + 1)
    for value in values:
        tensor = tensor.masked_fill(torch.rand(tensor.shape, generator=generator) < share, value)
    return tensor


seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(FORMATS)
# Mostly a few dozen elements; sometimes one, or none.
shapes = st.lists(st.integers(1, 6), min_size=2, max_size=4) | st.lists(st.integers(0, 3), max_size=3)
sizes = st.integers(1, 4)


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return one strategy in four cases of five and the other in the fifth."""
    return st.integers(0, 4).flatmap(lambda case: rare if case == 4 else usual)


# Now and then as many channels, and as many pixels, as fill vectors and blocks, and a few more.
channel_counts = mostly(sizes, st.sampled_from((8, 17, 33)))
slack = mostly(st.integers(0, 5), st.sampled_from((13, 28)))


def spatial_slack(dimensions: int) -> st.SearchStrategy[list[int]]:
    """Return how much larger than necessary each spatial size is; volumes are large along one dimension at most."""
    if dimensions < 3:
        return st.lists(slack, min_size=dimensions, max_size=dimensions)
    few = st.lists(st.integers(0, 2), min_size=dimensions, max_size=dimensions)
    long = st.integers(0, dimensions - 1).flatmap(
        lambda axis: few.map(lambda sizes: [13 if i == axis else size for i, size in enumerate(sizes)])
    )
    return mostly(few, long)


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def per_dimension(dimensions: int, low: int, high: int) -> st.SearchStrategy[Any]:
    """Return an int, one int in a list, or an int for each dimension."""
    one = st.integers(low, high)
    return one | st.lists(one, min_size=1, max_size=1) | st.tuples(*[one] * dimensions)


def spelled_out(value: Any, dimensions: int) -> tuple[int, ...]:
    """Return an int for each dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return how many windows fit, by the definition; a last one must not start in the right padding."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def holds_input(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> bool:
    """Tell whether every window has a tap inside the input.

    Where one has none, the built-in max pool returns a place outside the plane and its backward writes there.
    """
    starts = (o * stride - padding for o in range(windows(size, kernel, stride, padding, dilation, ceil)))
    return all(any(0 <= start + dilation * k < size for k in range(kernel)) for start in starts)


# --------------------------------------------------------------------------------------------------
# The comparison


def run(
    function: Callable[..., Any], tensors: Sequence[Tensor | None], cotangent: Tensor | str
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs and the gradients of the floating-point tensors, all from fresh leaves."""
    leaves = []
    for tensor in tensors:
        leaf = None if tensor is None else torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        if leaf is not None and tensor is not None:
            leaf = leaf.copy_(tensor).requires_grad_(tensor.is_floating_point())
        leaves.append(leaf)
    result = function(*leaves)
    outputs = list(result) if isinstance(result, tuple) else [result]
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    if isinstance(cotangent, str):
        gradients = torch.autograd.grad(outputs[0].sum(), wanted, allow_unused=True)
    else:
        g = torch.empty_like(outputs[0]).copy_(cotangent)
        gradients = torch.autograd.grad(outputs[0], wanted, g, allow_unused=True)
    assert all(t is None or gradient is not None for t, gradient in zip(wanted, gradients, strict=True))
    return [o.detach() for o in outputs], list(gradients)


def dense(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return contiguous tensors: some built-in backwards refuse others (nll_loss on images)."""
    return [None if t is None else t.contiguous() for t in tensors]


def wide(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t.double() if t is not None and t.is_floating_point() else t for t in tensors]


def magnitudes(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t.abs() if t is not None and t.is_floating_point() else t for t in tensors]


def laid_out(tensor: Tensor) -> list[int]:
    """Return the strides that mean something: those of dimensions with more than one element."""
    return [st for st, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1] if tensor.numel() else []


def near(name: str, actual: Tensor, truth: Tensor, allowed: Tensor | float) -> None:
    """Require equal non-finite places and |actual - truth| <= allowed at all others."""
    assert actual.shape == truth.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    finite = truth.isfinite()
    assert torch.equal(actual.double()[~finite].nan_to_num(nan=7.0), truth[~finite].nan_to_num(nan=7.0)), (
        f"{name}: NaN or infinity elsewhere:\n{actual}\n{truth}"
    )
    assert bool(actual.isfinite()[finite].all()), f"{name}: NaN or infinity elsewhere:\n{actual}\n{truth}"
    excess = ((actual.double() - truth).abs() - allowed)[finite]
    assert not bool((excess > 0).any()), (
        f"{name}: off by up to {float((actual.double() - truth)[finite].abs().max()):.3g}, more than allowed by "
        f"{float(excess.max()):.3g}\n{actual}\n{truth}"
    )


def largest_of(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def parity(
    mine: Callable[..., Any],
    theirs: Callable[..., Any],
    *tensors: Tensor | None,
    terms: float,
    linear: bool = False,
    seed: int = 0,
    narrow: Callable[..., Any] | None = None,
    keep_layout: bool = False,
    roundings: float = 3,
    condition: float = 1,
) -> None:
    """Compare value, gradients, dtype and strides; see the top of this file.

    Args:
        mine: torchbp's function of the tensors.
        theirs: the built-in one.
        tensors: its operands; floating-point ones are differentiated.
        terms: how many numbers at most are added up for one result.
        linear: whether the outputs are linear in each operand, so that absolute operands bound the terms.
        seed: of the cotangent.
        narrow: the built-in for dtype and strides, if it is not ``theirs``.
        keep_layout: whether the built-in must see the operands' layout (it decides the order of random draws).
        roundings: how often a result is rounded to a half-width type on its way.
        condition: by how much a unit of rounding of the operands may grow. For float64, where the truth is itself
            computed with such roundings; in the other dtypes the error that the built-in makes counts them.
    """
    plain = list(tensors) if keep_layout else dense(tensors)
    doubled = wide(plain)
    lowest = next(t.dtype for t in tensors if t is not None and t.is_floating_point())
    unit = torch.finfo(lowest).eps
    # Half-width types are summed in float32 and rounded at the end: once per result and once per bias.
    growth = (terms + 3) * unit if unit < 1e-6 else (terms + 3) * torch.finfo(torch.float32).eps + roundings * unit
    # Without oneDNN, whose 1x1 strided channels-last convolutions read out of bounds (bfloat16, padding 2).
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None, fp32_precision=None):
        native = (narrow or theirs)(*tensors)
    native = list(native) if isinstance(native, tuple) else [native]
    random = normal(native[0].shape, seed + 2).to(lowest).double()
    for kind, cotangent in (("random", random), ("sum", "sum")):
        values, gradients = run(mine, tensors, cotangent)
        true_values, true_gradients = run(theirs, doubled, cotangent)
        names = [*("value" if i == 0 else f"output {i}" for i in range(len(values)))]
        names += [f"gradient {i} for a {kind} cotangent" for i in range(len(gradients))]
        assert len(values) == len(native)
        for name, value, expected in zip(names, values, native, strict=False):
            assert value.dtype == expected.dtype, f"{name}: {value.dtype}, expected {expected.dtype}"
            assert laid_out(value) == laid_out(expected), f"{name}: {value.stride()}, expected {expected.stride()}"
        wanted = [t for t in tensors if t is not None and t.is_floating_point()]
        for gradient, tensor in zip(gradients, wanted, strict=True):
            assert gradient.dtype == tensor.dtype, f"gradient: {gradient.dtype}, expected {tensor.dtype}"
        if linear:
            absolute = cotangent if isinstance(cotangent, str) else cotangent.abs()
            bounds = [growth * part.abs() for parts in run(theirs, magnitudes(doubled), absolute) for part in parts]
        else:
            other_values, other_gradients = run(theirs, plain, cotangent)
            bounds, grown = [], growth * (condition if lowest == torch.float64 else 1)
            for truth, other in zip([*true_values, *true_gradients], [*other_values, *other_gradients], strict=True):
                both_finite = truth.isfinite() & other.isfinite()
                error = largest_of((other.double() - truth)[both_finite])
                bounds.append(max(grown * max(1.0, largest_of(truth[both_finite])), 2 * error))
        everything = zip(names, [*values, *gradients], [*true_values, *true_gradients], bounds, strict=True)
        for name, actual, truth, bound in everything:
            if truth.is_floating_point():
                near(name, actual, truth, bound)
            else:
                assert torch.equal(actual, truth), f"{name}:\n{actual}\n{truth}"


def refused_alike(
    mine: Callable[..., Any], theirs: Callable[..., Any], says: str, *given: Any, **keywords: Any
) -> None:
    """Require that ours raises the built-in's type of exception, and what its message says."""
    with pytest.raises(Exception) as expected:
        theirs(*given, **keywords)
    with pytest.raises(expected.type, match=says):
        mine(*given, **keywords)
