"""grid_sample and affine_grid against the built-in, and where the built-in has nothing, against the definition."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from torchbp import ops
from torchbp.nn import functional as F
from torchbp.testing.cases.sampling import grid_points

INF, NAN = math.inf, math.nan
WAYS = [
    (dimensions, mode, padding, align_corners)
    for dimensions, mode, padding, align_corners in itertools.product(
        (2, 3), ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    )
    if (dimensions, mode) != (3, "bicubic")
]
# The quick part takes one of the two kinds of corners for each of the others, by turns.
ways = pytest.mark.parametrize(
    ("dimensions", "mode", "padding", "align_corners"),
    [pytest.param(*way, marks=[pytest.mark.slow] if i % 4 in (1, 2) else []) for i, way in enumerate(WAYS)],
)
SIZES = (3, 4, 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem(dimensions: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Return a small image and a grid that keeps clear of kinks."""
    size = SIZES[:dimensions]
    return normal(1, 2, *size), grid_points((1, *(2, 1, 2)[:dimensions]), size, align_corners)


def gradients(
    function: Callable[..., Tensor], x: Tensor, grid: Tensor, g: Tensor, create_graph: bool = False
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_(), grid.detach().requires_grad_()]
    return [t.detach() for t in torch.autograd.grad(function(*leaves), leaves, g, create_graph=create_graph)]


def same(actual: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape and actual.stride() == expected.stride()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


# --------------------------------------------------------------------------------------------------
# Parity


@st.composite
def calls(draw: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw an image, a grid and the settings; points inside, outside, far, on pixels and edges, and not finite."""
    dimensions, mode, padding, align_corners = draw(st.sampled_from(WAYS))
    size = [draw(st.integers(1, 5)) for _ in range(dimensions)]
    points = [draw(st.integers(0 if i == 0 else 1, 4)) for i in range(dimensions)]
    batch, channels, seed = draw(st.integers(0, 2)), draw(st.integers(0, 3)), draw(st.integers(0, 999))
    x, grid = normal(batch, channels, *size, seed=seed), normal(batch, *points, dimensions, seed=seed + 1)
    kind = draw(st.sampled_from(("inside", "outside", "far", "pixels", "not finite")))
    if kind == "inside":
        grid = torch.tanh(grid)
    elif kind == "far":
        grid = grid * 10.0 ** draw(st.integers(1, 6))
    elif kind == "pixels":
        pixel = (grid * 4).round() / draw(st.sampled_from((1, 2)))
        ends = torch.tensor(size[::-1], dtype=torch.float64)
        grid = 2 * pixel / (ends - 1).clamp(min=1) - 1 if align_corners else (2 * pixel + 1) / ends - 1
    elif kind == "not finite":
        chosen = normal(*grid.shape, seed=seed + 2)
        grid = grid.where(chosen < 0.8, torch.tensor([NAN, INF, -INF, 1e300])[seed % 4].double())
    dtype = draw(st.sampled_from((torch.float64, torch.float32, torch.float16, torch.bfloat16)))
    if draw(st.booleans()):
        order = tuple(reversed(range(x.dim())))
        x, grid = x.permute(order).contiguous().permute(order), grid.permute(order).contiguous().permute(order)
    return x.to(dtype), grid.to(dtype), {"mode": mode, "padding_mode": padding, "align_corners": align_corners}


def crashes_the_built_in(grid: Tensor, mode: str, padding_mode: str, **_: Any) -> bool:
    """Tell whether the built-in's gradient writes outside the image (pytorch issue 24823)."""
    finite = bool((grid.abs() < torch.finfo(grid.dtype).max / 5).all())
    return grid.shape[-1] == 2 and mode == "bilinear" and padding_mode != "zeros" and not finite


@given(calls())
def test_value_and_gradients_are_the_built_ins(call: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    x, grid, settings = call
    expected = builtin.grid_sample(x, grid, **settings)
    same(F.grid_sample(x, grid, **settings), expected)
    g = normal(*expected.shape).to(x.dtype)
    # With a graph of the gradient, image and grid get theirs from a call each, which may round in another way.
    tolerance = 16 * torch.finfo(x.dtype).eps
    found = [gradients(lambda x, p: F.grid_sample(x, p, **settings), x, grid, g, graph) for graph in (False, True)]
    for first, again in zip(*found, strict=True):
        same(again, first, tolerance * max([1.0, *first.nan_to_num(0, 0, 0).abs().flatten().tolist()]))
    if crashes_the_built_in(grid, **settings):
        assert all(t.isfinite().all() for t in found[0])
    else:
        for mine, theirs in zip(
            found[0], gradients(lambda x, p: builtin.grid_sample(x, p, **settings), x, grid, g), strict=True
        ):
            same(mine, theirs)


@pytest.mark.parametrize("padding", ("border", "reflection"))
@pytest.mark.parametrize("value", (NAN, INF, -INF, 1.5e308))
def test_a_point_that_is_not_finite_does_not_crash(padding: str, value: float) -> None:
    """The gradient follows the value: the image's at the pixel that was taken, and zero along the component."""
    x, points = normal(1, 2, 3, 4), torch.tensor([[value, 0.1], [0.1, value], [value, value]] * 6, dtype=torch.float64)
    points = points.view(1, 2, 9, 2)

    def function(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)

    g = normal(1, 2, 2, 9)
    gx, ggrid = gradients(function, x, points, g)
    assert bool((ggrid[~points.isfinite()] == 0).all()) and bool(ggrid.isfinite().all())
    torch.testing.assert_close((gx * x).sum(), (function(x, points) * g).sum())


@ways
def test_second_derivatives_are_the_built_ins(dimensions: int, mode: str, padding: str, align_corners: bool) -> None:
    """Where the built-in has them (since 2.13), with points far outside."""
    x, grid = problem(dimensions, align_corners)
    x, grid = x.requires_grad_(), (grid * 3).requires_grad_()
    settings: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    results = []
    for place in (F, builtin):
        y = place.grid_sample(x, grid, **settings)
        first = torch.autograd.grad(y.square().sum(), (x, grid), create_graph=True)
        try:
            total = sum((h * normal(*h.shape, seed=3)).sum() for h in first)
            results.append(torch.autograd.grad(total, (x, grid), materialize_grads=True))
        except RuntimeError as error:
            assert place is builtin and "not implemented" in str(error)
            pytest.skip("the built-in has no second derivative")
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padding", ("zeros", "border", "reflection"))
@pytest.mark.parametrize("align_corners", (False, True))
@pytest.mark.parametrize("mode", ("bilinear", "bicubic"))
@pytest.mark.parametrize("dimensions", (2, 3))
def test_forward_mode_is_reverse_mode_at_kinks(dimensions: int, mode: str, align_corners: bool, padding: str) -> None:
    """On pixels, edges and reflections forward mode (a formula of ours) chooses PyTorch's side."""
    if (dimensions, mode) == (3, "bicubic"):
        pytest.skip("bicubic is 2D")
    size = (5, 4, 3)[:dimensions]
    axes = []
    for n in reversed(size):
        pixel = torch.arange(-2 * n, 3 * n + 1, dtype=torch.float64) / 2
        axes.append(2 * pixel / (n - 1) - 1 if align_corners else (2 * pixel + 1) / n - 1)
    count = min(len(axis) for axis in axes)
    grid = torch.stack([axis[torch.randperm(len(axis))[:count]] for axis in axes], dim=-1)
    grid = grid.view(1, *[1] * (dimensions - 1), count, dimensions)
    for dtype in (torch.float64, torch.float32):
        x, points = normal(1, 2, *size).to(dtype), grid.to(dtype)

        def function(points: Tensor, x: Tensor = x) -> Tensor:
            return F.grid_sample(x, points, mode, padding, align_corners)

        rows = torch.func.jacfwd(function)(points)
        columns = torch.func.jacrev(function)(points)
        torch.testing.assert_close(rows, columns, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------
# Derivatives


@ways
def test_derivatives(dimensions: int, mode: str, padding: str, align_corners: bool) -> None:
    inputs = tuple(t.requires_grad_() for t in problem(dimensions, align_corners))

    def function(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode, padding, align_corners)

    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("order", ((1, 0), (0, 1), (1, 1), (2, 0), (3, 2), (2, 3)))
@pytest.mark.parametrize("padding", ("zeros", "border", "reflection"))
def test_each_order_is_the_derivative_of_the_one_below(order: tuple[int, int], padding: str) -> None:
    """Central differences of the raw operator; the weights of bicubic have degree 3."""
    x, grid = problem(2, False)
    k = 0 if order[0] else 1
    below, step = tuple(a - (i == k) for i, a in enumerate(order)), torch.zeros(2, dtype=torch.float64)
    step[k] = 1e-5
    settings = ("bicubic", padding, False)
    low, high = (ops.sampling.sample(x, grid + sign * step, below, *settings) for sign in (-1, 1))
    exact = ops.sampling.sample(x, grid, order, *settings)
    torch.testing.assert_close((high - low) / 2e-5, exact, rtol=1e-6, atol=1e-6)
    g = normal(*exact.shape, seed=1)
    back = ops.sampling.scatter(g, grid, x.shape[2:], order, *settings)
    torch.testing.assert_close((back * x).sum(), (exact * g).sum())


def test_derivatives_above_the_degree_are_zero() -> None:
    x, grid = problem(2, False)
    assert torch.func.jacfwd(lambda p: F.grid_sample(x, p, "nearest", align_corners=False))(grid).count_nonzero() == 0
    derivative = lambda t: F.grid_sample(x, grid + t * torch.tensor([1.0, 0.0]), "bilinear", align_corners=False).sum()  # noqa: E731
    for _ in range(2):
        derivative = torch.func.grad(derivative)
    assert derivative(torch.tensor(0.0, dtype=torch.float64)) == 0


def test_fourth_derivative() -> None:
    """Of bicubic, twice along each axis, by nested reverse mode, and with forward mode as the first or last step."""
    x, grid = problem(2, False)

    def function(s: Tensor, t: Tensor) -> Tensor:
        return F.grid_sample(x, grid + torch.stack([s, t]), "bicubic", align_corners=False).sum()

    zero = torch.zeros((), dtype=torch.float64)
    results = []
    for forward in (None, 0, 3):
        chain = function
        for i, place in enumerate((0, 0, 1, 1)):
            chain = (torch.func.jacfwd if i == forward else torch.func.grad)(chain, argnums=place)
        results.append(chain(zero, zero))
    expected = ops.sampling.sample(x, grid, (2, 2), "bicubic", "zeros", False).sum()
    torch.testing.assert_close(results, [expected] * 3)


def test_hessian_is_symmetric_and_the_reference_s() -> None:
    x, grid = problem(2, True)

    def loss(place: Any) -> Callable[[Tensor], Tensor]:
        return lambda p: place.grid_sample(x, p, "bicubic", "border", True).square().sum()

    hessian = torch.func.hessian(loss(F))(grid)
    size = grid.numel()
    torch.testing.assert_close(hessian.view(size, size), hessian.view(size, size).T)
    by_reverse = torch.autograd.functional.hessian(loss(F), grid)
    torch.testing.assert_close(hessian, by_reverse)


@ways
@pytest.mark.parametrize(
    "mapped",
    ((0, None), pytest.param((None, 0), marks=pytest.mark.slow), pytest.param((0, 0), marks=pytest.mark.slow), (2, 1)),
)
def test_vmap_is_a_loop(
    dimensions: int, mode: str, padding: str, align_corners: bool, mapped: tuple[int | None, int | None]
) -> None:
    x, grid = problem(dimensions, align_corners)
    inputs = [
        t if d is None else torch.stack([t, t.flip(-1), t * 0.9], dim=d) for t, d in zip((x, grid), mapped, strict=True)
    ]

    def function(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode, padding, align_corners)

    def derivative(x: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(lambda x, p: function(x, p).square().sum(), (0, 1))(x, grid)

    def along(x: Tensor, grid: Tensor) -> Tensor:
        return torch.func.jvp(derivative, (x, grid), (x * 0.3 + 1, grid * 0.5 - 1))[1][1]

    slices = [[t if d is None else t.select(d, i) for t, d in zip(inputs, mapped, strict=True)] for i in range(3)]
    for one in (function, lambda x, p: derivative(x, p)[0], lambda x, p: derivative(x, p)[1], along):
        actual = torch.vmap(one, in_dims=mapped)(*inputs)
        torch.testing.assert_close(actual, torch.stack([one(*given) for given in slices]), rtol=1e-10, atol=1e-10)


def test_nested_vmap_and_an_empty_one() -> None:
    x, grid = problem(2, False)
    images, grids = torch.stack([x, x + 1]), torch.stack([grid, grid.flip(-1), grid * 0.8])
    function = lambda x, p: F.grid_sample(x, p, align_corners=False)  # noqa: E731
    actual = torch.vmap(torch.vmap(function, (None, 0)), (0, None))(images, grids)
    expected = torch.stack([torch.stack([function(x, p) for p in grids]) for x in images])
    torch.testing.assert_close(actual, expected)


# --------------------------------------------------------------------------------------------------
# Dtypes, layouts, what is kept


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("mode", ("bilinear", "bicubic"))
def test_low_precision_derivatives(dtype: torch.dtype, mode: str) -> None:
    """Forward mode and the second derivative are as near to float64 as the rounding of results allows."""
    x, grid = (t.to(dtype) for t in problem(2, False))
    results = []
    for wide in (dtype, torch.float64):
        inputs = (x.to(wide), grid.to(wide))

        def function(x: Tensor, grid: Tensor) -> Tensor:
            return F.grid_sample(x, grid, mode, "border", False)

        pushed = torch.func.jvp(function, inputs, tuple(torch.ones_like(t) for t in inputs))[1]
        mixed = torch.func.jacfwd(torch.func.grad(lambda x, p: function(x, p).sum(), 1), 1)(*inputs)
        assert pushed.dtype == mixed.dtype == wide
        results.append((pushed.double(), mixed.double()))
    for low, high in zip(*results, strict=True):
        assert float((low - high).abs().max()) <= 16 * torch.finfo(dtype).eps * float(high.abs().max())


def test_complex_images() -> None:
    """As the two real images, which the built-in does not take; the gradient of the grid is real."""
    x, grid = problem(2, False)
    image = torch.complex(x, normal(*x.shape, seed=5)).requires_grad_()
    y = F.grid_sample(image, grid, "bicubic", align_corners=False)
    parts = [builtin.grid_sample(t, grid, "bicubic", align_corners=False) for t in (image.real, image.imag)]
    torch.testing.assert_close(y, torch.complex(*parts))
    torch.testing.assert_close(F.grid_sample(image.conj(), grid, "bicubic", align_corners=False), y.conj())
    inputs = (image, grid.requires_grad_())
    function = lambda x, p: F.grid_sample(x, p, "bicubic", "reflection", False)  # noqa: E731
    assert gradcheck(function, inputs, check_forward_ad=True)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("dimensions", (2, 3))
def test_strides(dimensions: int) -> None:
    format = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    x, grid = (
        normal(2, 3, *(4, 5, 3)[:dimensions]).contiguous(memory_format=format),
        normal(2, *[2] * dimensions, dimensions),
    )
    for g_format in (torch.contiguous_format, format):
        results = []
        for place in (F, builtin):
            y = place.grid_sample(x, grid, align_corners=False)
            g = normal(*y.shape).contiguous(memory_format=g_format)
            function = lambda x, p, place=place: place.grid_sample(x, p, align_corners=False)  # noqa: E731
            results.append([y, *gradients(function, x, grid, g)])
        for mine, theirs in zip(*results, strict=True):
            same(mine, theirs)


def test_what_is_kept_depends_on_the_gradients_wanted() -> None:
    from torchbp.testing import saved_bytes

    x, grid = problem(2, False)
    image, points = x.numel() * 8, grid.numel() * 8
    for mode, wanted, kept in (
        ("bilinear", (True, True), image + points),
        ("bicubic", (False, True), image + points),
        ("bilinear", (True, False), points),
        ("nearest", (True, True), points),
        ("bilinear", (False, False), 0),
    ):
        leaves = [t.detach().requires_grad_(w) for t, w in zip((x, grid), wanted, strict=True)]
        assert saved_bytes(lambda leaves=leaves, mode=mode: F.grid_sample(*leaves, mode, align_corners=False)) == kept


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
def test_autocast(dtype: torch.dtype) -> None:
    x, grid = (t.to(dtype) for t in problem(2, False))
    theta = normal(2, 2, 3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(F.grid_sample(x, grid, align_corners=False), builtin.grid_sample(x, grid, align_corners=False))
        same(F.affine_grid(theta, (2, 1, 5, 7), False), builtin.affine_grid(theta, [2, 1, 5, 7], False))


# --------------------------------------------------------------------------------------------------
# The affine grid


@given(st.data())
def test_affine_grid_is_the_built_ins(data: st.DataObject) -> None:
    dimensions, align_corners = data.draw(st.sampled_from((2, 3))), data.draw(st.booleans())
    size = [data.draw(st.integers(1, 5)) for _ in range(dimensions)]
    batch = data.draw(st.integers(1, 3))
    dtype = data.draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16, torch.float16)))
    theta = normal(batch, dimensions, dimensions + 1, seed=data.draw(st.integers(0, 99))).to(dtype)
    if data.draw(st.booleans()):
        theta = theta.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    results = []
    for place in (F, builtin):
        leaf = theta.detach().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a dimension of one with align_corners
            try:
                y = place.affine_grid(leaf, [batch, 1, *size], align_corners)
            except NotImplementedError:
                assert place is builtin and 1 in size and dtype in (torch.float16, torch.bfloat16)
                return
        (gradient,) = torch.autograd.grad(y, leaf, normal(*y.shape).to(dtype))
        results.append([y.detach(), gradient])
    for mine, theirs in zip(*results, strict=True):
        same(mine, theirs)


def test_spatial_transformer() -> None:
    """The composition with affine_grid, to the second order and in forward mode (the built-in has none)."""
    x, theta = normal(1, 2, 3, 4), torch.tensor([[[0.8, 0.2, 0.1], [-0.2, 0.7, 0.05]]], dtype=torch.float64)

    def transform(x: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, (1, 1, 2, 3), align_corners=False)
        return F.grid_sample(x, grid, "bicubic", "reflection", align_corners=False)

    inputs = (x.requires_grad_(), theta.requires_grad_())
    assert gradcheck(transform, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(transform, inputs, check_fwd_over_rev=True, check_batched_grad=True)
    with forward_ad.dual_level():
        dual = transform(forward_ad.make_dual(x.detach(), torch.ones_like(x)), theta.detach())
        assert forward_ad.unpack_dual(dual).tangent is not None


def test_compiled_with_symbolic_sizes() -> None:
    """One program for several sizes, with its backward pass."""
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def transform(x: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    for size in ((2, 3, 4, 5), (3, 2, 6, 4)):
        x, theta = normal(*size), normal(size[0], 2, 3)

        def eager(x: Tensor, theta: Tensor, size: tuple[int, ...] = size) -> Tensor:
            grid = builtin.affine_grid(theta, list(size), align_corners=False)
            return builtin.grid_sample(x, grid, padding_mode="border", align_corners=False)

        g = normal(*size, seed=1)
        for mine, theirs in zip(gradients(transform, x, theta, g), gradients(eager, x, theta, g), strict=True):
            torch.testing.assert_close(mine, theirs)
    torch._dynamo.reset()
