"""Wrong versions of an ``autograd.Function``, to prove that the proof can fail.

Each mutant of ``MUTANTS`` spoils one thing in the way that people do by mistake, and names the properties that must
catch it. ``mutate(function, name)`` returns the spoilt class, ``survivors(function, inputs)`` the names of the
mutants that a check of them lets through: there should be none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchbp.testing.check import check
from torchbp.testing.report import Report
from torchbp.testing.subject import is_differentiable

Gradients = tuple[Any, ...]
Backward = Callable[..., Any]
Wrapper = Callable[[Backward], Backward]


@dataclass(frozen=True)
class Mutant:
    """A way to be wrong.

    Attributes:
        name: what to call it.
        description: the mistake.
        caught_by: the properties that must catch it, each on its own.
        method: which static method of the Function it spoils.
        wrap: takes that method and returns the spoilt one.
        needs: ``(inputs) -> why not`` where it makes no difference, empty where it does.
    """

    name: str
    description: str
    caught_by: tuple[str, ...]
    method: str
    wrap: Wrapper
    needs: Callable[[Sequence[Any]], str] = lambda inputs: ""


class _Context:
    """A context with other saved tensors, or other answers to ``needs_input_grad``."""

    def __init__(self, ctx: Any, change: Callable[[Tensor], Tensor] | None = None, **attributes: Any) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_change", change)
        object.__setattr__(self, "_attributes", attributes)

    def __getattr__(self, name: str) -> Any:
        if name == "saved_tensors" and self._change is not None:
            return tuple(
                self._change(t) if isinstance(t, Tensor) and is_differentiable(t) else t
                for t in self._ctx.saved_tensors
            )
        if name in self._attributes:
            return self._attributes[name]
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)


def _each(result: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change every gradient that a backward pass returned."""
    if isinstance(result, Tensor):
        return change(result)
    if isinstance(result, (tuple, list)):
        return tuple(change(a) if isinstance(a, Tensor) else a for a in result)
    return result


def _of_result(change: Callable[[Tensor], Tensor]) -> Wrapper:
    def wrap(backward: Backward) -> Backward:
        return lambda ctx, *g: _each(backward(ctx, *g), change)

    return wrap


def _of_incoming(change: Callable[[Tensor], Tensor]) -> Wrapper:
    def wrap(backward: Backward) -> Backward:
        return lambda ctx, *g: backward(ctx, *(change(t) if isinstance(t, Tensor) else t for t in g))

    return wrap


def _of_saved(change: Callable[[Tensor], Tensor]) -> Wrapper:
    def wrap(backward: Backward) -> Backward:
        return lambda ctx, *g: backward(_Context(ctx, change), *g)

    return wrap


def _transposed(t: Tensor) -> Tensor:
    return t.mT if t.dim() > 1 and t.shape[-1] == t.shape[-2] else t


def _flipped(t: Tensor) -> Tensor:
    return t.flip(list(range(2, t.dim()))) if t.dim() > 2 else t


def _first_patch(g: Tensor) -> Tensor:
    if g.dim() < 1 or g.shape[-1] < 2:
        return g
    mask = torch.zeros_like(g)
    mask[..., :1] = 1
    return g * mask


def _first_sample(g: Tensor) -> Tensor:
    if g.dim() < 1 or g.shape[0] < 2:
        return g
    mask = torch.zeros_like(g)
    mask[:1] = 1
    return g * mask


def _unwritten(a: Tensor) -> Tensor:
    """Return the gradient with garbage in its last element, as if that had not been written."""
    if a.numel() == 0:
        return a
    garbage = torch.zeros_like(a, memory_format=torch.contiguous_format)
    garbage.view(-1)[-1] = 0.37
    return a + garbage


class _Frozen(Function):
    """The identity, differentiable as often as asked less one: its gradient's gradient is cut off."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.detach()


def _overwrites_gradient(backward: Backward) -> Backward:
    def spoilt(ctx: Any, *g: Any) -> Any:
        result = backward(ctx, *(t.clone() if isinstance(t, Tensor) else t for t in g))
        with torch.no_grad():
            for t in g:
                if isinstance(t, Tensor) and is_differentiable(t) and 0 not in t.stride():
                    t.mul_(0.5)
        return result

    return spoilt


def _overwrites_saved(backward: Backward) -> Backward:
    def spoilt(ctx: Any, *g: Any) -> Any:
        result = _each(backward(ctx, *g), torch.clone)
        for t in ctx.saved_tensors:
            if isinstance(t, Tensor) and is_differentiable(t):
                t.data.mul_(0.5)
        return result

    return spoilt


def _contiguous_only(g: Tensor) -> Tensor:
    """Read a gradient as if it were contiguous."""
    if g.is_contiguous() or torch._C._functorch.is_functorch_wrapped_tensor(g):
        return g
    flat = g.as_strided((g.untyped_storage().nbytes() // g.element_size() - g.storage_offset(),), (1,))
    return flat[torch.arange(g.numel()) % flat.numel()].view(g.shape)


def _reversed_wants(backward: Backward) -> Backward:
    def spoilt(ctx: Any, *g: Any) -> Any:
        wants = ctx.needs_input_grad
        result = backward(ctx, *g)
        found = result if isinstance(result, tuple) else (result,)
        asked = [i for i, wanted in enumerate(wants) if wanted and i < len(found) and found[i] is not None]
        if len([w for w in wants if w]) == 1 and len(wants) > 1 and asked:
            return tuple(None if i in asked else a for i, a in enumerate(found))
        return result

    return spoilt


def _exchanged(backward: Backward) -> Backward:
    """Give every input the gradient of another one of the same shape."""

    def spoilt(ctx: Any, *g: Any) -> Any:
        result = backward(ctx, *g)
        found = list(result) if isinstance(result, tuple) else [result]
        for i in range(len(found)):
            for k in range(i):
                if isinstance(found[i], Tensor) and isinstance(found[k], Tensor) and found[i].shape == found[k].shape:
                    found[i], found[k] = found[k], found[i]
                    return tuple(found)
        return result

    return spoilt


def _no_undefined(backward: Backward) -> Backward:
    def spoilt(ctx: Any, *g: Any) -> Any:
        for t in g:
            if t is None or (isinstance(t, Tensor) and t.numel() and not _traced(t) and not bool(t.detach().any())):
                raise TypeError("unsupported operand type(s) for *: 'NoneType' and 'Tensor'")
        return backward(ctx, *g)

    return spoilt


def _traced(t: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(t)


def _saves_everything(setup_context: Backward) -> Backward:
    def spoilt(ctx: Any, inputs: Any, output: Any) -> Any:
        class _All(_Context):
            pass

        return setup_context(_All(ctx, needs_input_grad=(True,) * len(inputs)), inputs, output)

    return spoilt


def _saves_copies(setup_context: Backward) -> Backward:
    def spoilt(ctx: Any, inputs: Any, output: Any) -> Any:
        keep = ctx.save_for_backward
        copies = lambda *t: keep(*(x if x is None else x.clone() for x in t))  # noqa: E731
        return setup_context(_Context(ctx, save_for_backward=copies), inputs, output)

    return spoilt


def _cycle(setup_context: Backward) -> Backward:
    def spoilt(ctx: Any, inputs: Any, output: Any) -> Any:
        ctx.output_kept_by_mistake = output
        return setup_context(ctx, inputs, output)

    return spoilt


_KEPT: list[Any] = []


def _global(setup_context: Backward) -> Backward:
    def spoilt(ctx: Any, inputs: Any, output: Any) -> Any:
        _KEPT.append([t.detach() for t in inputs if isinstance(t, Tensor)])
        del _KEPT[:-64]
        return setup_context(ctx, inputs, output)

    return spoilt


def _random(a: Tensor) -> Tensor:
    return a * (1 + 1e-6 * torch.rand((), dtype=torch.float64).to(a.dtype if not a.is_complex() else torch.float64))


_CALLS = [0]


def _counting(a: Tensor) -> Tensor:
    """Return a gradient whose last bits change from call to call, whatever the seed."""
    _CALLS[0] += 1
    return a * (1 + 4 * torch.finfo(a.dtype).eps * (_CALLS[0] % 7))


def _scaled_forward(forward: Backward) -> Backward:
    return lambda *args: _each(forward(*args), lambda y: y * (1 + 1e-9) if is_differentiable(y) else y)


def _modifies_input(forward: Backward) -> Backward:
    def spoilt(*args: Any) -> Any:
        result = forward(*args)
        for t in args:
            if is_differentiable(t) and not _traced(t):
                t.data.mul_(1.5)
                break
        return result

    return spoilt


def _half(a: Tensor) -> Tensor:
    return a.to(torch.bfloat16).to(a.dtype) if a.dtype == torch.float32 else a


def _ignores_empty(backward: Backward) -> Backward:
    def spoilt(ctx: Any, *g: Any) -> Any:
        for t in g:
            if isinstance(t, Tensor) and t.numel() == 0:
                raise RuntimeError("max(): Expected reduction dim to be specified for input.numel() == 0")
        return backward(ctx, *g)

    return spoilt


def _clipped(g: Tensor) -> Tensor:
    return g.clamp(-1, 1) if not g.is_complex() else g


def _nan_masked(a: Tensor) -> Tensor:
    return a.nan_to_num(0.0)


def _first_for_all(vmap: Backward) -> Backward:
    """Give every sample the result of the first one."""

    def spoilt(info: Any, in_dims: Any, *args: Any) -> Any:
        result, dims = vmap(info, in_dims, *args)
        if isinstance(result, Tensor):
            return _repeat_first(result, dims), dims
        each = dims if isinstance(dims, (tuple, list)) else [dims] * len(result)
        return tuple(_repeat_first(t, d) for t, d in zip(result, each, strict=True)), dims

    return spoilt


def _repeat_first(tensor: Tensor, dim: int | None) -> Tensor:
    if dim is None:
        return tensor
    return tensor.select(dim, 0).unsqueeze(dim).expand_as(tensor).clone()


def _shape(test: Callable[[Tensor], bool], what: str) -> Callable[[Sequence[Any]], str]:
    def needs(inputs: Sequence[Any]) -> str:
        return "" if any(is_differentiable(t) and test(t) for t in inputs) else f"needs an input {what}"

    return needs


def _several(inputs: Sequence[Any]) -> str:
    return "" if sum(is_differentiable(t) for t in inputs) > 1 else "needs two inputs"


def _alike(inputs: Sequence[Any]) -> str:
    shapes = [tuple(t.shape) for t in inputs if is_differentiable(t)]
    return "" if len(set(shapes)) < len(shapes) else "needs two inputs of one shape"


_DERIVATIVE = ("first_order",)

_LIST = (
    Mutant("scaled", "gradients times 1 + 1e-3", _DERIVATIVE, "backward", _of_result(lambda a: a * (1 + 1e-3))),
    Mutant("negated", "gradients with the wrong sign", _DERIVATIVE, "backward", _of_result(torch.neg)),
    Mutant("zero", "gradients of zeros", _DERIVATIVE, "backward", _of_result(lambda a: a * 0)),
    Mutant(
        "transposed_factor",
        "a square factor is transposed",
        _DERIVATIVE,
        "backward",
        _of_saved(_transposed),
        _shape(lambda t: t.dim() == 2 and t.shape[0] == t.shape[1], "that is square"),
    ),
    Mutant(
        "unflipped_kernel",
        "a factor's spatial dimensions run the wrong way",
        _DERIVATIVE,
        "backward",
        _of_saved(_flipped),
        _shape(lambda t: t.dim() > 2 and max(t.shape[2:]) > 1, "with spatial dimensions"),
    ),
    Mutant(
        "missing_term",
        "the mean of the gradient is taken away",
        _DERIVATIVE,
        "backward",
        _of_result(lambda a: a - a.mean() if a.numel() else a),
    ),
    Mutant(
        "first_patch_only",
        "only the first position along the last dimension is handed back",
        _DERIVATIVE,
        "backward",
        _of_incoming(_first_patch),
    ),
    Mutant(
        "first_sample_only",
        "only the first sample of the batch is handed back",
        _DERIVATIVE,
        "backward",
        _of_incoming(_first_sample),
    ),
    Mutant("unwritten", "an element of the gradient is not written", _DERIVATIVE, "backward", _of_result(_unwritten)),
    Mutant("exchanged", "two inputs get each other's gradient", _DERIVATIVE, "backward", _exchanged, _alike),
    Mutant("clipped", "the incoming gradient is clipped at 1", ("layouts",), "backward", _of_incoming(_clipped)),
    Mutant(
        "zero_second_derivative",
        "backward is computed outside the graph, without once_differentiable",
        ("second_order",),
        "backward",
        lambda backward: (
            lambda ctx, *g: _each(
                backward(_Context(ctx, torch.detach), *(t if t is None else t.detach() for t in g)), torch.detach
            )
        ),
    ),
    Mutant(
        "saved_intermediate",
        "backward takes what it saved for constants, as it does with intermediates made in forward",
        ("second_order",),
        "backward",
        _of_saved(torch.detach),
    ),
    Mutant(
        "zero_third_derivative",
        "backward calls a Function whose own backward is not differentiable",
        ("third_order",),
        "backward",
        _of_incoming(lambda g: _Frozen.apply(g)),
    ),
    Mutant(
        "swapped_needs_input_grad",
        "a gradient is left out when only that one is wanted",
        ("wanted_gradients",),
        "backward",
        _reversed_wants,
        _several,
    ),
    Mutant(
        "saves_everything",
        "needs_input_grad is ignored when saving",
        ("saved_in_vain",),
        "setup_context",
        _saves_everything,
        _several,
    ),
    Mutant(
        "saves_copies", "copies are saved in place of the tensors", ("saved_in_vain",), "setup_context", _saves_copies
    ),
    Mutant("reference_cycle", "ctx keeps the output as an attribute", ("leaks",), "setup_context", _cycle),
    Mutant("kept_in_a_list", "the inputs stay in a list of the module's", ("leaks",), "setup_context", _global),
    Mutant(
        "overwrites_gradient", "the incoming gradient is modified in place", ("pure",), "backward", _overwrites_gradient
    ),
    Mutant("overwrites_saved", "a saved tensor is modified in place", ("pure",), "backward", _overwrites_saved),
    Mutant("modifies_input", "an undeclared in-place forward", ("pure",), "forward", _modifies_input),
    Mutant(
        "contiguous_only",
        "the incoming gradient is read as if it were contiguous",
        ("layouts",),
        "backward",
        _of_incoming(_contiguous_only),
    ),
    Mutant(
        "undefined_gradient",
        "a gradient that is undefined or zero raises",
        ("undefined_gradients",),
        "backward",
        _no_undefined,
    ),
    Mutant(
        "nondeterministic",
        "the last bits of gradients change from call to call",
        ("deterministic",),
        "backward",
        _of_result(_counting),
    ),
    Mutant(
        "random",
        "gradients are multiplied by something drawn",
        ("first_order", "deterministic"),
        "backward",
        _of_result(_random),
    ),
    Mutant("half_precision", "float32 gradients pass through bfloat16", ("float32",), "backward", _of_result(_half)),
    Mutant("value", "the value times 1 + 1e-9", ("value",), "forward", _scaled_forward),
    Mutant("hides_nan", "NaN in gradients becomes zero", ("nonfinite",), "backward", _of_result(_nan_masked)),
    Mutant("empty_batch", "an empty gradient raises", ("empty_batch",), "backward", _ignores_empty),
    Mutant(
        "wrong_jvp",
        "forward-mode derivatives times 1 + 1e-3",
        ("forward_mode", "adjoint_identity"),
        "jvp",
        _of_result(lambda t: t * (1 + 1e-3)),
    ),
    Mutant(
        "zero_jvp",
        "forward-mode derivatives of zeros",
        ("forward_mode", "adjoint_identity"),
        "jvp",
        _of_result(lambda t: t * 0),
    ),
    Mutant("wrong_vmap", "every mapped sample gets the first one's result", ("vmap",), "vmap", _first_for_all),
)

#: Every mutant by name.
MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in _LIST}


def mutate(function: type[Function], name: str) -> type[Function]:
    """Return a Function that is wrong in a named way.

    Raises:
        ValueError: if there is no such mutant.
        TypeError: if the Function does not have the method that it spoils.
    """
    if name not in MUTANTS:
        raise ValueError(f"unknown mutant {name!r}; there are {', '.join(MUTANTS)}")
    mutant = MUTANTS[name]
    method = getattr(function, mutant.method, None)
    if method is None or not _overridden(function, mutant.method):
        raise TypeError(f"{function.__name__} has no {mutant.method} for the mutant {name!r} to spoil")
    spoilt = staticmethod(mutant.wrap(method))
    return type(f"{function.__name__}_{name}", (function,), {mutant.method: spoilt})


def _overridden(function: type[Function], method: str) -> bool:
    return getattr(function, method) is not getattr(Function, method, None)


def reason_to_leave_out(function: type[Function], mutant: Mutant, inputs: Sequence[Any]) -> str:
    """Return why a mutant makes no difference to a Function at these inputs; empty where it does."""
    if not _overridden(function, mutant.method):
        return f"no {mutant.method}"
    return mutant.needs(inputs)


def survivors(
    function: type[Function], inputs: Sequence[Tensor], names: Sequence[str] | None = None, **options: Any
) -> dict[str, Report]:
    """Return the mutants of a Function that ``check`` lets through at every property that should catch them.

    Args:
        function: the Function; what is not among its methods cannot be spoilt and is left out.
        inputs: as for ``check``.
        names: the mutants to try; all by default.
        options: further arguments of ``check``.

    Returns:
        Reports of the mutants that were not caught, by name: empty if the proof is as sharp as it should be.
    """
    alive: dict[str, Report] = {}
    for name in names or MUTANTS:
        mutant = MUTANTS[name]
        if reason_to_leave_out(function, mutant, inputs):
            continue
        report = check(mutate(function, name), inputs, **{**options, "properties": mutant.caught_by})
        if report.passed:
            alive[name] = report
    return alive
