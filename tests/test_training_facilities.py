"""What surrounds a training loop, around converted networks: as around torch.nn's."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
import torch.nn.utils as utils
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import torchbp

EACH = pytest.mark.parametrize("name", networks.NAMES)


def trained(model: nn.Module, name: str, optimizer: torch.optim.Optimizer, steps: int = 3) -> dict[str, Tensor]:
    """Return the parameters and buffers after some steps."""
    for seed in range(steps):
        networks.step(model, networks.batch(name, seed), seed=seed)
        optimizer.step()
    return dict(model.state_dict())


# --------------------------------------------------------------------------------------------------
# Memory


@EACH
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_draws_dropout_again_alike(name: str, reentrant: bool) -> None:
    results = []
    for model in networks.pair(name):

        def call(x: Tensor, target: Tensor, model: Any = model) -> Tensor:
            first = model.body[0](x)
            scores = checkpoint(model.body[1:], first, use_reentrant=reentrant, preserve_rng_state=True)
            return model.loss(scores.flatten(0, -2), target.flatten())

        results.append(networks.step(model, networks.batch(name), call))
    plain = networks.step(networks.pair(name)[0], networks.batch(name))
    networks.assert_equal(results[0], results[1])
    gradients = {key: value for key, value in plain.items() if key.startswith(("loss", "gradient"))}
    networks.assert_equal({key: results[0][key] for key in gradients}, gradients)


@EACH
def test_saved_tensors_hooks(name: str) -> None:
    """Tensors kept for backward may be kept elsewhere: in the CPU's memory, or as bytes."""
    model, inputs = networks.pair(name)[0], networks.batch(name)
    plain = networks.step(copy.deepcopy(model), inputs)
    packed = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor.detach().clone()

    for hooks in (torch.autograd.graph.save_on_cpu(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)):
        with hooks:
            networks.assert_equal(networks.step(copy.deepcopy(model), inputs), plain, 0)
    assert len(packed) >= 8


# --------------------------------------------------------------------------------------------------
# Precision


@EACH
def test_autocast_and_scaler(name: str) -> None:
    """Three steps in bfloat16 with scaled losses, one of which overflows and is left out."""
    results = []
    for model in networks.pair(name, torch.float32):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        scales = []
        for seed in range(3):
            optimizer.zero_grad()
            torch.manual_seed(seed)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(*networks.batch(name, seed, dtype=torch.float32))
            assert loss.dtype == torch.float32
            scaler.scale(loss * (float("inf") if seed == 1 else 1.0)).backward()
            scaler.unscale_(optimizer)
            utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert scales == [1024.0, 512.0, 512.0]
        results.append(model.state_dict())
    networks.assert_equal(*results, 1e-2)


def test_default_dtype() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = networks.Classifier(networks.transformer(0.0))
        explicit, inputs = networks.converted(model), networks.batch("transformer")
        assert all(p.dtype == torch.float64 for p in explicit.parameters())
        networks.assert_equal(networks.step(explicit, inputs), networks.step(model, inputs))
    finally:
        torch.set_default_dtype(before)


# --------------------------------------------------------------------------------------------------
# Parameters


def _prune(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.3)


REPARAMETRIZATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm by a hook": utils.weight_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm by a hook": utils.spectral_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruning": _prune,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", REPARAMETRIZATIONS)
@pytest.mark.parametrize("first", ["converted", "reparametrized"])
def test_reparametrized_layers(kind: str, first: str) -> None:
    """Whichever comes first, the conversion or the other way to hold a weight."""
    states = []
    for explicit in (True, False):
        model = networks.network("convolutional")
        if explicit and first == "converted":
            torchbp.convert(model)
        torch.manual_seed(0)
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for layer in layers:
            REPARAMETRIZATIONS[kind](layer)
        if explicit and first != "converted":
            torchbp.convert(model)
        assert all(any(c.__module__.startswith("torchbp") for c in type(one).__mro__) is explicit for one in layers)
        states.append(trained(model, "convolutional", torch.optim.Adam(model.parameters(), 1e-2)))
    networks.assert_equal(*states, 1e-7)  # Adam divides by what may be nearly zero


@EACH
@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=str)
def test_optimizers(name: str, options: dict[str, bool]) -> None:
    states = [
        trained(model, name, torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4, **options))
        for model in networks.pair(name)
    ]
    networks.assert_equal(*states)


@EACH
def test_copies_and_files(name: str) -> None:
    """A network that has been run is copied, pickled and saved; its state is loaded by torch.nn's and back."""
    model, other = networks.pair(name)
    inputs = networks.batch(name)
    networks.step(model, inputs)  # has gradients and a graph behind it
    model.eval()
    value = model(*inputs)
    streams = io.BytesIO(), io.BytesIO()
    torch.save(model, streams[0])
    torch.save(model.state_dict(), streams[1])
    for stream in streams:
        stream.seek(0)
    whole = torch.load(streams[0], weights_only=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), whole):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(*inputs), value)
    state = torch.load(streams[1], weights_only=True)
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(other.eval()(*inputs), value)
    networks.pair(name)[0].load_state_dict(other.state_dict(), strict=True)


# --------------------------------------------------------------------------------------------------
# The graph


@EACH
def test_accumulation_and_retained_graphs(name: str) -> None:
    """Gradients of two batches add up; a graph may be gone through twice; an intermediate one is kept."""
    results = []
    for model in networks.pair(name):
        torch.manual_seed(0)
        (model(*networks.batch(name, 0)) / 2).backward()
        loss = model(*networks.batch(name, 1)) / 2
        loss.backward(retain_graph=True)
        once = networks.state(model)
        loss.backward()
        x, target = networks.batch(name, 2)
        hidden = model.body[0](x)
        hidden.retain_grad()
        model.loss(model.body[1:](hidden).flatten(0, -2), target.flatten()).backward()
        once |= {f"twice, {key}": value for key, value in networks.state(model).items()}
        results.append({**once, "hidden": hidden.grad})
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
    networks.assert_equal(*results)


@EACH
def test_hooks_of_tensors_and_parameters(name: str) -> None:
    results = []
    for model in networks.pair(name):
        seen: dict[str, Tensor] = {}
        for key, p in model.named_parameters():
            p.register_hook(lambda g: g * 2)
            p.register_post_accumulate_grad_hook(lambda p, key=key, seen=seen: seen.update({key: p.grad.clone()}))

        def call(x: Tensor, target: Tensor, model: Any = model, seen: Any = seen) -> Tensor:
            scores = model.body(x)
            scores.register_hook(lambda g: seen.update(scores=g))
            return model.loss(scores.flatten(0, -2), target.flatten())

        found = networks.step(model, networks.batch(name), call)
        results.append(found | {f"seen: {key}": value for key, value in seen.items()})
    networks.assert_equal(*results)
    plain = networks.step(networks.pair(name)[0], networks.batch(name))
    for key, value in plain.items():
        if key.startswith("gradient"):
            torch.testing.assert_close(results[0][key], value * 2)


def test_anomaly_mode_names_the_function() -> None:
    model = networks.converted(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()))
    x = torch.tensor([[1.0, float("inf"), 2.0]])
    with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="'(Sigmoid|Linear)Backward' ret"):
        model(x).sum().backward()


@EACH
def test_without_gradients(name: str) -> None:
    ours, theirs = (model.eval() for model in networks.pair(name))
    inputs = networks.batch(name)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found, wanted = ours(*inputs), theirs(*inputs)
            assert not found.requires_grad and found.grad_fn is None
            assert found.is_inference() == wanted.is_inference()
            torch.testing.assert_close(found, wanted)


# --------------------------------------------------------------------------------------------------
# Devices and layouts


@EACH
def test_meta_and_fake_tensors(name: str) -> None:
    """A step without memory gives every shape, dtype and layout."""
    real, inputs = networks.network(name, torch.float32), networks.batch(name, dtype=torch.float32)
    wanted = {key: (v.shape, v.dtype, v.stride()) for key, v in networks.step(real, inputs).items()}
    with torch.device("meta"):
        model = networks.Classifier(networks.BODIES[name]())
    torchbp.convert(model)
    found = networks.step(model, tuple(t.to("meta") for t in inputs))
    assert all(v.is_meta for v in found.values())
    assert {key: (v.shape, v.dtype, v.stride()) for key, v in found.items()} == wanted
    fake = torch._subclasses.FakeTensorMode()
    with fake, torch.device("cpu"):
        model = networks.Classifier(networks.BODIES[name]())
        torchbp.convert(model)
        found = networks.step(model, tuple(fake.from_tensor(t) for t in inputs))
    assert {key: (v.shape, v.dtype, v.stride()) for key, v in found.items()} == wanted
    assert {v.device.type for v in found.values()} == {"cpu"}


def test_channels_last() -> None:
    results = []
    for model in networks.pair("convolutional"):
        model.to(memory_format=torch.channels_last)
        x, target = networks.batch("convolutional")
        x = x.to(memory_format=torch.channels_last)
        strides = []
        for module in model.modules():
            module.register_forward_hook(lambda _m, _i, y, strides=strides: strides.append(y.stride()))
        results.append((networks.step(model, (x, target)), strides))
    networks.assert_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@EACH
def test_deterministic_algorithms(name: str) -> None:
    """PyTorch's mode, which also fills new memory with NaN, refuses nothing and changes nothing."""
    model, inputs = networks.pair(name)[0], networks.batch(name)
    plain = networks.step(copy.deepcopy(model), inputs)
    torch.use_deterministic_algorithms(True)
    try:
        networks.assert_equal(networks.step(copy.deepcopy(model), inputs), plain, 0)
    finally:
        torch.use_deterministic_algorithms(False)


@EACH
def test_profiler_names(name: str) -> None:
    """A profile shows the Functions, their backwards and the operators, as docs/transforms.md lists them."""
    model, inputs = networks.pair(name)[0], networks.batch(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(*inputs).backward()
    names = {event.key for event in profile.key_averages()}
    wanted = {
        "convolutional": "Convolution Linear BatchNorm Relu MaxPool CrossEntropy torchbp::convolution "
        "torchbp::convolution_input torchbp::convolution_weight torchbp::batch_norm torchbp::max_pool",
        "transformer": "Embedding GroupNorm Linear Attention Gelu MaskedScale torchbp::group_norm",
        "recurrent": "Embedding Recurrence Tanh Linear CrossEntropy",
    }[name].split()
    assert {*wanted, *(f"{n}Backward" for n in wanted if n[0].isupper())} <= names


# --------------------------------------------------------------------------------------------------
# Data loaders


class Scores(Dataset):
    """Samples that a network makes in the worker: its loss, and the sum of its gradients."""

    def __init__(self, name: str) -> None:
        self.name, self.model = name, networks.pair(name)[0]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        found = networks.step(self.model, networks.batch(self.name, index, size=16, length=16), seed=index)
        self.model.load_state_dict(networks.network(self.name).state_dict())
        return torch.stack([found["loss"], *(v.sum() for k, v in found.items() if k.startswith("gradient"))])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method: str) -> None:
    """Workers run kernels, in one thread as data loaders ask, after the parent has run them in two.

    (A forked worker that asks for several threads waits forever in OpenMP, in PyTorch's own operators as well.)
    """
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name in networks.NAMES if method == "fork" else ("convolutional",):
            data = Scores(name)
            wanted = torch.stack([data[i] for i in range(len(data))])
            loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=120)
            torch.testing.assert_close(torch.stack(list(loader)), wanted, rtol=1e-12, atol=1e-12)
    finally:
        torch.set_num_threads(before)
