"""Transforms of torch.func and torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbp.testing.compare import Failure, require_close
from torchbp.testing.properties.derivatives import require_forward_mode
from torchbp.testing.refusals import run_parts
from torchbp.testing.subject import NotApplicable, Subject, gradients_of, is_differentiable, size_of, tensors


def _mapped(subject: Subject, which: tuple[int, ...], flip: bool) -> tuple[list[Any], list[int | None]]:
    """Return inputs of which some have another dimension, the last, of size two."""
    inputs, dims = subject.fresh(), []
    for i, tensor in enumerate(inputs):
        dims.append(-1 if i in which else None)
        if i in which:
            first = tensor.detach()
            second = first.flip(-1) if first.dim() and (flip or is_differentiable(first)) else first
            inputs[i] = torch.stack([first, second], dim=-1).requires_grad_(tensor.requires_grad)
    return inputs, dims


def _slices(inputs: list[Any], dims: list[int | None]) -> list[list[Any]]:
    return [[t.select(-1, k) if d == -1 else t for t, d in zip(inputs, dims, strict=True)] for k in (0, 1)]


def vmap(subject: Subject) -> None:
    """``torch.vmap`` over each input alone and over all equals a loop, values and gradients."""
    places = tuple(i for i, t in enumerate(subject.inputs) if isinstance(t, Tensor))
    for which in [*((i,) for i in places if is_differentiable(subject.inputs[i])), places]:
        inputs, dims = _mapped(subject, which, flip=True)
        try:
            looped = [subject.call(*one) for one in _slices(inputs, dims)]
        except Exception:  # indices in reversed order may be none: the same ones twice, then
            inputs, dims = _mapped(subject, which, flip=False)
            looped = [subject.call(*one) for one in _slices(inputs, dims)]
        names = " and ".join(subject.name(i) for i in which)
        mapped = torch.vmap(lambda *one: tuple(subject.call(*one)), in_dims=tuple(dims))(*inputs)
        expected = [torch.stack(pair) for pair in zip(*looped, strict=True)]
        if len(mapped) != len(expected):
            raise Failure(f"{len(mapped)} results under vmap over {names}, {len(expected)} in a loop")
        for number, (a, e) in enumerate(zip(mapped, expected, strict=True)):
            allowed = 0.0
            if number in subject.wanted_outputs:
                scale = subject.scales[0][subject.wanted_outputs.index(number)]
                allowed = subject.tolerance(2 * max(scale, size_of(e)))
            require_close(f"output {number} under vmap over {names}", a, e, allowed)
        g = subject.cotangents([expected[i] for i in subject.wanted_outputs])
        actual = gradients_of([mapped[i] for i in subject.wanted_outputs], inputs, g)
        loop = gradients_of([expected[i] for i in subject.wanted_outputs], inputs, g)
        for i, a, e, scale in zip(subject.differentiable(), actual, loop, subject.scales[1], strict=True):
            allowed = subject.tolerance(subject.condition * 2 * max(scale, size_of(e)))
            require_close(f"gradient of {subject.name(i)} under vmap over {names}", a, e, allowed)


def functional_transforms(subject: Subject) -> str:
    """``torch.func``: ``grad``, ``vmap(grad)``, ``jacrev``, ``jacfwd`` and ``hessian`` equal double backward.

    Of the reference, where there is a differentiable one.
    """
    if not subject.small:
        raise NotApplicable("inputs too large")
    inputs = [t.detach() if isinstance(t, Tensor) else t for t in subject.fresh()]
    place = subject.differentiable()[0]
    x = inputs[place]
    if x.is_complex():
        raise NotApplicable("torch.func.jacfwd and hessian take no complex inputs")
    weights = subject.cotangents(subject.differentiated(*inputs))

    def loss_of(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        def loss(x: Tensor) -> Tensor:
            outputs = tensors(function(*inputs[:place], x, *inputs[place + 1 :]))
            if len(outputs) > len(weights):
                outputs = [outputs[i] for i in subject.wanted_outputs]
            return sum(
                (((y * y.conj()).real if y.is_complex() else y * y) * w.abs()).sum()
                for y, w in zip(outputs, weights, strict=True)
            )  # type: ignore[return-value]

        return loss

    own = loss_of(subject.call)
    theirs = own
    if subject.reference is not None:
        try:
            leaf = x.clone().requires_grad_()
            if loss_of(subject.reference)(leaf).requires_grad:
                theirs = loss_of(subject.reference)
        except Exception:  # not differentiable
            theirs = own

    def eager(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        found = torch.autograd.grad(theirs(leaf), leaf, allow_unused=True)[0]
        return torch.zeros_like(leaf) if found is None else found

    def compare(name: str, actual: Tensor, expected: Tensor, power: int) -> None:
        require_close(
            name,
            actual,
            expected,
            subject.tolerance(4 * subject.condition**power * max(size_of(expected), size_of(actual))),
        )

    def forward(transform: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        require_forward_mode(subject)
        return transform(own)

    both = torch.stack([x, x * 1.25])
    hessian = torch.autograd.functional.hessian(theirs, x)
    parts = [
        ("grad", lambda: compare("torch.func.grad", torch.func.grad(own)(x), eager(x), 1)),
        (
            "vmap(grad)",
            lambda: compare(
                "vmap(grad)", torch.vmap(torch.func.grad(own))(both), torch.stack([eager(one) for one in both]), 1
            ),
        ),
        ("jacrev", lambda: compare("jacrev of grad", torch.func.jacrev(torch.func.grad(own))(x), hessian, 2)),
        ("jacfwd", lambda: compare("jacfwd", forward(torch.func.jacfwd)(x), eager(x), 1)),
        ("hessian", lambda: compare("hessian", forward(torch.func.hessian)(x), hessian, 2)),
    ]
    return run_parts(subject, parts)


def compiled(subject: Subject) -> None:
    """``torch.compile(fullgraph=True)`` gives the same value and the same gradients."""
    _require_fixed(subject)
    torch._dynamo.reset()
    try:
        inputs = subject.fresh()
        program = torch.compile(subject.function, fullgraph=True, backend="aot_eager")
        handed = [t.clone() if i in subject.inplace else t for i, t in enumerate(inputs)]
        outputs = tensors(program(*handed))
        expected = subject.call(*(again := subject.fresh()))
        _require_same(subject, "compiled", outputs, inputs, expected, again)
    finally:
        torch._dynamo.reset()


def compiled_gradient(subject: Subject) -> None:
    """A compiled step that takes its own gradient with ``torch.autograd.grad`` gives the same."""
    _require_fixed(subject)
    torch._dynamo.reset()
    try:
        inputs = subject.fresh()
        cotangents = subject.cotangents(subject.differentiated(*inputs))
        wanted = subject.differentiable()

        def step(*arguments: Any) -> tuple[Tensor, ...]:
            outputs = subject.differentiated(*arguments)
            loss = sum(
                ((y * g.conj()).real if y.is_complex() else y * g).sum()
                for y, g in zip(outputs, cotangents, strict=True)
            )
            return torch.autograd.grad(loss, [arguments[i] for i in wanted], allow_unused=True)  # type: ignore[arg-type]

        expected = step(*subject.fresh())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a graph break is announced, and is right
            actual = torch.compile(step, backend="aot_eager")(*inputs)
        for i, a, e, allowed in zip(wanted, actual, expected, subject.gradient_tolerances(), strict=True):
            if (a is None) != (e is None):
                raise Failure(f"gradient of {subject.name(i)}: {'none' if a is None else 'one'} when compiled")
            if a is not None:
                require_close(f"gradient of {subject.name(i)}, compiled step", a, e, allowed)
    finally:
        torch._dynamo.reset()


def compiled_transform(subject: Subject) -> None:
    """``torch.compile`` around ``torch.func.grad`` is right, or with ``fullgraph=True`` raises."""
    _require_fixed(subject)
    place = subject.differentiable()[0]
    inputs = [t.detach() if isinstance(t, Tensor) else t for t in subject.fresh()]
    if inputs[place].is_complex():
        raise NotApplicable("torch.func.grad of a complex input")

    def loss(x: Tensor) -> Tensor:
        outputs = subject.differentiated(*inputs[:place], x, *inputs[place + 1 :])
        return _total(outputs, [y.conj() for y in outputs])

    _ = subject.wanted_outputs  # not while Dynamo looks on
    expected = torch.func.grad(loss)(inputs[place])
    try:
        for fullgraph in (False, True):
            torch._dynamo.reset()
            program = torch.compile(torch.func.grad(loss), fullgraph=fullgraph, backend="aot_eager")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a graph break is announced, and is right
                    actual = program(inputs[place])
            except torch._dynamo.exc.Unsupported:
                if not fullgraph:
                    raise
                continue
            allowed = subject.tolerance(4 * subject.condition * max(size_of(expected), subject.scales[1][0]))
            message = "silently wrong: torch.compile dropped the backward pass" + (
                " (fullgraph=True)" if fullgraph else ""
            )
            require_close(
                f"torch.func.grad by {subject.name(place)}, compiled", actual, expected, allowed, message=message
            )
    finally:
        torch._dynamo.reset()


def _require_fixed(subject: Subject) -> None:
    if subject.random:
        raise NotApplicable("the function draws random numbers, and compiled ones are others")


def _total(outputs: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Return the sum of the outputs' elements times weights, its real part."""
    parts = [(y * w).sum() for y, w in zip(outputs, weights, strict=True)]
    return torch.stack([p.real if p.is_complex() else p for p in parts]).sum()


def _require_same(
    subject: Subject, what: str, outputs: list[Tensor], inputs: list[Any], expected: list[Tensor], again: list[Any]
) -> None:
    """Compare results and gradients of two runs on equal inputs."""
    if len(outputs) != len(expected):
        raise Failure(f"{len(outputs)} results when {what}, {len(expected)} otherwise")
    for number, (a, e) in enumerate(zip(outputs, expected, strict=True)):
        allowed = 0.0
        if number in subject.wanted_outputs:
            allowed = subject.output_tolerances()[subject.wanted_outputs.index(number)]
        require_close(f"output {number}, {what}", a, e, allowed)
    chosen = [expected[i] for i in subject.wanted_outputs]
    g = subject.cotangents(chosen)
    got = gradients_of([outputs[i] for i in subject.wanted_outputs], inputs, g)
    want = gradients_of(chosen, again, g)
    for i, a, e, allowed in zip(subject.differentiable(), got, want, subject.gradient_tolerances(), strict=True):
        require_close(f"gradient of {subject.name(i)}, {what}", a, e, allowed)
