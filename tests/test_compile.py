"""torch.compile of converted networks: one program for a training run, and the right one around torch.func too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import networks
import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

# test_modules.py compiles a network in the quick part.
pytestmark = pytest.mark.slow

Compile = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    """Dynamo takes a torch.nn.LSTM, ours or not, only on request."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")  # of graph breaks, among others
        yield
    torch._dynamo.reset()


# Dropout draws the eager numbers only where no compiler orders the operations anew.
RUNS = [
    ("small", "eager"),
    ("convolutional", "aot_eager"),
    ("transformer without dropout", "aot_eager"),
    ("recurrent", "aot_eager"),
]
RUNS += [("transformer", "eager"), ("small", "inductor")]


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_a_training_run(name: str, backend: str) -> None:
    """Steps of an optimiser on batches of changing size equal torch.nn's, with two programs at most."""
    models = networks.pair(name)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    calls = (torch.compile(models[0], fullgraph=True, backend=counter), models[1])
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in models]
    for seed, size in enumerate((4, 5, 4, 7)):
        results = []
        for model, call, optimizer in zip(models, calls, optimizers, strict=True):
            results.append(
                networks.step(model, networks.batch(name, seed, size, 2 if name == "recurrent" else 4), call, seed)
            )
            optimizer.step()
        networks.assert_equal(*results)
    networks.assert_equal(models[0].state_dict(), models[1].state_dict())
    assert counter.frame_count == 2  # of the first size; of any size


def test_inference() -> None:
    """In evaluation mode, with and without gradients recorded, with a dimension that is marked as dynamic."""
    ours, theirs = (model.eval() for model in networks.pair("convolutional"))
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    program = torch.compile(ours, fullgraph=True, backend=counter)
    with torch.no_grad():
        for seed, size in enumerate((3, 6, 5)):
            x, target = networks.batch("convolutional", seed, size)
            for tensor in (x, target):
                torch._dynamo.mark_dynamic(tensor, 0)
            torch.testing.assert_close(program(x, target), theirs(x, target), rtol=1e-9, atol=1e-9)
    assert counter.frame_count == 1
    inputs = networks.batch("convolutional")
    networks.assert_equal(networks.step(ours, inputs, program), networks.step(theirs, inputs))


def test_dropout_in_a_compiled_step() -> None:
    """Its gradient is that of the loss with the masks that were drawn: the slope of the loss along a line."""
    model, inputs = networks.pair("transformer")[0], networks.batch("transformer")
    program = torch.compile(model, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(1)
    line = {key: torch.randn(p.shape, generator=generator, dtype=p.dtype) for key, p in model.named_parameters()}
    found = networks.step(model, inputs, program)
    losses = []
    for distance in (1e-5, -1e-5):
        for key, p in model.named_parameters():
            p.data.add_(line[key], alpha=distance)
        losses.append(float(networks.step(model, inputs, program)["loss"]))
        for key, p in model.named_parameters():
            p.data.sub_(line[key], alpha=distance)
    slope = sum(float((found[f"gradient of {key}"] * v).sum()) for key, v in line.items())
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)
    again = networks.step(model, inputs, program, seed=4)
    assert not torch.equal(again["loss"], found["loss"])


@pytest.mark.parametrize("name", ["convolutional", "transformer without dropout"])
def test_under_autocast(name: str) -> None:
    model, inputs = networks.pair(name, torch.float32)[0], networks.batch(name, dtype=torch.float32)
    program = torch.compile(model, fullgraph=True, backend="aot_eager")

    def under(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def loss(*inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return call(*inputs)

        return loss

    twin = networks.converted(model)
    found, wanted = networks.step(model, inputs, under(program)), networks.step(twin, inputs, under(twin))
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=2e-2, atol=2e-3, msg=key)


def test_compiled_autograd() -> None:
    ours, theirs = networks.pair("small")
    inputs = networks.batch("small")
    wanted = networks.step(theirs, inputs)
    with torch._dynamo.config.patch(compiled_autograd=True):

        @torch.compile(backend="aot_eager")
        def whole_step() -> Tensor:
            loss = ours(*inputs)
            loss.backward()
            return loss

        found = {"loss": whole_step().detach(), **networks.state(ours)}
    networks.assert_equal(found, wanted)


# --------------------------------------------------------------------------------------------------
# torch.func and torch.compile, one inside the other


class Problem:
    """A network as a function of its parameters, and what torch.func transforms of it."""

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        # In evaluation PyTorch's attention has a form without derivatives; in training batch norm writes statistics.
        self.model, self.inputs = model.train(name != "small"), networks.batch(name, size=2, length=4)
        self.parameters = {key: p.detach() for key, p in model.named_parameters()}
        self.last = next(reversed(self.parameters))
        generator = torch.Generator().manual_seed(1)
        self.directions = {
            key: torch.randn(p.shape, generator=generator, dtype=p.dtype) for key, p in self.parameters.items()
        }

    def loss(self, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(self.model, parameters, inputs or self.inputs)

    def of_one(self, parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return self.loss(parameters, x.unsqueeze(0), target.unsqueeze(0))

    def of_last(self, bias: Tensor) -> Tensor:
        return functional_call(self.model, {**self.parameters, self.last: bias}, self.inputs)

    def scores_of_last(self, bias: Tensor) -> Tensor:
        return functional_call(self.model, {**self.parameters, self.last: bias}, self.inputs[:1])


def tangent(loss: Compile, parameters: dict[str, Tensor], directions: dict[str, Tensor]) -> Tensor:
    with forward_ad.dual_level():
        duals = {key: forward_ad.make_dual(p, directions[key]) for key, p in parameters.items()}
        return forward_ad.unpack_dual(loss(duals)).tangent


class UsesGradient(torch.nn.Module):
    """A module whose forward takes a gradient with torch.func."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, scale: Tensor) -> Tensor:
        return sum(g.square().sum() for g in grad(self.problem.loss)(self.problem.parameters).values()) * scale


SPELLINGS: dict[str, Callable[[Problem, Compile], Any]] = {
    "compile(grad(f))": lambda p, c: c(grad(p.loss))(p.parameters),
    "compile(vmap(grad(f)))": lambda p, c: c(vmap(grad(p.of_one), (None, 0, 0)))(p.parameters, *p.inputs),
    "vmap(grad) in a compiled function": lambda p, c: c(
        lambda q, *inputs: vmap(grad(p.of_one), (None, 0, 0))(q, *inputs)
    )(p.parameters, *p.inputs),
    "compile(jvp(f))": lambda p, c: c(lambda q, v: jvp(p.loss, (q,), (v,)))(p.parameters, p.directions),
    "compile(vjp(f))": lambda p, c: c(lambda q: vjp(p.loss, q)[1](torch.ones((), dtype=torch.float64)))(p.parameters),
    "compile(jvp(grad(f)))": lambda p, c: c(lambda q, v: jvp(grad(p.loss), (q,), (v,)))(p.parameters, p.directions),
    "compile(hessian(f))": lambda p, c: c(hessian(p.of_last))(p.parameters[p.last]),
    "compile(jacrev(f))": lambda p, c: c(jacrev(p.scores_of_last))(p.parameters[p.last]),
    "compile(jacfwd(f))": lambda p, c: c(jacfwd(p.scores_of_last))(p.parameters[p.last]),
    "compile(vmap(f))": lambda p, c: c(vmap(lambda x: p.model(x.unsqueeze(0))))(p.inputs[0]),
    "grad(compile(f))": lambda p, c: grad(c(p.loss))(p.parameters),
    "vmap(compile(f))": lambda p, c: vmap(c(lambda x: p.model(x.unsqueeze(0))))(p.inputs[0]),
    "compile(grad(compile(f)))": lambda p, c: c(grad(c(p.loss)))(p.parameters),
    "a module that takes a gradient": lambda p, c: c(UsesGradient(p))(torch.full((), 2.0, dtype=torch.float64)),
    "torch.autograd.grad in a compiled function": lambda p, c: c(
        lambda *inputs: torch.autograd.grad(p.model(*inputs), list(p.model.parameters()))
    )(*p.inputs),
    "forward mode in a compiled function": lambda p, c: c(lambda q, v: tangent(p.loss, q, v))(
        p.parameters, p.directions
    ),
    "a compiled function in forward mode": lambda p, c: tangent(c(p.loss), p.parameters, p.directions),
}
# What a refusal must say: who refuses and what to do.
OURS = "drops the backward pass of an autograd.Function; compile the function inside the transform, or leave fullgraph"
THEIRS = "from eager mode is not supported|trace_autograd_ops"


ROWS = [("small", spelling) for spelling in SPELLINGS]
ROWS += [("transformer without dropout", "compile(vmap(grad(f)))")]


@pytest.mark.parametrize(("name", "spelling"), ROWS)
def test_around_and_inside_transforms(name: str, spelling: str) -> None:
    """The result is torch.nn's, by a graph break; one whole graph is refused, never without the explicit backward."""
    ours, theirs = (Problem(model, name) for model in networks.pair(name))
    run = SPELLINGS[spelling]
    # Attention of PyTorch has derivatives of all kinds in its plainest form only.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = run(theirs, lambda f: f)
    found = run(ours, lambda f: torch.compile(f, backend="aot_eager"))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported) as refusal:
        run(ours, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True))
    assert re.search(f"{OURS}|{THEIRS}", str(refusal.value))
