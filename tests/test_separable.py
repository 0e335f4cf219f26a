"""Padding, interpolation, unfolding and folding: separable linear maps by one kernel.

The kernel against the composite formulas and against itself (adjoint, dtypes, threads), the functions against the
built-in ones for arguments drawn by Hypothesis, and what the built-in gets wrong, so that neither changes unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import assume, given
from hypothesis import strategies as st
from parity import arranged, channel_counts, dtypes, layouts, normal, parity, seeds, times
from torch import Tensor

from torchbp import autograd, ops
from torchbp.nn import functional as F
from torchbp.ops.registry import KERNEL_DTYPES

FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
MODES = {
    1: ("nearest", "nearest-exact", "linear", "area"),
    2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    3: ("nearest", "nearest-exact", "trilinear", "area"),
}
ANTIALIASED = ("bilinear", "bicubic", "lanczos") if hasattr(torch.ops.aten, "_upsample_lanczos2d_aa") else MODES[2][2:4]


# --------------------------------------------------------------------------------------------------
# The operators: pairs (forward, adjoint) with arguments, over every mode and dimension

Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Sequence[int]]


def pairs() -> dict[str, Pair]:
    """Return the operators by name, as functions of the tensor, and the spatial size that they take."""
    found: dict[str, Pair] = {}
    for n in (1, 2, 3):
        size = [13, 9, 21][-n:]
        padding = [5, 3, -2, 4, 1, 0][: 2 * n]
        for mode in ops.padding.MODES:
            found[f"pad {mode} {n}d"] = (
                partial(ops.padding.pad, padding=padding, mode=mode),
                partial(ops.padding.pad_adjoint, input_size=size, padding=padding, mode=mode),
                size,
            )
        methods = [("nearest", False, False), ("nearest-exact", False, False), ("linear", False, False)]
        methods += [("linear", True, False)]
        if n == 2:
            methods += [("cubic", False, False), ("cubic", True, False)]
            methods += [(mode, False, True) for mode in ("linear", "cubic", "lanczos")]
        for mode, corners, antialias in methods:
            for output in ([40, 31, 50][-n:], [5, 4, 6][-n:], [2 * s for s in size], size):
                for scales in ([], [1.3, 0.9, 2.2][:n]):
                    options = dict(mode=mode, align_corners=corners, antialias=antialias, scales=scales)
                    found[f"interpolate {mode} {corners} {antialias} {output} {scales}"] = (
                        partial(ops.interpolation.interpolate, output_size=output, **options),
                        partial(ops.interpolation.interpolate_adjoint, input_size=size, **options),
                        size,
                    )
        for kernel, stride, pad, dilation in ((3, 1, 1, 1), (2, 3, 2, 2), (4, 2, 0, 1), (1, 1, 0, 1), (3, 4, 3, 2)):
            window = dict(kernel_size=[kernel] * n, stride=[stride] * n, padding=[pad] * n, dilation=[dilation] * n)
            found[f"unfold {kernel} {stride} {pad} {dilation} {n}d"] = (
                partial(ops.folding.unfold, **window),
                partial(ops.folding.fold, output_size=size, **window),
                size,
            )
    return found


PAIRS = pairs()


def images(size: Sequence[int], dtype: torch.dtype, channels: int = 5) -> list[Tensor]:
    """Return one image in every layout."""
    x = normal((2, channels, *size), 3).to(dtype)
    return [
        x,
        x.contiguous(memory_format=FORMATS[len(size)]),
        arranged(x, "permuted"),
        arranged(x, "strided"),
        torch.cat([x, x], 1).contiguous(memory_format=FORMATS[len(size)])[:, :channels],
        x[:1].expand(2, *x.shape[1:]),
    ]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) / max(1.0, float(b.double().abs().max())) if a.numel() else 0.0


@pytest.mark.parametrize("name", PAIRS)
def test_adjoint_identity(name: str) -> None:
    forward, adjoint, size = PAIRS[name]
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        for x in images(size, dtype):
            y = forward(x)
            g = torch.empty_like(y).copy_(normal(y.shape, 4))
            gx = adjoint(g)
            assert gx.shape == x.shape and gx.dtype == y.dtype == dtype
            left, right = (y.double() * g.double()), (x.double() * gx.double())
            assert abs(float(left.sum() - right.sum())) <= tolerance * max(1.0, float(left.abs().sum()))


@pytest.mark.parametrize("name", PAIRS)
def test_dtypes_and_layouts_agree(name: str) -> None:
    """float32 is near float64, half-width types are float32 rounded once, and the layout changes nothing."""
    forward, adjoint, size = PAIRS[name]
    x = images(size, torch.float64)[0]
    for function, argument in ((forward, x), (adjoint, normal(forward(x).shape, 4))):
        exact = function(argument)
        single = function(argument.float())
        assert distance(single, exact) < 2e-5 or "nearest" in name
        for half in (torch.bfloat16, torch.float16):
            assert torch.equal(function(argument.to(half)), function(argument.to(half).float()).to(half))
        for other in (arranged(argument, "permuted"), arranged(argument, "strided")):
            assert distance(function(other), exact) < 1e-13
        if argument.dim() > 3:
            last = argument.contiguous(memory_format=FORMATS[argument.dim() - 2])
            assert distance(function(last), exact) < 1e-13


# The pairs differ in their tables, not in how their rows are split: the quick part takes every third.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if i % 3 else []) for i, name in enumerate(PAIRS)]
)
def test_same_bits_for_every_number_of_threads(name: str) -> None:
    forward, adjoint, size = PAIRS[name]
    threads = torch.get_num_threads()
    for x in images(size, torch.float32, channels=40)[:2]:
        g = torch.empty_like(forward(x)).copy_(normal(forward(x).shape, 4))
        results = []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append((forward(x), adjoint(g)))
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for later in results[1:] for a, b in zip(later, results[0], strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_vmap_equals_a_loop(name: str) -> None:
    forward, _, size = PAIRS[name]
    maps = {"pad": autograd.padding.pad, "interpolate": autograd.interpolation.interpolate}
    function = maps.get(name.split()[0], autograd.folding.unfold)
    x = normal((2, 3, *size, 2), 5)
    together = torch.vmap(lambda x: function(x, **forward.keywords), in_dims=-1, out_dims=1)(x)  # type: ignore[attr-defined]
    assert torch.equal(together, torch.stack([forward(x[..., k]) for k in (0, 1)], 1))


@pytest.mark.parametrize("name", PAIRS)
def test_an_empty_batch(name: str) -> None:
    forward, adjoint, size = PAIRS[name]
    for channels in (0, 3):
        y = forward(torch.empty(0, channels, *size))
        assert y.shape[0] == 0 and adjoint(y).shape == (0, channels, *size)


def test_every_kernel_dtype_is_meant() -> None:
    assert {torch.float64, torch.float32, torch.bfloat16, torch.float16} == KERNEL_DTYPES


@given(st.integers(1, 3), st.data())
def test_rows_longer_than_vectors(n: int, data: st.DataObject) -> None:
    """Sizes around the vector lengths and the blocks of channels, kernel against composite formula."""
    edges = st.sampled_from((1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130))
    size = [data.draw(st.integers(1, 4)) for _ in range(n - 1)] + [data.draw(edges)]
    last = n > 1 and data.draw(st.booleans())
    x = normal((1, data.draw(st.sampled_from((1, 3, 17, 129, 257, 300)) if last else st.just(2)), *size), 6)
    x = x.to(data.draw(st.sampled_from((torch.float32, torch.float64))))
    if last:
        x = x.contiguous(memory_format=FORMATS[n])
    kind = data.draw(st.sampled_from(("pad", "interpolate", "unfold")))
    if kind == "pad":
        mode = data.draw(st.sampled_from(ops.padding.MODES))
        padding = [data.draw(st.integers(0, size[-1 - i // 2] - (mode == "reflect"))) for i in range(2 * n)]
        arguments: tuple[Any, ...] = (padding, mode)
        formula, back = ops.padding._composite_pad, ops.padding._composite_pad_adjoint
        forward, adjoint = ops.padding.pad, ops.padding.pad_adjoint
    elif kind == "interpolate":
        output = [data.draw(st.integers(1, 4)) for _ in range(n - 1)] + [data.draw(edges)]
        nearest = data.draw(st.booleans())
        arguments = (output, "nearest" if nearest else "linear", not nearest and data.draw(st.booleans()), False, [])
        formula, back = ops.interpolation._composite_interpolate, ops.interpolation._composite_interpolate_adjoint
        forward, adjoint = ops.interpolation.interpolate, ops.interpolation.interpolate_adjoint
    else:
        window, step = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
        assume(min(size) + 2 >= window)
        arguments = ([window] * n, [step] * n, [1] * n, [1] * n)
        formula, back = ops.folding._composite_unfold, ops.folding._composite_fold
        forward, adjoint = ops.folding.unfold, ops.folding.fold
    tolerance = 1e-13 if x.dtype == torch.float64 else 2e-6
    y = forward(x, *arguments)
    assert distance(y, formula(x, *arguments)) < tolerance
    g = torch.empty_like(y).copy_(normal(y.shape, 7))
    rest = arguments[1:] if kind == "interpolate" else arguments
    assert distance(adjoint(g, size, *rest), back(g, size, *rest)) < 4 * tolerance


@pytest.mark.parametrize(
    ("size", "output"),
    [((40, 600), (90, 1200)), ((3, 40, 300), (6, 80, 700)), ((40, 5, 300), (70, 6, 600)), ((3, 40, 300), (6, 60, 300))],
)
def test_enlarging_planes_that_are_done_block_by_block(size: Sequence[int], output: Sequence[int]) -> None:
    x = normal((1, 2, *size), 8)
    for mode in ("linear", "nearest", *(["cubic"] if len(size) == 2 else [])):
        for dtype, tolerance in ((torch.float32, 2e-4 if mode != "nearest" else 0), (torch.float64, 1e-12)):
            arguments = (output, mode, False, False, [])
            y = ops.interpolation.interpolate(x.to(dtype), *arguments)
            assert distance(y, ops.interpolation._composite_interpolate(x.to(dtype), *arguments)) <= tolerance


# --------------------------------------------------------------------------------------------------
# The functions against the built-in

spatial_sizes = st.integers(1, 9) | st.sampled_from((17, 33))


def picture(draw: st.DrawFn, spatial: Sequence[int], batched: bool) -> Tensor:
    """Draw (N, C, *spatial), or perhaps (C, *spatial)."""
    batch = [draw(st.integers(0, 2))] if batched or draw(st.booleans()) else []
    x = normal([*batch, draw(channel_counts if len(spatial) < 3 else st.integers(1, 5)), *spatial], draw(seeds))
    # The built-in takes one volume (C, D, H, W) for many channels-last images; to us it is one.
    layout = draw(layouts.filter(lambda name: name != "channels_last") if len(spatial) == 3 else layouts)
    return arranged(x.to(draw(dtypes)), layout)


def spatial(draw: st.DrawFn, n: int) -> list[int]:
    return [draw(spatial_sizes if n < 3 else st.integers(1, 6)) for _ in range(n)]


@st.composite
def padded(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    n, mode = draw(st.integers(1, 3)), draw(st.sampled_from(("reflect", "replicate", "circular")))
    size = spatial(draw, n)
    pad: list[int] = []
    for length in reversed(size):
        most = {"reflect": length - 1, "replicate": 7, "circular": length}[mode]
        before = draw(st.integers(-length + 1, most))
        # No more is wrapped around than is left, or the built-in reads what nobody wrote.
        left = length + min(before, 0)
        after = draw(st.integers(1 - left if before >= 0 else 0, min(most, left)))
        if mode == "circular" and after < 0:
            before = min(before, length + after)
        pad += [before, after]
    x = picture(draw, size, False)
    assume(0 not in x.shape[-n - 1 :])
    return x, {"pad": pad, "mode": mode}


@given(padded())
@times(2)
def test_pad_repeats(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    x, options = arguments
    parity(partial(F.pad, **options), partial(builtin.pad, **options), x, terms=64)


@given(st.data())
@times(2)
def test_pad_constant(data: st.DataObject) -> None:
    size = data.draw(st.lists(st.integers(1, 5), max_size=5))
    x = normal(size, data.draw(seeds)).to(data.draw(dtypes))
    x = arranged(x, data.draw(layouts)) if size else x
    options: dict[str, Any] = {"pad": []}
    for length in reversed(size[data.draw(st.integers(0, len(size))) :]):
        before = data.draw(st.integers(-length, 4))
        options["pad"] += [before, data.draw(st.integers(-length - min(before, 0), 4))]
    if data.draw(st.booleans()):
        options["value"] = data.draw(st.sampled_from((0, 1, 2.5, -1.0, math.inf, math.nan, True)))
    parity(partial(F.pad, **options), partial(builtin.pad, **options), x, terms=1)


@st.composite
def resized(draw: st.DrawFn, mode_of: Callable[[int], Sequence[str]], dimensions: Sequence[int]) -> tuple[Tensor, dict]:
    n = draw(st.sampled_from(dimensions))
    options: dict[str, Any] = {"mode": draw(st.sampled_from(mode_of(n)))}
    size = spatial(draw, n)
    if draw(st.booleans()):
        options["size"] = draw(spatial_sizes) if n < 3 and draw(st.booleans()) else spatial(draw, n)
    else:
        scale = st.sampled_from((0.5, 2, 3.0, 1.1, 1.7)) | st.floats(0.3, 3)
        options["scale_factor"] = draw(scale | st.tuples(*(scale for _ in range(n))))
        options["recompute_scale_factor"] = draw(st.none() | st.booleans())
    if options["mode"] in ("linear", "bilinear", "bicubic", "trilinear"):
        options["align_corners"] = draw(st.none() | st.booleans())
    x = picture(draw, size, True)
    target = options.get("size", options.get("scale_factor"))
    targets = target if isinstance(target, list | tuple) else [target] * n
    assume("size" in options or all(int(s * t) >= 1 for s, t in zip(size, targets, strict=True)))
    return x, options


def keeps_a_scaled_axis(x: Tensor, options: dict[str, Any]) -> bool:
    """Tell whether an axis keeps its size although a scale is given: there the built-in's gradient is another map's."""
    y = builtin.interpolate(x[:1].expand(1, *x.shape[1:]) if x.shape[0] else x.new_zeros(1, *x.shape[1:]), **options)
    kept = any(a == b for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
    return kept and "scale_factor" in options and not options["recompute_scale_factor"]


@given(resized(lambda n: MODES[n][2:], (1, 2, 3)))
@times(3)
def test_interpolate_weighted(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    x, options = arguments
    assume(not (options["mode"] == "bicubic" and keeps_a_scaled_axis(x, options)))
    # A coordinate's rounding grows with it: as many units as the image has elements.
    parity(partial(F.interpolate, **options), partial(builtin.interpolate, **options), x, terms=max(64, *x.shape[2:]))


@given(resized(lambda n: ANTIALIASED, (2,)))
@times(2)
def test_interpolate_antialiased(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    x, options = arguments
    x = x if x.dtype == torch.float64 else x.float()  # the built-in has no other
    options["antialias"] = True
    assume(not keeps_a_scaled_axis(x, options))
    assume(builtin.interpolate(x.new_zeros(1, 1, *x.shape[2:]), **options).shape[-1] > 1)  # see below
    parity(partial(F.interpolate, **options), partial(builtin.interpolate, **options), x, terms=256)


@given(resized(lambda n: MODES[n][:2], (1, 2, 3)))
@times(2)
def test_interpolate_nearest(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    """Against a gather from where the built-in reads, a contiguous image of x's dtype; see below for its gradient."""
    x, options = arguments
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    places = torch.arange(math.prod(x.shape[2:]), dtype=exact).view(1, 1, *x.shape[2:])
    index = builtin.interpolate(places, **options)

    def gather(x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, index.long().flatten()].view(*x.shape[:2], *index.shape[2:])

    narrow = partial(builtin.interpolate, **options)
    parity(partial(F.interpolate, **options), gather, x, terms=64, narrow=narrow)


@st.composite
def window_arguments(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    def two(low: int, high: int) -> Any:
        one = st.integers(low, high)
        return draw(one | st.tuples(one, one) | st.lists(one, min_size=2, max_size=2))

    options = {"kernel_size": two(1, 5), "stride": two(1, 4), "padding": two(0, 4), "dilation": two(1, 3)}
    kernel, _, padding, dilation = ([v, v] if isinstance(v, int) else v for v in options.values())
    extent = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [max(1, e) + draw(st.integers(0, 6) | st.just(20)) for e in extent]
    return picture(draw, size, False), options


@given(window_arguments())
@times(2)
def test_unfold_and_fold(arguments: tuple[Tensor, dict[str, Any]]) -> None:
    x, options = arguments
    assume(0 not in x.shape[-3:])
    parity(partial(F.unfold, **options), partial(builtin.unfold, **options), x, terms=25)
    columns = arranged(normal(builtin.unfold(x, **options).shape, 8).to(x.dtype), "permuted")
    options["output_size"] = tuple(x.shape[-2:])
    parity(partial(F.fold, **options), partial(builtin.fold, **options), columns, terms=25)


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        result = function(*arguments, **options)
    except Exception as error:
        return type(error)
    return tuple(result.shape)


@given(st.data())
@times(3)
def test_shapes_and_exception_types(data: st.DataObject) -> None:
    """Arguments good and bad: the same shape, or the same exception type."""
    small, few = st.integers(-2, 5), st.integers(0, 5)
    x = torch.zeros(data.draw(st.lists(few, min_size=1, max_size=5)))
    name = data.draw(st.sampled_from(("pad", "interpolate", "unfold", "fold")))
    if name == "pad":
        arguments: dict[str, Any] = {
            "pad": data.draw(st.lists(small, max_size=8)),
            "mode": data.draw(st.sampled_from(("constant", "reflect", "replicate", "circular", "edge"))),
            "value": data.draw(st.none() | st.sampled_from((0, 1.5))),
        }
    elif name == "interpolate":
        arguments = {
            "size": data.draw(st.none() | small | st.lists(small, min_size=1, max_size=3)),
            "scale_factor": data.draw(st.none() | st.none() | st.floats(-1, 3) | st.lists(st.floats(0, 3), max_size=3)),
            "mode": data.draw(st.sampled_from((*MODES[1], *MODES[2], *MODES[3], "other"))),
            "align_corners": data.draw(st.none() | st.none() | st.booleans()),
            "antialias": data.draw(st.sampled_from((False, False, True))),
        }
    else:
        arguments = {"kernel_size": data.draw(few | st.lists(few, min_size=1, max_size=3))}
        arguments |= {key: data.draw(few) for key in data.draw(st.sets(st.sampled_from(("stride", "padding"))))}
        if name == "fold":
            arguments["output_size"] = data.draw(small | st.lists(few, min_size=2, max_size=2))
    ours, theirs = (outcome(getattr(place, name), x, **arguments) for place in (F, builtin))
    if name == "unfold" and x.dim() == 2 and x.shape[1] == 0:
        return  # an IndexError as without a zero; the built-in sees the zero first
    if ours is RuntimeError and arguments.get("mode") == "circular":
        return  # the built-in wraps around what it has cut off
    if isinstance(theirs, tuple) and min(theirs, default=0) < 0:
        theirs = RuntimeError  # the built-in reflects an empty batch into a tensor of negative size
    assert ours == theirs


# --------------------------------------------------------------------------------------------------
# Exact indices and weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", *(f"aa {m}" for m in ANTIALIASED)])
def test_large_odd_sizes(mode: str, dtype: torch.dtype) -> None:
    """To the last places of the built-in: the coordinates are rounded where it rounds them."""
    options: dict[str, Any] = {"mode": mode.removeprefix("aa "), "antialias": mode.startswith("aa")}
    for width, target in ((1023, 3001), (2999, 1001), (777, 2331), (4001, 4003), (1361, 431)):
        x = normal((1, 2, 3, width), 9).to(dtype)
        allowed = 1e-12 if dtype == torch.float64 else 64 * torch.finfo(dtype).eps
        if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
            allowed *= width  # without fused multiplication the built-in rounds a coordinate twice
        for corners in (False, True) if options["mode"].startswith("bi") else (None,):
            arguments = {**options, "size": (7, target), "align_corners": corners}
            assert distance(F.interpolate(x, **arguments), builtin.interpolate(x, **arguments)) < allowed, arguments
        arguments = {**options, "scale_factor": (1.37, target / width)}
        assert distance(F.interpolate(x, **arguments), builtin.interpolate(x, **arguments)) < allowed, arguments


@pytest.mark.parametrize("n", [1, 2, 3])
def test_memory_formats(n: int) -> None:
    """The built-in's format for each mode, and the gradient's own for the adjoint."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("pad", {"pad": [1, 1] * n, "mode": mode}) for mode in ("constant", "reflect", "replicate", "circular")
    ]
    calls += [("interpolate", {"scale_factor": 1.5, "mode": mode}) for mode in MODES[n]]
    if n == 2:
        calls += [("interpolate", {"size": 3, "mode": mode, "antialias": True}) for mode in ANTIALIASED]
        calls += [("unfold", {"kernel_size": 2})]
    for channels in (1, 4):
        for x in images([5, 6, 7][-n:], torch.float64, channels):
            for name, options in calls:
                ours, theirs = (getattr(place, name)(x, **options) for place in (F, builtin))
                assert ours.stride() == theirs.stride(), (name, options, x.stride())


# --------------------------------------------------------------------------------------------------
# Where the built-in is wrong, and what is right


def rows_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the matrix of a linear function of one image, from its values."""
    units = torch.eye(x.numel(), dtype=x.dtype).view(x.numel(), 1, *x.shape[2:])
    return function(units).flatten(1).T


def test_the_gradient_of_nearest_is_the_adjoint() -> None:
    """The built-in's backward computes indices by another rule than its forward pass."""
    x = normal((1, 1, 5), 1).requires_grad_()
    for options in ({"scale_factor": 1.1}, {"scale_factor": 2.1}):
        expected = rows_of(partial(builtin.interpolate, **options), x).sum(0).view_as(x)
        mine, theirs = (torch.autograd.grad(place.interpolate(x, **options).sum(), x)[0] for place in (F, builtin))
        assert torch.equal(mine, expected) and not torch.equal(theirs, expected)


@pytest.mark.parametrize("mode", ["bicubic", "aa bilinear", "aa bicubic"])
def test_the_gradient_of_a_kept_size_is_the_adjoint(mode: str) -> None:
    """Its forward pass takes an axis of equal sizes one way, its backward the other, where a scale is given."""
    options = {"scale_factor": 1.1, "mode": mode.removeprefix("aa "), "antialias": mode.startswith("aa")}
    x = normal((1, 1, 5, 5), 1).requires_grad_()
    expected = rows_of(partial(builtin.interpolate, **options), x).sum(0).view_as(x)
    if options["antialias"]:
        options["scale_factor"] = (1.1, 2.0)
        expected = rows_of(partial(builtin.interpolate, **options), x).sum(0).view_as(x)
    mine, theirs = (torch.autograd.grad(place.interpolate(x, **options).sum(), x)[0] for place in (F, builtin))
    assert distance(mine, expected) < 1e-12 < distance(theirs, expected)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_antialiased_column(mode: str) -> None:
    """Of an output one pixel wide the built-in repeats the first row; lying down it computes every pixel."""
    x = normal((1, 1, 7, 5), 1)
    options = {"mode": mode, "antialias": True}
    expected = builtin.interpolate(x.mT, size=(1, 4), **options).mT
    assert distance(F.interpolate(x, size=(4, 1), **options), expected) < 1e-13
    assert distance(builtin.interpolate(x, size=(4, 1), **options), expected[:, :, :1].expand_as(expected)) < 1e-13


def test_nearest_does_not_depend_on_the_layout() -> None:
    x = normal((1, 4, 5, 80, 1), 1)[..., 0]
    last = x.contiguous(memory_format=torch.channels_last)
    y = F.interpolate(x, scale_factor=(1.1, 2.1))
    assert torch.equal(y, F.interpolate(last, scale_factor=(1.1, 2.1)))
    assert torch.equal(y, builtin.interpolate(x, scale_factor=(1.1, 2.1)))
    assert not torch.equal(y, builtin.interpolate(last, scale_factor=(1.1, 2.1)))
