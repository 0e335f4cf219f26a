"""Which layers a model calls, with what, and what each keeps for the backward pass: found in one run of a copy."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from torchbp.costs.saved import SavedStorages


def replica(model: Module) -> Module:
    """Return a copy with parameters of its own that share the memory of the model's.

    Raises:
        TypeError: if the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and not is_lazy(parameter):
                memo[id(parameter)] = torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
        for buffer in module._buffers.values():
            if buffer is not None and is_lazy(buffer):  # deepcopy refuses it
                make: Any = type(buffer)
                memo[id(buffer)] = make(buffer.requires_grad, buffer.device, buffer.dtype)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # as well, weight norm's weight say
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        name, reason = type(model).__name__, f"{type(error).__name__}: {error}"
        raise TypeError(f"model must be one that copy.deepcopy takes, got {name}: {reason}") from error


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return a copy of arguments or results with ``function`` of every tensor: in containers and dataclasses too."""

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        twin = copy.copy(leaf)
        for one in dataclasses.fields(leaf):
            object.__setattr__(twin, one.name, mapped(function, getattr(leaf, one.name)))
        return twin

    return tree_map(of_leaf, value)


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in arguments or results, each once."""
    found: dict[int, Tensor] = {}
    mapped(lambda tensor: found.setdefault(id(tensor), tensor), value)
    return list(found.values())


@dataclass
class Call:
    """One way in which a layer was called.

    Attributes:
        arguments: positional and named ones; tensors are copies without a graph.
        wanted: the places of those among :func:`tensors_of` the arguments that required a gradient.
        records: whether derivatives were recorded.
        autocast: the devices and dtypes of autocast.
        count: how often it was called so.
        in_place: whether it changed an argument.
        output_shapes: the shapes of the tensors it returned.
    """

    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    wanted: frozenset[int]
    records: bool
    autocast: tuple[tuple[str, torch.dtype], ...]
    count: int = 0
    in_place: bool = False
    output_shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Copy the arguments and note how things stand."""
        tensors = tensors_of((args, kwargs))
        # One tensor stays one: attention looks whether query, key and value are the same.
        copies = {id(tensor): tensor.detach().clone() for tensor in tensors}
        return cls(
            mapped(lambda tensor: copies[id(tensor)], (args, kwargs)),
            frozenset(place for place, tensor in enumerate(tensors) if tensor.requires_grad),
            torch.is_grad_enabled(),
            _autocast({tensor.device.type for tensor in tensors}),
        )

    def differentiable(self) -> frozenset[int]:
        """Return the places of the inputs whose gradient can be asked for.

        Those that required one, so that a mask stays a constant; of a first layer, where none did, all of floating
        point.
        """
        tensors = tensors_of(self.arguments)
        floating = (place for place, one in enumerate(tensors) if one.is_floating_point() or one.is_complex())
        return self.wanted or frozenset(floating)

    def fresh(self, wanted: frozenset[int], *, copied: bool) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
        """Return the arguments once more, and of their tensors those wanted, which now require a gradient.

        With ``copied`` the layer gets copies, not the leaves themselves, and may change them.
        """
        leaves, given = [], {}
        for place, tensor in enumerate(tensors_of(self.arguments)):
            leaf = tensor.detach()
            if place in wanted:
                leaves.append(leaf.requires_grad_())
            given[id(tensor)] = leaf.clone() if copied else leaf
        args, kwargs = mapped(lambda tensor: given[id(tensor)], self.arguments)
        return args, kwargs, leaves

    def run(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module, under autocast as when it was called."""
        if not self.autocast:
            return module(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            for device, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype))
            return module(*args, **kwargs)


def _autocast(devices: set[str]) -> tuple[tuple[str, torch.dtype], ...]:
    on = sorted(device for device in devices if device != "meta" and torch.is_autocast_enabled(device))
    return tuple((device, torch.get_autocast_dtype(device)) for device in on)


def _likeness(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """Return what two calls of one layer share if they cost the same: all but the numbers in the tensors."""
    places: dict[int, int] = {}
    devices: set[str] = set()

    def of_tensor(tensor: Tensor) -> Hashable:
        same = places.setdefault(id(tensor), len(places))
        devices.add(tensor.device.type)
        return same, tensor.shape, tensor.dtype, tensor.device, tensor.layout, tensor.requires_grad, _strides(tensor)

    parts: list[Hashable] = []
    for leaf in tree_leaves((args, kwargs)):
        plain = isinstance(leaf, bool | int | float | str | torch.dtype | torch.device | type(None))
        parts.append(of_tensor(leaf) if isinstance(leaf, Tensor) else leaf if plain else id(leaf))
    return (*parts, *kwargs, torch.is_grad_enabled(), _autocast(devices))


def _strides(tensor: Tensor) -> Hashable:
    return tensor.stride() if tensor.layout == torch.strided else None


@dataclass
class Recording:
    """What a run of a model showed.

    Attributes:
        layers: the calls of every layer, by its qualified name. A layer is a module that calls no other module.
        saved: the bytes kept for the backward pass, by the names of the modules around what keeps them, from outside.
        root: the call of the model itself.
    """

    layers: dict[str, list[Call]]
    saved: Counter[Hashable]
    root: Call

    def saved_by(self, layers: frozenset[str]) -> Counter[str | None]:
        """Return the bytes by layer, None for what is kept elsewhere."""
        counted: Counter[str | None] = Counter()
        for path, size in self.saved.items():
            assert isinstance(path, tuple)
            counted[next((name for name in path if name in layers), None)] += size
        return counted


@dataclass
class _Frame:
    """A call that has not returned yet; ``call`` is None once it called another module."""

    name: str
    likeness: Hashable
    call: Call | None
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    inner: bool = False


def record(model: Module, given: Call) -> Recording:
    """Run a model with the arguments of a call; see what it calls and keeps."""
    root = dataclasses.replace(given, count=0)
    # What torch.compile has compiled is one layer.
    names = {module: name for name, module in model.named_modules() if "_orig_mod" not in name.split(".")}
    found: dict[str, dict[Hashable, Call]] = {}
    frames: list[_Frame] = []

    def enter(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if frames:
            frames[-1].inner, frames[-1].call = True, None
        name, likeness = names[module], _likeness(args, kwargs)
        call = found.get(name, {}).get(likeness) or Call.of(args, kwargs)
        tensors = [] if torch.is_inference_mode_enabled() else tensors_of((args, kwargs))
        frames.append(_Frame(name, likeness, call, [(t, t._version) for t in tensors if not t.is_inference()]))

    def leave(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        frame = frames.pop()
        if frame.call is not None:
            returned(frame, frame.call, output)
            found.setdefault(frame.name, {})[frame.likeness] = frame.call
        elif not frames:
            returned(frame, root, output)

    def returned(frame: _Frame, call: Call, output: Any) -> None:
        call.count += 1
        call.in_place |= any(tensor._version != version for tensor, version in frame.versions)
        call.output_shapes = tuple(tuple(tensor.shape) for tensor in tensors_of(output))

    handles = []
    for module in names:
        handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    args, kwargs, _ = given.fresh(given.wanted, copied=True)
    try:
        with SavedStorages(lambda: tuple(frame.name for frame in frames)) as saved:
            output = given.run(model, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    kept = saved.bytes([*model.parameters(), *model.buffers()])
    del output
    return Recording({name: list(calls.values()) for name, calls in found.items()}, kept, root)
