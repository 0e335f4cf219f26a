"""torch.func around converted networks: what it gives equals what autograd gives of torch.nn's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import networks
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Parameters = dict[str, Tensor]

# Dropout's masks differ from one mapped example to the next: without.
NAMES = [name for name in networks.BODIES if name != "transformer"]
QUICK = "convolutional"
EACH = pytest.mark.parametrize("name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])


def parameters_of(model: torch.nn.Module) -> Parameters:
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of(model: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[Parameters], Tensor]:
    buffers = dict(model.named_buffers())
    return lambda parameters: functional_call(model, (parameters, buffers), inputs)


def directions(parameters: Parameters) -> Parameters:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in parameters.items()}


def inner(a: Parameters, b: Parameters) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


@EACH
def test_gradients_of_each_sample(name: str) -> None:
    ours, theirs = (model.eval() for model in networks.pair(name))
    x, target = networks.batch(name)
    parameters = parameters_of(ours)

    def loss(parameters: Parameters, x: Tensor, target: Tensor) -> Tensor:
        return functional_call(ours, parameters, (x.unsqueeze(0), target.unsqueeze(0)))

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, target)
    for i in range(len(x)):
        wanted = networks.step(theirs, (x[i : i + 1], target[i : i + 1]))
        one = {f"gradient of {key}": value[i] for key, value in found.items()}
        networks.assert_equal(one, {key: wanted[key] for key in one})


@EACH
def test_hessian_vector_products(name: str) -> None:
    """Four ways to one product."""
    ours, theirs = (model.eval() for model in networks.pair(name))
    inputs = networks.batch(name)
    parameters = parameters_of(ours)
    v = directions(parameters)
    with sdpa_kernel(SDPBackend.MATH):  # the only one of PyTorch's that has a second derivative
        leaves = {key: p.clone().requires_grad_() for key, p in parameters.items()}
        first = torch.autograd.grad(loss_of(theirs, inputs)(leaves), list(leaves.values()), create_graph=True)
        product = inner(dict(zip(leaves, first, strict=True)), v)
        wanted = dict(zip(leaves, torch.autograd.grad(product, list(leaves.values())), strict=True))
    loss = loss_of(ours, inputs)
    ways: dict[str, Parameters] = {
        "forward over reverse": jvp(grad(loss), (parameters,), (v,))[1],
        "reverse over reverse": grad(lambda p: inner(grad(loss)(p), v))(parameters),
        "reverse over reverse, vjp": vjp(grad(loss), parameters)[1](v)[0],
        "reverse over forward": grad(lambda p: jvp(loss, (p,), (v,))[1])(parameters),
    }
    for way, found in ways.items():
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=f"{way}: {key}")


@EACH
def test_jacobians(name: str) -> None:
    """Of all scores by the parameters of the first and of the last layer."""
    ours, theirs = (model.eval() for model in networks.pair(name))
    x, _ = networks.batch(name, size=2, length=4)
    parameters = parameters_of(ours)
    chosen = {key: parameters.pop(key) for key in (next(iter(parameters)), list(parameters)[-2])}

    def scores(model: torch.nn.Module) -> Callable[[Parameters], Tensor]:
        return lambda p: functional_call(model, {**parameters, **p}, (x,))

    leaves = {key: p.clone().requires_grad_() for key, p in chosen.items()}
    y = scores(theirs)(leaves)
    rows = [torch.autograd.grad(one, list(leaves.values()), retain_graph=True) for one in y.flatten()]
    for transform in (jacrev, jacfwd):
        found = transform(scores(ours))(chosen)
        for key, *values in zip(leaves, *rows, strict=True):
            torch.testing.assert_close(found[key].flatten(0, y.dim() - 1), torch.stack(values), rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("training", [True, False])
def test_ensembles(name: str, training: bool) -> None:
    """Networks of one shape and different parameters in one call: losses, gradients, and running statistics."""
    ours, theirs = (model.train(training) for model in networks.pair(name))
    inputs = networks.batch(name)
    members = [copy.deepcopy(ours) for _ in range(3)]
    for i, member in enumerate(members):
        for p in member.parameters():
            p.data.mul_(1 + 0.1 * i)
    wanted = []
    for member in members:
        twin = copy.deepcopy(theirs)
        twin.load_state_dict(member.state_dict())
        wanted.append(networks.step(twin, inputs))
    parameters, buffers = stack_module_state(members)
    losses = vmap(lambda p, b: functional_call(ours, (p, b), inputs), randomness="different")(parameters, buffers)
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
    found = {f"gradient of {key}": g for key, g in zip(parameters, gradients, strict=True)}
    for i, one in enumerate(wanted):
        networks.assert_equal({"loss": losses[i], **{k: t[i] for k, t in (found | buffers).items()}}, one)
