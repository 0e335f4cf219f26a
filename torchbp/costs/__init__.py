"""What computations cost: multiply-adds, bytes kept for the backward pass, time; and :func:`torchbp.cost`.

``multiply_adds``, ``saved``, ``graph`` and ``timing`` look at anything that runs; the gradient proof and the
benchmark use them too. ``calls`` finds the layers that a model calls, ``measure`` measures one, ``report`` holds what
was found and ``rendering`` shows it.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch.nn import Module
from torch.nn.parameter import is_lazy

from torchbp.conversion import Choice, convert
from torchbp.costs.calls import Call, record, replica, tensors_of
from torchbp.costs.measure import Cost, Figures, measure
from torchbp.costs.report import ELSEWHERE, MODEL, CostReport, Row

__all__ = ["Cost", "CostReport", "Figures", "Row", "cost"]


def cost(
    model: Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    include: Choice | None = None,
    exclude: Choice | None = None,
    time: bool = True,
    rounds: int | None = None,
) -> CostReport:
    """Return what every layer of a model costs, before and after ``torchbp.convert(model, include, exclude)``.

    For each layer, that is each module that calls no other one: the shape of its output, its parameters, multiply-adds
    and times of the forward pass, of the gradient of its inputs alone, of that of its parameters alone and of what the
    model's backward pass asks of it, and the bytes that it keeps for the backward pass. Layers run by themselves, with
    the arguments that they have in one run of the model, which also runs as a whole; before and after take turns.
    Docs: ``docs/cost.md``.

    The model itself does not run: two copies do, which share the memory of its parameters. So buffers, modes, hooks
    and gradients stay as they are, and a lazy model stays lazy. The state of PyTorch's random numbers is restored.

    Args:
        model: any module, in the mode (training or not), dtype and with the frozen parameters that are to be measured.
        inputs: its positional arguments.
        kwargs: its named arguments.
        include: which layers to convert, as for :func:`torchbp.convert`.
        exclude: which of these not to convert.
        time: whether to measure times, which takes much longer than the rest.
        rounds: how often everything is timed, of which the median counts; by its duration if None.

    Raises:
        TypeError: if ``model`` is no module or cannot be copied.
        ValueError: if ``rounds`` is not positive, or times are asked for on the meta device, where nothing runs.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds must be positive, got {rounds}")
    if type(model).__name__ == "OptimizedModule":  # torch.compile's: the layers inside are not called one by one
        model = cast(Module, model._orig_mod)
    tensors = (*tensors_of((inputs, kwargs)), *model.parameters(), *model.buffers())
    if time and any(tensor.device.type == "meta" for tensor in tensors):
        raise ValueError("time must be False on the meta device, got True")
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    with contextlib.ExitStack() as stack:
        kind = next((device.type for device in devices), "cuda")
        stack.enter_context(torch.random.fork_rng(devices, device_type=kind))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        root = Call.of(inputs, dict(kwargs or {}))
        for name in {"cpu", kind} if devices else {"cpu"}:
            stack.enter_context(torch.autocast(name, enabled=False))  # forward passes alone run under it, as they did
        return _cost(model, root, include, exclude, time=time, rounds=rounds)


def _cost(
    model: Module, root: Call, include: Choice | None, exclude: Choice | None, *, time: bool, rounds: int | None
) -> CostReport:
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model = replica(model)
        args, kwargs, _ = root.fresh(frozenset(), copied=True)
        with torch.no_grad():
            root.run(model, args, kwargs)
    before, after = replica(model), replica(model)
    convert(after, include, exclude)
    state = torch.get_rng_state()
    recorded = record(before, root)
    torch.set_rng_state(state)
    names = frozenset(recorded.layers)
    saved = {"before": recorded.saved_by(names), "after": record(after, root).saved_by(names)}

    sides = {"before": before, "after": after}

    def row(name: str, calls: Iterable[Call], kept: Mapping[str, int]) -> Row:
        """Return a layer's row; without a name, the model's."""
        calls = list(calls)
        modules = {side: one.get_submodule(name) for side, one in sides.items()}
        measured = [
            {side: one * call.count for side, one in measure(modules, call, time=time, rounds=rounds).items()}
            for call in calls
        ]
        costs = {
            side: replace(functools.reduce(operator.add, [one[side] for one in measured]), saved_bytes=kept[side])
            for side in sides
        }
        return Row(
            name or MODEL,
            type(modules["before"]).__name__,
            type(modules["after"]) is not type(modules["before"]),
            sum(call.count for call in calls),
            calls[0].output_shapes,
            sum(parameter.numel() for parameter in modules["before"].parameters()),
            **costs,
        )

    rows = [
        row(name, calls, {side: kept[name] for side, kept in saved.items()}) for name, calls in recorded.layers.items()
    ]
    versions: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if "" in names:
        return CostReport(tuple(rows), None, rows[0], **versions)
    total = row("", [recorded.root], {side: kept.total() for side, kept in saved.items()})
    owned = {parameter for name in names for parameter in before.get_submodule(name).parameters()}
    rest = {
        side: getattr(total, side).without(functools.reduce(operator.add, [getattr(one, side) for one in rows]))
        for side in sides
    }
    unowned = sum(parameter.numel() for parameter in before.parameters() if parameter not in owned)
    elsewhere = Row(ELSEWHERE, "", False, 1, (), unowned, **rest)
    return CostReport(tuple(rows), elsewhere, total, **versions)
