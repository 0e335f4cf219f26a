"""What every explicit Function shares: two siblings, one for eager mode and one for torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch._C._functorch import unwrap_if_dead
from torch.autograd import Function, forward_ad

from torchbp.autograd import replay

#: ``torch.compiler.is_exporting``, which PyTorch 2.6 does not have.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


class ExplicitFunction:
    """The methods of an autograd.Function: forward, setup_context, backward, jvp, vmap, all static.

    Dynamo refuses a Function that defines ``jvp`` or ``vmap``, so each subclass gets two Functions,
    ``function`` with all five methods and ``reverse`` without those two, and ``call`` applies the one that
    fits. Subclasses call ``save`` in ``setup_context`` and save only inputs and outputs, so that every
    derivative of the backward pass is right.

    Graphs and profiles show the subclass's name or, where ``named_by_first``, the ``title`` of the first argument: of
    the form, the map or the row of a table that the Function computes.
    """

    named_by_first: ClassVar[bool] = False

    forward: ClassVar[Callable[..., Any]]
    function: ClassVar[type[Function]]
    reverse: ClassVar[type[Function]]
    _apply: ClassVar[Callable[..., Any]]
    _titled: ClassVar[dict[str, Callable[..., Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Build the two Functions of a subclass."""
        super().__init_subclass__(**kwargs)
        cls.function = _function(cls, _ALL)
        cls.reverse = _function(cls, ("forward", "setup_context", "backward"))
        cls._apply = super(Function, cls.function).apply  # type: ignore[misc]
        cls._titled = {}

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Apply the Function.

        Raises:
            RuntimeError: if a transform of torch.func is being traced by torch.compile, which would drop
                the explicit backward without a word (pytorch issues 192985 and 193279). Without
                ``fullgraph=True`` Dynamo then breaks the graph, runs the transform eagerly, and is right.
        """
        if torch.compiler.is_compiling():
            if _inside_transform():
                raise RuntimeError(
                    f"{cls.__name__}: torch.compile(fullgraph=True) around torch.func transforms (grad, vjp, jvp, "
                    "vmap, ...) drops the backward pass of an autograd.Function; compile the function inside the "
                    "transform, or leave fullgraph out"
                )
            # Without a gradient to record, Dynamo calls forward itself but miscounts variable arguments. An exported
            # program holds the operators of forward alone: there torchbp's refuse to be differentiated, where with
            # the Function around them the gradient would be missing without a word.
            record = _require_gradient(args) and not is_exporting()
            return cls.reverse.apply(*args) if record else cls.forward(*args)
        if _transformed():
            # What Dynamo leaves to run eagerly runs so throughout: it fails on pieces of vmap and jvp.
            callback = eval_frame.set_eval_frame(None)
            try:
                return cls.function.apply(*args)
            finally:
                eval_frame.set_eval_frame(callback)
        if replay.state.recording is not None:
            return replay.state.recording.apply(cls, args, _require_gradient(args))
        if not _require_gradient(args):
            return cls.forward(*args)  # nothing records a derivative
        # What Function.apply does here, less the inspection of forward's signature that it repeats on every
        # call to fill in defaults: that takes longer than a small layer.
        apply = cls._apply
        if cls.named_by_first:
            title = args[0].title
            apply = cls._titled.get(title) or cls._entitle(title)
        return apply(*[unwrap_if_dead(a) if isinstance(a, Tensor) else a for a in args])

    @classmethod
    def _entitle(cls, title: str) -> Callable[..., Any]:
        """Make the same Function under another name."""
        cls._titled[title] = super(Function, _function(cls, _ALL, title)).apply  # type: ignore[misc]
        return cls._titled[title]


_ALL = ("forward", "setup_context", "backward", "jvp", "vmap")


def _transformed() -> bool:
    """Tell whether a transform of torch.func is active, or forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def records_derivative(*tensors: Tensor | None) -> bool:
    """Tell whether anything may want a derivative of what is computed from the tensors now.

    Where nothing does, a layer may leave out what only its derivatives need.
    """
    if torch.compiler.is_compiling():
        transforms = _inside_transform()
    else:
        transforms = _transformed()
    return transforms or _require_gradient(tensors)


def records_only_reverse() -> bool:
    """Tell whether nothing but eager reverse mode may record: what a Function that overwrites its input needs."""
    return not (torch.compiler.is_compiling() or _transformed())


def one_pass() -> bool:
    """Tell whether a backward pass may call an operator of ATen that has no derivative, nor a rule for vmap."""
    if torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active()


def _require_gradient(args: tuple[Any, ...]) -> bool:
    """Tell whether reverse mode records what is computed from the tensors among the arguments."""
    if torch.is_grad_enabled():
        for arg in args:  # a loop: this is in the way of every call
            if isinstance(arg, Tensor) and arg.requires_grad:
                return True
    return False


def _function(cls: type, methods: tuple[str, ...], name: str = "") -> type[Function]:
    namespace = {name: cls.__dict__[name] for name in methods}
    if "jvp" in methods:
        namespace["jvp"] = staticmethod(_nestable(namespace["jvp"].__func__))
        namespace["backward"] = staticmethod(_unseen(namespace["backward"].__func__))
    return type(name or cls.__name__, (Function,), {"__doc__": cls.__doc__, "__module__": cls.__module__, **namespace})


def _unseen(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``backward`` such that modes that override functions do not see what it calls, as with a built-in's."""

    def apart(ctx: Any, *gradients: Any) -> Any:
        if not torch._C._is_torch_function_mode_enabled():
            return backward(ctx, *gradients)
        with torch._C.DisableTorchFunction():
            return backward(ctx, *gradients)

    return apart


def _nestable(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``jvp`` such that torch.func transforms around it differentiate what it computes.

    PyTorch calls it with forward mode switched off, so that the tangent of a nested ``torch.func.jvp`` would be
    zero without a word (pytorch issue 197867). On again, the operands must shed the tangents of jvp's own level.
    """

    def nested(ctx: Any, *tangents: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return jvp(ctx, *tangents)
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(_Primals(ctx), *tangents)

    return nested


class _Primals:
    """A context whose saved tensors have no tangents of the innermost level."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        saved = self._ctx.saved_tensors
        return tuple(None if t is None else forward_ad.unpack_dual(t, level=0).primal for t in saved)


def _inside_transform() -> bool:
    """Tell, while Dynamo traces, whether it is inside a torch.func transform, or forward mode is on."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


# Dynamo calls the function while it traces instead of tracing it. This is all that
# torch.compiler.assume_constant_result does, which would import Dynamo (over a second) to do it.
_inside_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def save(ctx: Any, backward: tuple[Tensor | None, ...], forward: tuple[Tensor | None, ...]) -> None:
    """Save tensors for ``backward`` and, where forward mode is possible, others for ``jvp``."""
    ctx.save_for_backward(*backward)
    if not torch.compiler.is_compiling():
        ctx.save_for_forward(*forward)


def without_base(output: Tensor, *inputs: Tensor) -> Tensor:
    """Return a Function's output such that it can be changed in place, as ``y += x`` does.

    Where it is a view, PyTorch refuses that. But of a tensor that nobody else sees it need not be one. Dynamo's graphs
    have no such rule.
    """
    if torch.compiler.is_compiling() or not output._is_view():
        return output
    base = output._base
    if any(base is tensor or base is tensor._base for tensor in inputs):
        return output
    return output.data


def conjugate(tensor: Tensor) -> Tensor:
    """Return the complex conjugate; a real tensor is returned as it is."""
    return tensor.conj().resolve_conj() if tensor.is_complex() else tensor
