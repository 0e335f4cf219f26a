"""Calls that are replayed give what their Python gives, bit by bit, and notice when anything else has a say."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import torchbp.nn as nn
import torchbp.nn.functional as F
from torchbp._extension import kernels_loaded
from torchbp.autograd.replay import is_replayed, replaying
from torchbp.testing import LayerCase, layer_cases

pytestmark = pytest.mark.skipif(not kernels_loaded(), reason="nothing is replayed without the compiled extension")

CASES = layer_cases()
#: Layers whose calls with a gradient are their Python's, by reason.
REFUSED = {
    "steps around the Function": {
        "avg_pool2d[unbatched]",
        "bilinear",
        "conv2d[unbatched]",
        "conv_transpose2d[unbatched, depthwise]",
        "cosine_embedding_loss[margin 0.3, none]",
        "cosine_embedding_loss[mean]",
        "cross_entropy[probabilities, smoothing, weight, none]",
        "cross_entropy[probabilities]",
        "fold[unbatched]",
        "kl_div[batchmean]",
        "l1_loss[weight]",
        "layer_norm[two dimensions]",
        "lp_pool2d[unbatched, 1-norm]",
        "max_pool2d[unbatched]",
        "max_unpool2d[unbatched]",
        "mse_loss[weight]",
        "multi_margin_loss[squares, none]",
        "multilabel_margin_loss[unbatched, sum]",
        "multilabel_soft_margin_loss[sum]",
        "pad[unbatched]",
        "pixel_shuffle[unbatched]",
        "pixel_unshuffle[two batch dimensions]",
        "prelu",
        "prelu[a weight per channel]",
        "rms_norm[two dimensions]",
        "triplet_margin_loss[mean]",
        "triplet_margin_loss[swapped, 3-norm, none]",
        "unfold[unbatched]",
    },
    "views that a Function takes": {
        "cosine_similarity[dim 0, broadcast]",
        "multilabel_soft_margin_loss[weight, none]",
        "pairwise_distance[1-norm, broadcast]",
    },
    "no replayable function": {
        "adaptive_log_softmax_with_loss",
        "alpha_dropout[mask drawn]",
        "ctc_loss[behind log_softmax]",
        "ctc_loss[blank 2, an empty target, sum]",
        "ctc_loss[mean]",
        "ctc_loss[none, repeated label]",
        "dropout1d[mask drawn]",
        "dropout2d[mask drawn]",
        "dropout3d[mask drawn]",
        "dropout[mask drawn]",
        "feature_alpha_dropout[mask drawn]",
        "gru",
        "gru[both directions, no bias, packed]",
        "linear_cross_entropy[mean]",
        "linear_cross_entropy[none]",
        "linear_cross_entropy[weight, smoothing, sum]",
        "lstm",
        "lstm[projected, both directions, packed]",
        "multihead_attention[output and weights]",
        "rnn",
        "rnn[relu, both directions, no bias]",
        "scaled_dot_product_attention[dropout, mask drawn]",
        "sync_batch_norm[one process]",
        "triplet_margin_with_distance_loss[mean]",
        "triplet_margin_with_distance_loss[swapped, sum]",
    },
    "values decide": {
        "embedding_bag[max]",
        "embedding_bag[mean, padding]",
        "embedding_bag[sum, weights, padding]",
        "embedding_bag[sum]",
        "gaussian_nll_loss[full, one variance a row, none]",
        "gaussian_nll_loss[mean]",
        "scaled_dot_product_attention[fused, causal]",
        "scaled_dot_product_attention[fused]",
        "scaled_dot_product_attention[grouped]",
        "scaled_dot_product_attention[mask added]",
    },
}


def normal(*shape: int, seed: int = 0, gradient: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(gradient)


def differentiable(values: Any) -> list[Tensor]:
    return [v for v in values if isinstance(v, Tensor) and v.requires_grad]


def step(function: Callable[..., Any], inputs: tuple[Any, ...], gradient: bool) -> list[Tensor | None]:
    """Return the outputs, the gradients, and the gradients of the gradients' squares."""
    torch.manual_seed(5)
    given = [
        v.detach().clone().requires_grad_(gradient) if isinstance(v, Tensor) and v.is_floating_point() else v
        for v in inputs
    ]
    outputs = function(*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found: list[Tensor | None] = [o.detach() for o in outputs if isinstance(o, Tensor)]
    wanted, of = differentiable(given), differentiable(outputs)
    if not (wanted and of):
        return found
    arriving = [normal(*o.shape, seed=i).to(o.dtype) for i, o in enumerate(of)]
    first = torch.autograd.grad(of, wanted, arriving, allow_unused=True, retain_graph=True)
    alone = torch.autograd.grad(of, wanted[:1], arriving, allow_unused=True, retain_graph=True)
    again = torch.autograd.grad(of, wanted, arriving, allow_unused=True, create_graph=True)
    recorded = differentiable(again)
    second = torch.autograd.grad([(g * g).sum() for g in recorded], wanted, allow_unused=True) if recorded else ()
    return [*found, *first, *alone, *(None if g is None else g.detach() for g in again), *second]


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "no gradient"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer(case: LayerCase, gradient: bool) -> None:
    inputs = tuple(v.double() if isinstance(v, Tensor) and v.dtype == torch.float32 else v for v in case.subject.inputs)
    with replaying(-1):
        wanted = step(case.subject.function, inputs, gradient)
    with replaying(0):
        for _ in range(3):
            found = step(case.subject.function, inputs, gradient)
            for one, other in zip(found, wanted, strict=True):
                assert (one is None) == (other is None)
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, check_stride=True)


def test_which_layers_are_replayed() -> None:
    found = set()
    with replaying(0):
        for case in CASES:
            given = [
                v.double().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
                for v in case.subject.inputs
            ]
            outputs = case.subject.function(*given)
            nodes = [t.grad_fn for t in differentiable(outputs if isinstance(outputs, tuple) else (outputs,))]
            if nodes and not all(map(is_replayed, nodes)):
                found.add(case.name)
    listed = set().union(*REFUSED.values())
    assert found == listed, (sorted(found - listed), sorted(listed - found))


# --------------------------------------------------------------------------------------------------
# The node of a replayed call


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def warm(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """Call until the call is replayed."""
    for _ in range(3):
        y = function(*given)
    assert is_replayed(y.grad_fn)
    return y


def test_the_node_is_like_another() -> None:
    x = normal(2, 3, 4, 4, gradient=True)
    y = warm(pooled, x)
    assert y.grad_fn is not None and y.grad_fn.name() == "MaxPoolBackward" and "MaxPoolBackward" in repr(y)
    assert y.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    seen = []
    y.grad_fn.register_prehook(lambda gradients: seen.append("before"))
    y.grad_fn.register_hook(lambda inputs, outputs: seen.append("after"))
    y.sum().backward()
    assert seen == ["before", "after"]
    assert not is_replayed((x * 2).grad_fn)


def test_a_second_backward_pass_needs_the_graph() -> None:
    y = warm(pooled, normal(2, 3, 4, 4, gradient=True))
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_what_was_saved_may_not_change() -> None:
    x, w = normal(2, 3, gradient=True), normal(4, 3, gradient=True)
    y = warm(F.linear, x, w)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_of_saved_tensors() -> None:
    x, w = normal(2, 3, gradient=True), normal(4, 3, gradient=True)
    warm(F.linear, x, w)
    packed: list[tuple[int, ...]] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(tuple(t.shape))
        return t.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t * 3):
        y = F.linear(x, w)
    assert sorted(packed) == [(2, 3), (4, 3)]
    gx, gw = torch.autograd.grad(y.sum(), (x, w))
    torch.testing.assert_close(gx, 3 * w.sum(0).expand(2, 3))
    torch.testing.assert_close(gw, 3 * x.sum(0).expand(4, 3))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant: bool) -> None:
    x, w = normal(2, 3, gradient=True), normal(4, 3, gradient=True)
    warm(F.linear, x, w)
    wanted = torch.autograd.grad(F.linear(x, w).tanh().sum(), (x, w))
    y = checkpoint(lambda a, b: F.linear(a, b).tanh(), x, w, use_reentrant=reentrant)
    y.sum().backward()
    torch.testing.assert_close((x.grad, w.grad), wanted)


def test_an_output_may_be_changed() -> None:
    x, w = normal(2, 5, 3, gradient=True), normal(3, 3, gradient=True)
    with replaying(-1):
        wanted = torch.autograd.grad((F.linear(x.transpose(0, 1), w) + x.transpose(0, 1)).square().sum(), (x, w))
    t = x.transpose(0, 1)
    warm(F.linear, t, w)
    y = F.linear(t, w)
    y += t
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (x, w)), wanted)


def test_gradients_that_are_undefined_expanded_or_batched() -> None:
    x = normal(2, 3, 4, 4, gradient=True)
    y = warm(pooled, x)
    one = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0]
    expanded = torch.autograd.grad(y, x, torch.ones((), dtype=y.dtype).expand(y.shape), retain_graph=True)[0]
    stacked = torch.stack([torch.ones_like(y), 2 * torch.ones_like(y)])
    batched = torch.autograd.grad(y, x, stacked, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(expanded, one, rtol=0, atol=0)
    torch.testing.assert_close(batched, torch.stack([one, 2 * one]), rtol=0, atol=0)

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            ctx.set_materialize_grads(False)
            return t.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> None:
            return None

    assert torch.autograd.grad(Nothing.apply(y).sum(), x, allow_unused=True, retain_graph=True)[0] is None
    z = warm(F.sigmoid, x)  # whose Function is given zeros
    gradient = torch.autograd.grad(Nothing.apply(z).sum(), x, allow_unused=True)[0]
    assert gradient is None or not gradient.any()


def test_errors_in_a_backward_pass_keep_their_type() -> None:
    x = normal(2, 3, 4, 4, gradient=True)
    y = warm(pooled, x)

    def refuse(gradient: Tensor) -> Tensor:
        raise LookupError("no")

    y.register_hook(refuse)
    with pytest.raises(LookupError, match="no"):
        y.sum().backward()


@pytest.mark.slow
def test_compiled_autograd_traces_the_function() -> None:
    x, w = normal(2, 3, 6, 6, gradient=True), normal(4, 3, 3, 3, gradient=True)

    def loss() -> Tensor:
        return F.max_pool2d(F.conv2d(x, w), 2).square().sum()

    wanted = torch.autograd.grad(warm(F.max_pool2d, F.conv2d(x, w), 2).square().sum(), (x, w))
    for _ in range(2):
        y = loss()
        with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
            y.backward()
        torch.testing.assert_close((x.grad, w.grad), wanted)
        x.grad = w.grad = None


# --------------------------------------------------------------------------------------------------
# What else has a say


def test_what_requires_a_gradient_is_part_of_the_call() -> None:
    x, w = normal(2, 3), normal(4, 3, gradient=True)
    warm(F.linear, x, w)
    assert not F.linear(x, w.detach()).requires_grad
    y = F.linear(x.clone().requires_grad_(), w)
    assert y.requires_grad and [f is not None for f, _ in y.grad_fn.next_functions] == [True, True]
    with torch.no_grad():
        assert not F.linear(x, w).requires_grad
    with torch.inference_mode():
        assert F.linear(x, w).is_inference()
    assert warm(F.linear, x, w).requires_grad


def test_equal_numbers_of_other_types() -> None:
    x = normal(2, 3, 4, 4)
    for _ in range(3):
        F.max_pool2d(x, 1)
    with pytest.raises(TypeError, match="kernel_size"):
        F.max_pool2d(x, True)
    with pytest.raises(TypeError, match="kernel_size"):
        F.max_pool2d(x, 1.0)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="kernel_size"):
        F.max_pool2d(x, 0)


def test_the_default_dtype_is_part_of_the_call() -> None:
    x, y = torch.tensor([1, 2]), torch.tensor([3, 5])
    assert {F.pairwise_distance(x[None], y[None]).dtype for _ in range(3)} == {torch.float32}
    torch.set_default_dtype(torch.float64)
    try:
        assert {F.pairwise_distance(x[None], y[None]).dtype for _ in range(3)} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_errors_are_those_of_an_ordinary_call() -> None:
    x, target = normal(4, 3), torch.tensor([0, 1, 2, 1])
    for _ in range(3):
        F.multi_margin_loss(x, target)
    with pytest.raises(RuntimeError, match="got 3"):
        F.multi_margin_loss(x, target + 1)


def test_modes_see_the_call() -> None:
    x = normal(2, 3, 4, 4, gradient=True)
    warm(pooled, x)
    seen: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append("function")
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Operators():
        pooled(x)
    assert seen == ["torchbp::max_pool"]
    seen.clear()
    with Functions():
        pooled(x)
    assert "function" in seen


def test_transforms_forward_mode_and_autocast() -> None:
    x, w = normal(2, 3), normal(4, 3)
    warm(F.linear, x.requires_grad_(), w.requires_grad_())
    x, w = x.detach(), w.detach()
    torch.testing.assert_close(torch.func.grad(lambda a: F.linear(a, w).sum())(x), w.sum(0).expand(2, 3))
    torch.testing.assert_close(torch.vmap(F.linear, (0, None))(x, w), F.linear(x, w))
    with forward_ad.dual_level():
        dual = F.linear(forward_ad.make_dual(x, x), w)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, F.linear(x, w))
    x, w = x.float(), w.float()
    warm(F.linear, x.requires_grad_(), w.requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(x, w).dtype == torch.bfloat16


WARNING: dict[str, Callable[[Tensor], Any]] = {
    "softmax": lambda x: F.softmax(x),
    "kl_div": lambda x: F.kl_div(x, x, reduction="mean"),
    "mse_loss": lambda x: F.mse_loss(x, x[:1]),
    "dropout2d": lambda x: F.dropout2d(x),
    "grid_sample": lambda x: F.grid_sample(x.view(1, 1, 2, 3), x.view(1, 3, 1, 2)),
    "upsample": lambda x: F.upsample(x.view(1, 1, 6), scale_factor=2),
}


@pytest.mark.parametrize("name", WARNING)
def test_every_call_warns_at_the_callers_line(name: str) -> None:
    x = normal(2, 3)
    for _ in range(4):
        with pytest.warns(UserWarning, match=name) as caught:
            WARNING[name](x)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_mask_is_drawn_for_every_call() -> None:
    x = torch.ones(64, dtype=torch.float64, requires_grad=True)
    y = warm(F.dropout, x)
    masks = [F.dropout(x) for _ in range(4)]
    assert not any(torch.equal(y, mask) for mask in masks)
    torch.manual_seed(3)
    with replaying(-1):
        wanted = F.dropout(x)
    torch.manual_seed(3)
    found = F.dropout(x)
    assert torch.equal(found, wanted) and torch.equal(torch.autograd.grad(found.sum(), x)[0], wanted)


@pytest.mark.parametrize("after", [0, 1])
def test_running_statistics_move_once_a_call(after: int) -> None:
    ours, theirs = nn.BatchNorm2d(3).double(), torch.nn.BatchNorm2d(3).double()
    with replaying(after):
        for i in range(5):
            x, before = normal(4, 3, 5, 5, seed=i, gradient=True), ours.running_mean._version
            torch.testing.assert_close(ours(x), theirs(x))
            assert ours.running_mean._version > before
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_in_place_on_what_has_a_gradient() -> None:
    x = normal(3, 4, gradient=True)
    with replaying(-1):
        wanted = torch.autograd.grad(F.elu(x * 1, inplace=True).square().sum(), x)
    with replaying(0):
        for _ in range(3):
            values = x * 1
            y = F.elu(values, inplace=True)
            assert y is values
            torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x), wanted)


# --------------------------------------------------------------------------------------------------
# What is remembered


def test_no_tensor_is_held() -> None:
    x, w = normal(2, 3, gradient=True), normal(4, 3, gradient=True)
    y = warm(F.linear, x, w)
    y.sum().backward()
    held = [weakref.ref(t) for t in (x, w, y)]
    del x, w, y
    gc.collect()
    assert [ref() for ref in held] == [None] * 3


def test_any_number_of_shapes() -> None:
    w = normal(2, 3, gradient=True)
    with replaying(0):
        for rows in range(1100):
            F.linear(torch.ones(rows, 3, dtype=torch.float64), w)
    assert F.linear(torch.ones(1, 3, dtype=torch.float64), w).shape == (1, 2)


def test_threads_share_what_is_remembered() -> None:
    x, w = normal(8, 3, gradient=True), normal(4, 3, gradient=True)
    wanted = torch.autograd.grad(F.linear(x, w).tanh().sum(), (x, w))
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(50):
                found = torch.autograd.grad(F.tanh(F.linear(x, w)).sum(), (x, w))
                torch.testing.assert_close(found, wanted)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_profiles_show_the_function() -> None:
    x = normal(2, 3, 4, 4, gradient=True)
    warm(pooled, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        pooled(x).sum().backward()
    names = {event.name for event in profile.events()}
    assert {"MaxPool", "torchbp::max_pool", "MaxPoolBackward", "torchbp::max_pool_scatter"} <= names
