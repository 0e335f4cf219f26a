"""The raw operators: schema, fake kernel, composite formula, FLOPs, and the kernels against loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import torchbp
from torchbp import ops, reference
from torchbp.ops.registry import read_schemas

O = torch.ops.torchbp  # noqa: E741
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
ACTIVATIONS = {
    **{"scaled_tanh": [1.7159, 2 / 3], "softplus": [1.5, 2.0]},
    **{name: [] for name in ("sigmoid", "gelu", "gelu_tanh", "silu")},
}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return float((actual.double() - expected.double()).abs().max()) / max(scale, 1e-30) if scale else 0.0


def laid(x: torch.Tensor, layout: str) -> torch.Tensor:
    """Return the same values contiguous, in channels-last, or as half of the channels of a channels-last tensor."""
    if layout == "part":
        return laid(torch.cat([x, x], 1), "channels-last")[:, : x.shape[1]]
    return x if layout == "contiguous" else x.contiguous(memory_format=FORMATS[x.dim() - 2])


def samples() -> dict[str, list[tuple]]:
    """Return arguments for every operator: 1, 2 and 3 dimensions, both formats, groups, dilation."""
    calls: dict[str, list[tuple]] = {name: [] for name in read_schemas()}
    for n in (1, 2, 3):
        for layout in ("contiguous", "channels-last", "part") if n > 1 else ("contiguous",):
            size, ones, twos = [6, 5, 4][:n], [1] * n, [2] * n
            x, w = laid(draw(2, 4, *size), layout), draw(6, 2, *twos)
            geometry = (twos, ones, ones, 2)
            y = O.convolution(x, w, draw(6), *geometry)
            calls["convolution"].append((x, w, draw(6), *geometry))
            calls["convolution_input"].append((draw(*y.shape, seed=9), w, draw(4), size, *geometry))
            calls["convolution_weight"].append((x, draw(*y.shape, seed=9), twos, *geometry))
            sided = (twos, [*twos, *[-1] * n], ones, 1)  # two before the input, and its last one cut
            x, w = draw(2, 4, *[5] * n), draw(6, 4, *twos)
            y = O.convolution(x, w, draw(6), *sided)
            calls["convolution"].append((x, w, draw(6), *sided))
            calls["convolution_input"].append((draw(*y.shape, seed=9), w, draw(4), [5] * n, *sided))
            calls["convolution_weight"].append((x, draw(*y.shape, seed=9), twos, *sided))
            x = laid(draw(2, 4, *size), layout)
            window = (twos, twos, ones, ones)
            pooled, winner = O.max_pool(x, *window, True)
            calls["max_pool"].append((x, *window, True))
            calls["max_pool_values"].append((x, *window, True))
            calls["max_pool_scatter"].append((draw(*pooled.shape, seed=9), winner, size, *window))
            calls["max_pool_gather"].append((x, winner, *window))
            samples = torch.rand(2, 4, n, dtype=x.dtype, generator=torch.Generator().manual_seed(n))
            for place, output, kernel in ((None, [3] * n, [4] * n), (samples, twos, [3] * n)):
                pooled, winner = O.irregular_max_pool(x, place, output, kernel)
                gy = draw(*pooled.shape, seed=9)
                calls["irregular_max_pool"].append((x, place, output, kernel))
                calls["irregular_max_pool_scatter"].append((gy, winner, place, size, kernel))
                calls["irregular_max_pool_gather"].append((x, winner, place, kernel))
            places = torch.randint(0, 3 * 2**n, x.shape, generator=torch.Generator().manual_seed(n))
            calls["max_unpool"].append((x, places, [3 * 2**n, *[1] * (n - 1)]))
            calls["max_unpool_adjoint"].append((draw(2, 4, 3 * 2**n, *[1] * (n - 1)), places))
            average = (twos, twos, ones, False, False, None)
            pooled = O.average_pool(x, *average)
            calls["average_pool"].append((x, *average))
            calls["average_pool_adjoint"].append((draw(*pooled.shape, seed=9), size, *average))
            calls["adaptive_average_pool"].append((x, [3] * n))
            calls["adaptive_average_pool_adjoint"].append((draw(2, 4, *[3] * n), size))
            y, mean, variance = O.batch_norm(x, draw(4), draw(4), 1e-5)
            calls["batch_norm"].append((x, draw(4), draw(4), 1e-5))
            for wanted in (True, False):
                calls["batch_norm_gradients"].append((draw(*y.shape, seed=9), x, None, mean, variance, 1e-5, wanted))
            statistics = (draw(4), draw(4).abs())
            calls["channel_affine"].append((x, draw(4), draw(4), *statistics, 1e-5))
            for given, wanted in ((x, True), (x, False), (None, True)):
                calls["channel_affine_gradients"].append(
                    (draw(*x.shape, seed=9), given, draw(4), *statistics, 1e-5, wanted)
                )
            for groups in (1, 2, 4):
                read = [2, groups, 4 // groups, x.numel() // 8]
                y, mean, variance = O.group_norm(x, read, draw(4), draw(4), 1e-5)
                calls["group_norm"].append((x, read, draw(4), draw(4), 1e-5))
                for wanted in ((True, True), (True, False), (False, True)):
                    calls["group_norm_gradients"].append(
                        (draw(*y.shape, seed=9), x, read, draw(4), mean, variance, 1e-5, *wanted)
                    )
            read = [8, x.numel() // 8]
            w = draw(read[1])
            calls["rms_norm"].append((x, read, w, 1e-5))
            for wanted in ((True, True), (True, False), (False, True)):
                square = O.rms_norm(x, read, w, 1e-5)[1]
                calls["rms_norm_gradients"].append((draw(*x.shape, seed=9), x, read, w, square, 1e-5, *wanted))
            for mode in ("reflect", "replicate", "circular"):
                padded = O.pad(x, [1, 2, -1, 3, 0, 1][: 2 * n], mode)
                g = laid(draw(*padded.shape, seed=9), layout)
                calls["pad"].append((x, [1, 2, -1, 3, 0, 1][: 2 * n], mode))
                calls["pad_adjoint"].append((g, size, [1, 2, -1, 3, 0, 1][: 2 * n], mode))
            modes = [("nearest", False, False), ("nearest-exact", False, False), ("linear", False, False)]
            modes += [("linear", True, False)]
            if n == 2:
                modes += [("cubic", False, False), ("cubic", True, False)]
                modes += [(mode, False, True) for mode in ("linear", "cubic", "lanczos")]
            for k, (mode, corners, antialias) in enumerate(modes):
                # As many outputs as inputs, or twice as many, is where the built-in takes shortcuts.
                scales = [1.5, 0.5, 1.25][:n] if k % 2 else []
                options = (mode, corners, antialias, scales)
                resized = [9, 3, 5][:n]
                g = laid(draw(2, 4, *resized, seed=9), layout)
                calls["interpolate"].append((x, resized, *options))
                calls["interpolate_adjoint"].append((g, size, *options))
            window = ([2, 3, 1][:n], [1, 2, 3][:n], [1, 2, 0][:n], [2, 1, 1][:n])
            columns = O.unfold(x, *window)
            calls["unfold"].append((x, *window))
            calls["fold"].append((draw(*columns.shape, seed=9), size, *window))
            calls["masked_scale"].append((x, laid(draw(*x.shape, seed=3) > 0, layout), 1.25))
            for map, parameters in ACTIVATIONS.items():
                calls["activation"].append((x, map, parameters))
                calls["activation_gradient"].append((laid(draw(*x.shape, seed=9), layout), x, map, parameters))
            for reduction in ("none", "mean", "sum"):
                target = torch.randint(0, 4, (2, *size), generator=torch.Generator().manual_seed(n))
                target[:, 0] = 1 if reduction == "sum" else -100
                weight = None if reduction == "none" else draw(4).abs()
                options = (-100, 0.1 if reduction == "mean" else 0.0, reduction)
                loss, total, normalizer = O.cross_entropy(x, target, weight, *options)
                g = draw(*loss.shape, seed=9)
                calls["cross_entropy"].append((x, target, weight, *options))
                calls["cross_entropy_gradient"].append((g, x, target, weight, total, normalizer, *options))
                calls["nll_loss"].append((x, target, weight, -100, reduction))
                calls["nll_loss_gradient"].append((g, target, weight, total, 4, -100, reduction))
                g = laid(draw(*x.shape, seed=9), layout) if reduction == "none" else g
                for loss in ops.loss.DIFFERENCES:
                    options = (draw(*x.shape, seed=5), loss, 0.75, reduction)
                    calls["difference_loss"].append((x, *options))
                    calls["difference_loss_gradient"].append((g, x, *options))
            for dim, log in ((1, False), (-1, True), (0, True)):
                calls["softmax"].append((x, dim, log))
                y = O.softmax(x, dim, log)
                calls["softmax_gradient"].append((laid(draw(*x.shape, seed=9), layout), y, dim, log))
    return calls


SAMPLES = [(name, i, call) for name, calls in samples().items() for i, call in enumerate(calls)]


# --------------------------------------------------------------------------------------------------
# Registration


@pytest.mark.parametrize(
    ("name", "i", "call"),
    [
        pytest.param(*sample, id=f"{sample[0]}-{sample[1]}", marks=[pytest.mark.slow] if sample[1] else [])
        for sample in SAMPLES
    ],
)
def test_opcheck(name: str, i: int, call: tuple) -> None:
    opcheck(getattr(O, name).default, call)


def test_fake_strides_of_a_part_of_the_channels() -> None:
    x = draw(2, 8, 6, 5).contiguous(memory_format=torch.channels_last)[:, :4]
    ones, twos, zeros = [1, 1], [2, 2], [0, 0]
    for name, arguments in (
        ("convolution", (draw(6, 4, 2, 2), None, ones, ones, ones, 1)),
        ("max_pool", (twos, twos, ones, ones, False)),
        ("average_pool", (twos, twos, zeros, False, True, None)),
        ("batch_norm", (None, None, 1e-5)),
        ("channel_affine", (None, None, draw(4), draw(4).abs(), 1e-5)),
        ("group_norm", ([2, 2, 2, 30], None, None, 1e-5)),
        ("rms_norm", ([48, 5], None, 1e-5)),
        ("pad", ([1, 1, 1, 1], "reflect")),
        ("interpolate", ([3, 4], "linear", False, False, [])),
        ("unfold", (twos, twos, ones, ones)),
    ):
        opcheck(getattr(O, name).default, (x, *arguments))


def test_every_operator_has_samples() -> None:
    assert {name for name, _, _ in SAMPLES} == set(read_schemas())


@pytest.mark.parametrize(("name", "i", "call"), SAMPLES, ids=[f"{name}-{i}" for name, i, _ in SAMPLES])
def test_bare_operators_refuse_a_gradient(name: str, i: int, call: tuple) -> None:
    call = tuple(
        t.clone().requires_grad_() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in call
    )
    output = getattr(O, name)(*call)
    output = output[0] if isinstance(output, tuple) else output
    with pytest.raises(RuntimeError, match="not implemented|no gradient"):
        output.sum().backward()


@pytest.mark.parametrize(("name", "i", "call"), SAMPLES, ids=[f"{name}-{i}" for name, i, _ in SAMPLES])
def test_composite_formula_equals_the_kernel(name: str, i: int, call: tuple) -> None:
    if not torchbp.kernels_loaded():
        pytest.skip("without the extension the operator is the composite formula")
    kernel = getattr(O, name).default
    formula = getattr(FAMILIES.get(name.split("_")[0], ops.pooling), COMPOSITES[name])
    with torch.no_grad():
        for a, b in zip(_tuple(kernel(*call)), _tuple(formula(*call)), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
            assert relative(a, b) < 1e-12


FAMILIES = {
    "convolution": ops.convolution,
    "batch": ops.normalization,
    "channel": ops.normalization,
    "group": ops.normalization,
    "rms": ops.normalization,
    "pad": ops.padding,
    "interpolate": ops.interpolation,
    "unfold": ops.folding,
    "fold": ops.folding,
    "masked": ops.dropout,
    "activation": ops.activation,
    "cross": ops.loss,
    "nll": ops.loss,
    "difference": ops.loss,
    "softmax": ops.softmax,
}
COMPOSITES = {
    "convolution": "_composite_output",
    "convolution_input": "_composite_input",
    "convolution_weight": "_composite_weight",
    "max_pool": "_composite_max",
    "max_pool_values": "_composite_values",
    "max_pool_scatter": "_composite_scatter",
    "max_pool_gather": "_composite_gather",
    "irregular_max_pool": "_composite_irregular",
    "irregular_max_pool_scatter": "_composite_irregular_scatter",
    "irregular_max_pool_gather": "_composite_irregular_gather",
    "max_unpool": "_composite_unpool",
    "max_unpool_adjoint": "_composite_unpool_adjoint",
    "average_pool": "_composite_average",
    "average_pool_adjoint": "_composite_average_adjoint",
    "adaptive_average_pool": "_composite_adaptive",
    "adaptive_average_pool_adjoint": "_composite_adaptive_adjoint",
    "pad": "_composite_pad",
    "pad_adjoint": "_composite_pad_adjoint",
    "interpolate": "_composite_interpolate",
    "interpolate_adjoint": "_composite_interpolate_adjoint",
    "unfold": "_composite_unfold",
    "fold": "_composite_fold",
    "batch_norm": "_composite",
    "batch_norm_gradients": "_composite_gradients",
    "masked_scale": "_composite",
    "activation": "_composite",
    "activation_gradient": "_composite_gradient",
    "cross_entropy": "_composite_cross_entropy",
    "cross_entropy_gradient": "_composite_cross_entropy_gradient",
    "nll_loss": "_composite_nll",
    "nll_loss_gradient": "_composite_nll_gradient",
    "difference_loss": "_composite_difference",
    "difference_loss_gradient": "_composite_difference_gradient",
    "softmax": "_composite",
    "softmax_gradient": "_composite_gradient",
    "channel_affine": "_affine_composite",
    "channel_affine_gradients": "_affine_gradients_composite",
    "group_norm": "_group_composite",
    "group_norm_gradients": "_group_gradients_composite",
    "rms_norm": "_rms_composite",
    "rms_norm_gradients": "_rms_gradients_composite",
}


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def test_flops_of_the_three_products_equal_the_built_in() -> None:
    x, w = torch.randn(2, 4, 8, 8), torch.randn(6, 2, 3, 3)

    def count(convolution) -> dict[str, int]:
        counted = {}
        for want_x, want_w in ((True, False), (False, True), (True, True)):
            a, b = x.clone().requires_grad_(want_x), w.clone().requires_grad_(want_w)
            with FlopCounterMode(display=False) as counter:
                convolution(a, b).sum().backward()
            counted[f"{want_x} {want_w}"] = counter.get_total_flops()
        return counted

    def ours(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torchbp.nn.functional.conv2d(a, b, None, 2, 1, 1, 2)

    def one_product() -> int:
        return 2 * 2 * 4 * 4 * 6 * 2 * 9

    # Counted by hand: the built-in's own counter ignores groups in its gradients.
    assert count(ours) == {
        "True False": 2 * one_product(),
        "False True": 2 * one_product(),
        "True True": 3 * one_product(),
    }


# --------------------------------------------------------------------------------------------------
# Kernels against loops in NumPy

CONVOLUTIONS = [
    # spatial, channels per group, outputs per group, groups, kernel, stride, padding, dilation
    ((9,), 3, 4, 1, (3,), (1,), (1,), (1,)),
    ((20,), 2, 1, 3, (4,), (3,), (2,), (2,)),
    ((7, 6), 3, 5, 1, (3, 2), (2, 1), (1, 0), (1, 2)),
    ((5, 5), 1, 1, 4, (3, 3), (1, 1), (1, 1), (1, 1)),
    ((5, 6), 1, 3, 2, (2, 2), (3, 3), (0, 1), (1, 1)),
    ((4, 5), 17, 19, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    ((6, 6), 3, 2, 1, (1, 1), (2, 2), (0, 0), (1, 1)),
    ((4, 3, 5), 2, 3, 1, (2, 3, 2), (1, 2, 1), (1, 1, 0), (1, 1, 2)),
    ((3, 4, 4), 1, 1, 3, (2, 2, 2), (1, 1, 2), (0, 1, 1), (1, 1, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=[str(i) for i in range(len(CONVOLUTIONS))])
def test_convolution_products_equal_loops(shape: tuple, last: bool, dtype: torch.dtype) -> None:
    spatial, c, o, groups, kernel, *geometry = shape
    x, w, b = draw(2, c * groups, *spatial), draw(o * groups, c, *kernel, seed=1), draw(o * groups, seed=2)
    expected = reference.convolution(x.numpy(), w.numpy(), b.numpy(), *geometry, groups)
    g = draw(*expected.shape, seed=3)
    gx = reference.convolution_input(g.numpy(), w.numpy(), spatial, *geometry, groups)
    gw = reference.convolution_weight(x.numpy(), g.numpy(), kernel, *geometry, groups)
    xs, ws, bs, gs = (t.to(dtype) for t in (x, w, b, g))
    if last and len(spatial) > 1:
        xs, gs = (t.contiguous(memory_format=FORMATS[len(spatial)]) for t in (xs, gs))
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 3e-2}[dtype]
    assert relative(ops.convolution.convolution(xs, ws, bs, *geometry, groups), torch.from_numpy(expected)) < tolerance
    actual = ops.convolution.convolution_input(gs, ws, None, spatial, *geometry, groups)
    assert relative(actual, torch.from_numpy(gx)) < tolerance
    actual = ops.convolution.convolution_weight(xs, gs, kernel, *geometry, groups)
    assert relative(actual, torch.from_numpy(gw)) < tolerance


def test_blocks_of_every_size_are_covered() -> None:
    # Sizes around the micro-tile (up to 12 x 32), the panel depth (256) and the block edges.
    for c, o, width in itertools.product((1, 5, 33), (1, 6, 13, 100), (15, 33, 400)):
        x, w = draw(1, c, 3, width), draw(o, c, 3, 3, seed=1)
        y = torch.nn.functional.conv2d(x, w, padding=1)
        g = draw(*y.shape, seed=2)
        backward = torch.ops.aten.convolution_backward(
            g, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        for format in (torch.contiguous_format, torch.channels_last):
            xs, gs = x.contiguous(memory_format=format), g.contiguous(memory_format=format)
            geometry = ([1, 1], [1, 1], [1, 1], 1)
            assert relative(ops.convolution.convolution(xs, w, None, *geometry), y) < 1e-13
            assert relative(ops.convolution.convolution_input(gs, w, None, [3, width], *geometry), backward[0]) < 1e-13
            assert relative(ops.convolution.convolution_weight(xs, gs, [3, 3], *geometry), backward[1]) < 1e-12


POOLS = [
    # spatial, kernel, stride, padding, dilation, ceil_mode
    ((9,), (3,), (2,), (1,), (1,), False),
    ((7, 6), (2, 3), (1, 2), (1, 1), (2, 1), True),
    ((8, 5), (2, 2), (3, 3), (0, 0), (1, 1), False),
    ((5, 4, 6), (2, 2, 3), (2, 1, 2), (1, 0, 1), (1, 1, 1), True),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("content", ["distinct", "ties", "nan", "-inf"])
@pytest.mark.parametrize("shape", POOLS, ids=[str(i) for i in range(len(POOLS))])
def test_pools_equal_loops(shape: tuple, content: str, last: bool, dtype: torch.dtype) -> None:
    spatial, kernel, stride, padding, dilation, ceil_mode = shape
    # Channels beyond one block of 64, and small integers that every dtype holds exactly.
    x = torch.randint(-100, 100, (2, 70 if last else 3, *spatial), generator=torch.Generator().manual_seed(0)).double()
    if content == "ties":
        x = x.remainder(2)
    elif content != "distinct":
        x[draw(*x.shape).abs() < 0.5] = float(content)
    window = (kernel, stride, padding, dilation)
    y, winner = reference.max_pool(x.numpy(), *window, ceil_mode)
    xs = x.to(dtype)
    if last and len(spatial) > 1:
        xs = xs.contiguous(memory_format=FORMATS[len(spatial)])
    actual, taps = ops.pooling.max_pool(xs, *window, ceil_mode)
    torch.testing.assert_close(
        ops.pooling.max_pool_values(xs, *window, ceil_mode), actual, equal_nan=True, rtol=0, atol=0
    )
    torch.testing.assert_close(actual.double(), torch.from_numpy(y), equal_nan=True, rtol=0, atol=0)
    assert torch.equal(taps.long(), torch.from_numpy(winner).long())
    assert taps.dtype == torch.uint8
    g = torch.randint(-8, 9, y.shape, generator=torch.Generator().manual_seed(1)).double()
    scattered = reference.max_pool_scatter(g.numpy(), winner, spatial, *window)
    actual = ops.pooling.max_pool_scatter(g.to(dtype), taps, spatial, *window)
    assert torch.equal(actual.double(), torch.from_numpy(scattered))
    gathered = ops.pooling.max_pool_gather(xs, taps, *window)
    torch.testing.assert_close(gathered.double(), torch.from_numpy(y), equal_nan=True, rtol=0, atol=0)
    if dilation == (1,) * len(spatial) and content == "distinct":
        for pad, divisor in itertools.product((False, True), (None, 3)):
            arguments = (kernel, stride, padding, ceil_mode, pad, divisor)
            tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
            expected = reference.average_pool(x.numpy(), *arguments)
            assert relative(ops.pooling.average_pool(xs, *arguments), torch.from_numpy(expected)) < tolerance
            g = draw(*expected.shape)
            spread = reference.average_pool_adjoint(g.numpy(), spatial, *arguments)
            actual = ops.pooling.average_pool_adjoint(g.to(dtype), spatial, *arguments)
            assert relative(actual, torch.from_numpy(spread)) < tolerance


def test_a_window_of_more_than_256_taps_has_wide_winners() -> None:
    x = draw(1, 2, 20, 20, dtype=torch.float32)
    y, winner = ops.pooling.max_pool(x, (17, 18), (1, 1), (0, 0), (1, 1), False)
    assert winner.dtype == torch.int32
    assert torch.equal(y, torch.nn.functional.max_pool2d(x, (17, 18), 1))
    g = torch.ones_like(y)
    scattered = ops.pooling.max_pool_scatter(g, winner, (20, 20), (17, 18), (1, 1), (0, 0), (1, 1))
    assert scattered.sum() == g.sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(5, 3), (300, 70), (4, 3, 9), (3, 5, 4, 7), (2, 6, 40, 40), (2, 3, 2, 3, 4)], ids=str
)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_batch_norm_equals_loops(shape: tuple, last: bool, dtype: torch.dtype) -> None:
    x = draw(*shape).to(dtype).double() * 3 + 100  # a mean far above the deviation
    x = x.to(dtype).double()
    w, b, g = draw(shape[1], seed=1), draw(shape[1], seed=2), draw(*shape, seed=3).to(dtype).double()
    y, mean, variance = reference.batch_norm(x.numpy(), w.numpy(), b.numpy(), 1e-5)
    gradients = reference.batch_norm_gradients(x.numpy(), w.numpy(), g.numpy(), 1e-5)
    xs, gs = x.to(dtype), g.to(dtype)
    if last and len(shape) > 3:
        xs, gs = (t.contiguous(memory_format=FORMATS[len(shape) - 2]) for t in (xs, gs))
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    kind = ops.normalization.statistics_dtype(dtype)
    ws, bs = w.to(kind), b.to(kind)
    results = ops.normalization.batch_norm(xs, ws, bs, 1e-5)
    for actual, expected in zip(results, (y, mean, variance), strict=True):
        assert relative(actual, torch.from_numpy(expected)) < tolerance
    results = ops.normalization.batch_norm_gradients(gs, xs, ws, results[1], results[2], 1e-5, True)
    for actual, expected in zip(results, gradients, strict=True):
        assert relative(actual, torch.from_numpy(expected)) < tolerance


def units_off(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the largest error in units of the last place of the dtype, where the result is a normal number."""
    tiny, eps = torch.finfo(actual.dtype).tiny, torch.finfo(actual.dtype).eps
    normal = (exact.abs() > tiny) & (exact.abs() < torch.finfo(actual.dtype).max)
    unit = torch.exp2(torch.floor(torch.log2(exact.abs()[normal]))) * eps
    return float(((actual.double() - exact)[normal].abs() / unit).max())


def test_elementary_functions_are_accurate_over_their_range() -> None:
    """The functions behind the kernels, within 2 units in the last place and what rounding the argument costs."""
    if not torchbp.kernels_loaded():
        pytest.skip("without the extension the functions are PyTorch's")
    x = torch.cat([torch.linspace(-100, 80, 40001), torch.logspace(-30, 1, 4001), draw(20000)]).float()
    exact = x.double()
    # exp: softmax over (0, x) is 1 / (1 + exp(-x)) and its complement.
    y = ops.softmax.softmax(torch.stack([x, torch.zeros_like(x)]), 0, False)
    assert units_off(y[0], torch.sigmoid(exact)) < 3
    y = ops.activation.activation(x, "softplus", [1.0, 20.0])
    assert units_off(y, torch.where(exact > 20, exact, torch.log1p(exact.exp()))) < 2
    y = ops.activation.activation(x, "scaled_tanh", [1.0, 1.0])
    assert units_off(y, exact.tanh()) < 2
    middle = x[x.abs() < 3]
    u = (8 / torch.pi) ** 0.5 * (middle.double() + 0.044715 * middle.double() ** 3)
    truth = middle.double() / (1 + torch.exp(-u))
    builtin = torch.nn.functional.gelu(middle, approximate="tanh")
    off = units_off(ops.activation.activation(middle, "gelu_tanh", []), truth)
    assert off < 16 and off <= units_off(builtin, truth)  # the exponent's argument is rounded
    sigmoid = torch.sigmoid(exact)
    assert units_off(ops.activation.activation(x, "sigmoid", []), sigmoid) < 3
    above = x > -88  # below, exp(-x) is infinite, for PyTorch as well
    assert units_off(ops.activation.activation(x, "silu", [])[above], (exact * sigmoid)[above]) < 4
    # Away from where the derivatives are zero, and where their exponents are normal numbers.
    density = torch.exp(-exact * exact / 2) / (2 * torch.pi) ** 0.5
    ones = torch.ones_like(x)
    for name, zero, slope in (
        ("silu", -1.278, sigmoid * (1 + exact * (1 - sigmoid))),
        ("gelu", -0.7518, torch.erfc(-exact / 2**0.5) / 2 + exact * density),
    ):
        clear = ((exact - zero).abs() > 0.25) & (exact > -12)
        builtin = ops.activation._BUILT_IN[name][1](ones, x)[clear]
        off = units_off(ops.activation.activation_gradient(ones, x, name, [])[clear], slope[clear])
        assert off < 16 and off <= units_off(builtin, slope[clear])
        clear &= exact > -6  # beyond, what PyTorch loses in float64 is more
        off = units_off(ops.activation.activation_gradient(ones.double(), exact, name, [])[clear], slope[clear])
        assert off < 64
    # The same in float64, to its precision, where PyTorch's own functions are the measure.
    for name, parameters, truth in (
        ("softplus", [1.0, 20.0], torch.where(exact > 20, exact, torch.log1p(exact.exp()))),
        ("scaled_tanh", [1.0, 1.0], exact.tanh()),
        ("sigmoid", [], sigmoid),
        ("silu", [], exact * sigmoid),
    ):
        assert units_off(ops.activation.activation(exact, name, parameters), truth) < 4


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_the_ends_of_the_range(name: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), 0.0, -0.0, 1e-40, -1e-40, 88.0, -88.0, 1e10, -1e10] * 3)
    g = torch.full_like(x, 2.0)
    exact = x.double() if torchbp.kernels_loaded() else x  # oneDNN's GELU of infinity is NaN in float32
    expected = ops.activation._composite(exact, name, ACTIVATIONS[name]).float()
    actual = ops.activation.activation(x, name, ACTIVATIONS[name])
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-6, atol=1e-37)
    x = x[x.abs() < 100]  # beyond, PyTorch's own formula for the tanh form of GELU is infinity times zero
    expected = ops.activation._composite_gradient(g[: len(x)], x, name, ACTIVATIONS[name])
    actual = ops.activation.activation_gradient(g[: len(x)], x, name, ACTIVATIONS[name])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def softmax_inputs() -> list[tuple[torch.Tensor, int]]:
    """Rows around the vector's length, tiles with and without a rest, several tiles, strided and expanded tensors."""
    cases = [(draw(3, classes), 1) for classes in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 64, 100, 1000)]
    cases += [(draw(2, 5, inner), 1) for inner in (1, 3, 8, 16, 17, 40, 300)]
    cases += [(draw(300, 3), 1), (draw(700, 10), 1), (draw(5, 300), 0), (draw(2, 3, 20, 9), 2), (draw(4, 70, 3), 1)]
    cases += [(laid(draw(2, c, 9, 11), layout), 1) for c in (2, 21, 40) for layout in ("channels-last", "part")]
    cases += [(laid(draw(2, c, 5, w), "channels-last"), dim) for c, w in ((3, 70), (18, 35), (4, 7)) for dim in (2, 3)]
    cases += [(laid(draw(2, 3, 4, 5, 40), "channels-last"), dim) for dim in (1, 2, 3, 4)]
    cases += [(draw(6, 90)[:, ::2], 1), (draw(6, 90)[:, 5:], 1), (draw(1, 40).expand(5, 40), 1), (draw(7), 0)]
    cases += [(draw(4, 3, 5).permute(2, 0, 1), 0), (draw(3, 1).expand(3, 50), 1), (draw(), 0), (draw(0, 4), 1)]
    return cases + [(draw(50, 6).t(), 1), (draw(40, 3, 20).permute(1, 2, 0), 2), (draw(2, 9, 3, 5)[:, ::2, :, ::2], 3)]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_softmax_of_every_shape_and_layout(dtype: torch.dtype, log: bool) -> None:
    truth = torch.log_softmax if log else torch.softmax
    allowed = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 3e-2}[dtype]
    for x, dim in softmax_inputs():
        x = (x * 5).to(dtype)
        actual, exact = ops.softmax.softmax(x, dim, log), truth(x.double(), dim)
        assert actual.dtype == dtype and actual.is_contiguous()
        assert relative(actual, exact) < allowed, (x.shape, x.stride(), dim)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_softmax_gradient_of_every_shape_and_layout(dtype: torch.dtype, log: bool) -> None:
    """Each layout for the gradient, the output and both."""
    truth = torch.log_softmax if log else torch.softmax
    allowed = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 3e-2}[dtype]
    for x, dim in softmax_inputs():
        y, plain = truth(x, dim).to(dtype), draw(*x.shape, seed=5).to(dtype)
        strides = x.stride() if 0 not in x.stride() else plain.stride()
        g_like_x, y_like_x = (torch.empty_strided(x.shape, strides, dtype=dtype).copy_(t) for t in (plain, y))
        pairs = [(plain, y), (g_like_x, y), (plain, y_like_x), (g_like_x, y_like_x)]
        if x.dim() > 0:
            pairs.append((plain.narrow(0, 0, min(1, len(x))).expand(x.shape), y))
        for g, kept in pairs:
            actual = ops.softmax.softmax_gradient(g, kept, dim, log)
            exact = ops.softmax._composite_gradient(g.double(), kept.double(), dim, log)
            assert actual.dtype == dtype and actual.is_contiguous()
            bound = allowed * float(exact.abs().max().clamp_min(1)) if exact.numel() else 0
            assert torch.allclose(actual.double(), exact, rtol=0, atol=bound), (x.shape, g.stride(), kept.stride(), dim)


@pytest.mark.parametrize("size", [5, 40])
def test_softmax_of_rows_that_are_not_finite(size: int) -> None:
    """NaN spreads along its row, +inf makes it NaN, a row of -inf is NaN; other rows are untouched."""
    inf, nan = float("inf"), float("nan")
    x = draw(6, size, dtype=torch.float32)
    x[0, 3], x[1, 4], x[2], x[3, 1], x[4, :] = nan, inf, -inf, -inf, 3e38
    for log, truth in ((False, torch.softmax), (True, torch.log_softmax)):
        for dim, given in ((1, x), (0, x.t().contiguous())):
            actual = ops.softmax.softmax(given, dim, log)
            torch.testing.assert_close(actual, truth(given, dim), equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(5, 3), (300, 10), (4, 33), (3, 200), (2, 21, 9, 11), (3, 40, 2), (2, 7, 300)], ids=str
)
def test_cross_entropy_far_from_zero(shape: tuple, dtype: torch.dtype, smoothing: float) -> None:
    """Against float64; scores around 1000 lose no more than their own rounding."""
    x = (draw(*shape) * 3 + (1000 if dtype != torch.bfloat16 else 0)).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    target[0] = -7
    weight = draw(shape[1], seed=4).abs().to(dtype)
    layouts = ("contiguous", "channels-last", "part") if len(shape) == 4 else ("contiguous",)
    allowed = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 1e-2}[dtype]
    for layout, reduction, w in itertools.product(layouts, ("none", "mean", "sum"), (None, weight)):
        leaf = x.double().requires_grad_()
        exact = torch.nn.functional.cross_entropy(
            leaf, target, None if w is None else w.double(), None, -7, None, reduction, smoothing
        )
        given = laid(x, layout)
        loss, total, normalizer = ops.loss.cross_entropy(given, target, w, -7, smoothing, reduction)
        assert relative(loss, exact.detach()) < allowed
        g = draw(*loss.shape, seed=2).to(dtype)
        expected = torch.autograd.grad(exact, leaf, g.double())[0]
        options = (total, normalizer, -7, smoothing, reduction)
        gx = ops.loss.cross_entropy_gradient(g, given, target, w, *options)
        assert relative(gx, expected) < allowed and gx.is_contiguous()
        g = g if reduction != "none" else g[:1].expand(g.shape)
        gx = ops.loss.cross_entropy_gradient(g, given, target, w, *options)
        again = ops.loss.cross_entropy_gradient(g.clone(), given, target, w, *options)
        assert torch.equal(gx, again)


@pytest.mark.parametrize("shape", [(4, 3), (4, 40), (2, 5, 7)], ids=str)
def test_targets_that_are_no_classes(shape: tuple) -> None:
    x, bad = draw(*shape), torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
    for value in (-1, shape[1], 2**62):
        bad[1] = value
        for call in (
            lambda: ops.loss.cross_entropy(x, bad, None, -100, 0.0, "mean"),
            lambda: ops.loss.nll_loss(x, bad, None, -100, "mean"),
        ):
            with pytest.raises(IndexError, match=f"Target {value} is out of bounds: there are {shape[1]} classes"):
                call()
        ops.loss.cross_entropy(x, bad, None, value, 0.0, "mean")  # ignored
        # The gradient, given what forward would have refused, writes nothing outside.
        normalizer = torch.zeros(2, *bad.shape, dtype=x.dtype)
        if torchbp.kernels_loaded():
            gx = ops.loss.cross_entropy_gradient(x.new_ones(()), x, bad, None, None, normalizer, -100, 0.0, "sum")
            assert not gx[1].any()
            gx = ops.loss.nll_loss_gradient(x.new_ones(()), bad, None, None, shape[1], -100, "sum")
            assert not gx[1].any()


def test_pointwise_kernels_do_not_depend_on_threads() -> None:
    """Also where the elements fill several chunks and leave a rest: bitwise."""
    if not torchbp.kernels_loaded():
        pytest.skip("without the extension the sums are PyTorch's")
    x = draw(3, 33001, dtype=torch.float32)
    mask, target = draw(3, 33001, seed=1) > 0, torch.randint(0, 3, (33001,))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            scores = x.t().contiguous()
            loss, total, normalizer = ops.loss.cross_entropy(scores, target, None, -100, 0.1, "mean")
            results.append(
                [
                    *(ops.activation.activation(x, name, values) for name, values in ACTIVATIONS.items()),
                    *(ops.activation.activation_gradient(x, x, name, values) for name, values in ACTIVATIONS.items()),
                    ops.dropout.masked_scale(x, mask, 1.25),
                    ops.softmax.softmax(x, 1, False),
                    ops.softmax.softmax(scores, 1, True),
                    ops.softmax.softmax(scores.t(), 0, False),
                    *(ops.softmax.softmax_gradient(x, x.flip(0), dim, True) for dim in (0, 1)),
                    ops.loss.difference_loss(x, x.flip(0), "huber", 0.5, "sum"),
                    ops.loss.difference_loss_gradient(loss, x, x.flip(0), "squared", 0.0, "mean"),
                    loss,
                    ops.loss.cross_entropy_gradient(loss, scores, target, None, total, normalizer, -100, 0.1, "mean"),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# Both sides of every choice that the kernels make by size: planes and columns, rows side by side, chunks, pieces.
CHANNEL_SHAPES = [
    *((5, 3), (300, 70), (2000, 7), (5, 4, 9), (3, 5, 33, 37), (1, 3, 200, 180), (20, 3, 64, 64), (17, 40, 14, 14)),
    *((2, 600, 5), (3, 2, 1, 40), (2, 64, 7, 7), (600, 3, 2), (2, 3, 2, 3, 4)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", CHANNEL_SHAPES, ids=str)
def test_normalisation_equals_the_formula_in_double(shape: tuple, dtype: torch.dtype) -> None:
    if not torchbp.kernels_loaded():
        pytest.skip("without the extension the formula would be compared with itself")
    wide, tolerance = ops.normalization.statistics_dtype(dtype), {torch.float32: 2e-6, torch.bfloat16: 5e-3}
    w, b, mean, variance = (draw(shape[1], dtype=wide, seed=i) for i in range(4))
    x = draw(*shape, dtype=dtype)
    for layout in ("contiguous", "channels-last") if len(shape) > 3 else ("contiguous",):
        xs, gs = laid(x * 2 + 3, layout), laid(draw(*shape, dtype=dtype, seed=1), layout)
        statistics = ops.normalization._composite(xs.double(), None, None, 1e-5)[1:]
        calls = [
            ("batch_norm", (xs, w, b, 1e-5)),
            *(
                ("batch_norm_gradients", (gs, xs, w, *(s.to(wide) for s in statistics), 1e-5, wanted))
                for wanted in (True, False)
            ),
            ("channel_affine", (xs, w, b, mean, variance.abs(), 1e-5)),
            ("channel_affine_gradients", (gs, xs, w, mean, variance.abs(), 1e-5, True)),
        ]
        for groups in {1, shape[1], *(g for g in (2, 5, 8) if shape[1] % g == 0)}:
            read = (shape[0], groups, shape[1] // groups, x[0, 0].numel())
            if read[2] * read[3] > 1:
                statistics = ops.normalization._group_composite(xs.double(), read, None, None, 1e-5)[1:]
                calls.append(("group_norm", (xs, read, w, b, 1e-5)))
                for wanted in ((True, True), (True, False), (False, True)):
                    statistics = [s.to(wide) for s in statistics]
                    calls.append(("group_norm_gradients", (gs, xs, read, w, *statistics, 1e-5, *wanted)))
        read, elements = (shape[0], x[0].numel()), draw(x[0].numel(), dtype=wide)
        square = ops.normalization._rms_composite(xs.double(), read, None, 1e-5)[1].to(wide)
        calls.append(("rms_norm", (xs, read, elements, 1e-5)))
        for wanted in ((True, True), (True, False), (False, True)):
            calls.append(("rms_norm_gradients", (gs, xs, read, elements, square, 1e-5, *wanted)))
        for name, call in calls:
            widened = [t.double() if isinstance(t, torch.Tensor) else t for t in call]
            expected = getattr(ops.normalization, COMPOSITES[name])(*widened)
            for found, truth in zip(_tuple(getattr(O, name)(*call)), _tuple(expected), strict=True):
                assert relative(found, truth) < tolerance.get(dtype, 1e-3), (name, layout)


@pytest.mark.parametrize("centre", [1e4, 1e6])
@pytest.mark.parametrize("first", [0.0, None], ids=["first value far away", "all near the mean"])
@pytest.mark.parametrize("shape", [(4, 3, 60, 70), (600, 40), (300, 2, 5), (2, 64, 16, 16)], ids=str)
def test_statistics_far_from_zero(shape: tuple, first: float | None, centre: float) -> None:
    """To a few units of rounding, whatever value the sums start from."""
    x = (draw(*shape) + centre).float()
    if first is not None:
        x[0, :, ...].view(shape[1], -1)[:, 0] = first
    for layout in ("contiguous", "channels-last") if len(shape) > 3 else ("contiguous",):
        xs = laid(x, layout)
        others = [d for d in range(x.dim()) if d != 1]
        variance, mean = torch.var_mean(xs.double(), others, correction=0)
        _, found_mean, found_variance = O.batch_norm(xs, None, None, 1e-5)
        assert relative(found_mean, mean) < 1e-7
        assert relative(found_variance, variance) < 2e-6
        read = (shape[0], 1, shape[1], x[0, 0].numel())
        variance, mean = torch.var_mean(xs.double(), list(range(1, x.dim())), correction=0)
        _, found_mean, found_variance = O.group_norm(xs, read, None, None, 1e-5)
        assert relative(found_mean.flatten(), mean) < 1e-7
        assert relative(found_variance.flatten(), variance) < 2e-6
        square = O.rms_norm(xs, [shape[0], xs[0].numel()], None, 1e-5)[1]
        assert relative(square, xs.double().square().flatten(1).mean(1)) < 1e-6


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_normalisation_does_not_depend_on_threads(threads: int) -> None:
    if not torchbp.kernels_loaded():
        pytest.skip("the composite formula's sums are PyTorch's")
    calls = []
    for shape in ((2, 3, 200, 180), (70, 5, 40, 12), (4000, 20), (40, 48, 11, 13), (3, 600, 5)):
        w, mean = draw(shape[1]).float(), draw(shape[1], seed=2).float()
        for layout in ("contiguous", "channels-last") if len(shape) > 3 else ("contiguous",):
            x, g = laid(draw(*shape).float(), layout), laid(draw(*shape, seed=1).float(), layout)
            calls.append((O.batch_norm, (x, w, w, 1e-5)))
            calls.append((O.batch_norm_gradients, (g, x, w, mean, w.abs(), 1e-5, True)))
            calls.append((O.channel_affine_gradients, (g, x, w, mean, w.abs(), 1e-5, True)))
            read = (shape[0], 1, shape[1], x[0, 0].numel())
            calls.append((O.group_norm, (x, read, w, w, 1e-5)))
            calls.append(
                (O.group_norm_gradients, (g, x, read, w, *(2 * [draw(shape[0], 1).float().abs()]), 1e-5, True, True))
            )
    for shape in ((700, 90), (6, 9000), (3, 70000)):
        x, g, w = (draw(*shape[i:], seed=i).float() for i in (0, 0, 1))
        read, statistic = (shape[0], 1, shape[1], 1), draw(shape[0], 1).float().abs()
        calls.append((O.group_norm, (x, read, w, w, 1e-5)))
        calls.append((O.group_norm_gradients, (g, x, read, w, statistic, statistic, 1e-5, True, True)))
        calls.append((O.rms_norm, (x, shape, w, 1e-5)))
        calls.append((O.rms_norm_gradients, (g, x, shape, w, statistic.flatten(), 1e-5, True, True)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [_tuple(op(*call)) for op, call in calls]
        torch.set_num_threads(threads)
        together = [_tuple(op(*call)) for op, call in calls]
    finally:
        torch.set_num_threads(before)
    for (op, _), a, b in zip(calls, alone, together, strict=True):
        assert all(map(torch.equal, a, b)), op


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_normalisation_carries_nan_and_inf(value: float) -> None:
    """To the whole channel or group, and to no other."""
    for shape in ((2, 4, 40, 50), (3, 4, 5), (300, 4)):
        for layout in ("contiguous", "channels-last") if len(shape) > 3 else ("contiguous",):
            x = laid(draw(*shape).float(), layout)
            x[1, 2] = value
            y, mean, _ = O.batch_norm(x, None, None, 1e-5)
            wanted, wanted_mean, _ = torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
            assert torch.equal(y.isfinite(), wanted.isfinite()) and torch.equal(mean.isnan(), wanted_mean.isnan())
            for groups in (1, 2):
                read = (shape[0], groups, 4 // groups, x[0, 0].numel())
                y = O.group_norm(x, read, None, None, 1e-5)[0]
                assert torch.equal(y.isfinite(), torch.group_norm(x, groups).isfinite())
            last = tuple(x.shape[2:]) or (4,)
            elements = torch.Size(last).numel()
            y = O.rms_norm(x, [x.numel() // elements, elements], None, 1e-5)[0]
            assert torch.equal(y.isfinite(), torch.rms_norm(x, last, eps=1e-5).isfinite())


# --------------------------------------------------------------------------------------------------
# The build


def test_kernel_facts() -> None:
    status = torchbp.kernels_status()
    assert status["loaded"] == torchbp.kernels_loaded()
    if torchbp.kernels_loaded():
        assert status["reason"] == "" and status["instruction_set"] in status["instruction_sets_built"]
        torchbp.require_kernels()
    else:
        assert status["reason"]
        with pytest.raises(RuntimeError, match=status["reason"]):
            torchbp.require_kernels()


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3), (1, 1), (3, 37)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int32])
def test_shuffles_copy_as_the_built_in(name, factor, format, size, dtype) -> None:
    grown = tuple(factor * n for n in size)
    shape = (2, factor**2 * 3, *size) if name == "pixel_shuffle" else (2, 3, *grown)
    whole = draw(2, 2 * shape[1], *shape[2:]).to(dtype).contiguous(memory_format=format)
    for x in (whole[:, : shape[1]].contiguous(memory_format=format), whole[:, ::2]):
        mine, theirs = (getattr(place, name)(x, factor) for place in (ops.shuffle, torch))
        assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()
        assert mine.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
