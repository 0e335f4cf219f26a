"""Calls met before, replayed: what a function's operators are, written down once, so that Python is not asked again.

What a ``replayable`` function computes follows from the values of its numbers and from the shapes, strides and dtypes
of its tensors: nothing else may have a say, except a random generator that an operator reads. The second call with such
arguments runs here, in a mode that sees every operator. If the function is a sequence of operators on its own tensors,
and, where a derivative is recorded, one explicit Function whose inputs are the function's tensors and whose outputs are
what is returned, then the compiled extension calls the sequence from then on. The formula of the gradient stays the
Function's: its backward pass is written down in the same way when it first runs, and asked again whenever it is
differentiated itself.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchbp._extension import extension

P = ParamSpec("P")
R = TypeVar("R")

#: Operators whose results have an argument's shape, but nothing of its values.
_SHAPES = {
    f"aten::{name}"
    for name in (
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
        *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    )
}


class _State(threading.local):
    recording: Recording | None = None


state = _State()


class Refusal(Exception):
    """Ends the attempt to write down a call."""


class _Step(NamedTuple):
    operator: str
    overload: str
    arguments: list[tuple[str, Any]]  # (kind, value): a constant, or the number of a tensor or of several
    results: list[int]
    written: list[int]


class _Context:
    """The context of a Function, as ``setup_context`` fills it and ``backward`` reads it."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Tensor | None, ...] = ()
        self._overwrites = False
        self._fixed: tuple[Tensor, ...] = ()
        self._materializes = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        pass

    def mark_dirty(self, *tensors: Tensor) -> None:
        self._overwrites = True

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self._fixed = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self._materializes = value


class Recording(TorchDispatchMode):
    """Writes down the operators that are called, on tensors that are numbered as they appear."""

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        """Number the tensors that are given."""
        super().__init__()
        self.tensors: list[Tensor | None] = list(tensors)
        self.steps: list[_Step] = []
        self.refused = ""
        self.applied: _Applied | None = None
        self.given = len(self.tensors)
        self._slots = {id(t): i for i, t in enumerate(tensors) if t is not None}
        #: Tensors that have a derivative, or are made of such.
        self._varying = {i for i, t in enumerate(tensors) if t is not None and t.requires_grad}
        self._before: list[tuple[Tensor, Tensor]] = []
        self._generator: Tensor | None = None
        if len(self._slots) < sum(t is not None for t in tensors):
            self.refused = "one tensor in two places"

    def slot(self, tensor: Tensor | None) -> int:
        """Return the number of a tensor; -1 of none."""
        if tensor is None:
            return -1
        if id(tensor) not in self._slots:
            self.refused = "a tensor from elsewhere"
            return -1
        return self._slots[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator and write it down."""
        kwargs = kwargs or {}
        schema = func._schema
        given = [
            args[i] if i < len(args) else kwargs.get(a.name, a.default_value) for i, a in enumerate(schema.arguments)
        ]
        written = [v for v, a in zip(given, schema.arguments, strict=True) if a.alias_info and a.alias_info.is_write]
        for tensor in written:
            if not isinstance(tensor, Tensor) or tensor.requires_grad:
                raise Refusal(f"{schema.name} writes to what has a gradient")
            if self.slot(tensor) < self.given:
                self._before.append((tensor, tensor.clone()))
        if self._generator is None and torch.Tag.nondeterministic_seeded in func.tags:
            self._generator = torch.get_rng_state()
        arguments = [self._argument(schema, value) for value in given]
        result = func(*args, **kwargs)
        slots = list(_slots_of(arguments))
        if not (isinstance(result, Tensor) or slots):
            return result
        results = list(result) if isinstance(result, tuple | list) else [result] if schema.returns else []
        if not all(r is None or isinstance(r, Tensor) for r in results):
            self.refused = f"{schema.name} gives no tensors"
            return result
        numbers, overwritten = [self._number(r) for r in results], [self.slot(t) for t in written]
        self.steps.append(_Step(schema.name, schema.overload_name, arguments, numbers, overwritten))
        if schema.name not in _SHAPES and self._varying.intersection(slots):
            self._varying.update(numbers)
            self._varying.update(i for i, t in enumerate(self.tensors) if t is not None and _looks_into(t, written))
        return result

    def _argument(self, schema: Any, value: Any) -> tuple[str, Any]:
        if isinstance(value, Tensor):
            return "tensor", self.slot(value)
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return "tensors", [self.slot(v) for v in value]
        if isinstance(value, torch.Generator):
            self.refused = f"{schema.name} reads a generator"
        return "constant", value

    def _number(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return -1
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self._slots[id(tensor)]

    def is_constant(self, slot: int) -> bool:
        """Tell whether a tensor was made here of nothing that has a derivative."""
        return slot >= self.given and slot not in self._varying

    def aliases_given(self, slots: Sequence[int]) -> bool:
        """Tell whether one of the tensors is, or looks into, one that was given."""
        given = [t for t in self.tensors[: self.given] if t is not None]
        found = [self.tensors[slot] for slot in slots if slot >= 0]
        return any(0 <= slot < self.given for slot in slots) or any(
            t is not None and _looks_into(t, given) for t in found
        )

    def count_writes(self) -> None:
        """Let autograd know which of the tensors that were given were overwritten."""
        torch.autograd.graph.increment_version([tensor for tensor, _ in self._before if not tensor.is_inference()])

    def undo(self) -> None:
        """Give the tensors that were given, and overwritten, their values back, and the generator its state."""
        if self._generator is not None:
            torch.set_rng_state(self._generator)
        for tensor, values in reversed(self._before):
            tensor.copy_(values)

    def apply(self, cls: Any, args: tuple[Any, ...], recorded: bool) -> Any:
        """Do what a Function's ``apply`` does, without a graph."""
        if not recorded:
            return cls.forward(*args)
        with torch.no_grad():
            output = cls.forward(*args)
            context = _Context(tuple(isinstance(a, Tensor) and a.requires_grad for a in args))
            cls.setup_context(context, args, output)
        if self.applied is not None:
            self.refused = "two Functions"
        self.applied = _Applied(cls, args, output if isinstance(output, tuple) else (output,), context)
        return output


def _looks_into(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    """Tell whether a tensor has elements, and its storage is that of another."""
    own = tensor.untyped_storage().data_ptr()
    return tensor.numel() > 0 and any(own == t.untyped_storage().data_ptr() for t in others if t.numel())


def _slots_of(arguments: list[tuple[str, Any]]) -> Iterator[int]:
    for kind, value in arguments:
        if kind == "tensor":
            yield value
        elif kind == "tensors":
            yield from value


@dataclasses.dataclass
class _Applied:
    function: Any
    args: tuple[Any, ...]
    outputs: tuple[Tensor | None, ...]
    context: _Context

    @property
    def title(self) -> str:
        return self.args[0].title if self.function.named_by_first else self.function.__name__

    def derive(self) -> Callable[..., tuple[Tensor | None, ...]]:
        """Return the Function's backward as (needs, gradients, saved) -> gradients, of its tensors alone."""
        backward = self.function.function.backward
        positions = [i for i, a in enumerate(self.args) if isinstance(a, Tensor)]
        count, context = len(self.args), self.context
        attributes = _attributes(context)
        shapes = [None if t is None else (t.shape, t.dtype) for t in self.outputs] if context._materializes else None

        def derive(
            needs: tuple[bool, ...], gradients: tuple[Tensor | None, ...], saved: tuple[Tensor | None, ...]
        ) -> tuple[Tensor | None, ...]:
            every = [False] * count
            for position, need in zip(positions, needs, strict=True):
                every[position] = need
            again = _Context(tuple(every))
            vars(again).update(attributes)
            again.saved_tensors = saved
            if shapes is not None:
                gradients = tuple(
                    [
                        torch.zeros(like[0], dtype=like[1]) if g is None and like is not None else g
                        for g, like in zip(gradients, shapes, strict=True)
                    ]
                )
            found = backward(again, *gradients)
            found = found if isinstance(found, tuple) else (found,)
            return tuple([found[position] for position in positions])

        return derive


def _holds_tensor(value: Any) -> bool:
    """Tell whether a tensor is in the value, or in what it is made of."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, dict):
        return any(_holds_tensor(v) for v in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_tensor(v) for v in value)
    return dataclasses.is_dataclass(value) and any(_holds_tensor(v) for v in vars(value).values())


def _record(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tensors: tuple[Tensor, ...]
) -> tuple[bool, Any, Any, Any]:
    """Call the function and say what it is made of.

    Returns whether there is a result, the result, the plan of such calls or None if there can be none, and the tensors
    that the plan numbers. Called below autograd.
    """
    recording = Recording(tensors)
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    state.recording = recording
    try:
        with recording:
            result = function(*args, **kwargs)
    except Exception:  # once more, for the error of an ordinary call
        recording.undo()
        return False, None, None, None
    finally:
        state.recording = None
    plan = _plan(recording, result, gradient)
    if plan is None and gradient:
        recording.undo()
        return False, None, None, None
    recording.count_writes()
    return True, result, plan, recording.tensors


def _plan(recording: Recording, result: Any, gradient: bool) -> tuple[Any, ...] | None:
    results = result if type(result) is tuple else (result,)
    if not all(r is None or isinstance(r, Tensor) for r in results):
        return None
    returned = [recording.slot(r) for r in results]
    recorded, outputs = None, returned
    if gradient:
        applied = recording.applied
        if applied is None or applied.context._overwrites or _holds_tensor(_attributes(applied.context)):
            return None
        inputs = [recording.slot(a) for a in applied.args if isinstance(a, Tensor)]
        outputs = [recording.slot(t) for t in applied.outputs]
        saved = [recording.slot(t) for t in applied.context.saved_tensors]
        fixed = {id(t) for t in applied.context._fixed}
        differentiable = [
            t is not None and id(t) not in fixed and (t.is_floating_point() or t.is_complex()) for t in applied.outputs
        ]
        if not all(slot < recording.given or recording.is_constant(slot) for slot in inputs):
            return None
        if not {*saved} <= {*inputs, *outputs, -1} or not {*returned} <= {*outputs, -1}:
            return None
        recorded = (applied.title, inputs, outputs, differentiable, saved, applied.derive())
    if recording.refused or recording.aliases_given(outputs):
        return None
    return (len(recording.tensors), recording.steps), returned, type(result) is tuple, recorded


def _attributes(context: _Context) -> dict[str, Any]:
    return {k: v for k, v in vars(context).items() if k not in ("needs_input_grad", "saved_tensors", "_fixed")}


def _record_gradient(
    derive: Callable[..., tuple[Tensor | None, ...]],
    needs: tuple[bool, ...],
    gradients: tuple[Tensor | None, ...],
    saved: tuple[Tensor | None, ...],
) -> tuple[Any, Any, Any]:
    """Run a backward pass; return the gradients, the program that gives them or None, and their numbers in it."""
    recording = Recording((*gradients, *saved))
    try:
        with recording:
            found = derive(needs, gradients, saved)
    except Refusal:
        return derive(needs, gradients, saved), None, None
    returned = [recording.slot(t) for t in found]
    if recording.refused:
        return found, None, None
    return found, (len(recording.tensors), recording.steps), returned


def replayable(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function such that calls like earlier ones are replayed.

    Its results must follow from its arguments as the module's text says; they are a tensor or a tuple of tensors.
    """
    if extension is None:
        return function
    replayed = extension.replayable(function.__name__, function, _record, _record_gradient)
    is_compiling = torch.compiler.is_compiling

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs) if is_compiling() else replayed(*args, **kwargs)

    return call


def is_replayed(node: Any) -> bool:
    """Tell whether a node of an autograd graph was made by a replayed call."""
    return extension is not None and extension.is_replayed(node)


@contextmanager
def replaying(after: int) -> Iterator[None]:
    """Have calls run their Python so many times before they are written down, inside a ``with`` block.

    For the whole process. 0 writes each down at once, a negative number never. Elsewhere it is 1.
    """
    before = None if extension is None else extension.replay_after(after)
    try:
        yield
    finally:
        if extension is not None:
            extension.replay_after(before)
