"""Explicit backwards for code that is not changed: calls of PyTorch's own functions are answered by torchbp's.

``with explicit():`` pushes a mode of ``torch.overrides`` for the current thread. The mode sees every call of a
function of ``torch`` or ``torch.nn.functional`` and of a tensor's methods, whoever makes it; those in one table it
answers by torchbp's function of the same meaning, all others by the built-in.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as builtin
from torch import Tensor
from torch.overrides import TorchFunctionMode, redispatch_function
from torch.utils._contextlib import _NoParamDecoratorContextManager

import torchbp.nn.functional as F
from torchbp import autograd
from torchbp.autograd.function import records_derivative
from torchbp.autograd.recurrent import GRU, LSTM, RNN, Cell
from torchbp.nn.functional._arguments import autocast_to
from torchbp.nn.functional.recurrent import layers, step

C = TypeVar("C", bound=Callable[..., Any])

# --------------------------------------------------------------------------------------------------
# Functions of ours that take a built-in's arguments, and return NotImplemented where the built-in must answer


def _spelled(own: Callable[..., Any], names: str, **fixed: Any) -> Callable[..., Any]:
    """Return ``own`` with a built-in's arguments.

    ``names`` are the built-in's in their order, each followed by ``=`` and ours where that is another, or by ``=``
    alone where ours has none. ``fixed`` are further arguments of ours.
    """
    renamed = {name: new if eq else name for name, eq, new in (word.partition("=") for word in names.split())}
    order = tuple(renamed)

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(order) or not kwargs.keys() <= renamed.keys():
            return NotImplemented
        given = {renamed[name]: value for name, value in zip(order, args, strict=False)}
        given.update((renamed[name], value) for name, value in kwargs.items())
        given.pop("", None)
        return own(**given, **fixed)

    return call


_REDUCTIONS = ("none", "mean", "sum")


def _reduced(own: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss whose reduction is a number, as it is for operators: none, whatever their documentation says."""

    def call(*, reduction: int = 0, **given: Any) -> Any:
        return own(reduction=_REDUCTIONS[reduction], **given) if reduction in (0, 1, 2) else NotImplemented

    return call


def _with_indices(own: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs["return_indices"] = True
        return own(*args, **kwargs)

    return call


def _embedding(input: Tensor, weight: Tensor, padding_idx: int = -1, **given: Any) -> Tensor:
    return F.embedding(input, weight, None if padding_idx < 0 else padding_idx, **given)


def _in_place(own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    def call(input: Tensor) -> Any:
        return input.copy_(own(input)) if input.is_floating_point() or input.is_complex() else NotImplemented

    return call


def _softmax(own: Callable[..., Tensor]) -> Callable[..., Any]:
    def call(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        return own(input, dim, dtype=dtype) if type(dim) is int else NotImplemented

    return call


def _alike(*tensors: Any) -> bool:
    """Tell whether all are floating-point or complex tensors of one dtype on one device."""
    first = tensors[0]
    if not isinstance(first, Tensor) or not (first.is_floating_point() or first.is_complex()):
        return False
    dtype, device = first.dtype, first.device
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.device != device:
            return False
    return True


def _broadcast(*shapes: Sequence[int]) -> tuple[int, ...] | None:
    """Return the shape that all broadcast to, or None."""
    result = []
    for i in range(1, max(map(len, shapes)) + 1):
        size = 1
        for shape in shapes:
            if len(shape) >= i and shape[-i] != 1:
                if size not in (1, shape[-i]):
                    return None
                size = shape[-i]
        result.append(size)
    return tuple(reversed(result))


def _product_of(*dimensions: int) -> Callable[..., Any]:
    """Return the matrix product of two tensors with those numbers of dimensions, or any."""

    def call(input: Tensor, other: Tensor) -> Any:
        if not _alike(input, other):
            return NotImplemented
        ranks = (input.dim(), other.dim())
        if (dimensions and dimensions != ranks) or 0 in ranks:
            return NotImplemented
        if dimensions and dimensions[1] == 1 and torch._C._is_any_autocast_enabled():
            return NotImplemented  # autocast leaves mv and dot as they are, but not the product of ours
        a = input.unsqueeze(0) if ranks[0] == 1 else input
        b = other.unsqueeze(1) if ranks[1] == 1 else other
        if a.shape[-1] != b.shape[-2]:
            return NotImplemented
        leads = (a.shape[:-2], b.shape[:-2])
        if leads[0] != leads[1] and (dimensions or _broadcast(*leads) is None):
            return NotImplemented
        y = autograd.product.matrix_product(a, b)
        if ranks[0] == 1:
            y = y.squeeze(-2)
        return y.squeeze(-1) if ranks[1] == 1 else y

    return call


_lower = autocast_to("lower precision")
_matmul = _lower(_product_of())


def _added_product(rank: int) -> Callable[..., Any]:
    """Return beta input + alpha a b for a and b of ``rank`` dimensions each."""

    @autocast_to("lower precision")
    def call(input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        if not _alike(input, a, b) or not a.dim() == b.dim() == rank or a.shape[-1] != b.shape[-2]:
            return NotImplemented
        if not (isinstance(beta, int | float) and isinstance(alpha, int | float)) or beta == 0:
            return NotImplemented  # without a part of input, NaN in it has none either
        shape = (*a.shape[:-1], b.shape[-1])
        if a.shape[:-2] != b.shape[:-2] or _broadcast(input.shape, shape) != shape:
            return NotImplemented
        if beta == 1 and input.shape == shape[-1:]:
            return autograd.product.matrix_product(a, b, input, alpha)
        return (input if beta == 1 else input * beta) + autograd.product.matrix_product(a, b, scale=alpha)

    return call


def _einsum(equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) < 2 or not all(isinstance(t, Tensor) for t in operands):
        return NotImplemented
    terms = _labelled(equation, [t.dim() for t in operands])
    if terms is None:
        return NotImplemented
    return _einsum_of(*operands, terms=terms)


@autocast_to("lower precision")
def _einsum_of(*operands: Tensor, terms: tuple[tuple[str, ...], str]) -> Any:
    sizes: dict[str, int] = {}
    for labels, tensor in zip(terms[0], operands, strict=True):
        for label, size in zip(labels, tensor.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return NotImplemented  # of sizes that differ, one may be broadcast
    return autograd.product.einsum(*terms, operands) if _alike(*operands) else NotImplemented


def _labelled(equation: str, dimensions: Sequence[int]) -> tuple[tuple[str, ...], str] | None:
    """Return the labels of each operand and of the result, or None if these are not all there and each once."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(dimensions):
        return None
    free = iter([chr(code) for code in range(0x100, 0x100 + max(dimensions)) if chr(code) not in equation])
    hidden = [d - len(term) + 3 if "..." in term else 0 for term, d in zip(terms, dimensions, strict=True)]
    if min(hidden) < 0:
        return None
    dots = "".join([next(free) for _ in range(max(hidden))])
    terms = [term.replace("...", dots[len(dots) - count :]) for term, count in zip(terms, hidden, strict=True)]
    joined = "".join(terms)
    if not arrow:
        output = "..." + "".join(sorted(label for label in set(joined) - set(dots) if joined.count(label) == 1))
    if dots and "..." not in output:
        return None
    output = output.replace("...", dots)
    words = [*terms, output]
    if not (joined + output).isalpha() or any(len(set(word)) != len(word) for word in words):
        return None
    if not set(output) <= set(joined) or any(len(t) != d for t, d in zip(terms, dimensions, strict=True)):
        return None
    return tuple(terms), output


def _recurrent(cell: Callable[[], Cell]) -> Callable[..., Any]:
    """Return the layers behind torch.nn's RNN, GRU or LSTM, of a tensor or of a packed sequence."""
    made = cell()

    def call(*args: Any) -> Any:
        if len(args) != 9:
            return NotImplemented
        packed = isinstance(args[3], list | tuple)
        if packed:
            x, sizes, hx, weights, *rest = args
            biases, count, dropout_p, training, bidirectional = rest
            transposed = False
        else:
            x, hx, weights, biases, count, dropout_p, training, bidirectional, transposed = args
            sizes = None
        states = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
        given = len(weights) // (count * (2 if bidirectional else 1))
        if not records_derivative(x, *states, *weights) or (not packed and (x.dim() != 3 or 0 in x.shape)):
            return NotImplemented  # then the built-in keeps nothing either
        y, last = layers(
            made,
            x.transpose(0, 1) if transposed else x,
            states,
            weights,
            biases=biases,
            projected=given > (4 if biases else 2),
            count=count,
            dropout_p=dropout_p,
            training=training,
            bidirectional=bidirectional,
            sizes=None if sizes is None else sizes.tolist(),
        )
        return (y.transpose(0, 1) if transposed else y, *last)

    return call


def _recurrent_cell(cell: Callable[[], Cell]) -> Callable[..., Any]:
    """Return one step of a recurrent layer."""
    made = cell()

    def call(input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Any:
        states = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
        if input.dim() != 2 or any(s.dim() != 2 for s in states) or (b_ih is None) != (b_hh is None):
            return NotImplemented
        if not records_derivative(input, *states, w_ih, w_hh, b_ih, b_hh):
            return NotImplemented
        h, *c = states
        y, *cells = step(made, input, h, c[0] if c else None, w_ih, w_hh, b_ih, b_hh)
        return (y, *cells) if cells else y

    return call


def _opened(*args: Any, **kwargs: Any) -> Any:
    """Stand for functions that run other code, as hooks are, which is inside the block too."""
    return NotImplemented


# --------------------------------------------------------------------------------------------------
# The table


def _table() -> dict[Any, Callable[..., Any]]:
    """Return what answers which function of PyTorch."""
    table: dict[Any, Callable[..., Any]] = {}
    for name in F.__all__:  # the same name, the same arguments
        if hasattr(builtin, name):
            table[getattr(builtin, name)] = getattr(F, name)
    for name in ("relu", "celu", "selu", "sigmoid", "tanh", "threshold", "rms_norm", "cdist"):
        table[getattr(torch, name)] = getattr(F, name)
    for name in ("relu", "relu_", "sigmoid", "tanh", "hardshrink", "prelu"):
        table[getattr(Tensor, name)] = getattr(F, name)
    for place in (torch, Tensor, torch.special):
        for name in ("softmax", "log_softmax"):
            table[getattr(place, name)] = _softmax(getattr(F, name))
    table[torch.special.expit] = F.sigmoid
    for name in ("sigmoid", "tanh"):
        for place in (torch, Tensor):
            table[getattr(place, f"{name}_")] = _in_place(getattr(F, name))
    table[torch.rrelu] = _spelled(F.rrelu, "input lower upper training")
    table[torch.layer_norm] = _spelled(F.layer_norm, "input normalized_shape weight bias eps cudnn_enable=")
    table[torch.group_norm] = _spelled(F.group_norm, "input num_groups weight bias eps cudnn_enabled=")
    statistics = "input weight bias running_mean running_var {} momentum eps cudnn_enabled="
    table[torch.batch_norm] = _spelled(F.batch_norm, statistics.format("training"))
    table[torch.instance_norm] = _spelled(F.instance_norm, statistics.format("use_input_stats"))
    table[torch.embedding] = _spelled(_embedding, "weight indices=input padding_idx scale_grad_by_freq sparse")
    for name in ("dropout", "alpha_dropout", "feature_alpha_dropout"):
        table[getattr(torch, name)] = _spelled(getattr(F, name), "input p train=training")
        table[getattr(torch, f"{name}_")] = _spelled(getattr(F, name), "input p train=training", inplace=True)
    windows = "input kernel_size stride padding dilation ceil_mode"
    for n in (1, 2, 3):
        table[getattr(torch, f"max_pool{n}d")] = _spelled(getattr(F, f"max_pool{n}d"), windows)
        for name in (f"max_pool{n}d", f"adaptive_max_pool{n}d", f"fractional_max_pool{n}d"):
            if hasattr(builtin, f"{name}_with_indices"):
                table[getattr(builtin, f"{name}_with_indices")] = _with_indices(getattr(F, name))
    table[torch.max_pool1d_with_indices] = _spelled(F.max_pool1d, windows, return_indices=True)
    table[torch.adaptive_max_pool1d] = _spelled(F.adaptive_max_pool1d, "input output_size", return_indices=True)
    for name, arguments in {
        "binary_cross_entropy_with_logits": "input target weight pos_weight reduction",
        "cosine_embedding_loss": "input1 input2 target margin reduction",
        "hinge_embedding_loss": "input target margin reduction",
        "margin_ranking_loss": "input1 input2 target margin reduction",
        "poisson_nll_loss": "input target log_input full eps reduction",
        "triplet_margin_loss": "anchor positive negative margin p eps swap reduction",
    }.items():
        table[getattr(torch, name)] = _spelled(_reduced(getattr(F, name)), arguments)
    for place in (torch, Tensor):
        table |= {
            place.matmul: _matmul,
            place.mm: _spelled(_lower(_product_of(2, 2)), "input mat2=other"),
            place.bmm: _spelled(_lower(_product_of(3, 3)), "input mat2=other"),
            place.mv: _spelled(_product_of(2, 1), "input vec=other"),
            place.dot: _spelled(_product_of(1, 1), "input tensor=other"),
            place.addmm: _spelled(_added_product(2), "input mat1=a mat2=b beta alpha"),
            place.baddbmm: _spelled(_added_product(3), "input batch1=a batch2=b beta alpha"),
        }
    table[torch.linalg.matmul] = _matmul
    table[Tensor.__matmul__] = _matmul
    table[Tensor.__rmatmul__] = lambda self, other: _matmul(other, self)
    table[torch.einsum] = _einsum
    table |= dict.fromkeys(
        (Tensor.backward, torch.autograd.backward, torch.autograd.grad, builtin.gumbel_softmax), _opened
    )
    for name, cell in {
        "rnn_tanh": lambda: RNN(False),
        "rnn_relu": lambda: RNN(True),
        "gru": GRU,
        "lstm": LSTM,
    }.items():
        table[getattr(torch, name)] = _recurrent(cell)
        table[getattr(torch, f"{name}_cell")] = _recurrent_cell(cell)
    return table


_TABLE = _table()
# What argument parsers take for a name, as NumPy spells it.
_ALIASES = {"axis": "dim", "x": "input"}
_REWRITTEN = frozenset({"out", *_ALIASES})


# --------------------------------------------------------------------------------------------------
# What was called


class Calls:
    """The calls that an :func:`explicit` block has seen, counted by function; what ``with explicit() as calls`` gives.

    Calls made by torchbp itself are not counted, nor those that torch.compile traces.
    """

    def __init__(self) -> None:
        """Start at none."""
        self._explicit: dict[Any, int] = {}
        self._built_in: dict[Any, int] = {}
        self._left: dict[tuple[Any, str], int] = {}

    @property
    def explicit(self) -> Counter[str]:
        """How often torchbp answered, by the name of the function called."""
        return _named((_name(function), count) for function, count in self._explicit.items())

    @property
    def built_in(self) -> Counter[str]:
        """How often a built-in recorded a derivative, views left out, by its name."""
        return _named((_name(function), count) for function, count in self._built_in.items())

    @property
    def left(self) -> Counter[tuple[str, str]]:
        """How often a function that torchbp has was left to the built-in, by its name and the reason."""
        return _named(((_name(function), why), count) for (function, why), count in self._left.items())

    def _absorb(self, other: Calls) -> None:
        pairs: list[tuple[dict[Any, int], dict[Any, int]]] = [
            (self._explicit, other._explicit),
            (self._built_in, other._built_in),
            (self._left, other._left),
        ]
        for mine, theirs in pairs:
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count

    def __repr__(self) -> str:
        """Return the three counts as text, the most frequent first."""
        lines = []
        for title, counts in (("explicit", self.explicit), ("built-in", self.built_in), ("left", self.left)):
            lines.append(f"{title}: {sum(counts.values())} calls")
            for name, count in counts.most_common():
                lines.append(f"  {count:6d}  {name if isinstance(name, str) else ': '.join(name)}")
        return "\n".join(lines)


N = TypeVar("N", str, tuple[str, str])


def _named(pairs: Iterable[tuple[N, int]]) -> Counter[N]:
    counts: Counter[N] = Counter()
    for name, count in pairs:
        counts[name] += count
    return counts


def _name(function: Any) -> str:
    """Return how a function of PyTorch is written."""
    name, module = function.__name__, getattr(function, "__module__", None)
    if name == "__get__":
        return f"Tensor.{function.__self__.__name__}"
    if module in (None, "torch._tensor"):
        return f"Tensor.{name}"
    if name == "fn":  # chooses one of two functions by an argument, and has no name of its own
        name = next(key for key, value in vars(builtin).items() if value is function)
    place = module.replace("torch._C._nn", "torch.nn.functional").replace("torch.functional", "torch")
    if place.startswith("torch._C._"):  # torch.special and others, whose operators have the prefix in their names
        place = place.replace("torch._C._", "torch.")
        name = name.removeprefix(f"{place.rpartition('.')[2]}_")
    return f"{place}.{name}"


# --------------------------------------------------------------------------------------------------
# The mode

_tracing = torch.compiler.is_dynamo_compiling
_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_NO_TENSORS = frozenset({int, float, bool, str, type(None), torch.dtype})


def _unserved(values: Iterable[Any]) -> str:
    """Return which argument is not a plain, dense tensor, or nothing."""
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            if value.layout is not torch.strided or value.is_nested or value.is_quantized:
                form = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
                return f"a {'quantized' if value.is_quantized else form} tensor"
        elif kind in _NO_TENSORS:
            continue
        elif kind is tuple or kind is list:
            if value and isinstance(value[0], Tensor) and (why := _unserved(value)):
                return why
        elif isinstance(value, Tensor) and not kind.__module__.startswith("torch._subclasses."):
            return f"a {kind.__name__}"
    return ""


@functools.cache
def _overrides(kind: type) -> bool:
    """Tell whether a subclass has a __torch_function__ of its own."""
    handler = kind.__torch_function__  # type: ignore[attr-defined]
    if handler is torch._C._disabled_torch_function_impl:
        return False
    return getattr(handler, "__func__", None) is not Tensor.__torch_function__.__func__  # type: ignore[attr-defined]


def _has_turn(types: Iterable[type]) -> bool:
    """Tell whether a tensor subclass is to handle a call, and has not done so yet."""
    return torch._C._is_torch_function_enabled() and any(map(_overrides, types))


# Where functions of PyTorch that are written in Python, and their calls of modes, stand. Other modes are passed too.
_BETWEEN = frozenset(
    {"torch.overrides", "torch.nn.functional", "torch.functional", "torch._tensor", "torch._jit_internal"}
)


def _called_by_torchbp() -> bool:
    """Tell whether what calls the function that a mode answers is torchbp's own code."""
    frame: types.FrameType | None = sys._getframe(3)
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module.startswith("torchbp."):
            return module != __name__
        if module not in _BETWEEN and frame.f_code.co_name != "__torch_function__":
            return False
        frame = frame.f_back
    return False


class _Explicit(TorchFunctionMode):
    """The mode: one for each thread, however many blocks are nested."""

    def __init__(self) -> None:
        self.reports: list[Calls] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own = _TABLE.get(function)
        if _tracing():
            return self._traced(own, function, args, kwargs or {})
        if types and not _PLAIN.issuperset(types) and _has_turn(types):
            return self._of_subclass(function, types, args, kwargs or {})
        if own is not None:
            if own is _opened:
                with self:
                    return redispatch_function(function, types, args, kwargs or {})
            return self._answered(own, function, args, kwargs or {})
        result = function(*args, **kwargs) if kwargs else function(*args)
        first = result[0] if type(result) is tuple and result else result
        if type(first) is Tensor and first.requires_grad:
            self._count_built_in(function, first)
        return result

    def _answered(
        self, own: Callable[..., Any], function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return what torchbp's function does or, where it may not answer, the built-in."""
        if _called_by_torchbp():
            return function(*args, **kwargs)
        why = _unserved(args)
        given = kwargs
        if kwargs and not why:
            why = _unserved(kwargs.values())
            if kwargs.get("out") is not None:
                why = "out= is given"
            elif not kwargs.keys().isdisjoint(_REWRITTEN):
                given = {_ALIASES.get(key, key): value for key, value in kwargs.items() if key != "out"}
        if not why and torch.is_grad_enabled() and not _follows_checkpoint():
            why = "it computes again what built-ins computed"
        calls = self.reports[-1]
        if not why:
            result = own(*args, **given)
            if result is not NotImplemented:
                calls._explicit[function] = calls._explicit.get(function, 0) + 1
                return result
            why = "arguments that torchbp does not take"
        calls._left[function, why] = calls._left.get((function, why), 0) + 1
        result = function(*args, **kwargs)
        first = result[0] if type(result) is tuple and result else result
        if type(first) is Tensor and first.requires_grad:
            self._count_built_in(function, first)
        return result

    def _traced(
        self, own: Callable[..., Any] | None, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Do the same while torch.compile traces, without counts, of which each would be a constant."""
        if (
            own is None
            or own is _opened
            or kwargs.get("out") is not None
            or _unserved(args)
            or _unserved(kwargs.values())
        ):
            return function(*args, **kwargs)
        result = own(*args, **{_ALIASES.get(key, key): value for key, value in kwargs.items() if key != "out"})
        return function(*args, **kwargs) if result is NotImplemented else result

    def _of_subclass(self, function: Any, types: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Hand a call to the tensor subclasses among its arguments, inside the block."""
        with self:
            for kind in filter(_overrides, types):
                result = kind.__torch_function__(function, types, args, kwargs)
                if result is not NotImplemented:
                    return result
        return function(*args, **kwargs)  # raises

    def _count_built_in(self, function: Any, result: Tensor) -> None:
        if not (result.is_leaf or result._is_view()):
            counts = self.reports[-1]._built_in
            counts[function] = counts.get(function, 0) + 1


def _active() -> _Explicit | None:
    """Return the mode of this thread, if there is one."""
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        if type(mode) is _Explicit:
            return mode
    return None


# --------------------------------------------------------------------------------------------------
# Activation checkpointing


def _follows_checkpoint() -> bool:
    """Make what torch.utils.checkpoint computes again what it computed first; tell whether that is explicit.

    Its backward pass may run outside the block, and checks the shapes of what is saved only. So the first call inside
    a checkpoint that keeps nothing has the later computation run in a block of its own; and where built-ins computed
    first, they compute again.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if not hooks or hooks[0].__module__ != "torch.utils.checkpoint":
        return True
    pack = inspect.unwrap(hooks[0])
    cells = dict(zip(pack.__code__.co_freevars, pack.__closure__ or (), strict=True))
    if "frame" in cells:
        frame = cells["frame"].cell_contents
        if not isinstance(frame.recompute_fn, _Again):
            frame.recompute_fn = _Again(frame.recompute_fn)
        return True
    if "target_frame_ref" in cells:
        frame = cells["target_frame_ref"].cell_contents()
        return frame is None or isinstance(frame.recompute_fn, _Again)
    raise RuntimeError(
        "explicit(): this version of torch.utils.checkpoint is not known; give it "
        "context_fn=lambda: (torchbp.explicit(), torchbp.explicit())"
    )


class _Again:
    """A computation that runs in a block of its own."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        self._compute = compute

    def __call__(self, *args: Any) -> Any:
        with explicit():
            return self._compute(*args)


# --------------------------------------------------------------------------------------------------
# The block


class explicit(_NoParamDecoratorContextManager):  # named as torch.no_grad is
    """Run the calls of PyTorch's functions inside the block on torchbp's explicit backwards.

    Every call of a function in ``torch`` or ``torch.nn.functional``, and of a tensor's method, that torchbp has a layer
    for is answered by it: ``F.relu``, ``torch.relu``, ``x.relu()``, ``F.conv2d``, ``x.softmax(-1)``, ``x @ w``,
    ``torch.einsum``, ... Values and gradients stay what they are. Whoever makes the call: modules, hooks, code of other
    packages. A call that torchbp cannot answer (an ``out=``, a sparse, nested or quantized tensor, a tensor subclass)
    goes to the built-in.

    Of this thread only. Blocks nest; what an inner one sees, the outer one counts too. Also a decorator, of functions,
    generators and coroutines, with or without parentheses::

        with torchbp.explicit() as calls:
            loss = model(x).logsumexp(-1).mean()
        print(calls)

        @torchbp.explicit
        def step(x): ...

    Entering gives a :class:`Calls`.

    Raises:
        TypeError: if what is decorated is a class or an asynchronous generator.
    """

    def __call__(self, function: C) -> C:
        """Return the function such that each call runs in a block of its own."""
        if inspect.isclass(function) or inspect.isasyncgenfunction(function) or not callable(function):
            raise TypeError(f"explicit(): function must be a function, a generator or a coroutine, got {function!r}")
        if not inspect.iscoroutinefunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        async def steps(*args: Any, **kwargs: Any) -> Any:
            return await _Steps(function(*args, **kwargs))

        return steps  # type: ignore[return-value]

    def __enter__(self) -> Calls:  # type: ignore[override]
        """Enter the block; return the count of its calls."""
        mode = _active()
        if mode is None:
            mode = _Explicit()
            torch.overrides._push_mode(mode)
        calls = Calls()
        mode.reports.append(calls)
        return calls

    def __exit__(self, *exception: object) -> None:
        """Leave the block."""
        mode = _active()
        if mode is None:
            raise RuntimeError("explicit(): a block must be left in the thread that entered it")
        finished = mode.reports.pop()
        if mode.reports:
            mode.reports[-1]._absorb(finished)
            return
        above = []
        while (top := torch.overrides._pop_mode()) is not mode:  # entered inside the block and not left yet
            above.append(top)
        for other in reversed(above):
            torch.overrides._push_mode(other)


class _Steps:
    """A coroutine each of whose steps runs in a block, which other tasks do not see."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    @explicit()
    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())
