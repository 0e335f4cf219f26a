"""The modules are torch.nn's in everything but what computes."""

from __future__ import annotations

import copy
import io
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn as builtin
from torch.utils.checkpoint import checkpoint

import torchbp.nn as nn
from torchbp import reference

DIMENSIONS = (1, 2, 3)
ARGUMENTS: dict[str, tuple] = {
    **{f"{kind}Norm{n}d": (3,) for kind in ("Batch", "Instance") for n in DIMENSIONS},
    "AdaptiveLogSoftmaxWithLoss": (4, 7, [2, 4]),
    "Bilinear": (3, 4, 5),
    "ChannelShuffle": (3,),
    **dict.fromkeys(("Embedding", "EmbeddingBag"), (5, 4)),
    "Fold": ((4, 5), 2),
    "GroupNorm": (1, 3),
    "LayerNorm": (6,),
    "CrossMapLRN2d": (3,),
    "Linear": (5, 4),
    "LazyLinear": (4,),
    "LocalResponseNorm": (2,),
    "LinearCrossEntropyLoss": (3, 5),
    "LogSoftmax": (1,),
    "PReLU": (3,),
    "MultiheadAttention": (6, 2),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "RMSNorm": (6,),
    **dict.fromkeys(("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"), (6, 4)),
    "Softmax": (1,),
    "SyncBatchNorm": (3,),
    "Softmin": (1,),
    "Threshold": (0.1, 0.2),
    "Transformer": (4, 2, 1, 1, 5, 0.1, "relu", None, None, 1e-5, True),
    "TransformerDecoderLayer": (4, 2, 5),
    "TransformerEncoderLayer": (4, 2, 5),
    "Unfold": (2,),
    "Upsample": (3,),
    "UpsamplingBilinear2d": (3,),
    "UpsamplingNearest2d": (3,),
    **{f"{kind}Pool{n}d": (2,) for kind in ("AdaptiveAvg", "AdaptiveMax", "Avg", "Max") for n in DIMENSIONS},
    **{f"MaxUnpool{n}d": (2,) for n in DIMENSIONS},
    **{f"LPPool{n}d": (2, 2) for n in DIMENSIONS},
    **{f"FractionalMaxPool{n}d": (2, 2) for n in (2, 3)},
    **{f"Conv{kind}{n}d": (3, 6, 3) for kind in ("", "Transpose") for n in DIMENSIONS},
    **{f"LazyConv{kind}{n}d": (6, 3) for kind in ("", "Transpose") for n in DIMENSIONS},
    **{f"{kind}Pad{n}d": (2,) for kind in ("Circular", "Reflection", "Replication", "Zero") for n in DIMENSIONS},
    **{f"ConstantPad{n}d": (2, 1.5) for n in DIMENSIONS},
}
# What a module takes, where that is not an image, or a line or volume for the names that say so.
INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Linear", "LazyLinear"), (2, 5)),
    "BatchNorm1d": (4, 3),
    "Fold": (2, 12, 12),
    "PixelShuffle": (2, 4, 3, 3),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), (5, 2, 6)),
    **dict.fromkeys(("RNNCell", "LSTMCell", "GRUCell"), (2, 6)),
}
# Modules that return several tensors.
SEVERAL = {"RNN", "LSTM", "GRU", "LSTMCell"}
# Modules that take indices.
LOOKED_UP = {"Embedding", "EmbeddingBag"}
SHAPES = {"1d": (2, 3, 6), "3d": (2, 3, 4, 4, 5)}
OURS_ALONE = {"ScaledTanh"}
# Of several inputs; test_attention.py calls them.
ATTENTION = [name for name in nn.explicit_layers() if name.startswith(("Multihead", "Transformer"))]
NAMES = [name for name in nn.explicit_layers() if name not in OURS_ALONE]
# Modules that do not take one floating-point tensor and return one; nor do the losses.
NOT_ONE_TO_ONE = {"Bilinear", *SEVERAL, *LOOKED_UP, *ATTENTION}


def inputs(name: str) -> tuple[torch.Tensor, ...]:
    """Return what a module takes; of several tensors the first one requires a gradient."""
    shape = INPUTS.get(name, SHAPES.get(name[-2:], (2, 3, 6, 6)))
    x = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape).requires_grad_()
    if name.startswith("MaxUnpool"):  # places, no two alike
        return x, torch.arange(math.prod(shape[2:])).expand(*shape[:2], -1).reshape(shape) * 2
    return (x, 1 - x.detach()) if name in ("CosineSimilarity", "PairwiseDistance") else (x,)


def arguments(place: object, name: str) -> tuple:
    """Return what a module is made from."""
    if name in ("TransformerEncoder", "TransformerDecoder"):
        return getattr(place, f"{name}Layer")(4, 2, 5, batch_first=True), 2
    return ARGUMENTS.get(name, ())


def make(place: object, name: str, **keywords: object) -> torch.nn.Module:
    """Return a module; a lazy one with its parameters, from a first call."""
    torch.manual_seed(0)
    module = getattr(place, name)(*arguments(place, name), **keywords)
    if name.startswith("Lazy"):
        with torch.no_grad():
            module.eval()(inputs(name)[0].float())
    return module.train()


def pair(name: str, **keywords: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return our module and torch's, made from one seed."""
    return make(nn, name, **keywords), make(builtin, name, **keywords)


def network(place: object) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return place.Sequential(  # type: ignore[attr-defined]
        place.Conv2d(1, 4, 3, padding=1),
        place.BatchNorm2d(4),
        place.ReLU(),
        place.MaxPool2d(2),
        place.Conv2d(4, 6, 3, groups=2),
        place.Tanh(),
        place.AvgPool2d(2),
        place.Flatten(),
        place.Linear(6 * 2 * 2, 5),
    ).double()


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 12, 12, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 5, (8,), generator=generator)


# --------------------------------------------------------------------------------------------------
# Identity with torch.nn


@pytest.mark.parametrize("name", NAMES)
def test_class_repr_initialisation_and_state(name: str) -> None:
    mine, theirs = pair(name)
    assert isinstance(mine, getattr(builtin, name.removeprefix("Lazy"))) and type(mine) is not type(theirs)
    assert repr(mine) == repr(theirs)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for key, value in mine.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    mine.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("name", nn.explicit_layers())
def test_deepcopy_pickle_and_weights_only(name: str) -> None:
    module = getattr(nn, name)(*arguments(nn, name))
    filled = make(nn, name)  # of parameters without a size, weights_only knows nothing
    whole = (
        filled if any(map(torch.nn.parameter.is_lazy, module.buffers())) else module
    )  # PyTorch copies no such buffer
    for copied, original in ((copy.deepcopy(whole), whole), (pickle.loads(pickle.dumps(module)), module)):
        assert type(copied) is type(original) and repr(copied) == repr(original)
    buffer = io.BytesIO()
    torch.save(filled.state_dict(), buffer)
    buffer.seek(0)
    module.load_state_dict(torch.load(buffer, weights_only=True))
    for key, value in filled.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


def test_the_namespace_serves_a_whole_model() -> None:
    assert nn.Sequential is builtin.Sequential and nn.Parameter is builtin.Parameter
    assert nn.functional.__name__ == "torchbp.nn.functional" and nn.init.__name__ == "torchbp.nn.init"
    assert nn.functional.one_hot is builtin.functional.one_hot and nn.utils is builtin.utils
    assert builtin.functional.__name__ == "torch.nn.functional"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = nn.Nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nn.functional.nothing


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["numbers", "same"])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_padding_modes(dimensions: int, padding: str, mode: str) -> None:
    sides = (1, 2, 3)[:dimensions] if padding == "numbers" else padding
    mine, theirs = (m.double() for m in pair(f"Conv{dimensions}d", padding=sides, padding_mode=mode))
    x = torch.randn(2, 3, *(6, 7, 5)[:dimensions], dtype=torch.float64, requires_grad=True)
    results = []
    for module in (mine, theirs):
        y = module(x)
        results.append([y, *torch.autograd.grad((y * y).sum(), [x, *module.parameters()])])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, None, 0.7])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("name", [f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in DIMENSIONS])
def test_running_statistics(name: str, track: bool, momentum: float | None) -> None:
    mine, theirs = (m.double() for m in pair(name, momentum=momentum, track_running_stats=track))
    for seed in range(3):
        shape = {"2d": (4, 3, 5, 5), "3d": (4, 3, 2, 3, 2)}.get(name[-2:], (4, 3) if name[0] == "B" else (4, 3, 5))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-12, atol=1e-12)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "SiLU", "Dropout"])
def test_inplace(name: str) -> None:
    mine, theirs = pair(name, inplace=True)
    results = []
    for module in (mine, theirs):
        torch.manual_seed(3)
        leaf = torch.linspace(-2, 2, 12, dtype=torch.float64, requires_grad=True)
        x = leaf * 1
        y = module(x)
        assert y.data_ptr() == x.data_ptr()
        results += [y.detach().clone(), torch.autograd.grad((y * y).sum(), leaf)[0]]
        with pytest.raises(RuntimeError, match="leaf"):
            module(leaf)
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])


@pytest.mark.parametrize("name", ["Linear", "Bilinear", "Conv2d", "Conv1d", "BatchNorm2d", "LayerNorm", "PixelShuffle"])
def test_outputs_can_be_changed_in_place(name: str) -> None:
    results = []
    for place in (nn, builtin):
        module = make(place, name).double()
        shapes = {"Linear": [(2, 3, 5)], "Bilinear": [(2, 3, 3), (2, 3, 4)], "Conv1d": [(3, 6)]}
        shapes |= {"LayerNorm": [(2, 3, 6)], "PixelShuffle": [(2, 4, 3, 3)]}
        torch.manual_seed(1)
        given = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes.get(name, [(2, 3, 6, 6)])]
        y = module(*given)
        y += 1
        results.append([y, *torch.autograd.grad((y * y).sum(), [*given, *module.parameters()])])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def test_evaluation_mode() -> None:
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    dropout = nn.Dropout(0.7).eval()
    assert dropout(x) is x
    norm = nn.BatchNorm2d(3).eval()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    norm(x).sum().backward()
    for key, value in before.items():
        assert torch.equal(norm.state_dict()[key], value), key


# The losses, Bilinear and attention take several inputs; of CrossMapLRN2d the built-in computes something else.
@pytest.mark.parametrize(
    "name", [n for n in NAMES if not n.endswith("Loss") and n not in {*NOT_ONE_TO_ONE, "CrossMapLRN2d"}]
)
def test_hooks(name: str) -> None:
    """Forward and backward hooks see what torch.nn's see, and may change it."""
    seen: list[list[torch.Tensor]] = []
    for module in (m.double() for m in pair(name)):
        found: list[torch.Tensor] = []
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2, *inputs[1:]))
        module.register_forward_hook(lambda _, inputs, output, found=found: found.extend((*inputs, output)))
        module.register_full_backward_hook(lambda _, gx, gy, found=found: found.extend((gx[0], *gy)))
        torch.manual_seed(1)
        given = inputs(name)
        module(*given).sum().backward()
        seen.append([*found, given[0].grad, *(p.grad for p in module.parameters())])
    assert len(seen[0]) >= 5
    # The built-in hardsigmoid's gradient has float32's digits.
    tolerance = 1e-7 if name == "Hardsigmoid" else 1e-10
    torch.testing.assert_close(seen[0], seen[1], rtol=tolerance, atol=tolerance)


def test_functional_call_takes_other_parameters() -> None:
    model, (x, _) = network(nn).eval(), batch()
    state = {key: value * 2 for key, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    torch.testing.assert_close(torch.func.functional_call(model, state, (x,)), twin(x))


# --------------------------------------------------------------------------------------------------
# Training


def test_three_steps_equal_torch() -> None:
    models = [network(place) for place in (nn, builtin)]
    for model, place in zip(models, (nn, builtin), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        for seed in range(3):
            x, t = batch(seed)
            optimizer.zero_grad()
            place.CrossEntropyLoss()(model(x), t).backward()
            optimizer.step()
    for (key, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant: bool) -> None:
    model, (x, t) = network(nn), batch()
    x.requires_grad_()
    parameters = list(model.parameters())
    plain = torch.autograd.grad(nn.CrossEntropyLoss()(model(x), t), [x, *parameters])
    loss = nn.CrossEntropyLoss()(checkpoint(model, x, use_reentrant=reentrant), t)
    loss.backward()
    for a, b in zip(plain, [x.grad, *(p.grad for p in parameters)], strict=True):
        torch.testing.assert_close(a, b)


def test_per_sample_gradients() -> None:
    model, (x, t) = network(nn).eval(), batch()
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters, x, t):
        y = torch.func.functional_call(model, (parameters, buffers), (x.unsqueeze(0),))
        return nn.functional.cross_entropy(y, t.unsqueeze(0))

    together = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, t)
    for i in range(len(x)):
        one = torch.func.grad(loss)(parameters, x[i], t[i])
        for key, value in one.items():
            torch.testing.assert_close(together[key][i], value)


def test_autocast_step() -> None:
    model, (x, t) = network(nn).float(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x.float())
        loss = nn.CrossEntropyLoss()(y, t)
    assert y.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_distributed_data_parallel(tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model, (x, t) = network(nn), batch()
        twin = copy.deepcopy(model)
        nn.CrossEntropyLoss()(twin(x), t).backward()
        nn.CrossEntropyLoss()(torch.nn.parallel.DistributedDataParallel(model)(x), t).backward()
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        dist.destroy_process_group()


def test_a_whole_model_compiles() -> None:
    model, (x, t) = network(nn), batch()
    twin = copy.deepcopy(model)
    nn.CrossEntropyLoss()(twin(x), t).backward()
    torch._dynamo.reset()
    step = torch.compile(lambda x, t: nn.CrossEntropyLoss()(model(x), t), fullgraph=True, backend="aot_eager")
    step(x, t).backward()
    torch._dynamo.reset()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# --------------------------------------------------------------------------------------------------
# Initialisation


def test_lecun_initialisation() -> None:
    for fill in (nn.init.lecun_normal_, nn.init.lecun_uniform_):
        weight = torch.empty(400, 30, 3, 3)
        assert fill(weight, generator=torch.Generator().manual_seed(0)) is weight
        assert float(weight.std()) == pytest.approx(1 / math.sqrt(270), rel=0.01)
        assert abs(float(weight.mean())) < 1e-3
        with pytest.raises(ValueError, match=r"at least 2 dimensions .* got shape \(3,\)"):
            fill(torch.empty(3))
    assert float(weight.abs().max()) <= math.sqrt(3 / 270)
    assert nn.init.xavier_uniform_ is builtin.init.xavier_uniform_


# --------------------------------------------------------------------------------------------------
# Bugs that such libraries have had


def test_dropout_draws_once_scales_by_p_and_obeys_the_seed() -> None:
    x = torch.ones(1000, requires_grad=True)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        y = nn.Dropout(0.2)(x)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())  # the same mask, the same scale
        assert set(y.detach().unique().tolist()) == {0.0, 1.25}
        outputs.append(y.detach())
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    torch.manual_seed(1)
    assert torch.equal(builtin.functional.dropout(x, 0.2), outputs[0])


def test_uncovered_positions_get_zero() -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    for y in (
        nn.functional.max_pool2d(x, 2, 4),
        nn.functional.avg_pool2d(x, 2, 4),
        nn.functional.conv2d(x, torch.randn(3, 2, 2, 2), stride=4),
    ):
        (g,) = torch.autograd.grad(y.sum(), x)
        covered = torch.zeros(8, 8, dtype=torch.bool)
        covered[:2, :2] = covered[:2, 4:6] = covered[4:6, :2] = covered[4:6, 4:6] = True
        assert torch.equal(g[..., ~covered], torch.zeros_like(g[..., ~covered]))
        assert bool((g[..., covered] != 0).any())


def test_pointwise_strided_channels_last_weight_gradient() -> None:
    # oneDNN 6035: wrong or crashing in shipped PyTorch, so the loops in NumPy are the judge.
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    w = torch.randn(5, 3, 1, 1, requires_grad=True)
    y = nn.functional.conv2d(x, w, stride=2)
    g = torch.randn_like(y)
    (gw,) = torch.autograd.grad(y, w, g)
    expected = reference.convolution_weight(x.double().numpy(), g.double().numpy(), (1, 1), (2, 2), (0, 0), (1, 1), 1)
    torch.testing.assert_close(gw.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_the_incoming_gradient_is_left_alone() -> None:
    for name in NAMES:
        if name.endswith("Loss") or name in NOT_ONE_TO_ONE:
            continue
        module, (leaf, *rest) = make(nn, name), inputs(name)
        y = module.double()(leaf, *rest)
        g = torch.randn_like(y)
        kept = g.clone()
        first = torch.autograd.grad(y, [leaf, *module.parameters()], g, retain_graph=True)
        assert torch.equal(g, kept), name
        again = torch.autograd.grad(y, [leaf, *module.parameters()], g)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), name


def test_convolution_flips_its_kernel_on_the_way_back() -> None:
    """One gradient at one place writes the kernel as it stands; one input element writes it flipped."""
    w = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    x.requires_grad_()
    w.requires_grad_()
    y = nn.functional.conv2d(x, w)
    assert y.tolist() == [[[[9, 8, 7], [6, 5, 4], [3, 2, 1]]]]
    g = torch.zeros(1, 1, 3, 3)
    g[0, 0, 0, 1] = 1
    gx, gw = torch.autograd.grad(y, (x, w), g)
    assert gx[0, 0].tolist() == [[0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 7, 8, 9, 0], [0] * 5, [0] * 5]
    assert gw[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_pools_send_a_gradient_back_from_every_patch() -> None:
    x = torch.arange(2 * 3 * 36.0).reshape(2, 3, 6, 6).requires_grad_()
    weights = torch.arange(1.0, 2 * 3 * 9 + 1).reshape(2, 3, 3, 3)
    (gx,) = torch.autograd.grad(nn.functional.max_pool2d(x, 2), x, weights)
    assert torch.equal(gx[:, :, 1::2, 1::2], weights)  # the last of each patch is the largest
    assert float(gx.sum()) == float(weights.sum())
    (gx,) = torch.autograd.grad(nn.functional.avg_pool2d(x, 2), x, weights)
    assert torch.equal(gx, weights.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4)
    (gx,) = torch.autograd.grad(nn.functional.adaptive_avg_pool2d(x, 3), x, weights)
    assert torch.equal(gx, weights.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_zero_stride_gradients(format: torch.memory_format) -> None:
    """pytorch 64529: ``sum()`` hands a gradient whose strides are all zero."""
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64).contiguous(memory_format=format).requires_grad_()
    w = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    for layer in (
        lambda place: place.conv2d(x, w, padding=1, stride=2),
        lambda place: place.max_pool2d(x, 3, 2, 1),
        lambda place: place.avg_pool2d(x, 3, 2, 1),
        lambda place: place.adaptive_avg_pool2d(x, (4, 1)),
        lambda place: place.batch_norm(x, None, None, w[0, :, 0, 0].contiguous(), training=True) ** 3,
        lambda place: place.linear(x, w[0, 0].repeat(1, 2)),
        lambda place: place.softmax(x, 1),
    ):
        gradients = [
            torch.autograd.grad(layer(place).sum(), (x, w), allow_unused=True)
            for place in (nn.functional, builtin.functional)
        ]
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_strided_vectors_of_a_channels_last_batch_norm(training: bool) -> None:
    """The built-in's backward reads such a weight, and such running statistics, as if they were contiguous."""
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    strided = [(torch.rand(4, 3, dtype=torch.float64) + 0.5)[:, 1] for _ in range(4)]
    results = []
    for mean, variance, weight, bias in (strided, [vector.contiguous() for vector in strided]):
        statistics = (None, None) if training else (mean, variance)
        y = nn.functional.batch_norm(x, *statistics, weight, bias, training) ** 3
        results.append([y, *torch.autograd.grad(y.sum(), x)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
