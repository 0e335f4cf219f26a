"""torch.export of converted networks: values, saved and reloaded, and gradients that are right or refused."""

from __future__ import annotations

import copy
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn

import torchbp
from torchbp.testing import LayerCase, layer_cases
from torchbp.testing.subject import tensors

REFUSED = "is not implemented|has no gradient of its own"  # with the compiled extension; without


@pytest.fixture(autouse=True)
def recurrent_networks_are_traced() -> Any:
    """Dynamo, which strict export asks, takes a torch.nn.LSTM, ours or not, only on request."""
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
    torch._dynamo.reset()


def seeded(model: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    torch.manual_seed(2)
    return model(*inputs)


COMBINATIONS = [(name, training, 0) for name in networks.NAMES for training in (False, True)]
COMBINATIONS += [("convolutional", True, 1), ("transformer", False, 1), ("recurrent", True, 1)]  # Dynamo takes long


@pytest.mark.parametrize(
    ("name", "training", "strict"),
    [
        pytest.param(*one, marks=[] if one == ("convolutional", False, 0) else [pytest.mark.slow])
        for one in COMBINATIONS
    ],
)
def test_network(name: str, training: bool, strict: bool) -> None:
    """An exported network computes what the network does, for every size of batch, saved and reloaded too."""
    model = networks.pair(name)[0].train(training)
    batches = {"x": {0: torch.export.Dim("batch", min=2)}, "target": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(
        model, networks.batch(name), strict=bool(strict), dynamic_shapes=batches if not strict else None
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    inputs = networks.batch(name, seed=1, size=4 if strict else 7)
    own = copy.deepcopy(model)
    value = seeded(own, inputs)
    for exported in (program.module(), torch.export.load(stream).module()):
        torch.testing.assert_close(seeded(exported, inputs), value, rtol=1e-12, atol=1e-12)
        if training:  # in evaluation no step is counted
            networks.assert_equal(dict(exported.named_buffers()), dict(own.named_buffers()), 1e-12)
    with torch.no_grad():  # decompositions take the detachment of running statistics away
        decomposed = program.run_decompositions().module()
        assert torch.isfinite(seeded(decomposed, inputs))
        if not training:
            torch.testing.assert_close(decomposed(*inputs), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strict", [False, True])
def test_a_gradient_is_not_lost(strict: bool) -> None:
    """Where a torch.nn layer comes after torchbp's, the gradient of the latter is refused, not missing."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    torchbp.convert(model, exclude=nn.Linear)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    exported = torch.export.export(model, (x,), strict=strict).module()
    y = exported(x)
    torch.testing.assert_close(y, model(x))
    with pytest.raises(RuntimeError, match=REFUSED):
        y.sum().backward()


@pytest.mark.parametrize("strict", [False, True])
def test_gradients_of_pytorchs_own_operators_are_right(strict: bool) -> None:
    """Layers that are made of these are differentiated by PyTorch in an exported program."""
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=1, scale_grad_by_freq=True), nn.Linear(4, 3), nn.ReLU())
    model = networks.converted(model.double())
    x = torch.tensor([[0, 1, 2, 2], [2, 1, 4, 0]])
    exported = torch.export.export(model, (x,), strict=strict).module()
    wanted = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(exported(x).square().sum(), list(exported.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_backward_of_ones_own_is_not_exported() -> None:
    """An exported program holds forward; what PyTorch makes of it is forward's derivative."""

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torchbp.autograd.adjoint_pair(lambda x: 2 * x, lambda g: 100 * g)(x)

    x = torch.ones(3, requires_grad=True)
    exported = torch.export.export(Scaled(), (x,)).module()
    assert torch.autograd.grad(Scaled()(x).sum(), x)[0].tolist() == [100] * 3
    assert torch.autograd.grad(exported(x).sum(), x)[0].tolist() == [2] * 3


class Called(nn.Module):
    """A layer's case as a module: its floating-point inputs are parameters, times one."""

    def __init__(self, case: LayerCase) -> None:
        super().__init__()
        self.function, self.given = case.subject.function, case.subject.fresh()
        for i, value in enumerate(self.given):
            if isinstance(value, Tensor):
                parameter = value.is_floating_point() or value.is_complex()
                self.register_parameter(f"x{i}", nn.Parameter(value.detach().clone())) if parameter else (
                    self.register_buffer(f"x{i}", value)
                )

    def forward(self, one: Tensor) -> tuple[Tensor, ...]:
        inputs = [getattr(self, f"x{i}", value) for i, value in enumerate(self.given)]
        inputs = [t * one if isinstance(t, nn.Parameter) else t for t in inputs]
        return tuple(tensors(self.function(*inputs)))


# The functions behind recurrent modules, which export PyTorch's operator; and where the number of operations depends
# on values, as torch.nn's does.
NOT_EXPORTED = ("rnn", "gru", "lstm", "adaptive_log_softmax_with_loss")


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_every_layer_is_exported_and_its_gradient_right_or_refused(strict: bool) -> None:
    one = torch.ones((), dtype=torch.float64)
    counts = {"right": 0, "refused": 0}
    seen = set()
    for case in layer_cases():
        if case.subject.random or case.subject.inplace or case.name.startswith(NOT_EXPORTED):
            continue
        if strict and (case.layer in seen or len(seen) % 5):  # a fifth of the layers: Dynamo takes long
            seen.add(case.layer)
            continue
        seen.add(case.layer)
        layer = Called(case)
        wanted = [y for y in layer(one) if y.requires_grad]
        exported = torch.export.export(layer, (one,), strict=strict).module()
        found = [y for y in exported(one) if y.requires_grad]
        assert len(found) == len(wanted), case.name
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, equal_nan=True, msg=case.name)
        losses = [sum(y.abs().square().sum() for y in outputs) for outputs in (wanted, found)]
        theirs = torch.autograd.grad(losses[0], list(layer.parameters()), allow_unused=True)
        try:
            ours = torch.autograd.grad(losses[1], list(exported.parameters()), allow_unused=True)
        except RuntimeError as error:
            assert re.search(f"{REFUSED}|inplace operation", str(error)), case.name
            counts["refused"] += 1
            continue
        # The built-in hardsigmoid's gradient has float32's digits.
        tolerance = 1e-7 if case.layer == "hardsigmoid" else 1e-9
        assert [g is None for g in ours] == [g is None for g in theirs], case.name
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=f"{case.name}")
        counts["right"] += 1
    assert min(counts.values()) >= 10, counts


@pytest.mark.slow
def test_a_process_needs_torchbp_to_load_a_program(tmp_path: Path) -> None:
    model, inputs = networks.pair("convolutional")[0].eval(), networks.batch("convolutional")
    torch.export.save(torch.export.export(model, inputs), tmp_path / "program.pt2")
    torch.save((inputs, model(*inputs).detach()), tmp_path / "value.pt")
    program = (
        "inputs, value = torch.load('value.pt')\n"
        "assert torch.equal(torch.export.load('program.pt2').module()(*inputs), value)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = [
        subprocess.run(
            [sys.executable, "-c", f"{imported}\n{program}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        for imported in ("import torch, torchbp", "import torch")
    ]
    assert done[0].returncode == 0, done[0].stderr
    assert "torch.ops.torchbp.convolution" in done[1].stderr and "error when deserializing" in done[1].stderr


@pytest.mark.slow
def test_ahead_of_time_compilation(tmp_path: Path) -> None:
    """AOTInductor compiles an exported program, and calls torchbp's kernels in it."""
    model = networks.converted(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)))
    x = torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            torch.export.export(model, (x,)), package_path=str(tmp_path / "compiled.pt2")
        )
        torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), model(x))


# --------------------------------------------------------------------------------------------------
# Older ways


def test_torch_jit_is_refused_by_name() -> None:
    model, inputs = networks.pair("convolutional")[0], networks.batch("convolutional")
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script does not know torchbp's Conv2d: torchbp\.revert"):
        torch.jit.script(model)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace does not know torchbp's Conv2d: torchbp\.revert"):
        torch.jit.trace(model, inputs)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace does not know torchbp's Linear"):
        torch.jit.trace(torchbp.nn.Linear(2, 3), torch.ones(2))
    value = model.eval()(*inputs)
    torchbp.revert(model)
    for program in (torch.jit.trace(model, inputs), torch.jit.script(model)):
        torch.testing.assert_close(program(*inputs), value)


@pytest.mark.parametrize("name", networks.NAMES)
def test_what_torch_fx_has_traced_is_converted(name: str) -> None:
    model, (x, target) = networks.network(name), networks.batch(name)
    traced = torch.fx.symbolic_trace(model.body)
    torchbp.convert(traced)
    wanted = networks.step(model, (x, target))
    found = networks.step(model, (x, target), lambda x, target: model.loss(traced(x).flatten(0, -2), target.flatten()))
    keys = [key for key in wanted if not key.startswith("body")]  # the buffers are the same
    networks.assert_equal({key: found[key] for key in keys}, {key: wanted[key] for key in keys})
    with pytest.raises(TypeError, match="must be a Tensor, got Proxy"):
        torch.fx.symbolic_trace(networks.converted(model).body)
