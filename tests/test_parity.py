"""Every function of torchbp.nn.functional against the built-in one, for arguments drawn by Hypothesis.

One comparison serves all. The truth is the built-in in float64. Results must keep its dtype and strides,
have NaN and infinity where it has them, and be as near to it as the rounding of the dtype allows: for a
layer that is linear in each operand, (number of terms) units of rounding of the sum of the terms' absolute
values, which the built-in itself computes from the absolute values of the operands; otherwise of the
largest result, or twice the error that the built-in makes in that dtype. Gradients are taken for a random
cotangent in the output's layout and for the expanded one that ``sum()`` hands over.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchbp.nn import functional as F

INF, NAN = math.inf, math.nan
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
FORMATS = ("contiguous", "channels_last", "permuted", "strided")


def times(count: float) -> settings:
    """Return the chosen profile with another number of examples, in proportion."""
    return settings(max_examples=max(1, int(count * settings().max_examples)))


# --------------------------------------------------------------------------------------------------
# Drawing tensors


def arranged(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values in another layout."""
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":
        order = tuple(reversed(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute(order)
    if layout == "strided":
        return torch.stack([tensor, torch.full_like(tensor, NAN)], dim=-1)[..., 0]
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
# Now and then as many channels, and as many pixels, as fill vectors and blocks, and a few more.
channel_counts = sizes | sizes | sizes | sizes | st.sampled_from((8, 17, 33))
small_slack = st.integers(0, 5)
slack = small_slack | small_slack | small_slack | small_slack | st.sampled_from((13, 28))


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def pair(low: int, high: int) -> st.SearchStrategy[Any]:
    """Return an int, one int in a list, or two ints."""
    one = st.integers(low, high)
    return one | st.lists(one, min_size=1, max_size=1) | st.tuples(one, one)


def both(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


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
    terms: int,
    linear: bool = False,
    seed: int = 0,
    narrow: Callable[..., Any] | None = None,
    keep_layout: bool = False,
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
    """
    plain = list(tensors) if keep_layout else dense(tensors)
    doubled = wide(plain)
    lowest = next(t.dtype for t in tensors if t is not None and t.is_floating_point())
    unit = torch.finfo(lowest).eps
    # Half-width types are summed in float32 and rounded at the end: once per result and once per bias.
    growth = (terms + 3) * unit if unit < 1e-6 else (terms + 3) * torch.finfo(torch.float32).eps + 3 * unit
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
            bounds = [growth * part for parts in run(theirs, magnitudes(doubled), absolute) for part in parts]
        else:
            other_values, other_gradients = run(theirs, plain, cotangent)
            bounds = []
            for truth, other in zip([*true_values, *true_gradients], [*other_values, *other_gradients], strict=True):
                both_finite = truth.isfinite() & other.isfinite()
                error = largest_of((other.double() - truth)[both_finite])
                bounds.append(max(growth * max(1.0, largest_of(truth[both_finite])), 2 * error))
        everything = zip(names, [*values, *gradients], [*true_values, *true_gradients], bounds, strict=True)
        for name, actual, truth, bound in everything:
            if truth.is_floating_point():
                near(name, actual, truth, bound)
            else:
                assert torch.equal(actual, truth), f"{name}:\n{actual}\n{truth}"


# --------------------------------------------------------------------------------------------------
# Linear


@st.composite
def linear_arguments(draw: st.DrawFn) -> dict[str, Any]:
    inputs, outputs = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    vector = draw(st.integers(0, 4)) == 0
    lead = draw(st.lists(st.integers(0, 3), max_size=3))
    seed, dtype = draw(seeds), draw(dtypes)
    x = arranged(normal([*lead, inputs], seed, dtype), draw(layouts))
    weight_shape = [inputs] if vector else [outputs, inputs]
    w = arranged(normal(weight_shape, seed + 3, dtype), draw(layouts))
    # To a matrix times a vector the built-in adds no bias.
    biased = draw(st.booleans()) and not (vector and len(lead) == 1)
    b = normal(() if vector else (outputs,), seed + 4, dtype) if biased else None
    return {"tensors": (x, w, b), "terms": max(inputs, outputs, math.prod(lead)), "seed": seed}


@given(linear_arguments())
@times(1.5)
def test_linear(arguments: dict[str, Any]) -> None:
    parity(F.linear, builtin.linear, *arguments.pop("tensors"), linear=True, **arguments)


@st.composite
def bilinear_arguments(draw: st.DrawFn) -> dict[str, Any]:
    one, two, outputs = draw(sizes), draw(sizes), draw(sizes)
    lead = draw(st.lists(st.integers(0, 3), max_size=2))
    seed, dtype = draw(seeds), draw(dtypes)
    shapes = ([*lead, one], [*lead, two], [outputs, one, two])
    tensors = [arranged(normal(s, seed + i, dtype), draw(layouts)) for i, s in enumerate(shapes)]
    b = normal((outputs,), seed + 4, dtype) if draw(st.booleans()) else None
    return {"tensors": (*tensors, b), "terms": max(one * two, outputs * 4, math.prod(lead)), "seed": seed}


@given(bilinear_arguments())
@times(1)
def test_bilinear(arguments: dict[str, Any]) -> None:
    parity(F.bilinear, builtin.bilinear, *arguments.pop("tensors"), linear=True, **arguments)


# --------------------------------------------------------------------------------------------------
# Convolution


@st.composite
def convolution_arguments(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(("full", "grouped", "depthwise", "multiplier")))
    groups = 1 if kind == "full" else draw(st.integers(1, 3) if kind == "grouped" else channel_counts)
    per_input = draw(channel_counts if kind == "full" else sizes) if kind in ("full", "grouped") else 1
    per_output = 1 if kind == "depthwise" else draw(channel_counts if kind == "full" else sizes)
    channels, outputs = groups * per_input, groups * per_output
    kernel, dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3))), draw(pair(1, 3))
    padding = draw(pair(0, 2) | st.sampled_from(("same", "valid")))
    stride = 1 if padding == "same" else draw(pair(1, 4))
    pads = (0, 0) if isinstance(padding, str) else both(padding)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, both(dilation), pads, strict=True)]
    spatial = [low + draw(slack) for low in least]
    batch = draw(st.none() | st.integers(0, 3))
    seed, dtype = draw(seeds), draw(dtypes)
    x = arranged(normal([*([] if batch is None else [batch]), channels, *spatial], seed, dtype), draw(layouts))
    w = arranged(normal([outputs, per_input, *kernel], seed + 3, dtype), draw(layouts))
    b = normal([outputs], seed + 4, dtype) if draw(st.booleans()) else None
    taps = math.prod(kernel)
    terms = max(taps * per_input, taps * per_output, (batch or 1) * math.prod(s + 4 for s in spatial))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return {"tensors": (x, w, b), "options": options, "terms": terms, "seed": seed}


@given(convolution_arguments())
@times(4)
def test_conv2d(arguments: dict[str, Any]) -> None:
    options, tensors = arguments.pop("options"), arguments.pop("tensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        parity(partial(F.conv2d, **options), partial(builtin.conv2d, **options), *tensors, linear=True, **arguments)


# --------------------------------------------------------------------------------------------------
# Pooling


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


@st.composite
def pool_geometry(draw: st.DrawFn, dilated: bool) -> tuple[list[int], dict[str, Any]]:
    """Draw a spatial size and the arguments of a pool that has at least one window."""
    kernel = draw(pair(1, 4))
    k = both(kernel)
    options: dict[str, Any] = {"kernel_size": kernel}
    stride = draw(st.none() | pair(1, 5))
    if stride is not None or draw(st.booleans()):
        options["stride"] = stride
    padding = draw(st.integers(0, min(k) // 2) | st.tuples(*(st.integers(0, v // 2) for v in k)))
    if padding != 0:
        options["padding"] = padding
    if dilated:
        options["dilation"] = draw(pair(1, 3))
    options["ceil_mode"] = draw(st.booleans())
    spread, pads = both(options.get("dilation", 1)), both(padding)
    least = [max(1, d * (v - 1) + 1 - 2 * p) for v, d, p in zip(k, spread, pads, strict=True)]
    spatial = [low + draw(slack) for low in least]
    return spatial, options


def image(draw: st.DrawFn, spatial: Sequence[int], values: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
    """Draw (N, C, *spatial) or (C, *spatial), perhaps without a batch."""
    batch = draw(st.none() | st.integers(0, 3))
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal([*([] if batch is None else [batch]), draw(channel_counts), *spatial], seed, dtype)
    return arranged(x if values is None else values(x, seed), draw(layouts))


@st.composite
def max_pool_arguments(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    spatial, options = draw(pool_geometry(dilated=True).filter(lambda drawn: every_window_holds_input(*drawn)))
    kind = draw(st.sampled_from(("normal", "ties", "constant", "nan", "minus infinity", "infinite")))

    def values(x: Tensor, seed: int) -> Tensor:
        return {
            "normal": lambda: x,
            "ties": lambda: x.round(),
            "constant": lambda: torch.zeros_like(x),
            "nan": lambda: special(x, seed, [NAN], 0.4),
            "minus infinity": lambda: special(x, seed, [-INF], 0.8),
            "infinite": lambda: special(x.round(), seed, [INF, -INF, NAN], 0.3),
        }[kind]()

    options["return_indices"] = draw(st.booleans())
    return image(draw, spatial, values), options


def every_window_holds_input(spatial: Sequence[int], options: dict[str, Any]) -> bool:
    stride = options.get("stride")
    lists = (
        both(options["kernel_size"]),
        both(options["kernel_size"] if stride is None else stride),
        both(options.get("padding", 0)),
        both(options.get("dilation", 1)),
    )
    return all(holds_input(size, *one, options["ceil_mode"]) for size, *one in zip(spatial, *lists, strict=True))


@given(max_pool_arguments())
@times(4)
def test_max_pool2d(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    """Values and places are exact; a gradient adds up what an input won, at most 16 taps of 16 windows."""
    x, options = arguments
    parity(partial(F.max_pool2d, **options), partial(builtin.max_pool2d, **options), x, terms=256)


@st.composite
def average_pool_arguments(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    spatial, options = draw(pool_geometry(dilated=False))
    if draw(st.booleans()):
        options["count_include_pad"] = draw(st.booleans())
    divisor = draw(st.none() | st.sampled_from((1, 3, -2, 7)))
    if divisor is not None:
        options["divisor_override"] = divisor
    return image(draw, spatial), options


@given(average_pool_arguments())
@times(3)
def test_avg_pool2d(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    x, options = arguments
    parity(partial(F.avg_pool2d, **options), partial(builtin.avg_pool2d, **options), x, terms=32)


@st.composite
def adaptive_arguments(draw: st.DrawFn) -> tuple[Tensor, Any]:
    size = draw(st.integers(1, 9) | st.tuples(some(st.integers(1, 9)), some(st.integers(1, 9))))
    return image(draw, [1 + draw(slack), 1 + draw(slack)]), size


@given(adaptive_arguments())
@times(2)
def test_adaptive_avg_pool2d(arguments: tuple[Tensor, Any]) -> None:
    x, size = arguments
    mine, theirs = (
        partial(F.adaptive_avg_pool2d, output_size=size),
        partial(builtin.adaptive_avg_pool2d, output_size=size),
    )
    parity(mine, theirs, x, terms=31 * 31)


# --------------------------------------------------------------------------------------------------
# Activations


def scaled_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x * (2 / 3)) * 1.7159


ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], dict[str, st.SearchStrategy[Any]]]] = {
    "relu": (F.relu, builtin.relu, {}),
    "leaky_relu": (F.leaky_relu, builtin.leaky_relu, {"negative_slope": st.sampled_from((0.01, 0.0, 0.3, -0.5, 2.0))}),
    "sigmoid": (F.sigmoid, torch.sigmoid, {}),
    "tanh": (F.tanh, torch.tanh, {}),
    "scaled_tanh": (F.scaled_tanh, scaled_tanh, {}),
    "softplus": (
        F.softplus,
        builtin.softplus,
        {"beta": st.sampled_from((1, 0.5, 2.0)), "threshold": st.sampled_from((20, 1.0, 0.0))},
    ),
    "gelu": (F.gelu, builtin.gelu, {"approximate": st.sampled_from(("none", "tanh"))}),
    "silu": (F.silu, builtin.silu, {}),
}


@st.composite
def activation_arguments(draw: st.DrawFn, name: str) -> tuple[Tensor, dict[str, Any], int]:
    options = {key: draw(strategy) for key, strategy in ACTIVATIONS[name][2].items() if draw(st.booleans())}
    shape = draw(shapes)
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 5, 30)))
    # The built-in float32 gelu of infinity is NaN where its vector code runs, and infinity where it does not.
    infinite = [] if name == "gelu" else [INF, -INF]
    specials = draw(st.sampled_from(([], [0.0, -0.0], infinite, [NAN])))
    return arranged(special(x, seed, specials, 0.3), draw(layouts)), options, seed


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(st.data())
@times(1)
def test_activation(name: str, data: st.DataObject) -> None:
    x, options, seed = data.draw(activation_arguments(name))
    mine, theirs, _ = ACTIVATIONS[name]
    parity(partial(mine, **options), partial(theirs, **options), x, terms=64 if name == "gelu" else 4, seed=seed)


@st.composite
def softmax_arguments(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any], int]:
    shape = draw(shapes)
    dimensions = max(1, len(shape))
    options: dict[str, Any] = {"dim": draw(st.integers(-dimensions, dimensions - 1))}
    if draw(st.booleans()):
        options["dtype"] = draw(st.sampled_from((None, *DTYPES)))
    seed, dtype = draw(seeds), draw(dtypes)
    x = normal(shape, seed, dtype) * draw(st.sampled_from((1, 20)))
    specials = draw(st.sampled_from(([], [-INF], [NAN])))
    return arranged(special(x, seed, specials, 0.2), draw(layouts)), options, seed


@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
@given(softmax_arguments())
@times(1.5)
def test_softmax(name: str, arguments: tuple[Tensor, dict[str, Any], int]) -> None:
    x, options, seed = arguments
    exact = {**options, "dtype": torch.float64}
    mine, theirs, narrow = (
        partial(getattr(F, name), **options),
        partial(getattr(builtin, name), **exact),
        partial(getattr(builtin, name), **options),
    )
    lowest = max((x.dtype, options.get("dtype") or x.dtype), key=lambda d: torch.finfo(d).eps)
    # Where the dtype argument is the coarser of the two it rounds what goes in and what comes out.
    factor = round(torch.finfo(lowest).eps / torch.finfo(x.dtype).eps) if lowest != x.dtype else 1
    parity(mine, theirs, x, terms=64 * factor, seed=seed, narrow=narrow)


# --------------------------------------------------------------------------------------------------
# Normalisation


@st.composite
def batch_norm_arguments(draw: st.DrawFn) -> dict[str, Any]:
    training, affine, tracked = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    channels = draw(channel_counts)
    spatial = draw(st.lists(sizes, max_size=3) | st.lists(slack.map(lambda n: n + 1), max_size=2))
    batch = draw(st.integers(2, 4))
    seed, dtype = draw(seeds), draw(st.sampled_from((torch.float64, torch.float32)))
    x = arranged(normal([batch, channels, *spatial], seed, dtype) * 2 + 1, draw(layouts))
    w, b = (normal([channels], seed + i, dtype) if affine else None for i in (3, 4))
    statistics = None
    if tracked or not training:
        statistics = (normal([channels], seed + 5, dtype), normal([channels], seed + 6, dtype).abs() + 0.5)
    options = {
        "training": training,
        "momentum": draw(st.sampled_from((0.1, 0.0, 1.0, 0.37))),
        "eps": draw(st.sampled_from((1e-5, 1e-2))),
    }
    return {"tensors": (x, w, b), "statistics": statistics, "options": options, "seed": seed}


@given(batch_norm_arguments())
@times(3)
def test_batch_norm(arguments: dict[str, Any]) -> None:
    """Also what the call leaves in the running statistics."""
    statistics, options = arguments["statistics"], arguments["options"]
    left: dict[str, list[Tensor]] = {}

    def of(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
            mean, variance = (t.to(x.dtype).clone() for t in statistics) if statistics else (None, None)
            y = function(x, mean, variance, w, b, **options)
            if statistics:
                left[name] = [mean, variance]
            return y

        return call

    x, w, b = arguments["tensors"]
    parity(
        of("mine", F.batch_norm), of("theirs", builtin.batch_norm), x, w, b, terms=8 * x.numel(), seed=arguments["seed"]
    )
    if statistics:
        of("theirs", builtin.batch_norm)(*wide((x, w, b)))
        of("mine", F.batch_norm)(x, w, b)
        for actual, truth in zip(left["mine"], left["theirs"], strict=True):
            near(
                "running statistics", actual, truth, 8 * x.numel() * torch.finfo(x.dtype).eps * float(truth.abs().max())
            )


# --------------------------------------------------------------------------------------------------
# Dropout


@given(st.data())
@times(1.5)
def test_dropout(data: st.DataObject) -> None:
    """The draws are the built-in's for the same seed, so values and gradients are equal."""
    seed, dtype = data.draw(seeds), data.draw(dtypes)
    shape = data.draw(shapes)
    x = arranged(normal(shape, seed, dtype), data.draw(layouts))
    p = data.draw(st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0)))
    training = data.draw(st.integers(0, 4)) > 0

    def seeded(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return function(x, p, training)

        return call

    parity(seeded(F.dropout), seeded(builtin.dropout), x, terms=1, linear=True, seed=seed, keep_layout=True)


# --------------------------------------------------------------------------------------------------
# Losses

reductions = st.sampled_from(("mean", "sum", "none"))


@st.composite
def class_arguments(draw: st.DrawFn, smoothing: bool) -> dict[str, Any]:
    """Draw scores (C) or (N, C, *extra), and class indices or probabilities."""
    classes, seed = draw(st.integers(1, 5)), draw(seeds)
    dtype = draw(st.sampled_from((torch.float64, torch.float32)))
    unbatched = draw(st.integers(0, 4)) == 0
    lead = [] if unbatched else [draw(st.integers(1, 4))]
    extra = [] if unbatched else draw(st.lists(st.integers(1, 3), max_size=2))
    x = normal([*lead, classes, *extra], seed, dtype) * 2
    x = arranged(special(x, seed, draw(st.sampled_from(([], [], [-INF], [NAN]))), 0.15), draw(layouts))
    options: dict[str, Any] = {"reduction": draw(reductions)}
    if draw(st.booleans()):
        options["weight"] = normal([classes], seed + 5, dtype).abs() + 0.1
    if smoothing and draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from((0.0, 0.1, 1.0)))
    if smoothing and draw(st.integers(0, 2)) == 0:
        target = torch.softmax(normal(x.shape, seed + 6), 0 if unbatched else 1).to(dtype)
    else:
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(classes, (*lead, *extra), generator=generator)
        ignored = draw(st.sampled_from((None, -100, -3, 0)))
        if ignored is not None:
            options["ignore_index"] = ignored
            target = special(target, seed, [ignored], 0.3)
    return {"x": x, "target": target, "options": options, "seed": seed}


@pytest.mark.parametrize("name", ("nll_loss", "cross_entropy"))
@given(st.data())
@times(3)
def test_class_loss(name: str, data: st.DataObject) -> None:
    arguments = data.draw(class_arguments(smoothing=name == "cross_entropy"))
    options = arguments["options"]

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, target: Tensor) -> Tensor:
            cast = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
            return function(x, target, **cast)

        return call

    mine, theirs = of(getattr(F, name)), of(getattr(builtin, name))
    x = arguments["x"]
    parity(mine, theirs, x, arguments["target"], terms=4 * x.numel(), seed=arguments["seed"])


@given(st.data())
@times(1.5)
def test_mse_loss(data: st.DataObject) -> None:
    seed = data.draw(seeds)
    dtype = data.draw(st.sampled_from((torch.float64, torch.float32)))
    shape = data.draw(shapes)
    x, target = (arranged(normal(shape, seed + i, dtype), data.draw(layouts)) for i in (0, 3))
    options: dict[str, Any] = {"reduction": data.draw(reductions)}
    if data.draw(st.booleans()):
        options["weight"] = normal(shape, seed + 5).abs() + 0.1

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, target: Tensor) -> Tensor:
            cast = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
            return function(x, target, **cast)

        return call

    parity(of(F.mse_loss), of(builtin.mse_loss), x, target, terms=4 * x.numel(), seed=seed)
