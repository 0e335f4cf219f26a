"""Derivatives of any order against finite differences in float64.

The derivative of order k is the gradient of the inner product of a fixed vector u with what autograd computes as
the derivative of order k - 1, by everything that depends on: the inputs and, from the second order on, the
gradients that arrive at the outputs. So each order is confirmed by differences of the order before it, whether that
one is right or not, and a failure names the order at which autograd and the function part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from torchbp.costs.graph import nodes_of
from torchbp.testing.compare import Failure, Worst, index_of
from torchbp.testing.subject import Refused, Subject, draw_like

_EPS = torch.finfo(torch.float64).eps
#: Error of a central difference with the best step, relative to the function: truncation and rounding balance.
_CENTRAL = _EPS ** (2 / 3)
_STEP = 2.0**-17
#: Multiples of the error that is estimated before a difference counts.
_MARGIN = 100
_DIRECTIONS = 4
#: Elements up to which every one is moved by itself, by order; beyond, random directions are.
SLOW = {1: 512, 2: 160, 3: 48}
ORDINALS = {1: "first", 2: "second", 3: "third"}

Point = list[Tensor]


def real(tensor: Tensor) -> Tensor:
    """Return the real numbers of a tensor in a row."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the real inner product of two lists of tensors; zeros of the second switch elements of the first off."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        left, right = real(x.detach()), real(y.detach())
        part = float(torch.dot(left, right))
        if not math.isfinite(part):
            part = float(torch.where(right == 0, torch.zeros_like(left), left * right).sum())
        total += part
    return total


def differentiate(outputs: Sequence[Tensor], wanted: Point, cotangents: Sequence[Tensor], create_graph: bool) -> Point:
    """Return gradients, zeros where autograd gives none."""
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in wanted]
    found = torch.autograd.grad(
        [y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True, create_graph=create_graph
    )
    return [torch.zeros_like(t) if a is None else a for t, a in zip(wanted, found, strict=True)]


@dataclass(frozen=True)
class Stage:
    """The derivative of one order less than the one in question, as a function of a point.

    Attributes:
        subject: what is differentiated.
        order: the order in question.
        point: the inputs and, from the second order on, the gradients that arrive.
        names: what to call the tensors of the point.
    """

    subject: Subject
    order: int
    point: Point
    names: list[str]

    @classmethod
    def of(cls, subject: Subject, order: int) -> Stage:
        """Return the stage of a subject."""
        places = subject.differentiable()
        inputs = subject.fresh()
        point, names = [inputs[i].detach() for i in places], [subject.name(i) for i in places]
        if order > 1:
            outputs = subject.differentiated(*inputs)
            point += subject.cotangents(outputs)
            names += [f"gradient of {subject.output_name(i)}" for i in range(len(outputs))]
        return cls(subject, order, point, names)

    def at(self, point: Point, create_graph: bool = False) -> Point:
        """Return the derivative of order ``order - 1`` at a point."""
        places = self.subject.differentiable()
        inputs = list(self.subject.inputs)
        for i, tensor in zip(places, point, strict=False):
            inputs[i] = tensor
        values = self.subject.differentiated(*inputs)
        wanted, cotangents = point[: len(places)], point[len(places) :]
        for order in range(2, self.order + 1):
            values = differentiate(values, wanted, cotangents, create_graph or order < self.order)
            wanted, cotangents = point, self.weights(values, order)
        return values

    def weights(self, values: Point, order: int) -> Point:
        """Return the fixed u of an order."""
        return [draw_like(t.detach(), self.subject.seed + 1000 * order + i) for i, t in enumerate(values)]

    def evaluate(self, point: Point) -> Point:
        """Return the derivative of order ``order - 1`` at a point, without a graph."""
        if self.order == 1:
            with torch.no_grad():
                return [t.detach() for t in self.at([t.clone() for t in point])]
        return [t.detach() for t in self.at([t.clone().requires_grad_() for t in point])]

    def moved(self, direction: Sequence[Tensor | None], by: float) -> Point:
        """Return the derivative of order ``order - 1`` at the point moved along a direction."""
        return self.evaluate([t if d is None else t + by * d for t, d in zip(self.point, direction, strict=True)])


@dataclass(frozen=True)
class Difference:
    """A derivative of a number by another as finite differences see it, and how far they can be trusted."""

    value: float
    error: float


def ridders(function: Callable[[float], float], step: float = 2.0**-8) -> Difference:
    """Return the derivative of a function at 0: central differences extrapolated to step 0 (Ridders 1982).

    The error is the difference between the two best extrapolations.
    """
    best = Difference(0.0, float("inf"))
    rows: list[list[float]] = []
    for k in range(14):
        h = step / 2**k
        row = [(function(h) - function(-h)) / (2 * h)]
        factor = 1.0
        for j in range(min(k, 6)):
            factor *= 4
            row.append(row[j] + (row[j] - rows[k - 1][j]) / (factor - 1))
            error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - rows[k - 1][j]))
            if error < best.error:
                best = Difference(row[j + 1], error)
        rows.append(row)
    return best


def _magnitude(values: Point, weights: Point) -> float:
    """Return the size of the terms of an inner product: its rounding error is eps times that."""
    return sum(
        float((real(v).abs() * real(u).abs()).nan_to_num(0, 0, 0).square().sum().sqrt())
        for v, u in zip(values, weights, strict=True)
    )


def confirm(subject: Subject, order: int) -> str:
    """Confirm the derivative of an order by finite differences of the order before it.

    Returns:
        How it was confirmed, in words.

    Raises:
        Failure: if the two disagree beyond what the error of the differences explains.
    """
    if order > 1:
        _require_twice(subject)
    stage = Stage.of(subject, order)
    leaves = [t.clone().requires_grad_() for t in stage.point]
    values = stage.at(leaves, create_graph=True)
    # What is not finite at the point, a masked score of -inf, say, has no derivative and is left out.
    weights = [
        torch.where(v.detach().isfinite(), u, torch.zeros_like(u))
        for v, u in zip(values, stage.weights(values, order + 1), strict=True)
    ]
    analytic = [t.detach() for t in differentiate(values, leaves, weights, create_graph=False)]
    size = _magnitude([v.detach() for v in values], weights)
    _require_finite(stage, weights, analytic, size)
    elements = sum(real(t).numel() for t in stage.point)
    if elements <= SLOW.get(order, 0):
        _confirm_elements(stage, weights, analytic, size)
        return f"each of {elements} elements moved"
    _confirm_directions(stage, weights, analytic, size)
    return f"{_DIRECTIONS} random directions of {elements} elements"


def _require_finite(stage: Stage, weights: Point, analytic: Point, size: float) -> None:
    """Fail where a derivative is not finite though finite differences converge."""
    for number, gradient in enumerate(analytic):
        for place in (~real(gradient).isfinite()).nonzero().flatten().tolist()[:8]:
            along = _element(stage.point, number, place)
            true = ridders(lambda by, along=along: inner(stage.moved(along, by), weights))  # type: ignore[misc]
            if true.error <= 1e-4 * max(abs(true.value), size):
                index = index_of(place // (2 if gradient.is_complex() else 1), gradient.shape)
                a = float(real(gradient)[place])
                _fail(stage, Worst(_what(stage, number), index, a, true.value, true.error), vanished=False)


def _require_twice(subject: Subject) -> None:
    """Raise Refused if a gradient is marked as not differentiable.

    The mark is a node that raises when it is reached, but nothing hangs behind it: a gradient through it is None.
    """
    stage = Stage.of(subject, 2)
    gradients = stage.at([t.clone().requires_grad_() for t in stage.point], create_graph=True)
    if any(type(node).__name__ == "Error" for node in nodes_of(gradients)):
        raise Refused("differentiable once only, and says so")


def function_nodes(outputs: Sequence[Tensor]) -> list[Any]:
    """Return the nodes of a graph that are Functions written in Python."""
    return [node for node in nodes_of(outputs) if isinstance(node, BackwardCFunction)]


def _confirm_elements(stage: Stage, weights: Point, analytic: Point, size: float) -> None:
    worst: tuple[float, Worst] | None = None
    vanished, undecided, elements = True, 0, 0
    for number, (tensor, gradient) in enumerate(zip(stage.point, analytic, strict=True)):
        found = real(gradient).tolist()
        for place, x in enumerate(real(tensor).tolist()):
            elements += 1
            # A power of two, so that the step that is taken is the step that is meant.
            unit = 2.0 ** max(0, math.frexp(x)[1] - 1) if math.isfinite(x) else 1.0
            along = _element(stage.point, number, place, unit)

            def moved(by: float, along: list[Tensor | None] = along) -> float:
                return inner(stage.moved(along, by), weights)

            slope = (moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
            a = found[place] * unit
            if not math.isfinite(a):
                undecided += 1
                continue
            if abs(a - slope) <= _MARGIN * _CENTRAL * (size + abs(slope)):
                continue
            verdict = _judge(moved, a, size)
            if verdict is None:
                undecided += 1
            elif verdict[0] > 0:
                vanished = vanished and a == 0
                if worst is None or verdict[0] > worst[0]:
                    index = index_of(place // (2 if tensor.is_complex() else 1), tensor.shape)
                    truth = Worst(_what(stage, number), index, a / unit, verdict[1] / unit, verdict[2] / unit)
                    worst = verdict[0], truth
    if worst is not None:
        _fail(stage, worst[1], vanished)
    if undecided and undecided == elements:
        raise Failure("finite differences do not converge anywhere: the function is not differentiable here")


def _judge(moved: Callable[[float], float], a: float, size: float) -> tuple[float, float, float] | None:
    """Return by how much a derivative is off beyond what is allowed, the true one and what is allowed.

    None where differences of no step can tell: the function is not differentiable there.
    """
    true = ridders(moved)
    allowed = _MARGIN * (true.error + _CENTRAL * _EPS ** (1 / 12) * (size + abs(true.value)))
    if true.error > 1e-2 * max(abs(true.value), abs(a), size * 1e-3):
        return None
    return max(0.0, abs(a - true.value) - allowed), true.value, allowed


def _element(point: Point, number: int, place: int, size: float = 1.0) -> list[Tensor | None]:
    direction: list[Tensor | None] = [None] * len(point)
    unit = torch.zeros_like(point[number], memory_format=torch.contiguous_format)
    real(unit)[place] = size
    direction[number] = unit
    return direction


def _confirm_directions(stage: Stage, weights: Point, analytic: Point, size: float) -> None:
    undecided = 0
    for k in range(_DIRECTIONS):
        direction = [
            torch.where(gradient.isfinite(), draw_like(t, stage.subject.seed + 7000 + 31 * k + i), torch.zeros_like(t))
            for i, (t, gradient) in enumerate(zip(stage.point, analytic, strict=True))
        ]

        def moved(by: float, direction: list[Tensor] = direction) -> float:
            return inner(stage.moved(direction, by), weights)

        a = inner(analytic, direction)
        slope = (moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
        if abs(a - slope) <= _MARGIN * _CENTRAL * (size + abs(slope)):
            continue
        verdict = _judge(moved, a, size)
        if verdict is None:
            undecided += 1
        elif verdict[0] > 0:
            _locate(stage, weights, analytic, size, direction)
    if undecided == _DIRECTIONS:
        raise Failure("finite differences do not converge in any direction: the function is not differentiable here")


def _locate(stage: Stage, weights: Point, analytic: Point, size: float, direction: list[Tensor]) -> None:
    """Halve a direction along which the derivative is wrong until one element is left; fail there."""

    def off(number: int, mask: Tensor) -> tuple[float, float, float, float]:
        along: list[Tensor | None] = [None] * len(stage.point)
        part = torch.zeros_like(direction[number], memory_format=torch.contiguous_format)
        real(part)[mask] = real(direction[number])[mask]
        along[number] = part
        a = inner([analytic[number]], [part])
        true = ridders(lambda by: inner(stage.moved(along, by), weights))
        return abs(a - true.value), a, true.value, _MARGIN * (true.error + _CENTRAL * size)

    counts = [real(t).numel() for t in stage.point]
    number = max(range(len(counts)), key=lambda i: off(i, torch.arange(counts[i]))[0] if counts[i] else -1.0)
    mask = torch.arange(counts[number])
    while len(mask) > 1:
        halves = mask.tensor_split(2)
        mask = max(halves, key=lambda half: off(number, half)[0])
    _, a, true, allowed = off(number, mask)
    scale = float(real(direction[number])[mask])
    tensor = stage.point[number]
    index = index_of(int(mask) // (2 if tensor.is_complex() else 1), tensor.shape)
    worst = Worst(_what(stage, number), index, a / scale, true / scale, allowed / abs(scale))
    _fail(stage, worst, not any(bool(t.any()) for t in analytic))


def _what(stage: Stage, number: int) -> str:
    if stage.order == 1:
        return f"gradient of {stage.names[number]}"
    return f"{ORDINALS.get(stage.order, stage.order)} derivative by {stage.names[number]}"


def _fail(stage: Stage, worst: Worst, vanished: bool) -> None:
    ordinal = ORDINALS.get(stage.order, f"order-{stage.order}")
    if vanished:
        message = f"silently wrong: the {ordinal} derivative vanishes, finite differences say otherwise"
    elif stage.order > 1:
        message = f"silently wrong: the {ordinal} derivative is not that of the one before it"
    else:
        message = "not the derivative of the value"
    raise Failure(f"{message}: {worst}", worst)


# --------------------------------------------------------------------------------------------------
# Kinks


@dataclass(frozen=True)
class Kink:
    """An element of an input at which the slopes on both sides disagree.

    Attributes:
        place: the input.
        index: the element.
        output: which of the differentiated outputs.
        element: the element of that output, counted in real numbers.
        below, above: the slopes on either side.
        jump: whether the function jumps there, so that the slopes mean nothing.
    """

    place: int
    index: tuple[int, ...]
    flat: int
    output: int
    element: int
    below: float
    above: float
    jump: bool


def _sides(subject: Subject, inputs: list[Any], direction: dict[int, Tensor], step: float) -> tuple[Point, Point]:
    """Return the slopes of every output above and below a point along a direction."""

    def at(by: float) -> Point:
        moved = [t + by * direction[i] if i in direction else t for i, t in enumerate(inputs)]
        with torch.no_grad():
            return [real(t).double() for t in subject.differentiated(*moved)]

    here, up, down = at(0), at(step), at(-step)
    return (
        [(u - c) / step for u, c in zip(up, here, strict=True)],
        [(c - d) / step for c, d in zip(here, down, strict=True)],
    )


def _disagree(
    subject: Subject, inputs: list[Any], direction: dict[int, Tensor]
) -> tuple[list[Tensor], Point, Point, list[Tensor]]:
    """Return where slopes disagree, those slopes, and where the function jumps."""
    above, below = _sides(subject, inputs, direction, _STEP)
    finer_above, finer_below = _sides(subject, inputs, direction, _STEP / 16)
    kinks, jumps = [], []
    for a, b, c, d in zip(above, below, finer_above, finer_below, strict=True):
        gap, finer = (a - b).abs(), (c - d).abs()
        noise = 1e-4 + 1e-3 * (a.abs() + b.abs())
        # Halved steps halve the gap of a smooth function; that of a kink stays, that of a jump grows.
        kinks.append((gap > noise) & (finer > 0.5 * gap) & finer.isfinite())
        jumps.append(kinks[-1] & (finer > 4 * gap))
    return kinks, finer_above, finer_below, jumps


def on_a_kink(subject: Subject, inputs: Sequence[Any]) -> bool:
    """Tell whether a point sits on a kink, by random directions."""
    plain = subject.fresh(grad=(), inputs=inputs)
    for k in range(2):
        direction = {i: draw_like(plain[i], subject.seed + 500 + 10 * k + i) for i in subject.differentiable()}
        if any(bool(found.any()) for found in _disagree(subject, plain, direction)[0]):
            return True
    return False


def kinks(subject: Subject, inputs: Sequence[Any], limit: int = 64) -> list[Kink]:
    """Return the kinks at a point, moving one element after the other, at most ``limit`` of them."""
    plain = subject.fresh(grad=(), inputs=inputs)
    found: list[Kink] = []
    for i in subject.differentiable():
        for flat in itertools.islice(range(real(plain[i]).numel()), limit):
            direction = {i: _element([plain[i]], 0, flat)[0]}
            where, above, below, jumps = _disagree(subject, plain, direction)  # type: ignore[arg-type]
            index = index_of(flat // (2 if plain[i].is_complex() else 1), plain[i].shape)
            for output, mask in enumerate(where):
                for element in mask.nonzero().flatten().tolist():
                    slopes = float(below[output][element]), float(above[output][element])
                    found.append(Kink(i, index, flat, output, element, *slopes, bool(jumps[output][element])))
    return found


def redraw(subject: Subject, inputs: Sequence[Any], attempt: int) -> tuple[Any, ...]:
    """Return inputs moved at random by up to a tenth, signs kept where all are the same."""
    moved = list(inputs)
    for i in subject.differentiable():
        tensor = inputs[i]
        noise = 0.1 * draw_like(tensor, subject.seed + 900 + 10 * attempt + i)
        scale = float(tensor.abs().max()) if tensor.numel() else 0.0
        spread = torch.where(tensor == 0, scale or 1.0, tensor.abs().double())
        if not tensor.is_complex() and bool((tensor >= 0).all()):
            noise = noise.abs()
        elif not tensor.is_complex() and bool((tensor <= 0).all()):
            noise = -noise.abs()
        moved[i] = torch.empty_like(tensor).copy_(tensor + noise * spread)
    return tuple(moved)
