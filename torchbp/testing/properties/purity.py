"""Nothing is modified, and results are the same on every run."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_equal_bits
from torchbp.testing.subject import Subject, gradients_of


def pure(subject: Subject) -> None:
    """Inputs and incoming gradients are not modified, by forward or backward, unless an input is declared to be."""
    inputs = subject.fresh()
    before = [t.detach().clone() if isinstance(t, Tensor) else t for t in inputs]
    outputs = subject.differentiated(*inputs)

    def compare(when: str) -> None:
        for i, (tensor, copy) in enumerate(zip(inputs, before, strict=True)):
            if isinstance(tensor, Tensor):
                try:
                    require_equal_bits(f"{subject.name(i)} after {when}", tensor.detach(), copy)
                except Failure as failure:
                    raise Failure(
                        f"{subject.name(i)} was modified by the {when} pass: {failure}", failure.worst
                    ) from None

    compare("forward")
    values = [t.detach().clone() for t in outputs]
    g = subject.cotangents(outputs)
    copies = [t.clone() for t in g]
    gradients_of(outputs, inputs, g)
    compare("backward")
    for i, (tensor, copy) in enumerate(zip(g, copies, strict=True)):
        if not torch.equal(tensor, copy):
            raise Failure(f"the gradient that arrives at {subject.output_name(i)} was modified")
    for i, (tensor, copy) in enumerate(zip(outputs, values, strict=True)):
        if not torch.equal(tensor.detach().nan_to_num(), copy.nan_to_num()):
            raise Failure(f"{subject.output_name(i)} was modified by the backward pass")
    leaves = subject.fresh()
    untouched = [t.detach().clone() if isinstance(t, Tensor) else t for t in leaves]
    with torch.no_grad():
        subject.call(*leaves)
    for i, (tensor, copy) in enumerate(zip(leaves, untouched, strict=True)):
        if isinstance(tensor, Tensor):
            require_equal_bits(f"{subject.name(i)} after a forward pass without gradients", tensor.detach(), copy)


def deterministic(subject: Subject) -> None:
    """Results and gradients are bitwise equal on repetition, from one seed, and for any number of threads."""
    first: list[Tensor] | None = None
    threads = torch.get_num_threads()
    try:
        for count in (threads, threads, 1, 2, 3):
            torch.set_num_threads(count)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(subject.seed)
                inputs = subject.fresh(torch.float32)
                outputs = subject.differentiated(*inputs)
                results = [t.detach() for t in outputs]
                g = subject.cotangents(outputs)
                for _ in range(2):
                    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
                    pairs = [(y, c) for y, c in zip(outputs, g, strict=True) if y.requires_grad]
                    if pairs:
                        found = torch.autograd.grad(
                            [y for y, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True, retain_graph=True
                        )
                        results += [t for t in found if t is not None]
            if first is None:
                first = results
                half = (len(results) - len(outputs)) // 2
                pairs = list(zip(results[len(outputs) :], results[len(outputs) + half :], strict=False))
                for number, (a, b) in enumerate(pairs[:half]):
                    _require(f"gradient {number} of a second backward pass", b, a)
            for number, (a, b) in enumerate(zip(results, first, strict=True)):
                name = f"output {number}" if number < len(outputs) else f"gradient {(number - len(outputs))}"
                _require(f"{name} on repetition with {count} threads", a, b)
    finally:
        torch.set_num_threads(threads)


def _require(name: str, got: Tensor, expected: Tensor) -> None:
    if not torch.equal(got.nan_to_num(), expected.nan_to_num()):
        require_equal_bits(name, got, expected)
