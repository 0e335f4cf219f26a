"""Derivatives: against finite differences to third order, in forward mode, in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from torchbp.testing import differences
from torchbp.testing.compare import Failure, require_close
from torchbp.testing.differences import Stage, differentiate, inner
from torchbp.testing.refusals import run_parts
from torchbp.testing.subject import NotApplicable, Subject, draw_like, size_of


def first_order(subject: Subject) -> str:
    """Finite differences confirm the gradient of every input."""
    return differences.confirm(subject, 1)


def second_order(subject: Subject) -> str:
    """Finite differences confirm the derivative of the gradients, by the inputs and by the incoming gradients."""
    return differences.confirm(subject, 2)


def third_order(subject: Subject) -> str:
    """Finite differences confirm the third derivative."""
    return differences.confirm(subject, 3)


def _confirm_tangents(what: str, stage: Stage, directions: list[Tensor | None], tangents: list[Tensor]) -> None:
    """Compare tangents with central differences, element by element, in the norm of what is differentiated."""
    rough: list[Tensor] = []
    for power in (15, 16, 17, 18):
        step = 2.0**-power
        up, down = stage.moved(directions, step), stage.moved(directions, -step)
        finer = [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
        if rough:
            # Richardson: the error of the finer difference is about a third of what it moved by.
            extrapolated = [(4 * f - r) / 3 for f, r in zip(finer, rough, strict=True)]
            failures = []
            for number, (t, x) in enumerate(zip(tangents, extrapolated, strict=True)):
                error, size = size_of(finer[number] - rough[number]), size_of(up[number]) + size_of(x)
                try:
                    require_close(f"{what} of result {number}", t, x, 10 * error + 1e-8 * size)
                except Failure as failure:
                    failures.append(failure)
            if not failures:
                return
            last = failures[0]
        rough = finer
    raise last


def _tangents(
    subject: Subject, order: int, active: list[int], record: bool
) -> tuple[Stage, list[Tensor | None], list[Tensor]]:
    """Return the stage, the direction with tangents at ``active`` only, and what forward mode pushes forward.

    ``record``: whether the point requires a gradient besides.
    """
    stage = Stage.of(subject, order)
    directions: list[Tensor | None] = [
        draw_like(t, subject.seed + 300 + i) if i in active else None for i, t in enumerate(stage.point)
    ]
    with forward_ad.dual_level():
        point = [t.clone().requires_grad_(record) for t in stage.point]
        duals = [t if d is None else forward_ad.make_dual(t, d) for t, d in zip(point, directions, strict=True)]
        values = stage.at(duals, create_graph=order > 1)
        pairs = [forward_ad.unpack_dual(v) for v in values]
        pushed = [torch.zeros_like(p).detach() if t is None else t.detach().clone() for p, t in pairs]
    if not record and all(tangent is None for _, tangent in pairs):
        # What has no forward mode says so only where it records a gradient.
        return _tangents(subject, order, active, record=True)
    return stage, directions, pushed


def forward_mode(subject: Subject) -> str:
    """Finite differences confirm forward-mode derivatives, by each input alone and by all; in batches too."""
    parts = [("single tangents", lambda: None), ("batches", lambda: _compare_pushed(subject))]
    _compare_tangents(subject)
    return run_parts(subject, parts)


def require_forward_mode(subject: Subject) -> None:
    """Raise what PyTorch raises if there is no forward mode, also where it would drop tangents without a word."""
    _tangents(subject, 1, [0], record=False)


def _compare_tangents(subject: Subject) -> None:
    count = len(subject.differentiable())
    everything = list(range(count))
    for active in [[i] for i in everything] + ([everything] if count > 1 else []):
        stage, directions, pushed = _tangents(subject, 1, active, record=False)
        which = " and ".join(stage.names[i] for i in active)
        _confirm_tangents(f"forward derivative by {which}", stage, directions, pushed)


def _compare_pushed(subject: Subject) -> None:
    """Compare tangents that are mapped over with a loop."""
    stage = Stage.of(subject, 1)
    point = tuple(stage.point)
    batches = []
    for i, t in enumerate(point):
        first, second = (draw_like(t, subject.seed + 300 + 100 * k + i) for k in range(2))
        batches.append(torch.stack([first, torch.zeros_like(t), second]))

    def push(*tangents: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(lambda *moving: tuple(stage.at(list(moving))), point, tangents)[1]

    together = torch.vmap(push)(*batches)
    for k in range(3):
        alone = push(*(b[k] for b in batches))
        for number, (a, e) in enumerate(zip(together, alone, strict=True)):
            allowed = subject.tolerance(max(size_of(e), subject.scales[0][number]))
            name = f"forward derivative {k} of a batch of tangents, {subject.output_name(number)}"
            require_close(name, a[k], e, allowed)


def forward_over_reverse(subject: Subject) -> None:
    """Forward mode through the backward pass equals finite differences of the gradients."""
    stage, directions, pushed = _tangents(subject, 2, list(range(len(Stage.of(subject, 2).point))), record=True)
    _confirm_tangents("forward derivative of the gradient", stage, directions, pushed)


def batched_gradients(subject: Subject) -> None:
    """``torch.autograd.grad(is_grads_batched=True)`` equals a loop, for the gradient and for its derivative."""
    inputs = subject.fresh()
    outputs = [y for y in subject.differentiated(*inputs) if y.requires_grad]
    wanted = [inputs[i] for i in subject.differentiable()]
    if not outputs:
        raise NotApplicable("the output requires no gradient")
    _compare_batched("gradient", subject, outputs, wanted, subject.condition)
    cotangents = [g.requires_grad_() for g in subject.cotangents(outputs)]
    first = [
        a
        for a in torch.autograd.grad(outputs, wanted, cotangents, create_graph=True, allow_unused=True)
        if a is not None and a.requires_grad
    ]
    if first:
        _compare_batched("second derivative", subject, first, [*wanted, *cotangents], subject.condition**2)


def _compare_batched(
    what: str, subject: Subject, outputs: list[Tensor], wanted: list[Tensor], condition: float
) -> None:
    several = [
        torch.stack([draw_like(y.detach(), subject.seed + 40 + 10 * k + i) for k in range(3)])
        for i, y in enumerate(outputs)
    ]
    together = torch.autograd.grad(
        outputs, wanted, several, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for k in range(3):
        alone = torch.autograd.grad(outputs, wanted, [g[k] for g in several], retain_graph=True, allow_unused=True)
        for number, (a, e) in enumerate(zip(together, alone, strict=True)):
            if a is None and e is None:
                continue
            zero = torch.zeros_like(wanted[number])
            a, e = zero if a is None else a[k], zero if e is None else e
            allowed = subject.tolerance(condition * size_of(e))
            require_close(f"{what} {number}, number {k} of a batch", a, e, allowed)


def adjoint_identity(subject: Subject) -> str:
    """<J v, g> = <v, Jᵀ g> in float64 and float32, each side by its own code (jvp and backward)."""
    places, found = subject.differentiable(), []
    for dtype in (torch.float64, torch.float32):
        inputs = subject.fresh(dtype)
        tangents = tuple(draw_like(inputs[i].detach(), subject.seed + 60 + i) for i in places)

        def of(*moving: Tensor, inputs: list[Any] = inputs) -> tuple[Tensor, ...]:
            full = list(inputs)
            for i, tensor in zip(places, moving, strict=True):
                full[i] = tensor
            return tuple(subject.differentiated(*full))

        point = tuple(inputs[i].detach() for i in places)
        outputs, pushed = torch.func.jvp(of, point, tangents)[:2]
        g = subject.cotangents(outputs)
        pulled = torch.func.vjp(of, *point)[1](tuple(g))
        sides = ((_wide(pushed), _wide(g)), (_wide(tangents), _wide(pulled)))
        left, right = (inner(a, b) for a, b in sides)
        size = sum(float((p * q).abs().sum()) for side in sides for p, q in zip(*side, strict=True))
        allowed = subject.tolerance(size * subject.condition, dtype)
        if not abs(left - right) <= allowed:
            raise Failure(f"{dtype}: <Jv, g> = {left:.10g} but <v, Jᵀg> = {right:.10g} (allowed {allowed:.1e})")
        found.append(f"{abs(left - right):.1e}")
    return f"off by {found[0]} in float64, {found[1]} in float32"


def _wide(values: Any) -> list[Tensor]:
    return [t.to(torch.complex128 if t.is_complex() else torch.float64) for t in values]


class _Cube(Function):
    """x³ with a jvp that is right: shows what PyTorch makes of any Function."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * tangent


def _nested(function: Callable[[Tensor], Any], x: Tensor, u: Tensor, v: Tensor) -> Any:
    return torch.func.jvp(lambda t: torch.func.jvp(function, (t,), (u,))[1], (x,), (v,))[1]


def nested_forward(subject: Subject) -> None:
    """``torch.func.jvp`` of ``torch.func.jvp`` equals double backward: a tangent's tangent does not vanish."""
    inputs = [t.detach() if isinstance(t, Tensor) else t for t in subject.fresh()]
    for place in subject.differentiable():

        def function(x: Tensor, place: int = place) -> tuple[Tensor, ...]:
            return tuple(subject.differentiated(*inputs[:place], x, *inputs[place + 1 :]))

        x = inputs[place].clone().requires_grad_()
        outputs = function(x)
        u, v = (draw_like(inputs[place], subject.seed + 80 + k) for k in range(2))
        w = subject.cotangents(outputs)
        pushed = _nested(function, inputs[place], u, v)
        actual = inner(pushed, w)
        gradient = differentiate(outputs, [x], w, create_graph=True)
        second = differentiate(gradient, [x], [u], create_graph=False)
        expected = inner(second, [v])
        size = sum(float(t.abs().nan_to_num(0, 0, 0).sum()) for t in second)
        size += sum(float((p * q).abs().sum()) for p, q in zip(pushed, w, strict=True))
        if abs(actual - expected) <= subject.tolerance(size * subject.condition**2):
            continue
        one = torch.ones(())
        if (
            not subject.strict
            and differences.function_nodes(outputs)
            and float(_nested(_Cube.apply, one, one, one)) == 0
        ):
            raise NotApplicable(
                f"wrong, as PyTorch {torch.__version__} is without a word for torch.func.jvp of torch.func.jvp around "
                "any autograd.Function (pytorch issue 197867)"
            )
        if actual == 0:
            raise Failure(
                f"silently wrong: forward over forward by {subject.name(place)} vanishes, expected {expected:.8g}"
            )
        raise Failure(f"forward over forward by {subject.name(place)}: {actual:.10g}, expected {expected:.10g}")
