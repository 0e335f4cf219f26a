"""The two generic mechanisms with forms and maps of a user's own, and the traps around Functions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import Function, gradcheck, gradgradcheck

from torchbp.autograd import Einsum, LinearMap, TrilinearForm, adjoint_pair, contract, linear_map, trilinear
from torchbp.testing import check


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


# --------------------------------------------------------------------------------------------------
# Layers of a user's own have every property


def prove(function, inputs, skip=None, **options) -> None:
    """Check strictly; the compiled step, which takes long, is test_layers.py's."""
    left_out = {"compiled_gradient": "test_layers.py compiles steps", **(skip or {})}
    check(function, inputs, skip=left_out, strict=True, **options).assert_ok()


def test_a_circular_shift_from_an_adjoint_pair() -> None:
    shift = adjoint_pair(lambda x: x.roll(1, -1), lambda g: g.roll(-1, -1))
    prove(shift, draw(2, 5), reference=lambda x: x.roll(1, -1), saved=lambda x: 0, batched=(0,), layout=False)


def test_a_map_with_fixed_tensors() -> None:
    pick = adjoint_pair(
        lambda x, index: x.index_select(0, index), lambda g, index: g.new_zeros(6).index_add(0, index, g)
    )
    index = torch.tensor([0, 3, 3, 5])
    prove(pick, (draw(6), index), reference=lambda x, i: x[i], saved=lambda x, i: 32, skip={
        "vmap": "the two slices of the index would be reversed copies, out of order but valid; covered below",
    })  # fmt: skip
    batch = draw(3, 6)
    assert torch.equal(torch.vmap(pick, in_dims=(0, None))(batch, index), batch[:, index])


@pytest.mark.parametrize("equation", ["bti,oi->bto", "bi,oi->ob", "bij,bjk->bki"])
def test_the_output_of_a_contraction_can_be_changed_in_place(equation: str) -> None:
    """It may be made as a view of a product."""
    labels = equation.partition("->")[0].split(",")
    operands = [draw(*[2 + "bijkot".index(label) for label in part], seed=i) for i, part in enumerate(labels)]
    gradients = []
    for product in (lambda x, w: contract(Einsum(equation), 2, x, w), lambda x, w: torch.einsum(equation, x, w)):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        y = product(*leaves)
        y += 1
        y.mul_(2)
        gradients.append([y, *torch.autograd.grad(y.sum(), leaves)])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_trilinear_form_from_three_products() -> None:
    # A circular convolution: y = x ⊛ w, dx and dw correlate.
    def turn(x: Tensor, w: Tensor) -> Tensor:
        return sum(w[..., k : k + 1] * x.roll(k, -1) for k in range(w.shape[-1]))

    def turn_back(w: Tensor, g: Tensor) -> Tensor:
        return sum(w[..., k : k + 1] * g.roll(-k, -1) for k in range(w.shape[-1]))

    def correlate(x: Tensor, g: Tensor) -> Tensor:
        return torch.stack([(g * x.roll(k, -1)).sum() for k in range(3)])

    layer = trilinear(turn, turn_back, correlate)
    skip = {"size_one": "the kernel has three taps"}
    prove(layer, (draw(4), draw(3, seed=1)), reference=turn, skip=skip)


@pytest.mark.parametrize("equation", ["bi,oi->bo", "bqd,bkd->bqk", "bi,oij,bj->bo", "ab,bc,cd,da->ab"])
def test_an_einsum_form(equation: str) -> None:
    sizes = dict(zip("abcdijkoq", (2, 3, 2, 3, 2, 3, 4, 2, 3), strict=True))
    labels = equation.split("->")[0].split(",")
    inputs = tuple(draw(*(sizes[label] for label in term), seed=i) for i, term in enumerate(labels))
    form = Einsum(equation)
    prove(
        lambda *operands: contract(form, len(operands), *operands),
        inputs,
        reference=lambda *operands: torch.einsum(equation, *operands),
        layout=False,
        skip={
            "autocast": "contract leaves casting to its caller",
            "nonfinite": "products in another order meet infinity times zero elsewhere",
        },
    )


def test_a_form_with_a_bias() -> None:
    @dataclass(frozen=True)
    class Scale(TrilinearForm):
        bias_dim = -1

        def output(self, x: Tensor, w: Tensor) -> Tensor:
            return x * w

        def input(self, w: Tensor, g: Tensor) -> Tensor:
            return w * g

        def weight(self, x: Tensor, g: Tensor) -> Tensor:
            return x * g

    prove(
        lambda x, w, b: contract(Scale(), 2, x, w, bias=b),
        (draw(2, 3), draw(2, 3, seed=1), draw(3, seed=2)),
        reference=lambda x, w, b: x * w + b,
    )


def test_complex_operands_follow_pytorchs_convention() -> None:
    x, w = (draw(2, 3, seed=i, dtype=torch.complex128).requires_grad_() for i in (0, 1))
    form = Einsum("bi,oi->bo")
    assert gradcheck(lambda x, w: contract(form, 2, x, w), (x, w), check_forward_ad=True)
    assert gradgradcheck(lambda x, w: contract(form, 2, x, w), (x, w))
    a = torch.autograd.grad(contract(form, 2, x, w).abs().sum(), (x, w))
    b = torch.autograd.grad(torch.einsum("bi,oi->bo", x, w).abs().sum(), (x, w))
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_contraction_is_the_gradient_of_the_others() -> None:
    form = Einsum("bi,oi->bo")
    x, w, g = draw(2, 3), draw(4, 3, seed=1), draw(2, 4, seed=2)
    whole = (contract(form, 2, x, w) * g).sum()
    for slot, others, mine in ((0, (w, g), x), (1, (x, g), w)):
        torch.testing.assert_close((contract(form, slot, *others) * mine).sum(), whole)


# --------------------------------------------------------------------------------------------------
# A wrong pair is caught


def test_a_wrong_adjoint_is_caught() -> None:
    wrong = adjoint_pair(lambda x: x.roll(1, -1), lambda g: g.roll(1, -1))
    report = check(wrong, draw(2, 5), reference=lambda x: x.roll(1, -1), layout=False)
    failed = {result.property for result in report.failures}
    assert {"gradient", "first_order", "adjoint_identity"} <= failed
    with pytest.raises(AssertionError, match="adjoint_identity"):
        report.assert_ok()


def test_a_saved_intermediate_is_caught() -> None:
    class Square(Function):
        """x², whose backward reads 2 x made in forward: right once, wrong twice (pytorch issue 76185)."""

        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            ctx.save_for_backward(2 * x)
            return x * x

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            (slope,) = ctx.saved_tensors
            return g * slope

    report = check(Square.apply, draw(3), properties=["first_order", "second_order"], reference=lambda x: x * x)
    assert {result.property for result in report.failures} >= {"second_order"}


# --------------------------------------------------------------------------------------------------
# Arguments


def test_errors_name_the_argument() -> None:
    form = Einsum("bi,oi->bo")
    with pytest.raises(TypeError, match="form must be a MultilinearForm, got str"):
        contract("bi,oi->bo", 2, draw(2, 3), draw(2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slot must be between 0 and 2, got 3"):
        contract(form, 3, draw(2, 3), draw(2, 3))
    with pytest.raises(ValueError, match="operands must be 2 tensors, got 1"):
        contract(form, 2, draw(2, 3))
    with pytest.raises(ValueError, match="bias belongs to the results at slots .2,., got slot 0"):
        contract(form, 0, draw(2, 3), draw(2, 2), bias=draw(2))
    for equation in ("bi,oi", "bi,oj->bo", "b->"):
        with pytest.raises(ValueError, match="equation must have the form"):
            Einsum(equation)
    with pytest.raises(TypeError, match="map must be a LinearMap, got function"):
        linear_map(lambda x: x, draw(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="adjoint must be callable, got None"):
        adjoint_pair(lambda x: x, None)  # type: ignore[arg-type]
    scale = adjoint_pair(lambda x, s: x * s, lambda g, s: g * s)
    with pytest.raises(RuntimeError, match="fixed tensors .* get no gradient"):
        scale(draw(2), draw(2).requires_grad_())
    with pytest.raises(NotImplementedError, match="LinearMap.forward"):
        linear_map(LinearMap(), draw(2))


# --------------------------------------------------------------------------------------------------
# torch.compile


def test_compile_around_grad_raises_or_is_right() -> None:
    layer = adjoint_pair(lambda x: 2 * x, lambda g: 100 * g)  # wrong on purpose: shows which backward ran

    def loss(x: Tensor) -> Tensor:
        return layer(x).sum()

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="drops the backward pass"):
        torch.compile(torch.func.grad(loss), fullgraph=True, backend="eager")(torch.ones(3))
    torch._dynamo.reset()
    result = torch.compile(torch.func.grad(loss), backend="eager")(torch.ones(3))
    assert torch.equal(result, torch.full((3,), 100.0))
    torch._dynamo.reset()


def test_compile_around_vmap_keeps_the_backward() -> None:
    layer = adjoint_pair(lambda x: 2 * x, lambda g: 100 * g)
    x = torch.ones(2, 3, requires_grad=True)
    torch._dynamo.reset()
    torch.compile(torch.vmap(layer), backend="eager")(x).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 100.0))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="drops the backward pass"):
        torch.compile(torch.vmap(layer), fullgraph=True, backend="eager")(x)
    torch._dynamo.reset()
