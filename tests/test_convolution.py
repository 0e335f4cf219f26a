"""Convolution where the built-in is no judge, one kernel for every sample's gradient, and lazy layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import torchbp.nn as nn
from torchbp import ops, reference
from torchbp.nn import functional as F


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --------------------------------------------------------------------------------------------------
# oneDNN issue 6035: 1x1 kernels with stride 2 on channels-last images of few channels are wrong, or crash, in
# shipped PyTorch. The loops in NumPy are the judge.


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("padding", (0, 1, 2))
@pytest.mark.parametrize("channels", ((1, 4), (2, 3), (3, 8), (3, 33), (4, 16)))
@pytest.mark.parametrize("size", ((9, 9), (8, 5), (1, 7)))
def test_pointwise_strided_channels_last(
    size: tuple[int, int], channels: tuple[int, int], padding: int, dtype: torch.dtype
) -> None:
    x = draw(2, channels[0], *size, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    w = draw(channels[1], channels[0], 1, 1, seed=1, dtype=dtype)
    w = w.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = F.conv2d(x, w, stride=2, padding=padding)
    g = draw(*y.shape, seed=2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    gx, gw = torch.autograd.grad(y, (x, w), g)
    y = y.detach()
    wide_x, wide_w, wide_g = (t.detach().double().contiguous().numpy() for t in (x, w, g))
    geometry = ((2, 2), (padding, padding), (1, 1), 1)
    expected = (
        reference.convolution(wide_x, wide_w, None, *geometry),
        reference.convolution_input(wide_g, wide_w, size, *geometry),
        reference.convolution_weight(wide_x, wide_g, (1, 1), *geometry),
    )
    # A sum of n products rounds by n units of its terms, in float32; a result of 16 bits rounds once more.
    unit = 64 * torch.finfo(torch.float32).eps + (torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0)
    for actual, truth in zip((y, gx, gw), expected, strict=True):
        truth = torch.from_numpy(truth)
        assert actual.shape == truth.shape
        assert float((actual.double() - truth).abs().max()) <= unit * max(1.0, float(truth.abs().max()))


# --------------------------------------------------------------------------------------------------
# Every sample's weight gradient


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """Count the operators of torchbp that run."""
    counter: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "torchbp":
                counter[func._opname] += 1
            return func(*args, **(kwargs or {}))

    with Count():
        yield counter


# Name, batch, weight, arguments, and the product that the weight's gradient is.
PER_SAMPLE = [
    ("conv1d", (5, 3, 9), (4, 3, 3), {"stride": 2, "padding": 1}),
    ("conv2d", (4, 2, 6, 5), (3, 2, 3, 2), {"padding": 1, "dilation": (1, 2)}),
    ("conv2d", (4, 4, 6, 5), (8, 2, 3, 3), {"groups": 2}),
    ("conv2d", (4, 3, 6, 5), (3, 1, 3, 3), {"groups": 3, "padding": "same"}),
    ("conv3d", (3, 2, 4, 3, 5), (3, 2, 2, 1, 2), {"stride": (1, 2, 2)}),
    ("conv_transpose1d", (3, 2, 5), (2, 3, 3), {"stride": 2, "output_padding": 1}),
    ("conv_transpose2d", (3, 2, 4, 3), (2, 3, 2, 2), {"stride": 2}),
]


def losses(name: str, **arguments: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(w: Tensor, x: Tensor) -> Tensor:
        return getattr(F, name)(x.unsqueeze(0), w, **arguments).pow(3).sum()

    return loss


@pytest.mark.parametrize(("name", "shape", "kernel", "arguments"), PER_SAMPLE)
def test_per_sample_weight_gradients_are_one_grouped_product(
    name: str, shape: tuple[int, ...], kernel: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    x, w = draw(*shape), draw(*kernel, seed=1)
    loss = losses(name, **arguments)
    with calls() as counter:
        actual = vmap(grad(loss), in_dims=(None, 0))(w, x)
    assert counter["convolution_weight"] == 1 and sum(counter.values()) == 2
    torch.testing.assert_close(actual, torch.stack([grad(loss)(w, one) for one in x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "shape", "kernel", "arguments"), PER_SAMPLE)
def test_weights_of_an_ensemble_are_groups(
    name: str, shape: tuple[int, ...], kernel: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    """Mapped weights, mapped weights and inputs, and a map in a map: one call each, equal to a loop."""
    layer = getattr(F, name)
    w, x = draw(3, *kernel, seed=1), draw(3, *shape)
    for dims, loop in (
        ((None, 0), [layer(x[0], one, **arguments) for one in w]),
        ((0, 0), [layer(a, one, **arguments) for a, one in zip(x, w, strict=True)]),
    ):
        with calls() as counter:
            y = vmap(lambda a, b: layer(a, b, **arguments), in_dims=dims)(x if dims[0] == 0 else x[0], w)
        assert sum(counter.values()) == 1
        torch.testing.assert_close(y, torch.stack(loop), rtol=1e-12, atol=1e-12)
    nested = vmap(vmap(lambda a, b: layer(a, b, **arguments), in_dims=(None, 0)), in_dims=(0, None))
    with calls() as counter:
        y = nested(x, w)
    assert sum(counter.values()) == 1
    loop = [torch.stack([layer(a, one, **arguments) for one in w]) for a in x]
    torch.testing.assert_close(y, torch.stack(loop), rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------
# Padding that differs before and after the input


@pytest.mark.parametrize("before", (0, 2))
@pytest.mark.parametrize("after", (-2, 0, 1, 3))
@pytest.mark.parametrize("n", (1, 2, 3))
def test_two_sided_padding_is_explicit_padding(n: int, before: int, after: int) -> None:
    x, w = draw(2, 4, *[6, 7, 5][:n]), draw(6, 2, *[2, 3, 2][:n], seed=1)
    rest = ([2, 1, 3][:n], [before] * n + [after] * n, [1, 2, 1][:n], 2)
    plain = (rest[0], [0] * n, *rest[2:])
    padded = torch.constant_pad_nd(x, [before, after] * n)
    y = ops.convolution.convolution(x, w, None, *rest)
    torch.testing.assert_close(y, ops.convolution.convolution(padded, w, None, *plain), rtol=1e-13, atol=1e-13)
    g = draw(*y.shape, seed=2)
    gx = ops.convolution.convolution_input(g, w, None, x.shape[2:], *rest)
    whole = ops.convolution.convolution_input(g, w, None, padded.shape[2:], *plain)
    torch.testing.assert_close(gx, torch.constant_pad_nd(whole, [-before, -after] * n), rtol=1e-13, atol=1e-13)
    gw = ops.convolution.convolution_weight(x, g, w.shape[2:], *rest)
    whole = ops.convolution.convolution_weight(padded, g, w.shape[2:], *plain)
    torch.testing.assert_close(gw, whole, rtol=1e-13, atol=1e-13)


# --------------------------------------------------------------------------------------------------
# Complex numbers, and layers that learn their channels


@pytest.mark.parametrize("n", (1, 2, 3))
@pytest.mark.parametrize("transposed", (False, True))
def test_complex_operands(n: int, transposed: bool) -> None:
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    shapes = ((2, 4, *[5, 4, 3][:n]), (4, 3, *[2] * n) if transposed else (6, 2, *[2] * n), (6,))
    results = []
    for layer in (getattr(F, name), getattr(builtin, name)):
        operands = [torch.complex(draw(*s), draw(*s, seed=5)).requires_grad_() for s in shapes]
        y = layer(*operands, stride=2, padding=1, groups=2)
        g = torch.complex(draw(*y.shape, seed=2), draw(*y.shape, seed=3))
        results.append([y, *torch.autograd.grad(y, operands, g)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in nn.explicit_layers() if n.startswith("LazyConv")])
def test_lazy_layers_become_the_eager_ones(name: str) -> None:
    x = draw(2, 3, *[5] * int(name[-2]), dtype=torch.float32)
    lazy, eager = getattr(nn, name)(4, 2), getattr(nn, name.removeprefix("Lazy"))(3, 4, 2)
    y = lazy(x)
    assert type(lazy) is type(eager)
    eager.load_state_dict(lazy.state_dict())
    torch.testing.assert_close(eager(x), y, rtol=0, atol=0)
    waiting = getattr(nn, name)(4, 2)
    waiting.load_state_dict(eager.state_dict())
    torch.testing.assert_close(waiting(x), y, rtol=0, atol=0)
    with calls() as counter:
        getattr(nn, name)(4, 2)(x)
    assert sum(counter.values()) == 1  # the first call is ours, too


@pytest.mark.parametrize("stride", [50, 2**31, 2**62])
def test_a_stride_far_beyond_the_input_meets_one_position(stride: int) -> None:
    x, w = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 9, 8), (4, 3, 3, 2)))
    operators, geometry = torch.ops.torchbp, ([0, 0], [1, 1], 1)
    y = operators.convolution(x, w, None, [stride, stride], *geometry)
    assert torch.equal(y, operators.convolution(x, w, None, [50, 50], *geometry)) and y.shape == (2, 4, 1, 1)
    for name, arguments in (("convolution_input", (y, w, None, [9, 8])), ("convolution_weight", (x, y, [3, 2]))):
        found = [getattr(operators, name)(*arguments, [s, s], *geometry) for s in (stride, 50)]
        assert torch.equal(*found)


@pytest.mark.parametrize("padding", [(7, 0), (7, 9), (3, 12)], ids=str)
def test_windows_that_see_nothing_but_padding(padding: tuple[int, int]) -> None:
    """Also by the formula in operators of PyTorch; the input gets no gradient from there."""
    w, size, geometry = draw(4, 3, 2, 3), [2, 4], ([16, 20], list(padding), [1, 1], 1)
    y = torch.ops.torchbp.convolution(draw(2, 3, *size), w, None, *geometry)
    g = draw(*y.shape, seed=3)
    kernel = torch.ops.torchbp.convolution_input(g, w, None, size, *geometry)
    formula = ops.convolution._composite_input(g, w, None, size, *geometry)
    torch.testing.assert_close(formula, kernel, rtol=1e-12, atol=1e-12)
    x = draw(2, 3, *size).requires_grad_()
    expected = torch.autograd.grad(builtin.conv2d(x, w, None, *geometry[:3]), x, g)[0]
    torch.testing.assert_close(kernel, expected, rtol=1e-12, atol=1e-12)
