"""The ways a case is run: PyTorch and torchbp, each in every memory format, and what is timed of each."""

from __future__ import annotations

import copy
import importlib
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch._functorch.config
from torch import Tensor
from torch.nn import Module

from torchbp import ops
from torchbp.bench.suite import Case
from torchbp.costs.multiply_adds import MultiplyAdds

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, STEP = FIGURES = ("forward", "input gradient", "weight gradient", "step")

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Peer:
    """One way to run a case: whose layers, in which memory format, compiled or not, by which algorithm if by one."""

    name: str
    namespace: str
    channels_last: bool = False
    compiled: bool = False
    algorithm: str = ""

    @property
    def ours(self) -> bool:
        """Whether the layers are torchbp's."""
        return is_ours(self.name)


BUILTIN = Peer("torch", "torch.nn")
TORCHBP = Peer("torchbp", "torchbp.nn")
_PEERS = (
    BUILTIN,
    Peer("torch channels_last", "torch.nn", channels_last=True),
    Peer("torch compiled", "torch.nn", compiled=True),
    TORCHBP,
    Peer("torchbp channels_last", "torchbp.nn", channels_last=True),
)


def is_ours(name: str) -> bool:
    """Whether the peer of this name runs torchbp's layers."""
    return name.partition(" ")[0] == TORCHBP.name


def peers_of(case: Case, *, compiled: bool, algorithms: bool = False) -> list[Peer]:
    """Return the ways to run ``case``: memory formats where there are two; the others on request.

    With ``algorithms`` a convolution is run by every one of :func:`torchbp.ops.convolution_algorithms` as well,
    whether it takes the convolution or not.
    """
    found = [peer for peer in _PEERS if compiled or not peer.compiled]
    if algorithms and "Conv" in case.layer:
        found += [
            replace(peer, name=f"{peer.name} {name}", algorithm=name)
            for peer in found
            if peer.ours
            for name in ops.convolution_algorithms()
        ]
    return [peer for peer in found if len(case.shape) in _CHANNELS_LAST or not peer.channels_last]


def figures_of(case: Case, data: Data) -> list[str]:
    """Return what is timed: of a network the forward pass and a training step, of a layer the gradients as well."""
    if case.is_model:
        return [FORWARD, STEP]
    return [figure for figure in FIGURES if figure != WEIGHT_GRADIENT or data.has_weights]


def survives(case: Case, peer: str, figure: str) -> bool:
    """Tell whether the process outlives the figure.

    PyTorch's channels-last group norm writes the gradient of its input even where only the weight's is asked for, to
    a tensor that is not there.
    """
    return not (case.layer == "GroupNorm" and peer == "torch channels_last" and figure == WEIGHT_GRADIENT)


@dataclass(frozen=True)
class Data:
    """What every peer of a case starts from: inputs, weights and the gradient that arrives at the output.

    ``others`` are what the layer takes besides its input, or a network's targets.
    """

    input: Tensor
    others: tuple[Tensor, ...]
    state: dict[str, Tensor]
    has_weights: bool
    grad_output: Tensor
    multiply_adds: int

    def double(self) -> Data:
        """The same numbers in float64."""
        return Data(
            self.input.double(),
            tuple(_in_dtype(other, torch.float64) for other in self.others),
            {key: _in_dtype(value, torch.float64) for key, value in self.state.items()},
            self.has_weights,
            self.grad_output.double(),
            self.multiply_adds,
        )


def draw(case: Case, dtype: torch.dtype) -> Data:
    """Draw the data of ``case``, the same on every call, and count the multiply-adds of its forward pass."""
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    nn = importlib.import_module(BUILTIN.namespace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = case.build(nn).to(dtype)
    input = torch.randn(case.shape, generator=generator).to(dtype)
    if case.domain is not None:
        input = case.domain(input)

    def others(shape: torch.Size) -> tuple[Tensor, ...]:
        return tuple(_in_dtype(drawing(tuple(shape), generator), dtype) for drawing in case.others)

    given = () if case.is_model else others(input.shape)
    device = "cpu" if case.data_dependent else "meta"
    with torch.no_grad(), MultiplyAdds() as counted:
        output = copy.deepcopy(network).to(device)(*(each.to(device) for each in (input, *given)))
    return Data(
        input,
        others(output.shape) if case.is_model else given,
        network.state_dict(),
        any(True for _ in network.parameters()),
        _without_zeros(torch.randn(output.shape, generator=generator).to(dtype)),
        counted.total,
    )


def _without_zeros(gradient: Tensor) -> Tensor:
    """Return a gradient that shows what a layer draws: among millions of normal numbers some are 0."""
    return gradient.masked_fill(gradient == 0, 1)


def _in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _compiled(module: Module) -> Callable[..., Tensor]:
    # A gradient is timed on one graph again and again, which a backward that gives its buffers away refuses.
    torch._functorch.config.donated_buffer = False
    run: Callable[..., Tensor] = torch.compile(module)
    return run


class Side:
    """A case ready to run one way.

    Layers are run on their input and, backward, on ``data.grad_output``; networks on input, targets and cross-entropy.
    """

    def __init__(self, case: Case, peer: Peer, data: Data) -> None:
        """Build the module with the weights of ``data``, and bring all of it into the peer's memory format."""
        nn = importlib.import_module(peer.namespace)
        dimensions = len(case.shape)
        module: Module = case.build(nn).to(data.input.dtype)
        module.load_state_dict(data.state)
        input, grad_output = data.input.clone(), data.grad_output.clone()
        if peer.channels_last:
            memory_format = _CHANNELS_LAST[dimensions]
            module = module.to(memory_format=memory_format)  # type: ignore[call-overload]
            input = input.contiguous(memory_format=memory_format)
            if grad_output.dim() == dimensions:
                grad_output = grad_output.contiguous(memory_format=memory_format)
        self.case = case
        self.algorithm = peer.algorithm
        self.module = module
        self.parameters = dict(module.named_parameters())
        self.run: Callable[..., Tensor] = _compiled(module) if peer.compiled else module
        self.loss: Module | None = nn.CrossEntropyLoss() if case.is_model else None
        self.input, self.others, self.grad_output = input, data.others, grad_output
        self.optimizer = torch.optim.SGD(module.parameters(), 1e-3, 0.9) if case.is_model else None

    def forward(self) -> Tensor:
        """Run the layer, or the network without its loss."""
        return self.run(self.input) if self.loss is not None else self.run(self.input, *self.others)

    def forced(self) -> AbstractContextManager[None]:
        """Return a block in which the peer's algorithm runs, where it has one."""
        return ops.force_convolution_algorithm(self.algorithm) if self.algorithm else nullcontext()

    def values(self) -> dict[str, Tensor]:
        """Return the output and every gradient, by name; a network's gradients as one vector."""
        with self.forced():
            return self._values()

    def _values(self) -> dict[str, Tensor]:
        self.differentiate(STEP)
        output = self.forward()
        if self.loss is not None:
            gradients = torch.autograd.grad(self.loss(output, *self.others), list(self.parameters.values()))
            return {"output": output.detach(), "gradients": torch.cat([each.flatten() for each in gradients])}
        names, roots = ["input gradient", *(f"{name} gradient" for name in self.parameters)], self._roots(STEP)
        gradients = torch.autograd.grad(output, roots, self.grad_output)
        return {"output": output.detach(), **dict(zip(names, gradients, strict=True))}

    def call(self, figure: str) -> Callable[[], object]:
        """Return what is timed for ``figure``; for a gradient the graph of the forward pass is made here."""
        with self.forced():
            timed = self._call(figure)
        return self._by_algorithm(timed) if self.algorithm else timed

    def _by_algorithm(self, timed: Callable[[], object]) -> Callable[[], object]:
        def forced() -> object:
            with self.forced():
                return timed()

        return forced

    def _call(self, figure: str) -> Callable[[], object]:
        self.differentiate(figure)
        if figure == FORWARD:
            return self.forward
        if figure == STEP:
            return self._training_step if self.loss is not None else self._step
        roots, output = self._roots(figure), self.forward()
        return lambda: torch.autograd.grad(output, roots, self.grad_output, retain_graph=True)

    def differentiate(self, figure: str) -> None:
        """Ask for the gradients of ``figure`` and no others, as a network does with frozen layers."""
        self.input.requires_grad_(figure != WEIGHT_GRADIENT and self.loss is None)
        for parameter in self.parameters.values():
            parameter.requires_grad_(figure != INPUT_GRADIENT)

    def _roots(self, figure: str) -> list[Tensor]:
        weights: list[Tensor] = list(self.parameters.values())
        return {INPUT_GRADIENT: [self.input], WEIGHT_GRADIENT: weights, STEP: [self.input, *weights]}[figure]

    def _step(self) -> object:
        return torch.autograd.grad(self.forward(), self._roots(STEP), self.grad_output)

    def _training_step(self) -> None:
        assert self.loss is not None and self.optimizer is not None
        self.optimizer.zero_grad()
        self.loss(self.forward(), *self.others).backward()
        self.optimizer.step()
