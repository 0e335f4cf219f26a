"""``check``: every property of a differentiable function, as a report."""

from __future__ import annotations

import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchbp.testing import differences
from torchbp.testing.compare import Failure
from torchbp.testing.drawing import draw_inputs, written
from torchbp.testing.properties import GROUPS, PROPERTIES
from torchbp.testing.refusals import refusal
from torchbp.testing.report import Report, Result
from torchbp.testing.subject import NotApplicable, Refused, Subject, is_differentiable, seeded, tensors

_REDRAWS = 5


def run_property(subject: Subject, name: str) -> Result:
    """Run one property and turn what it raises into a result."""
    start = time.perf_counter()

    def result(status: Any, detail: str, worst: Any = None) -> Result:
        return Result(name, status, detail, time.perf_counter() - start, worst)

    try:
        _ = subject.wanted_outputs  # which takes a call: outside the transforms of a property
        detail = PROPERTIES[name](subject)
    except Refused as reason:
        return result("fail" if subject.strict else "not applicable", str(reason))
    except NotApplicable as reason:
        return result("not applicable", str(reason))
    except Failure as failure:
        return result("fail", str(failure), failure.worst)
    except Exception as error:  # whatever the function under test raises is its failure
        refused = refusal(error)
        if refused and not subject.strict:
            return result("not applicable", refused)
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
        where = "" if isinstance(error, AssertionError) else f" ({_origin(error)})"
        return result("fail", f"{type(error).__name__}: {lines[0][:300]}{where}")
    return result("pass", detail or "")


def _origin(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"


def _expanded(names: Iterable[str]) -> list[str]:
    """Return property names, a group's name replaced by those of its properties.

    Raises:
        ValueError: if a name is unknown.
    """
    found: list[str] = []
    for name in names:
        if name not in PROPERTIES and name not in GROUPS:
            raise ValueError(
                f"unknown property {name!r}; there are {', '.join(PROPERTIES)}, and groups {', '.join(GROUPS)}"
            )
        found += [name] if name in PROPERTIES else GROUPS[name]
    return found


def chosen(properties: Sequence[str] | str | None) -> list[str]:
    """Return the names of properties, in order; all of them for None.

    Raises:
        ValueError: if a name is unknown.
    """
    if properties is None:
        return list(PROPERTIES)
    wanted = _expanded([properties] if isinstance(properties, str) else properties)
    return [name for name in PROPERTIES if name in wanted]


def select(properties: Sequence[str] | None, skip: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the names to run, in order, and those left out with their reasons.

    Raises:
        ValueError: if a name is unknown, or a skipped one has no reason.
    """
    for name, reason in skip.items():
        if not reason:
            raise ValueError(f"skip[{name!r}] must give a reason, got {reason!r}")
    left_out = {one: reason for name, reason in skip.items() for one in _expanded([name])}
    return chosen(properties), left_out


def run_properties(subject: Subject, names: Iterable[str], left_out: Mapping[str, str]) -> Iterator[Result]:
    """Yield the outcome of every property named."""
    for one in names:
        yield Result(one, "not applicable", left_out[one]) if one in left_out else run_property(subject, one)


def check_subject(
    name: str, subject: Subject, properties: Sequence[str] | None = None, skip: Mapping[str, str] | None = None
) -> Report:
    """Run properties on a subject; see :func:`check`."""
    names, left_out = select(properties, dict(skip or {}))
    return Report(name, list(run_properties(subject, names, left_out)), subject.seed)


def check(
    function: Callable[..., Any] | type[Function],
    inputs: Any,
    *,
    reference: Callable[..., Any] | None = None,
    properties: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    batched: Sequence[int] = (),
    shapes: Callable[[str], Any] | None = None,
    inplace: Sequence[int] = (),
    saved: Callable[..., int] | None = None,
    layout: bool = False,
    small: bool | None = None,
    strict: bool = False,
    compile: bool = True,
    seed: int = 0,
) -> Report:
    """Prove a differentiable function: value, derivatives to third order, transforms, layouts, memory, purity.

    Args:
        function: a callable of tensors, an ``nn.Module`` (its parameters are differentiated too), or an
            ``autograd.Function`` class. It may return several results, of which those that require a gradient
            are differentiated.
        inputs: a tensor, or a sequence of tensors, lists of tensors and other arguments; floating-point tensors
            are differentiated, and taken in float64. Or a text such as ``"randn(2, 3), randn(4, 3)"``.
        reference: another way to compute the same: a built-in, a NumPy function, anything. For a module either
            another module with the same parameters, or a callable of inputs and parameters, or of inputs.
        properties: names of ``PROPERTIES`` or ``GROUPS`` to run; all by default.
        skip: properties or groups to leave out, each with its reason.
        dtypes: those in which the value is compared with the reference.
        batched: places of the inputs whose first dimension is a batch (for empty batch, no batch, batch of one).
        shapes: ``kind -> inputs`` for ``"empty_batch"``, ``"unbatched"`` and ``"size_one"``, None where there
            is no such thing.
        inplace: places of the inputs that the function is meant to modify.
        saved: ``(*inputs) -> bytes`` that the backward pass may keep, inputs in float32.
        layout: whether the strides of results must equal the reference's.
        small: whether to take Hessians; by default up to 200 elements.
        strict: whether it is a failure if the function openly refuses forward mode, ``vmap``, a second derivative
            or ``torch.compile``; without, that property does not apply.
        compile: whether to run the group ``"compile"``, which takes seconds.
        seed: decides all that is drawn.

    Returns:
        A report; ``report.assert_ok()`` turns it into an assertion.

    Raises:
        TypeError: if ``function`` is not callable, or no input is a floating-point tensor.
        ValueError: if a property is unknown, or the function or the reference does not take the inputs.
    """
    subject, name, notes = prepare(
        function,
        inputs,
        reference=reference,
        dtypes=tuple(dtypes),
        batched=tuple(batched),
        shapes=shapes,
        inplace=tuple(inplace),
        saved=saved,
        layout=layout,
        small=small,
        strict=strict,
        seed=seed,
    )
    left_out = dict(skip or {})
    if not compile:
        left_out = {"compile": "left out: compile=False", **left_out}
    names, reasons = select(properties, left_out)
    again = Snippet(function, inputs, reference, seed)
    results = [
        replace(result, snippet=again.of(result.property)) if result.status == "fail" else result
        for result in run_properties(subject, names, reasons)
    ]
    return Report(name, results, seed, notes)


def prepare(
    function: Callable[..., Any] | type[Function],
    inputs: Any,
    *,
    reference: Callable[..., Any] | None = None,
    seed: int = 0,
    small: bool | None = None,
    **options: Any,
) -> tuple[Subject, str, list[str]]:
    """Return the subject of a check, its name, and notes on what was done to have it."""
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    given = draw_inputs(inputs, seed) if isinstance(inputs, str) else inputs
    arguments = (given,) if isinstance(given, Tensor) or not isinstance(given, (tuple, list)) else tuple(given)
    leaves, structure = tree_flatten(arguments)
    wide = tuple(_widened(leaf) for leaf in leaves)
    name, called, parameters = _callable(function)
    leaf_names = _names(arguments) + list(parameters)
    count = len(wide)
    everything = (*wide, *(_widened(p) for p in parameters.values()))
    if not any(is_differentiable(t) for t in everything):
        raise TypeError(f"inputs must hold a floating-point tensor, got {[_kind(t) for t in leaves]}")

    def whole(*flat: Any) -> Any:
        return called(tree_unflatten(list(flat[:count]), structure), dict(zip(parameters, flat[count:], strict=True)))

    simple = (
        not parameters
        and all(leaf is argument for leaf, argument in zip(leaves, arguments, strict=False))
        and len(leaves) == len(arguments)
    )
    run = (
        (function.apply if inspect.isclass(function) and issubclass(function, Function) else function)
        if simple and not isinstance(function, nn.Module)
        else whole
    )
    few = sum(t.numel() for t in everything if is_differentiable(t)) <= 200
    subject = Subject(
        run,
        everything,
        None,
        few if small is None else small,
        names=tuple(leaf_names),
        seed=seed,
        **options,
    )
    before = torch.get_rng_state()
    try:
        outputs = subject.call(*subject.fresh())
    except Exception as error:
        raise ValueError(f"{name} does not take these inputs: {type(error).__name__}: {error}") from error
    drew = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    if drew:
        subject = replace(subject, random=True)
    if not any(is_differentiable(t) for t in outputs):
        raise TypeError(f"{name} must return a floating-point tensor, got {[_kind(t) for t in outputs]}")
    if reference is not None:
        expected = _reference(reference, subject, structure, count, parameters)
        subject = replace(subject, reference=seeded(expected, seed) if drew else expected)
    settled, notes = _settle(subject)
    if drew:
        notes.append("the function draws random numbers: before every call the generator is in one and the same state")
    return settled, name, notes


def _widened(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.is_complex():
        return value.to(torch.complex128)
    return value.to(torch.float64) if value.is_floating_point() else value


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _names(arguments: tuple[Any, ...]) -> list[str]:
    """Return a name for every leaf of the arguments."""
    names = []
    for i, argument in enumerate(arguments):
        count = len(tree_flatten(argument)[0])
        nested = isinstance(argument, (list, tuple, dict))
        names += [f"input {i}[{k}]" for k in range(count)] if nested else [f"input {i}"]
    return names


def _callable(function: Any) -> tuple[str, Callable[[Any, dict[str, Tensor]], Any], dict[str, Tensor]]:
    """Return a name, a callable of arguments and parameters, and the parameters by name."""
    if isinstance(function, nn.Module):
        parameters = {name: p for name, p in function.named_parameters() if is_differentiable(p)}
        return type(function).__name__, lambda args, given: _functional(function, given, args), dict(parameters)
    if inspect.isclass(function) and issubclass(function, Function):
        return function.__name__, lambda args, _: function.apply(*args), {}
    name = getattr(function, "__name__", None) or type(function).__name__
    owner = getattr(function, "__self__", None)
    if name == "apply" and inspect.isclass(owner) and issubclass(owner, Function):
        name = owner.__name__
    return name, lambda args, _: function(*args), {}


def _functional(module: nn.Module, parameters: dict[str, Tensor], arguments: Sequence[Any]) -> Any:
    """Call a module with other parameters, its buffers copied and in the parameters' (or inputs') dtype."""
    floating = [t for t in (*parameters.values(), *arguments) if is_differentiable(t)]
    dtype = next((t.dtype for t in floating), torch.float64)
    buffers = {
        name: b.to(dtype, copy=True) if b.is_floating_point() else b.clone() for name, b in module.named_buffers()
    }
    return torch.func.functional_call(module, {**buffers, **parameters}, tuple(arguments))


def _reference(
    reference: Callable[..., Any], subject: Subject, structure: Any, count: int, parameters: Mapping[str, Tensor]
) -> Callable[..., Any]:
    """Return the reference as a function of the subject's inputs that returns tensors.

    Raises:
        ValueError: if it takes them neither as tensors nor as arrays.
    """
    _, called, own = _callable(reference)
    if own and set(own) != set(parameters):
        raise ValueError(f"reference must have the parameters {', '.join(parameters) or 'none'}, got {', '.join(own)}")

    def with_tensors(*flat: Any) -> Any:
        arguments = tree_unflatten(list(flat[:count]), structure)
        if own:
            return called(arguments, dict(zip(parameters, flat[count:], strict=True)))
        return called((*arguments, *flat[count:]), {})

    def inputs_only(*flat: Any) -> Any:
        return called(tree_unflatten(list(flat[:count]), structure), {})

    def with_arrays(*flat: Any) -> Any:
        return with_tensors(*[t.detach().numpy() if isinstance(t, Tensor) else t for t in flat])

    errors = []
    attempts = [with_tensors, *([inputs_only] if parameters and not own else []), with_arrays]
    for attempt in attempts:
        try:
            result = attempt(*subject.fresh())
        except Exception as error:
            errors.append(error)
            continue
        if attempt is with_arrays or not tensors(result):
            return lambda *flat: _as_tensors(with_arrays(*flat))
        return attempt
    first = errors[0]
    raise ValueError(f"reference does not take these inputs: {type(first).__name__}: {first}") from first


def _as_tensors(result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return tuple(_as_tensors(part) for part in result)
    return result if isinstance(result, Tensor) else torch.as_tensor(np.asarray(result))


def _settle(subject: Subject) -> tuple[Subject, list[str]]:
    """Return the subject at a point that is not on a kink, and a note if it had to be moved."""
    try:
        if not differences.on_a_kink(subject, subject.inputs):
            return subject, []
        for attempt in range(_REDRAWS):
            inputs = differences.redraw(subject, subject.inputs, attempt)
            if not differences.on_a_kink(subject, inputs):
                note = (
                    f"the inputs sit on a kink; derivatives are taken at inputs moved by a tenth (draw {attempt + 1})"
                )
                return replace(subject, inputs=inputs, given=subject.inputs), [note]
    except Exception:  # what is wrong with the function is for its properties to say
        return subject, []
    return subject, [f"the inputs sit on a kink, and so did {_REDRAWS} draws near them"]


class Snippet:
    """Writes programs that show a failure again."""

    def __init__(self, function: Any, inputs: Any, reference: Any, seed: int) -> None:
        """Keep what the programs need; inputs are written when one is asked for."""
        self.function, self.inputs, self.reference, self.seed = function, inputs, reference, seed

    def of(self, property: str) -> str:
        """Return the program for a property."""
        imports, unknown, names = [], [], []
        for what, value in (("function", self.function), ("reference", self.reference)):
            if value is None:
                continue
            module, name = _importable(value)
            if module:
                imports.append("" if module == "torch" else f"from {module} import {name.partition('.')[0]}")
                names.append(f"torch.{name}" if module == "torch" else name)
            else:
                unknown.append(f"{what} = ...  # {_described(value)}")
                names.append(what)
        lines = ["import torch", *sorted({one for one in imports if one}), "from torchbp.testing import check", ""]
        options = [f"reference={names[1]}"] if len(names) > 1 else []
        options += [f"properties=[{property!r}]", *([f"seed={self.seed}"] if self.seed else [])]
        lines += [*unknown, f"inputs = {written(self.inputs)}"]
        lines.append(f"print(check({names[0]}, inputs, {', '.join(options)}))")
        return "\n".join(lines)


def _importable(value: Any) -> tuple[str, str]:
    """Return the module and the name under which a function can be imported; empty ones if it cannot."""
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
    owner, short = getattr(value, "__self__", None), getattr(value, "__name__", "")
    if getattr(torch, short, None) is value:
        return "torch", short
    if inspect.isclass(owner):
        module, name = owner.__module__, f"{owner.__qualname__}.{value.__name__}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is not None and found == value and module != "__main__" else ("", "")


def _described(value: Any) -> str:
    text = repr(value) if isinstance(value, nn.Module) else getattr(value, "__qualname__", type(value).__name__)
    return " ".join(text.split())[:80]
