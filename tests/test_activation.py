"""Activations and dropout: what is kept, every number of half width, in place, and random numbers under vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd, nn
from torchbp.autograd.activation import MAPS, Pointwise, row_of
from torchbp.costs.graph import built_in_nodes, nodes_of
from torchbp.nn import functional as F

# --------------------------------------------------------------------------------------------------
# The table

PARAMETERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "leaky_relu": ((0.1,), (-0.3,)),
    "rrelu": ((0.2,),),
    "elu": ((0.7, 1.2, 1.3), (-0.5, 1.0, 1.0)),
    "hardtanh": ((-0.5, 1.0),),
    "threshold": ((0.3, 0.1), (0.3, 2.0)),
    "hardshrink": ((0.5,),),
    "softshrink": ((0.5,),),
    "softplus": ((2.0, 3.0),),
}
ROWS = [
    pytest.param(name, parameters, id=f"{name}{list(parameters)}")
    for name in MAPS
    for parameters in PARAMETERS.get(name, ((),))
]


def derivative(row: Pointwise, parameters: tuple[float, ...], x: Tensor, fused: bool) -> Tensor:
    y = row.forward(x, *parameters)
    formula = row.fused if fused and row.fused is not None else row.gradient
    return formula(torch.ones_like(y), x if row.keeps == "input" else y, *parameters)


@pytest.mark.parametrize(("name", "parameters"), ROWS)
def test_both_ways_to_a_derivative_agree(name: str, parameters: tuple[float, ...]) -> None:
    """The operator of one pass and the differentiable steps, also at kinks and at the ends."""
    ends = torch.tensor([-torch.inf, -1e5, -50, -3, -0.5, -0.0, 0, 0.1, 0.3, 0.5, 1, 3, 6, 50, 1e5, torch.inf])
    x = torch.cat([ends.double(), torch.linspace(-7, 7, 101, dtype=torch.float64)])
    row = row_of(name, x.dtype, parameters)
    fused, steps = (derivative(row, parameters, x, kind) for kind in (True, False))
    if name in ("gelu", "gelu_tanh", "silu", "mish"):  # 0 times infinity
        fused, steps = fused[1:-102][:14], steps[1:-102][:14]
    torch.testing.assert_close(fused, steps, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "parameters"), ROWS)
def test_a_second_derivative_is_finite_where_the_function_is(name: str, parameters: tuple[float, ...]) -> None:
    """No branch that is not taken spoils it by 0 times infinity."""
    x = torch.tensor([-1e4, -800.0, -90, -1, 1, 90, 800, 1e4], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(autograd.activation.pointwise(name, x, *parameters).sum(), x, create_graph=True)
    (gg,) = torch.autograd.grad(g.sum(), x) if g.requires_grad else (g,)
    assert bool(g.isfinite().all()) and bool(gg.isfinite().all())


@pytest.mark.parametrize(
    ("name", "arguments", "kept"),
    [
        ("elu", (0.0,), "output"),
        ("elu", (-1.0,), "input"),
        ("celu", (-1.0,), "input"),
        ("threshold", (1.0, 1.0), "output"),
        ("threshold", (1.0, 2.0), "input"),
        ("hardtanh", (0.1, 0.9), "output"),
        ("hardshrink", (-1.0,), "output"),
    ],
)
def test_what_is_kept(name: str, arguments: tuple[float, ...], kept: str) -> None:
    x = torch.randn(6, requires_grad=True)
    y = getattr(F, name)(x, *arguments)
    (saved,) = y.grad_fn.saved_tensors
    assert saved.data_ptr() == (x if kept == "input" else y).data_ptr()


NODES = {
    "GLU": (nn.GLU(),),
    "PReLU": (nn.PReLU(),),
    "RReLU": (nn.RReLU(),),
    "Softmax": (nn.Softmin(1), nn.Softmax2d()),
    "MaskedScale": (nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d()),
    "Scaling": (nn.Dropout(1.0),),
    "AlphaDropout": (nn.AlphaDropout(), nn.FeatureAlphaDropout()),
    "Relu": (nn.ReLU(),),
    "LeakyRelu": (nn.LeakyReLU(),),
    "Rrelu": (nn.RReLU().eval(),),
    "Elu": (nn.ELU(), nn.CELU(), nn.SELU()),
    "Hardtanh": (nn.ReLU6(), nn.Hardtanh()),
    "Threshold": (nn.Threshold(0.1, 0.2),),
    "Hardshrink": (nn.Hardshrink(),),
    "Softshrink": (nn.Softshrink(),),
    "Hardsigmoid": (nn.Hardsigmoid(),),
    "Hardswish": (nn.Hardswish(),),
    "Sigmoid": (nn.Sigmoid(),),
    "Logsigmoid": (nn.LogSigmoid(),),
    "Tanh": (nn.Tanh(),),
    "ScaledTanh": (nn.ScaledTanh(),),
    "Tanhshrink": (nn.Tanhshrink(),),
    "Softsign": (nn.Softsign(),),
    "Softplus": (nn.Softplus(),),
    "Gelu": (nn.GELU(),),
    "GeluTanh": (nn.GELU("tanh"),),
    "Silu": (nn.SiLU(),),
    "Mish": (nn.Mish(),),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.filterwarnings("ignore:dropout")
def test_no_backward_is_the_built_in(name: str) -> None:
    for module in NODES[name]:
        shape = (2, 3, 4) if "1d" in type(module).__name__ else (2, 3, 4, 4)
        y = module(torch.randn(shape, requires_grad=True))
        assert f"{name}Backward" in [node.name() for node in nodes_of([y])], module
        assert set(built_in_nodes([y])) <= {"AccumulateGrad", "UnsqueezeBackward", "SqueezeBackward", "ViewBackward"}, (
            module
        )


# --------------------------------------------------------------------------------------------------
# Half widths: all numbers

KINKED: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("relu6", ()),
    ("leaky_relu", (0.01,)),
    *(("hardtanh", bounds) for bounds in ((-1.0, 1.0), (0.1, 0.7), (-0.3, 2.001), (0.1, 0.1), (-1e4, 1e-5))),
    *(("threshold", values) for values in ((0.1, 0.1), (0.3, 0.1), (0.1, 0.3), (1e-9, 0.0), (-0.7, -6e4))),
    *(("hardshrink", (lambd,)) for lambd in (0.5, 0.1, 0.0, -0.2)),
    *(("softshrink", (lambd,)) for lambd in (0.5, 0.1, 0.0)),
    ("hardsigmoid", ()),
    ("hardswish", ()),
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "arguments"), KINKED)
def test_every_number_of_half_width(name: str, arguments: tuple[float, ...], dtype: torch.dtype) -> None:
    """A gradient written from a rounded output is that of the input."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    numbers = numbers[~numbers.isnan()]
    gradients = []
    for place in (F, builtin):
        x = numbers.clone().requires_grad_()
        gradients += torch.autograd.grad(getattr(place, name)(x, *arguments).sum(), x)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "arguments"), KINKED)
def test_neighbours_of_every_kink(name: str, arguments: tuple[float, ...], dtype: torch.dtype) -> None:
    kinks = torch.tensor([0.0, 3, 6, *arguments], dtype=dtype)
    up = torch.nextafter(kinks, torch.tensor(torch.inf, dtype=dtype))
    numbers = torch.cat([kinks, up, torch.nextafter(kinks, torch.tensor(-torch.inf, dtype=dtype))])
    numbers = torch.cat([numbers, -numbers]).repeat(4)  # enough to fill vectors
    gradients = []
    for place in (F, builtin):
        x = numbers.clone().requires_grad_()
        gradients += torch.autograd.grad(getattr(place, name)(x, *arguments).sum(), x)
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-15  # the built-in's has float32's digits
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_digits_of_hardsigmoid(dtype: torch.dtype) -> None:
    """PyTorch multiplies by 1/6 rounded to float32, whatever the dtype."""
    slopes = []
    for place in (F, builtin):
        x = torch.zeros(40, dtype=dtype, requires_grad=True)
        slopes.append(torch.autograd.grad(place.hardsigmoid(x).sum(), x)[0][0])
    assert slopes[0] == torch.tensor(1, dtype=dtype) / 6
    assert slopes[1] == torch.tensor(1) / 6


def test_the_digits_of_celu() -> None:
    """PyTorch's gradient takes 1 / alpha in float32, whatever the dtype."""
    slopes = []
    for place in (F, builtin):
        x = torch.full((40,), -0.1, dtype=torch.float64, requires_grad=True)
        slopes.append(torch.autograd.grad(place.celu(x, 0.7).sum(), x)[0][0])
    torch.testing.assert_close(slopes[0], torch.tensor(-0.1 / 0.7, dtype=torch.float64).exp(), rtol=1e-15, atol=0)
    assert abs(slopes[1] - slopes[0]) > 1e-10


def test_softsign_where_it_saturates() -> None:
    """The difference that PyTorch differentiates has lost all digits there; at infinity it is NaN."""
    x = torch.tensor([1e6, 1e8, torch.inf], requires_grad=True)
    (mine,), (theirs,) = (torch.autograd.grad(place.softsign(x).sum(), x) for place in (F, builtin))
    torch.testing.assert_close(mine, torch.tensor([(1 + 1e6) ** -2, (1 + 1e8) ** -2, 0]), rtol=1e-6, atol=0)
    assert theirs[0] / mine[0] > 1.02 and theirs[1] == 0 and theirs[2].isnan()


# --------------------------------------------------------------------------------------------------
# In place

IN_PLACE: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("relu_", ()),
    ("leaky_relu_", (0.2,)),
    ("leaky_relu_", (-0.2,)),
    ("rrelu_", (0.2, 0.4)),
    ("rrelu_", (0.2, 0.4, True)),
    ("elu_", (0.5,)),
    ("elu_", (-0.5,)),
    ("celu_", (0.5,)),
    ("celu_", (-0.5,)),
    ("selu_", ()),
    ("hardtanh_", (-0.5, 0.7)),
    ("threshold_", (0.3, 0.1)),
    ("threshold_", (0.3, 2.0)),
)


@pytest.mark.parametrize(("name", "arguments"), IN_PLACE, ids=[f"{n}{list(a)}" for n, a in IN_PLACE])
def test_in_place(name: str, arguments: tuple[float, ...]) -> None:
    results = []
    for in_place in (True, False):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
        moved = x * 1.5
        torch.manual_seed(0)
        y = getattr(F if in_place else builtin, name if in_place else name[:-1])(moved, *arguments)
        assert (y is moved) == in_place
        results.append([y.detach(), *torch.autograd.grad((y * y).sum(), x)])
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-14)
    with pytest.raises(RuntimeError, match="leaf"):
        getattr(F, name)(x, *arguments)


OVERWRITING = {
    "relu": (),
    "relu6": (),
    "leaky_relu": (0.1,),
    "elu": (),
    "celu": (0.7,),
    "selu": (),
    "hardtanh": (-0.5, 0.75),
    "threshold": (0.25, -0.5),
}


@pytest.mark.parametrize("name", OVERWRITING)
def test_in_place_keeps_one_tensor(name: str) -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    moved = torch.randn(4, 5, requires_grad=True) * 1
    place = moved.data_ptr()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = getattr(F, name)(moved, *OVERWRITING[name], inplace=True)
        F.linear(y, torch.randn(3, 5, requires_grad=True))
    assert y is moved and y.data_ptr() == place
    assert kept[:2] == [place, place]  # by the map, and by the layer that follows


@pytest.mark.parametrize("name", OVERWRITING)
def test_in_place_has_all_derivatives(name: str) -> None:
    x = torch.linspace(-1.9, 2.1, 16, dtype=torch.float64, requires_grad=True)
    arguments = OVERWRITING[name]

    def apply(x: Tensor) -> Tensor:
        return getattr(F, name)(x * 1, *arguments, inplace=True)

    def apply_to_a_view(x: Tensor) -> Tensor:
        y = x * 1
        getattr(F, name)(y[3:9], *arguments, inplace=True)
        return y

    for each in (apply, apply_to_a_view):
        assert torch.autograd.gradcheck(each, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(each, x)
    torch.testing.assert_close(torch.vmap(apply)(x.view(4, 4)), getattr(builtin, name)(x.view(4, 4), *arguments))
    torch.testing.assert_close(
        torch.func.jacrev(apply)(x), torch.diag(torch.autograd.grad(getattr(builtin, name)(x, *arguments).sum(), x)[0])
    )


def test_a_leaf_is_refused_before_it_is_overwritten() -> None:
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        F.relu(x, inplace=True)
    assert x.tolist() == [-1, 1]


def test_in_place_without_a_gradient() -> None:
    x = torch.tensor([-1.0, 1.0])
    assert F.relu_(x) is x and x.tolist() == [0, 1] and x.grad_fn is None
    leaf = torch.tensor([-1.0, 1.0], requires_grad=True)
    with torch.no_grad():
        assert F.relu_(leaf) is leaf
    assert leaf.tolist() == [0, 1] and leaf.is_leaf


@pytest.mark.parametrize("name", ["leaky_relu_", "elu_", "celu_"])
def test_in_place_with_a_negative_slope(name: str) -> None:
    """The built-in goes forward, but not back; test_in_place has ours."""
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    with pytest.raises(RuntimeError, match="not supported"):
        getattr(builtin, name)(x * 1, -0.5).sum().backward()


@pytest.mark.parametrize("name", ["relu6", "hardsigmoid", "hardswish", "mish", "silu"])
def test_in_place_by_a_flag(name: str) -> None:
    x = torch.linspace(-4, 4, 41, requires_grad=True)
    y = x * 1.5
    (g,) = torch.autograd.grad(getattr(F, name)(y, inplace=True).sum(), x)
    assert torch.equal(y, getattr(builtin, name)(x * 1.5))
    torch.testing.assert_close(g, torch.autograd.grad(getattr(builtin, name)(x * 1.5).sum(), x)[0])


# --------------------------------------------------------------------------------------------------
# Random numbers under vmap

DRAWING: dict[str, Callable[[Tensor], Tensor]] = {
    "rrelu": partial(F.rrelu, training=True),
    "dropout": partial(F.dropout, p=0.4),
    "dropout1d": partial(F.dropout1d, p=0.4),
    "alpha_dropout": partial(F.alpha_dropout, p=0.4, training=True),
    "feature_alpha_dropout": partial(F.feature_alpha_dropout, p=0.4, training=True),
}


@pytest.mark.parametrize("name", DRAWING)
def test_vmap_draws_as_it_is_told(name: str) -> None:
    function, row = DRAWING[name], torch.randn(1, 20, 7).sub(2)
    x = row.expand(3, 1, 20, 7).clone() if name != "dropout1d" else row.expand(3, 20, 7).clone()
    with pytest.raises(RuntimeError, match="called random operation"):
        torch.vmap(function)(x)
    for randomness, same in (("same", True), ("different", False)):
        y = torch.vmap(function, randomness=randomness)(x)
        assert torch.equal(y[0], y[1]) == same
        (g,) = torch.autograd.grad(torch.vmap(function, randomness=randomness)(x.requires_grad_()).sum(), x)
        assert torch.equal(g[0], g[1]) == same


@pytest.mark.parametrize("name", ["rrelu", "dropout", "alpha_dropout"])
def test_vmap_over_numbers(name: str) -> None:
    x = torch.linspace(-3, -1, 50)
    y = torch.vmap(DRAWING[name], randomness="different")(x)
    assert y.shape == x.shape and len((y / x).unique()) > 1


def test_per_sample_gradients_of_what_draws() -> None:
    """vmap of grad: the slope of every element is that by which its value was multiplied."""
    x = torch.randn(4, 30).sub(1)

    def loss(x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.rrelu(x, training=True)
        return y.sum(), y

    g, y = torch.vmap(torch.func.grad(loss, has_aux=True), randomness="different")(x)
    torch.testing.assert_close(g * x, y)


# --------------------------------------------------------------------------------------------------
# Moments


def test_alpha_dropout_keeps_the_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 50, 8, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    for function in (F.alpha_dropout, F.feature_alpha_dropout):
        for p in (0.1, 0.5):
            y = function(x, p, True)
            assert abs(y.mean()) < 0.05 and abs(y.var() - 1) < 0.1
