"""Models that exist already: their layers turned into torchbp's, in place, and back.

A layer of torchbp is a subclass of torch.nn's that overrides what computes and nothing else, so a module is converted
by giving it another class. It stays the same object, with its parameters, buffers, hooks, names and mode.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import torch
from torch.nn import Module
from torch.nn.utils import parametrize

from torchbp.nn import modules
from torchbp.nn.modules.attention import ACTIVATIONS

Predicate: TypeAlias = Callable[[str, Module], bool]
Choice: TypeAlias = str | type | Predicate | Iterable[str | type | Predicate]

_EXPLICIT: dict[type, type] = {
    getattr(torch.nn, name): getattr(modules, name) for name in modules.__all__ if hasattr(torch.nn, name)
}
_BUILTIN: dict[type, type] = {ours: theirs for theirs, ours in _EXPLICIT.items()}
_OURS: frozenset[type] = frozenset(getattr(modules, name) for name in modules.__all__)
_CONTAINERS = (
    *(torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict),
    *(torch.nn.ParameterList, torch.nn.ParameterDict, torch.nn.Container),
)
_COMPUTES_NOTHING = (torch.nn.Identity, torch.nn.Flatten, torch.nn.Unflatten)
# What torch.nn's forward calls and torchbp's does not.
_NOT_CALLED = frozenset({"merge_masks", "permute_hidden"})
# In a converted module's __dict__, and so in its copies and pickles but not in its state_dict: what else was replaced.
_MARK = "_torchbp_replaced"
_COPIED = "_torchbp_copied"  # in a class that was copied to have other bases: which


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert` did, by qualified name; a module with several names stands under the first.

    Args:
        converted: the layers converted by this call, with their types before and after.
        already: the layers that were torchbp's before, with their types.
        left: all other layers and modules without children, with the reason.
    """

    converted: dict[str, tuple[type, type]]
    already: dict[str, type]
    left: dict[str, str]

    def __len__(self) -> int:
        """Return the number of layers that this call converted."""
        return len(self.converted)

    @property
    def explicit(self) -> int:
        """The number of layers that are torchbp's now."""
        return len(self.converted) + len(self.already)

    @property
    def total(self) -> int:
        """The number of layers in all: torchbp's and those left."""
        return self.explicit + len(self.left)

    def __str__(self) -> str:
        """Return the numbers of each type, and the reasons with the names they hold for."""
        head = f"{len(self)} of {self.total} layers converted"
        if self.already:
            head += f", {len(self.already)} were torchbp's already"
        lines = [head]
        types_before = Counter(before.__name__ for before, _ in self.converted.values())
        lines += [f"  {count:4d} {name}" for name, count in types_before.most_common()]
        if self.left:
            lines.append(f"{len(self.left)} left")
            for reason, count in Counter(self.left.values()).most_common():
                names = [name or "the model itself" for name, why in self.left.items() if why == reason]
                lines.append(f"  {count:4d} {reason}: {', '.join(names[:3])}{', ...' if count > 3 else ''}")
        return "\n".join(lines)


def convert(model: Module, include: Choice | None = None, exclude: Choice | None = None) -> ConversionReport:
    """Turn the layers of a model into torchbp's, in place, and tell which.

    A module whose type is a layer of torch.nn gets torchbp's class of that name and stays the same object: parameters,
    buffers, hooks, mode and references to it elsewhere are untouched, checkpoints fit as before. Of a subclass of such
    a layer, what computes must be torch.nn's, or call it by ``super()``; it stays an instance of the subclass. What is
    torchbp's already is passed over, so converting twice is converting once; :func:`revert` takes it all back.

    Args:
        model: any module, a single layer too; compiled, wrapped, parametrized or not yet initialised ones as well.
        include: which layers to convert: a pattern of qualified names (``"encoder.*"``, as in :mod:`fnmatch`), a type,
            a predicate of name and module, or a sequence of these; None for all. A pattern or a type also chooses
            whatever is inside the modules it fits; a predicate is asked about each module and chooses that alone.
        exclude: which of these not to convert, likewise. A module with several names is excluded by any of them.

    Raises:
        TypeError: if ``model`` is no module, or ``include`` or ``exclude`` none of these.
    """
    report = ConversionReport({}, {}, {})
    for name, module, reason in _selected(model, include, exclude):
        before = type(module)
        if any(cls in _OURS for cls in before.__mro__):
            report.already[name] = before
        elif (after := _class_for(module, reason)) is None:
            continue
        elif isinstance(after, str):
            report.left[name] = after
        elif failure := _become(module, after):
            report.left[name] = failure
        else:
            report.converted[name] = (before, after)
    return report


def revert(model: Module, include: Choice | None = None, exclude: Choice | None = None) -> dict[str, tuple[type, type]]:
    """Give every layer that :func:`convert` converted its own class again; return types before and after, by name.

    Copies of a converted model, and models loaded from its pickle, are reverted as well. Layers that were built from
    torchbp.nn stay what they are.

    Args:
        model: any module.
        include: which layers to revert, as for :func:`convert`; None for all.
        exclude: which of these not to revert.

    Raises:
        TypeError: if ``model`` is no module, or ``include`` or ``exclude`` is not as for :func:`convert`.
    """
    reverted = {}
    for name, module, reason in _selected(model, include, exclude):
        if _MARK in module.__dict__ and not reason:
            before = type(module)
            for key, value in module.__dict__.pop(_MARK).items():
                if module.__dict__.get(key) is ACTIVATIONS[value]:  # nobody else has changed it since
                    module.__dict__[key] = value
            object.__setattr__(module, "__class__", _original(before))
            reverted[name] = (before, type(module))
    return reverted


# ----------------------------------------------------------------------------------------------------------------------
# Which modules


def _tests(argument: str, choice: Choice | None) -> list[tuple[bool, Predicate]]:
    """Return the parts of a choice as predicates, each with whether it also chooses what is inside."""
    tests: list[tuple[bool, Predicate]] = []
    for part in choice if isinstance(choice, Iterable) and not isinstance(choice, str | type) else [choice]:
        if isinstance(part, str):
            tests.append((True, lambda name, module, part=part: fnmatchcase(name, part)))  # type: ignore[misc]
        elif isinstance(part, type):
            tests.append((True, lambda name, module, part=part: isinstance(module, part)))  # type: ignore[misc]
        elif callable(part):
            tests.append((False, part))
        else:
            raise TypeError(
                f"{argument} must be a pattern of names, a type, a predicate of name and module, or a sequence of "
                f"these, got {choice!r}"
            )
    return tests


def _selected(model: Module, include: Choice | None, exclude: Choice | None) -> list[tuple[str, Module, str]]:
    """Return every module once, with its first name and, if it is not chosen, the reason."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    including = [(True, lambda name, module: True)] if include is None else _tests("include", include)
    excluding = [] if exclude is None else _tests("exclude", exclude)
    found: dict[int, tuple[str, Module, bool, bool]] = {}

    def visit(name: str, module: Module, above: tuple[Module, ...], included: bool, excluded: bool) -> None:
        def fits(tests: list[tuple[bool, Predicate]], reaching_inside: bool) -> bool:
            return any(inside is reaching_inside and test(name, module) for inside, test in tests)

        included, excluded = included or fits(including, True), excluded or fits(excluding, True)
        here = included or fits(including, False), excluded or fits(excluding, False)
        first, _, *others = found.get(id(module), (name, module, False, False))
        found[id(module)] = (first, module, here[0] or others[0], here[1] or others[1])
        for key, child in module._modules.items():
            if child is not None and not any(child is one for one in (*above, module)):
                visit(f"{name}.{key}" if name else key, child, (*above, module), included, excluded)

    visit("", model, (), False, False)
    return [
        (name, module, "excluded" if excluded else "" if included else "not included")
        for name, module, included, excluded in found.values()
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Which classes


def _class_for(module: Module, unchosen: str) -> type | str | None:
    """Return the class that a module shall have, or why it keeps its own, or None for a container."""
    cls = type(module)
    if not any(base in _EXPLICIT for base in cls.__mro__):
        if isinstance(module, _CONTAINERS) or next(module.children(), None) is not None:
            return None
        if unchosen:
            return unchosen
        if isinstance(module, _COMPUTES_NOTHING):
            return f"{cls.__name__} computes nothing"
        if isinstance(module, torch.jit.ScriptModule):
            return "compiled by torch.jit"
        return f"torchbp has no layer for {_title(cls)}"
    if unchosen:
        return unchosen
    if _is_parametrized(module):  # its class is its own, made of the layer's: remove_parametrizations returns to that
        base = _explicit(cls.__bases__[0], module)
        return base if isinstance(base, str) else _rebased(cls, (base,))
    return _explicit(cls, module)


def _explicit(cls: type, module: Module | None = None) -> type | str:
    """Return torchbp's class for one of torch.nn or derived from it, or why there is none."""
    base = next((base for base in cls.__mro__ if base in _EXPLICIT), None)
    if base is None:
        return f"torchbp has no layer for {_title(cls)}"
    ours = _EXPLICIT[base]
    computing = {name for c in ours.__mro__ if c not in base.__mro__ for name in vars(c) if _counts(name)}
    watched = {"forward"} | computing | _NOT_CALLED
    if module is not None and (replaced := sorted(watched & module.__dict__.keys())):
        return f"{', '.join(replaced)} replaced on the instance"
    own = [vars(c) for c in cls.__mro__[: cls.__mro__.index(base)]]
    overridden = {name for names in own for name in watched & names.keys()}
    kept = computing - overridden
    overriding = [
        name
        for name in sorted(overridden)
        if name in _NOT_CALLED or not all(_leads_back(names[name], name, kept) for names in own if name in names)
    ]
    if overriding:
        return f"{_title(cls)} overrides {', '.join(overriding)}"
    return ours if cls is base else _derived(cls, ours)


def _counts(name: str) -> bool:
    """Tell whether a name that a class of torchbp defines is of what computes."""
    return not name.startswith("__") and name != "cls_to_become"


def _leads_back(function: Any, name: str, kept: set[str]) -> bool:
    """Tell whether an overriding function calls a method that is torchbp's then: one of ``kept``, or its own super."""
    code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
    if code is None:
        return False
    names = set(code.co_names)
    return bool(names & kept) or ({"super", name} <= names and "__class__" in code.co_freevars)


def _title(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class _Uncounted:
    """First base of a class that convert makes of one whose bases are told of subclasses: it is none."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        if _Uncounted not in cls.__bases__:
            super().__init_subclass__(**keywords)


def _derived(cls: type, ours: type) -> type:
    """Return the class that is ``cls`` with torchbp's layer behind it; there is one of each."""
    known: type
    for known in cls.__subclasses__():
        if vars(known).get("_torchbp_original") is cls:
            return known
    namespace = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    namespace |= {"_torchbp_original": cls, "__reduce_ex__": _reduce}
    becomes = getattr(cls, "cls_to_become", None)  # a lazy layer's class after its first input
    if isinstance(becomes, type) and not isinstance(explicit := _explicit(becomes), str):
        namespace["cls_to_become"] = explicit
    told = inspect.ismethod(cls.__init_subclass__)  # not object's
    bases = (_Uncounted, cls, ours) if told else (cls, ours)
    return types.new_class(cls.__name__, bases, exec_body=lambda names: names.update(namespace))


def _reduce(self: Module, protocol: Any) -> Any:
    """Pickle as the subclass, which can be imported, and convert what is made of that."""
    derived: Any = next(cls for cls in type(self).__mro__ if "_torchbp_original" in vars(cls))
    original = vars(derived)["_torchbp_original"]
    function, args, *rest = cast(tuple, super(derived, self).__reduce_ex__(protocol))
    function, *substituted = (original if value is derived else value for value in (function, *args))
    return _made, (function, tuple(substituted)), *rest


def _made(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Make an object and convert it; its state is set afterwards."""
    module = function(*args)
    cls = _explicit(type(module))
    if not isinstance(cls, str):
        object.__setattr__(module, "__class__", cls)
    return module


def _is_parametrized(module: Module) -> bool:
    """Tell whether the class of a module is one that torch.nn.utils.parametrize made for it."""
    return parametrize.is_parametrized(module) and all(
        isinstance(vars(type(module)).get(name), property) for name in cast(Any, module.parametrizations)
    )


def _rebased(cls: type, bases: tuple[type, ...]) -> type:
    """Return a copy of a class with other bases."""
    namespace = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", _COPIED)}
    return types.new_class(cls.__name__, bases, exec_body=lambda names: names.update({**namespace, _COPIED: cls}))


def _original(cls: type) -> type:
    """Return the class that a converted module had, also if another one was made of its class since."""
    if cls in _BUILTIN:
        return _BUILTIN[cls]
    if "_torchbp_original" in vars(cls):
        return vars(cls)["_torchbp_original"]
    copied: type | None = vars(cls).get(_COPIED)
    if copied is not None and vars(copied).keys() | {_COPIED} == vars(cls).keys():  # no parametrization came or went
        return copied
    bases = tuple(map(_original, cls.__bases__))
    return cls if bases == cls.__bases__ else _rebased(cls, bases)


def _become(module: Module, cls: type) -> str:
    """Give a module its new class, and a transformer's layer torchbp's activation function; return why not, or ""."""
    try:
        object.__setattr__(module, "__class__", cls)
    except TypeError as error:  # __slots__, say
        return f"Python refuses: {error}"
    replaced = {}
    if isinstance(module, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
        activation = module.__dict__.get("activation")
        if inspect.isroutine(activation) and activation in ACTIVATIONS:
            replaced["activation"] = activation
            module.__dict__["activation"] = ACTIVATIONS[activation]
    module.__dict__[_MARK] = replaced
    return ""
