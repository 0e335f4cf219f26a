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

ARGUMENTS: dict[str, tuple] = {
    "AdaptiveAvgPool2d": (2,),
    "AvgPool2d": (2,),
    "BatchNorm1d": (3,),
    "BatchNorm2d": (3,),
    "Bilinear": (3, 4, 5),
    "Conv2d": (3, 6, 3),
    "Linear": (5, 4),
    "LogSoftmax": (1,),
    "MaxPool2d": (2,),
    "Softmax": (1,),
}
OURS_ALONE = {"ScaledTanh"}
NAMES = [name for name in nn.explicit_layers() if name not in OURS_ALONE]


def pair(name: str, **keywords: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return our module and torch's, made from one seed."""
    made = []
    for place in (nn, builtin):
        torch.manual_seed(0)
        made.append(getattr(place, name)(*ARGUMENTS.get(name, ()), **keywords))
    return made[0], made[1]


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
    assert isinstance(mine, getattr(builtin, name)) and type(mine) is not type(theirs)
    assert repr(mine) == repr(theirs)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for key, value in mine.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    mine.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("name", nn.explicit_layers())
def test_deepcopy_pickle_and_weights_only(name: str) -> None:
    module = getattr(nn, name)(*ARGUMENTS.get(name, ()))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(copied) is type(module) and repr(copied) == repr(module)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    module.load_state_dict(torch.load(buffer, weights_only=True))


def test_the_namespace_serves_a_whole_model() -> None:
    assert nn.Sequential is builtin.Sequential and nn.Parameter is builtin.Parameter
    assert nn.functional.__name__ == "torchbp.nn.functional" and nn.init.__name__ == "torchbp.nn.init"
    assert nn.functional.pad is builtin.functional.pad and nn.utils is builtin.utils
    assert builtin.functional.__name__ == "torch.nn.functional"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = nn.Nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nn.functional.nothing


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(1, 2), "same"])
def test_padding_modes(mode: str, padding: object) -> None:
    mine, theirs = (m.double() for m in pair("Conv2d", padding=padding, padding_mode=mode))
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, None, 0.7])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d"])
def test_running_statistics(name: str, track: bool, momentum: float | None) -> None:
    mine, theirs = (m.double() for m in pair(name, momentum=momentum, track_running_stats=track))
    for seed in range(3):
        shape = (4, 3, 5, 5) if name == "BatchNorm2d" else (4, 3)
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
