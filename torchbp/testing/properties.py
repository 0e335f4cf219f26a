"""The properties that a differentiable function must have, each as a function that raises if it does not.

``PROPERTIES`` names them in the order in which they run.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from torchbp.testing.measure import saved_bytes


class Skip(Exception):
    """Raised by a property that does not apply, with the reason."""


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        function: maps tensors to one tensor.
        inputs: its arguments; floating-point ones are differentiated, in float64.
        reference: another way to compute the same, differentiable by PyTorch; optional.
        small: whether the inputs are few enough for third derivatives and Hessians.
        saved: the bytes that the backward pass may keep, given the inputs; optional.
        batched: whether the inputs at these places have a batch as their first dimension.
        layout: whether the results' strides must equal the reference's.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    reference: Callable[..., Tensor] | None = None
    small: bool = True
    saved: Callable[..., int] | None = None
    batched: tuple[int, ...] = ()
    layout: bool = True

    def differentiable(self) -> list[int]:
        """Return the places of the floating-point inputs."""
        return [i for i, t in enumerate(self.inputs) if t.is_floating_point() or t.is_complex()]

    def fresh(self, dtype: torch.dtype | None = None, grad: Sequence[int] | None = None) -> list[Tensor]:
        """Return new leaf copies of the inputs, strides kept, gradients wanted at ``grad`` (default: all)."""
        wanted = self.differentiable() if grad is None else grad
        copies = []
        for i, tensor in enumerate(self.inputs):
            copy = tensor.detach().clone(memory_format=torch.preserve_format)
            if i in self.differentiable() and dtype is not None:
                copy = copy.to(dtype)
            copies.append(copy.requires_grad_(i in wanted))
        return copies


def _reference(subject: Subject) -> Callable[..., Tensor]:
    if subject.reference is None:
        raise Skip("no reference given")
    return subject.reference


def _cotangent(output: Tensor) -> Tensor:
    """Return a fixed gradient for an output, in its own layout."""
    generator = torch.Generator().manual_seed(1)
    return torch.empty_like(output).copy_(torch.randn(output.shape, generator=generator, dtype=torch.float64))


def _gradients(function: Callable[..., Tensor], inputs: list[Tensor], g: Tensor | None = None) -> list[Tensor]:
    output = function(*inputs)
    wanted = [t for t in inputs if t.requires_grad]
    gradients = torch.autograd.grad(output, wanted, _cotangent(output) if g is None else g, allow_unused=True)
    return [torch.zeros_like(t) if a is None else a for t, a in zip(wanted, gradients, strict=True)]


def _assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare relative to the largest expected element; NaN and infinity must stand in the same places."""
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{name}: dtype {actual.dtype}, expected {expected.dtype}")
    if actual.numel() == 0:
        return
    actual, expected = actual.detach(), expected.detach()
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()) or not torch.equal(
        actual[~finite].nan_to_num(nan=7.0), expected[~finite].nan_to_num(nan=7.0)
    ):
        raise AssertionError(f"{name}: NaN or infinity in other places")
    if not bool(finite.any()):
        return
    scale = max(float(expected[finite].abs().max()), torch.finfo(expected.dtype).tiny)
    error = float((actual[finite] - expected[finite]).abs().max()) / scale
    # A result that cancels to nothing is measured against its inputs of order one.
    if error > tolerance and float((actual[finite] - expected[finite]).abs().max()) > tolerance:
        raise AssertionError(f"{name}: relative error {error:.2e} above {tolerance:.1e}")


def value(subject: Subject) -> None:
    """The value, dtype and strides equal the reference's in float64."""
    reference = _reference(subject)
    actual, expected = subject.function(*subject.fresh()), reference(*subject.fresh())
    _assert_close("output", actual, expected, 1e-12)
    if subject.layout and actual.stride() != expected.stride():
        raise AssertionError(f"output: strides {actual.stride()}, expected {expected.stride()}")


def gradient(subject: Subject) -> None:
    """Every gradient equals the reference's in float64."""
    reference = _reference(subject)
    actual = _gradients(subject.function, subject.fresh())
    expected = _gradients(reference, subject.fresh())
    for i, a, e in zip(subject.differentiable(), actual, expected, strict=True):
        _assert_close(f"gradient of input {i}", a, e, 1e-11)


def first_order(subject: Subject) -> None:
    """Finite differences confirm reverse mode, forward mode, batched and undefined gradients."""
    gradcheck(
        subject.function,
        tuple(subject.fresh()),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


def second_order(subject: Subject) -> None:
    """Finite differences confirm the derivative of the gradient, reverse and forward over reverse."""
    gradgradcheck(subject.function, tuple(subject.fresh()), check_fwd_over_rev=True, check_batched_grad=True)


def third_order(subject: Subject) -> None:
    """Finite differences confirm the third derivative: gradgradcheck of the gradient."""
    if not subject.small:
        raise Skip("inputs too large")
    places = subject.differentiable()

    def first(*inputs: Tensor) -> tuple[Tensor, ...]:
        output = subject.function(*inputs)
        wanted = [inputs[i] for i in places]
        loss = (output * _cotangent(output.detach())).sum()
        # A term of third order in every input keeps a linear layer's higher derivatives in the graph.
        loss = loss + sum((t * t * t).sum() for t in wanted)
        return torch.autograd.grad(loss, wanted, create_graph=True)

    gradgradcheck(first, tuple(subject.fresh()), check_fwd_over_rev=False)


def adjoint_identity(subject: Subject) -> None:
    """<J v, g> = <v, Jᵀ g> in float64 and float32, each side by its own code (jvp and backward)."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        inputs = subject.fresh(dtype)
        places = subject.differentiable()
        generator = torch.Generator().manual_seed(2)
        tangents = tuple(
            torch.randn(inputs[i].shape, generator=generator, dtype=torch.float64).to(dtype) for i in places
        )

        def of(*moving: Tensor, inputs: list[Tensor] = inputs, places: list[int] = places) -> Tensor:
            full = list(inputs)
            for i, tensor in zip(places, moving, strict=True):
                full[i] = tensor
            return subject.function(*full)

        point = tuple(inputs[i].detach() for i in places)
        output, pushed = torch.func.jvp(of, point, tangents)[:2]
        g = _cotangent(output)
        pulled = torch.func.vjp(of, *point)[1](g)
        left = float((pushed.double() * g.double()).sum())
        right = sum(float((v.double() * p.double()).sum()) for v, p in zip(tangents, pulled, strict=True))
        size = float((pushed.double() * g.double()).abs().sum())
        if abs(left - right) > tolerance * max(size, 1.0):
            raise AssertionError(f"{dtype}: <Jv, g> = {left:.8g} but <v, Jᵀg> = {right:.8g}")


def vmap(subject: Subject) -> None:
    """``torch.vmap`` over each input alone and over all equals a loop, values and gradients."""
    places = range(len(subject.inputs))
    for mapped in [*((i,) for i in places), tuple(places)]:
        if (
            len(subject.inputs) > 1
            and any(not subject.inputs[i].is_floating_point() for i in mapped)
            and mapped != tuple(places)
        ):
            continue
        inputs, dims = subject.fresh(), []
        for i in places:
            if i in mapped:
                second = inputs[i].detach().flip(-1) if inputs[i].dim() else inputs[i].detach()
                inputs[i] = torch.stack([inputs[i].detach(), second], dim=-1).requires_grad_(inputs[i].requires_grad)
            dims.append(-1 if i in mapped else None)
        slices = [[t.select(-1, k) if d == -1 else t for t, d in zip(inputs, dims, strict=True)] for k in (0, 1)]
        actual = torch.vmap(subject.function, in_dims=tuple(dims))(*inputs)
        expected = torch.stack([subject.function(*one) for one in slices])
        _assert_close(f"vmap over inputs {mapped}", actual, expected, 1e-12)
        g = _cotangent(expected)
        wanted = [t for t in inputs if t.requires_grad]
        for i, (a, e) in enumerate(
            zip(torch.autograd.grad(actual, wanted, g), torch.autograd.grad(expected, wanted, g), strict=True)
        ):
            _assert_close(f"gradient {i} of vmap over inputs {mapped}", a, e, 1e-11)


def functional_transforms(subject: Subject) -> None:
    """``torch.func.hessian`` and per-sample style ``vmap(grad)`` equal double backward of the reference."""
    if not subject.small:
        raise Skip("inputs too large")
    reference = subject.reference or subject.function
    place = subject.differentiable()[0]
    inputs = [t.detach() for t in subject.fresh()]

    weight = _cotangent(subject.function(*inputs))

    def loss(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def of(x: Tensor) -> Tensor:
            output = function(*inputs[:place], x, *inputs[place + 1 :])
            return (output * output * weight).sum()

        return of

    actual = torch.func.hessian(loss(subject.function))(inputs[place])
    expected = torch.autograd.functional.hessian(loss(reference), inputs[place])
    _assert_close("hessian", actual, expected, 1e-10)
    both = torch.stack([inputs[place], inputs[place] * 1.5])
    actual = torch.vmap(torch.func.grad(loss(subject.function)))(both)
    rows = []
    for x in both:
        leaf = x.clone().requires_grad_()
        rows.append(torch.autograd.grad(loss(reference)(leaf), leaf)[0])
    _assert_close("vmap(grad)", actual, torch.stack(rows), 1e-10)


def nested_forward(subject: Subject) -> None:
    """``torch.func.jvp`` of ``torch.func.jvp`` equals double backward: a tangent's tangent does not vanish."""
    inputs = [t.detach() for t in subject.fresh()]
    for place in subject.differentiable():

        def function(x: Tensor, place: int = place) -> Tensor:
            return subject.function(*inputs[:place], x, *inputs[place + 1 :])

        x = inputs[place].clone().requires_grad_()
        output = function(x)
        u, v, w = _cotangent(x).detach(), _cotangent(x.flip(-1) if x.dim() else x).detach() + 0.5, _cotangent(output)
        tangent = lambda x, f=function, u=u: torch.func.jvp(f, (x,), (u,))[1]  # noqa: E731
        actual = torch.func.jvp(tangent, (inputs[place],), (v,))[1]
        (gradient,) = torch.autograd.grad(output, x, w, create_graph=True)
        expected = torch.zeros((), dtype=x.dtype)
        if gradient.requires_grad:
            (second,) = torch.autograd.grad(gradient, x, u, allow_unused=True, materialize_grads=True)
            expected = (second * v).sum()
        _assert_close(f"second derivative by input {place}, forward over forward", (actual * w).sum(), expected, 1e-10)


def compiled(subject: Subject) -> None:
    """``torch.compile(fullgraph=True)`` gives the same; around ``torch.func.grad`` it is right or raises."""
    torch._dynamo.reset()
    try:
        actual = _gradients(torch.compile(subject.function, fullgraph=True, backend="aot_eager"), subject.fresh())
        for i, a, e in zip(
            subject.differentiable(), actual, _gradients(subject.function, subject.fresh()), strict=True
        ):
            _assert_close(f"gradient of input {i}, compiled", a, e, 1e-11)
        inputs, place = [t.detach() for t in subject.fresh()], subject.differentiable()[0]

        def loss(x: Tensor) -> Tensor:
            output = subject.function(*inputs[:place], x, *inputs[place + 1 :])
            return (output * output).sum()

        expected = torch.func.grad(loss)(inputs[place])
        for fullgraph in (False, True):
            torch._dynamo.reset()
            program = torch.compile(torch.func.grad(loss), fullgraph=fullgraph, backend="aot_eager")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a graph break is announced, and is right
                    actual_gradient = program(inputs[place])
            except torch._dynamo.exc.Unsupported:
                if not fullgraph:
                    raise
                continue
            _assert_close("compiled torch.func.grad", actual_gradient, expected, 1e-11)
    finally:
        torch._dynamo.reset()


def layouts(subject: Subject) -> None:
    """Non-contiguous and channels-last inputs, and expanded, permuted and zero gradients, change nothing."""
    expected = subject.function(*subject.fresh())
    g = _cotangent(expected)
    gradients = _gradients(subject.function, subject.fresh(), g)

    def arranged(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [change(t.detach()).requires_grad_(t.requires_grad) for t in subject.fresh()]

    def strided(t: Tensor) -> Tensor:
        return torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0]

    def reversed_strides(t: Tensor) -> Tensor:
        order = list(reversed(range(t.dim())))
        return t.permute(order).contiguous().permute(order)

    def channels_last(t: Tensor) -> Tensor:
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t

    for name, change in (("strided", strided), ("reversed", reversed_strides), ("channels-last", channels_last)):
        output = subject.function(*arranged(change))
        _assert_close(f"{name} inputs", output, expected, 1e-12)
        if subject.reference is not None and subject.layout and name == "channels-last":
            stride = subject.reference(*arranged(change)).stride()
            if output.stride() != stride:
                raise AssertionError(f"{name} inputs: strides {output.stride()}, expected {stride}")
        for i, (a, e) in enumerate(
            zip(_gradients(subject.function, arranged(change), change(g)), gradients, strict=True)
        ):
            _assert_close(f"gradient {i}, {name} inputs and gradient", a, e, 1e-11)
    expanded = g.new_full((), 0.5).expand(g.shape)
    for name, odd in (("expanded", expanded), ("zero", torch.zeros_like(g))):
        actual = _gradients(subject.function, subject.fresh(), odd)
        dense = _gradients(subject.function, subject.fresh(), odd.clone(memory_format=torch.contiguous_format))
        for i, (a, e) in enumerate(zip(actual, dense, strict=True)):
            _assert_close(f"gradient {i}, {name} gradient", a, e, 1e-11)


def float32(subject: Subject) -> None:
    """float32 results are as near to float64 as rounding allows, and as near as the reference's."""
    exact = [subject.function(*subject.fresh()), *_gradients(subject.function, subject.fresh())]
    g = _cotangent(exact[0])
    exact[1:] = _gradients(subject.function, subject.fresh(), g)

    def narrow(function: Callable[..., Tensor]) -> list[Tensor]:
        inputs = subject.fresh(torch.float32)
        return [function(*inputs), *_gradients(function, subject.fresh(torch.float32), g.float())]

    def errors(results: list[Tensor]) -> list[float]:
        worst = []
        for result, truth in zip((r.detach() for r in results), (e.detach() for e in exact), strict=True):
            scale = max(float(truth.nan_to_num().abs().max()) if truth.numel() else 0.0, 1e-6)
            worst.append(float((result.double() - truth).nan_to_num().abs().max()) / scale if truth.numel() else 0.0)
        return worst

    results = narrow(subject.function)
    if any(result.dtype != torch.float32 for result in results):
        raise AssertionError(f"dtypes {[str(result.dtype) for result in results]}, expected float32")
    # Rounding of a sum of n terms grows like sqrt(n) units; 8 of them leave room for a few steps.
    terms = max(t.numel() for t in subject.inputs)
    allowed = 8 * torch.finfo(torch.float32).eps * max(1.0, terms**0.5)
    own = errors(results)
    theirs = errors(narrow(subject.reference)) if subject.reference is not None else [0.0] * len(own)
    for i, (mine, other) in enumerate(zip(own, theirs, strict=True)):
        if mine > max(allowed, 2 * other):
            which = "output" if i == 0 else f"gradient {i - 1}"
            raise AssertionError(
                f"{which}: error {mine:.2e} against float64, allowed {allowed:.2e} (reference: {other:.2e})"
            )


def autocast(subject: Subject) -> None:
    """Under bfloat16 autocast the output has the reference's dtype and the gradients their inputs'."""
    reference = _reference(subject)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            wanted = reference(*subject.fresh(torch.bfloat16)).dtype
        except NotImplementedError:  # which takes no bfloat16 at all
            wanted = None
        if wanted is not None and subject.function(*subject.fresh(torch.bfloat16)).dtype != wanted:
            raise AssertionError(f"output for bfloat16 inputs: not the dtype expected, {wanted}")
        inputs = subject.fresh(torch.float32)
        output, expected = subject.function(*inputs), reference(*subject.fresh(torch.float32))
    if output.dtype != expected.dtype:
        raise AssertionError(f"output: dtype {output.dtype}, expected {expected.dtype}")
    if output.numel() == 0:
        return
    scale = max(float(expected.detach().float().abs().max()), 1e-3)
    if float((output.detach().float() - expected.detach().float()).abs().max()) > 0.05 * scale:
        raise AssertionError("output: farther from the reference than bfloat16 allows")
    gradients = torch.autograd.grad(output.float().sum(), [t for t in inputs if t.requires_grad], allow_unused=True)
    if any(a is not None and a.dtype != torch.float32 for a in gradients):
        raise AssertionError(f"gradient dtypes {[None if a is None else a.dtype for a in gradients]}, expected float32")


def empty_batch(subject: Subject) -> None:
    """A batch of size zero gives the reference's shape, and gradients of zeros."""
    if not subject.batched:
        raise Skip("no batch dimension declared")
    reference = _reference(subject)

    def emptied() -> list[Tensor]:
        return [
            t.detach()[:0].requires_grad_(t.requires_grad) if i in subject.batched else t
            for i, t in enumerate(subject.fresh())
        ]

    _assert_close("output", subject.function(*emptied()), reference(*emptied()), 0.0)
    actual, expected = _gradients(subject.function, emptied()), _gradients(reference, emptied())
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        _assert_close(f"gradient {i}", a, e, 0.0)


def wanted_gradients(subject: Subject) -> None:
    """Every subset of inputs that require a gradient gets the same gradients, the others none."""
    places = subject.differentiable()
    full = dict(zip(places, _gradients(subject.function, subject.fresh()), strict=True))
    for count in range(1, len(places) + 1):
        for subset in itertools.combinations(places, count):
            gradients = _gradients(subject.function, subject.fresh(grad=subset))
            for i, a in zip(subset, gradients, strict=True):
                _assert_close(f"gradient of input {i} when {subset} are wanted", a, full[i], 1e-12)
    if subject.function(*subject.fresh(grad=())).requires_grad:
        raise AssertionError("the output requires a gradient although no input does")


def saved(subject: Subject) -> None:
    """Exactly the promised bytes are kept for the backward pass, and none when no gradient is wanted."""
    if saved_bytes(lambda: subject.function(*subject.fresh(grad=()))) != 0:
        raise AssertionError("bytes are kept although no gradient is wanted")
    if subject.saved is None:
        raise Skip("no promise given")
    inputs = subject.fresh(torch.float32)
    kept, promised = saved_bytes(lambda: subject.function(*inputs)), subject.saved(*inputs)
    if kept != promised:
        raise AssertionError(f"{kept} bytes are kept, {promised} were promised")


def pure(subject: Subject) -> None:
    """Inputs and gradients are not modified; results are bitwise equal on repetition and for any threads."""
    inputs = subject.fresh(torch.float32)
    copies = [t.detach().clone() for t in inputs]
    output = subject.function(*inputs)
    g = _cotangent(output)
    copy = g.clone()
    wanted = [t for t in inputs if t.requires_grad]
    first = [output, *(a for a in torch.autograd.grad(output, wanted, g, allow_unused=True) if a is not None)]
    for i, (tensor, before) in enumerate(zip(inputs, copies, strict=True)):
        if not torch.equal(tensor.detach().nan_to_num(), before.nan_to_num()):
            raise AssertionError(f"input {i} was modified")
    if not torch.equal(g, copy):
        raise AssertionError("the incoming gradient was modified")
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 2, 3):
            torch.set_num_threads(count)
            output = subject.function(*inputs)
            again = [output, *(a for a in torch.autograd.grad(output, wanted, g, allow_unused=True) if a is not None)]
            if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(again, first, strict=True)):
                raise AssertionError(f"results differ in bits on repetition with {count} threads")
    finally:
        torch.set_num_threads(threads)


PROPERTIES: dict[str, Callable[[Subject], Any]] = {
    function.__name__: function
    for function in (
        value,
        gradient,
        first_order,
        second_order,
        third_order,
        adjoint_identity,
        vmap,
        functional_transforms,
        nested_forward,
        compiled,
        layouts,
        float32,
        autocast,
        empty_batch,
        wanted_gradients,
        saved,
        pure,
    )
}
