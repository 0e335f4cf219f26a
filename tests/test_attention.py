"""Attention: its three ways to compute, its memory, its masks, and the layers made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as builtin_nn
import torch.nn.functional as builtin
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import torchbp.nn as nn
from torchbp import ops
from torchbp.costs.graph import built_in_nodes
from torchbp.nn import functional as F
from torchbp.testing import saved_bytes

attend = F.scaled_dot_product_attention
FORMS = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)


def draws(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def results(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Return the output and every gradient."""
    output = function(*tensors)
    g = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad(output, tensors, g)]


# --------------------------------------------------------------------------------------------------
# Three ways to compute


@pytest.fixture(params=["fused", "blocks", "small blocks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute by PyTorch's operator, in blocks, or in blocks that cut every dimension."""
    if request.param != "fused":
        monkeypatch.setattr(ops.attention, "_is_fused", lambda *_: False)
    if request.param == "small blocks":
        for name, value in (("_BLOCK", 40), ("_ROWS", 4), ("_FEWEST_ROWS", 2)):
            monkeypatch.setattr(ops.attention, name, value)
    return str(request.param)


@pytest.mark.parametrize("masking", ["none", "causal", "boolean", "added", "for each head", "a row that sees nothing"])
@pytest.mark.parametrize("heads", [(3, 3), (4, 2)])
def test_ways_equal_the_formula(way: str, heads: tuple[int, int], masking: str) -> None:
    q, k, v = draws((2, heads[0], 7, 4), (2, heads[1], 9, 4), (2, heads[1], 9, 4))
    mask = {
        "boolean": torch.rand(7, 9, generator=torch.Generator().manual_seed(3)) < 0.6,
        "added": draws((2, 1, 1, 9))[0].detach(),
        "for each head": draws((heads[0], 7, 1))[0].detach(),
        "a row that sees nothing": torch.arange(7)[:, None].expand(7, 9) != 2,
    }.get(masking)
    options: dict[str, Any] = {"is_causal": masking == "causal", "enable_gqa": True, "scale": 0.4}
    found = results(lambda *t: attend(*t, mask, **options), [q, k, v])
    with sdpa_kernel(SDPBackend.MATH):
        expected = results(lambda *t: builtin.scaled_dot_product_attention(*t, mask, **options), [q, k, v])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # The differentiable steps, which are taken where a further derivative may follow.
    output = attend(q, k, v, mask, **options)
    g = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    steps = torch.autograd.grad(output, (q, k, v), g, create_graph=True)
    torch.testing.assert_close(list(steps), expected[1:], rtol=1e-12, atol=1e-12)


def test_dropout_draws_what_the_built_in_draws(way: str) -> None:
    tensors = draws((2, 4, 7, 4), (2, 2, 9, 4), (2, 2, 9, 3), (4, 7, 9))
    outputs = []
    for function in (attend, builtin.scaled_dot_product_attention):

        def call(*given: Tensor, function: Any = function) -> Tensor:
            torch.manual_seed(3)
            return function(*given, dropout_p=0.3, enable_gqa=True)

        outputs.append(results(call, tensors))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_width_types_are_computed_in_float32(way: str, dtype: torch.dtype) -> None:
    tensors = draws((1, 2, 30, 8), (1, 2, 50, 8), (1, 2, 50, 8), dtype=dtype)
    found = results(attend, tensors)
    assert all(t.dtype == dtype for t in found)
    expected = results(attend, [t.detach().double().requires_grad_() for t in tensors])
    for a, e in zip(found, expected, strict=True):
        assert (a.double() - e).abs().max() < 8 * torch.finfo(dtype).eps * e.abs().max()


# --------------------------------------------------------------------------------------------------
# Memory


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest result of an operator has."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("case", ["plain", "values of another size", "a mask's gradient", "grouped"])
def test_memory_is_linear_in_the_length(case: str) -> None:
    length, size = 1536, 4
    shapes = [(1, 2, length, size), *[(1, 1 if case == "grouped" else 2, length, size)] * 2]
    if case == "values of another size":
        shapes[2] = (*shapes[2][:-1], 2)
    if case == "a mask's gradient":
        shapes.append((2, 1, length))
    tensors = draws(*shapes, dtype=torch.float32)
    with Largest() as largest:
        results(lambda *t: attend(*t, enable_gqa=case == "grouped"), tensors)
    assert largest.elements < length * length / 2
    rows = 2 * length
    outputs = rows * tensors[2].shape[-1] + rows  # a number per row
    assert saved_bytes(lambda: attend(*tensors, enable_gqa=case == "grouped")) == 4 * (
        sum(t.numel() for t in tensors) + outputs
    )


def test_dropout_keeps_a_byte_per_score() -> None:
    q, k, v = draws((1, 2, 30, 4), (1, 2, 50, 4), (1, 2, 50, 4), dtype=torch.float32)
    difference = saved_bytes(lambda: attend(q, k, v, dropout_p=0.1)) - saved_bytes(lambda: attend(q, k, v))
    assert difference == 2 * 30 * 50


# --------------------------------------------------------------------------------------------------
# Where PyTorch and torchbp differ: both sides


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_see_no_key_are_zero(form: SDPBackend) -> None:
    tensors = draws((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    found = results(lambda *t: attend(*t, mask), tensors)
    with sdpa_kernel(form):
        expected = results(lambda *t: builtin.scaled_dot_product_attention(*t, mask), tensors)
    torch.testing.assert_close(found, expected)
    assert not found[0][:, :, 1].any() and not found[1][:, :, 1].any()


def test_a_row_of_nan_is_nan() -> None:
    q, k, v = draws((1, 1, 3, 4), (1, 1, 5, 4), (1, 1, 5, 4))
    q = q.detach().index_fill(2, torch.tensor([1]), math.nan).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert not builtin.scaled_dot_product_attention(q, k, v)[0, 0, 1].any()
    with sdpa_kernel(SDPBackend.MATH):
        expected = builtin.scaled_dot_product_attention(q, k, v)
    assert expected[0, 0, 1].isnan().all()
    torch.testing.assert_close(attend(q, k, v), expected, equal_nan=True)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_causal_mask_with_a_scale_that_is_not_positive(scale: float) -> None:
    tensors = draws((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    options: dict[str, Any] = {"is_causal": True, "scale": scale}
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert builtin.scaled_dot_product_attention(*tensors, **options).isnan().any()
    with sdpa_kernel(SDPBackend.MATH):
        expected = results(lambda *t: builtin.scaled_dot_product_attention(*t, **options), tensors)
    torch.testing.assert_close(results(lambda *t: attend(*t, **options), tensors), expected)


def test_later_keys_do_not_matter_even_if_nan() -> None:
    q, k, v = draws((1, 1, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    k = k.detach().index_fill(2, torch.tensor([2]), math.nan)
    for form, clean in ((SDPBackend.MATH, False), (SDPBackend.FLASH_ATTENTION, True)):
        with sdpa_kernel(form):
            output = builtin.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert bool(output[:, :, :2].isfinite().all()) == clean
    assert attend(q, k, v, is_causal=True)[:, :, :2].isfinite().all()


def test_a_mask_beside_is_causal() -> None:
    q, k, v = draws((1, 2, 4, 4), (1, 2, 4, 4), (1, 2, 4, 4))
    (mask,) = draws((4, 4))
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(RuntimeError, match="attn_mask should not be set"):
        builtin.scaled_dot_product_attention(q, k, v, mask, is_causal=True)
    expected = builtin.scaled_dot_product_attention(q, k, v, mask.detach(), is_causal=True)
    torch.testing.assert_close(attend(q, k, v, mask, is_causal=True), expected)


@pytest.mark.parametrize("p", [-0.5, 1.5, math.nan])
def test_dropout_needs_a_probability(p: float) -> None:
    q = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=f"dropout_p must be between 0 and 1, got {p}"):
        attend(q, q, q, dropout_p=p)
    if p < 0:
        builtin.scaled_dot_product_attention(q, q, q, dropout_p=p)  # taken, and no dropout


def test_more_values_than_keys() -> None:
    """The built-in's fused form looks beyond the keys; its plain one refuses."""
    memory = torch.zeros(1, 1, 4, 5)
    memory[:, :, 2:] = 50  # what lies beyond the keys here, and draws all weight
    query, key, value = memory[:, :, 2:] / 50, memory[:, :, :2], memory / 50
    with pytest.raises(RuntimeError, match=r"as many rows, got shapes \(1, 1, 2, 5\) and \(1, 1, 4, 5\)"):
        attend(query, key, value)
    with pytest.raises(RuntimeError), sdpa_kernel(SDPBackend.MATH):
        builtin.scaled_dot_product_attention(query, key, value)
    assert builtin.scaled_dot_product_attention(query, key, value).min() > 0.9


# --------------------------------------------------------------------------------------------------
# Transforms of dropout


def test_dropout_under_vmap() -> None:
    q, k, v = (t.detach() for t in draws((3, 5, 4), (6, 4), (6, 4)))

    def dropped(q: Tensor) -> Tensor:
        return attend(q, k, v, dropout_p=0.5)

    alike = q[:1].expand(3, 5, 4)
    different = torch.vmap(dropped, randomness="different")(alike)
    same = torch.vmap(dropped, randomness="same")(alike)
    assert not torch.equal(different[0], different[1]) and torch.equal(same[0], same[1])
    torch.manual_seed(5)
    expected = dropped(q[0])
    torch.manual_seed(5)
    torch.testing.assert_close(torch.func.vjp(dropped, q[0])[0], expected)


# --------------------------------------------------------------------------------------------------
# Layers


def pair(name: str, *arguments: Any, **options: Any) -> list[torch.nn.Module]:
    """Return our layer and torch's, with the same parameters, none of them zero or one."""
    modules = []
    for place in (nn, builtin_nn):
        torch.manual_seed(0)
        module = getattr(place, name)(*arguments, **options).double()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        modules.append(module)
    return modules


# Sums, scalar factors, and what moves or repeats.
LIGHT = {"Add", "Cat", "Clone", "Expand", "Mean", "Mul", "Permute", "Split", "SplitWithSizes", "Squeeze", "Transpose"}
LIGHT |= {"Unbind", "Unflatten", "UnsafeView", "Unsqueeze", "View", "ReshapeAlias"}


@pytest.mark.parametrize("weights", [False, True])
def test_no_heavy_node_is_the_built_ins(weights: bool) -> None:
    x = draws((3, 2, 4))[0]
    attending = nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True, dropout=0.1).double()
    network = nn.Transformer(4, 2, 1, 1, 5, batch_first=True).double()
    outputs = [output for output in (*attending(x, x, x, need_weights=weights), network(x, x)) if output is not None]
    assert {name.removesuffix("Backward") for name in built_in_nodes(outputs)} <= LIGHT | {"AccumulateGrad"}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", ["none", "padding", "causal", "both"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_inference_takes_the_same_layers(masks: str, norm_first: bool) -> None:
    """Without a gradient torch.nn has another path; values equal it, and padded positions the training's."""
    layers = [
        place.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first) for place in (nn, builtin_nn)
    ]
    mine, theirs = (
        place.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).double().eval()
        for place, layer in zip((nn, builtin_nn), layers, strict=True)
    )
    mine.load_state_dict(theirs.state_dict())
    called = []
    for layer in mine.layers:
        layer.linear1.register_forward_hook(lambda *_: called.append(True))
    (x,) = draws((3, 5, 8))
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    given: dict[str, Tensor] = {}
    if masks in ("padding", "both"):
        given["src_key_padding_mask"] = padding
    if masks in ("causal", "both"):
        given["mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
    with torch.no_grad():
        output, expected = mine(x, **given), theirs(x, **given)
    assert len(called) == 2
    seen = ~padding if "src_key_padding_mask" in given else torch.ones_like(padding)
    torch.testing.assert_close(output[seen], expected[seen])
    torch.testing.assert_close(output, mine(x, **given).detach())
    if masks == "padding" and not norm_first:
        assert not expected[padding].any() and theirs(x, **given)[padding].any()


def test_sublayers_are_ours() -> None:
    network = nn.Transformer(4, 2, 1, 1, 5, activation="gelu", batch_first=True)
    for name, module in network.named_modules():
        known = getattr(nn, type(module).__name__, None)
        assert known is None or type(module) is known, name
    assert network.encoder.layers[0].activation is F.gelu and network.decoder.layers[0].activation is F.gelu
    activation = builtin_nn.Sequential(builtin_nn.Linear(5, 5))
    layer = nn.TransformerDecoderLayer(4, 2, 5, activation=activation)
    assert layer.activation is activation and type(activation[0]) is builtin_nn.Linear
    encoder = builtin_nn.TransformerEncoder(builtin_nn.TransformerEncoderLayer(4, 2, 5, batch_first=True), 1)
    custom = nn.Transformer(4, 2, 1, 1, 5, custom_encoder=encoder)
    assert type(custom.encoder) is builtin_nn.TransformerEncoder
    assert type(custom.encoder.layers[0].linear1) is builtin_nn.Linear
    assert type(custom.decoder.layers[0].linear1) is nn.Linear


def test_hooks_of_attention() -> None:
    for module in pair("MultiheadAttention", 4, 2):
        seen: list[Tensor] = []
        module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output[0]))
        (x,) = draws((3, 2, 4))
        output, _ = module(x, x, x)
        assert len(seen) == 1 and seen[0] is output


def test_nested_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    with pytest.raises(AssertionError, match="must not be nested"):
        nn.MultiheadAttention(4, 2, batch_first=True)(nested, nested, nested)


def test_masks_of_two_types_are_deprecated() -> None:
    (x,) = draws((3, 2, 4))
    masks = {"attn_mask": torch.zeros(3, 3).double(), "key_padding_mask": torch.tensor([[False, True, False]] * 2)}
    found = []
    for module in pair("MultiheadAttention", 4, 2):
        with pytest.warns(UserWarning, match="mismatched key_padding_mask and attn_mask is deprecated"):
            found.append(module(x, x, x, **masks)[0])
    torch.testing.assert_close(found[0], found[1])


def test_autocast() -> None:
    (x,) = draws((3, 2, 4), dtype=torch.float32)
    for weights in (True, False):
        mine, theirs = (module.float() for module in pair("MultiheadAttention", 4, 2))
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (m(x, x, x, need_weights=weights)[0] for m in (mine, theirs))
        assert found.dtype == expected.dtype == torch.bfloat16
        unit = torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(found, expected, rtol=2 * unit, atol=2 * unit)


@pytest.mark.slow
def test_compiled_attention_takes_one_tensor_thrice() -> None:
    (x,) = draws((2, 3, 5, 4))
    for arguments in ({"is_causal": True}, {"attn_mask": torch.ones(5, 5).tril().bool(), "scale": -1.0}):
        torch._dynamo.reset()
        program = torch.compile(
            lambda x, given=arguments: attend(x, x, x, **given), fullgraph=True, backend="aot_eager"
        )
        torch.testing.assert_close(
            results(program, [x]), results(lambda x, given=arguments: attend(x, x, x, **given), [x])
        )
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_transformer_compiles_whole() -> None:
    (layer, _) = pair("TransformerEncoderLayer", 8, 2, 16, 0.0, batch_first=True)
    (x,) = draws((2, 5, 8))
    expected = results(layer, [x])
    torch._dynamo.reset()
    compiled = results(torch.compile(layer, fullgraph=True, backend="aot_eager"), [x])
    torch._dynamo.reset()
    torch.testing.assert_close(compiled, expected)


def test_second_derivative_of_a_transformer() -> None:
    """Which torch.nn has on the CPU in one form of attention only."""
    found = []
    for module, form in zip(pair("TransformerEncoderLayer", 4, 2, 3, 0.0, torch.tanh), FORMS, strict=True):
        (x,) = draws((3, 2, 4))
        with sdpa_kernel(SDPBackend.MATH):
            (g,) = torch.autograd.grad((module(x) ** 2).sum(), x, create_graph=True)
            found.append(torch.autograd.grad((g**2).sum(), [x, *module.parameters()], allow_unused=True))
        if form is SDPBackend.FLASH_ATTENTION:
            with sdpa_kernel(form):
                (g,) = torch.autograd.grad((module(x) ** 2).sum(), x, create_graph=True)
                with pytest.raises(RuntimeError, match="derivative .* is not implemented"):
                    torch.autograd.grad((g**2).sum(), x)
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)
