"""What is computed only when wanted, and what is kept."""

from __future__ import annotations

import gc
import itertools
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from torchbp.costs.saved import saved_bytes
from torchbp.testing.compare import Failure, require_close
from torchbp.testing.differences import function_nodes, real
from torchbp.testing.subject import NotApplicable, Subject, is_differentiable

_SUBSETS = 31


def _subsets(places: list[int]) -> list[tuple[int, ...]]:
    """Return the subsets of the inputs, the smallest first; of many inputs each one, each pair and all."""
    subsets = itertools.chain.from_iterable(itertools.combinations(places, n) for n in range(1, len(places)))
    return [*itertools.islice(subsets, _SUBSETS), tuple(places)]


def wanted_gradients(subject: Subject) -> None:
    """Every subset of inputs that require a gradient gets the same gradients, the others none."""
    places = subject.differentiable()
    allowed = dict(zip(places, subject.gradient_tolerances(), strict=True))
    full = dict(zip(places, subject.gradients(subject.fresh()), strict=True))
    for subset in _subsets(places):
        gradients = subject.gradients(subject.fresh(grad=subset))
        for i, a in zip(subset, gradients, strict=True):
            names = " and ".join(subject.name(k) for k in subset)
            require_close(f"gradient of {subject.name(i)} when only {names} want one", a, full[i], allowed[i])
    if any(t.requires_grad for t in subject.call(*subject.fresh(grad=()))):
        raise Failure("the output requires a gradient although no input does")


def saved(subject: Subject) -> str:
    """Exactly the promised bytes are kept for the backward pass, and none when no gradient is wanted."""
    if saved_bytes(lambda: subject.call(*subject.fresh(grad=()))) != 0:
        raise Failure("bytes are kept although no gradient is wanted")
    inputs = subject.fresh(torch.float32)
    kept = saved_bytes(lambda: subject.call(*inputs))
    if subject.saved is None:
        return f"{kept} bytes in float32; none promised"
    promised = subject.saved(*inputs)
    if kept != promised:
        raise Failure(f"{kept} bytes are kept, {promised} were promised")
    return f"{kept} bytes in float32"


@dataclass
class _Kept:
    """What the Functions of a graph have saved: the tensors, in order, and which of them are theirs."""

    tensors: list[Tensor]
    own: set[int]
    storages: dict[int, str]
    values: list[tuple[str, Tensor]]
    results: list[Tensor]


def _run(subject: Subject, wanted: tuple[int, ...], poison: dict[int, Tensor] | None = None) -> _Kept:
    """Run forward, backward and double backward, with some saved tensors replaced by others."""
    kept: list[Tensor] = []
    used: set[int] = set()

    def pack(tensor: Tensor) -> int:
        kept.append(tensor.detach())
        return len(kept) - 1

    def unpack(number: int) -> Tensor:
        used.add(number)
        return kept[number] if poison is None or number not in poison else poison[number]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.seed)
        inputs = subject.fresh(grad=wanted)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            outputs = subject.call(*inputs)
            count = len(kept)
            own: set[int] = set()
            for node in function_nodes(outputs):
                used.clear()
                _ = node.saved_tensors
                own |= used
            differentiated = [outputs[i] for i in subject.wanted_outputs if outputs[i].requires_grad]
            g = [t.requires_grad_() for t in subject.cotangents(differentiated)]
            leaves = [inputs[i] for i in wanted]
            plain = torch.autograd.grad(differentiated, leaves, g, retain_graph=True, allow_unused=True)
            first = torch.autograd.grad(differentiated, leaves, g, create_graph=True, allow_unused=True)
            results = [t for t in (*plain, *first) if t is not None]
            further = [t for t in results if t.requires_grad]
            if further:
                weights = subject.cotangents(further)
                try:
                    second = torch.autograd.grad(further, [*leaves, *g], weights, allow_unused=True)
                    results += [t for t in second if t is not None]
                except RuntimeError:  # differentiable once only: what is kept is for the first derivative
                    pass
    places = {t.untyped_storage().data_ptr(): subject.name(i) for i, t in enumerate(inputs) if isinstance(t, Tensor)}
    places |= {t.untyped_storage().data_ptr(): f"output {i}" for i, t in enumerate(outputs)}
    values = [(subject.name(i), t.detach()) for i, t in enumerate(inputs) if is_differentiable(t)]
    values += [(f"output {i}", t.detach()) for i, t in enumerate(outputs) if is_differentiable(t)]
    return _Kept(kept[:count], {i for i in own if i < count}, places, values, [t.detach() for t in results])


def saved_in_vain(subject: Subject) -> str:
    """For every subset of gradients wanted, a Function keeps only what its derivatives read, and no copies.

    Each saved tensor is replaced by another one; if then neither the gradient nor its derivative changes, it was
    kept in vain. Nor does a Function keep a copy of an input or output, or a view that holds a much larger tensor.
    """
    checked = 0
    for wanted in _subsets(subject.differentiable()):
        base = _run(subject, wanted)
        names = " and ".join(subject.name(i) for i in wanted)
        for number in sorted(base.own):
            tensor = base.tensors[number]
            if tensor.numel() == 0:
                continue
            checked += 1
            what = f"a saved tensor of shape {tuple(tensor.shape)}"
            storage = tensor.untyped_storage()
            owner = base.storages.get(storage.data_ptr())
            what = f"{owner}" if owner else what
            if owner is None:
                for name, other in base.values:
                    if (
                        tensor.numel() > 1
                        and tensor.numel() == other.numel()
                        and tensor.dtype == other.dtype
                        and torch.equal(
                            tensor.flatten().view(-1).sort().values if not tensor.is_complex() else tensor.flatten(),
                            other.flatten().sort().values if not tensor.is_complex() else other.flatten(),
                        )
                    ):
                        raise Failure(f"a copy of {name} is kept, {tensor.nbytes} bytes: keep {name} itself")
                if storage.nbytes() > 2 * tensor.nbytes + 64:
                    raise Failure(f"{what} keeps {storage.nbytes()} bytes alive, a view of {tensor.nbytes}")
            if not (is_differentiable(tensor) or tensor.dtype == torch.bool):
                continue
            if all(_unchanged(base, _poisoned(subject, wanted, number, other)) for other in _others(tensor)):
                raise Failure(f"{what} ({tensor.nbytes} bytes) is kept in vain when only {names} want a gradient")
    if not checked:
        raise NotApplicable("no Function keeps a tensor")
    return f"{checked} saved tensors, every one is read"


def _copies(tensor: Tensor, other: Tensor) -> bool:
    """Tell whether a tensor holds the elements of another one, in any order."""
    if tensor.numel() < 2 or tensor.numel() != other.numel() or tensor.dtype != other.dtype:
        return False
    a, b = (real(t.contiguous()).sort().values for t in (tensor, other))
    return torch.equal(a, b) and bool(a[0] != a[-1])


def _others(tensor: Tensor) -> list[Tensor]:
    if tensor.dtype == torch.bool:
        return [~tensor]
    return [-tensor - 1, torch.full_like(tensor, torch.nan)]


def _poisoned(subject: Subject, wanted: tuple[int, ...], number: int, other: Tensor) -> list[Tensor] | None:
    try:
        return _run(subject, wanted, {number: other}).results
    except Exception:  # it was read: that raised
        return None


def _unchanged(base: _Kept, results: list[Tensor] | None) -> bool:
    return (
        results is not None
        and len(results) == len(base.results)
        and all(torch.equal(a, b) for a, b in zip(results, base.results, strict=True))
    )


def leaks(subject: Subject) -> None:
    """After backward nothing is alive: no reference cycle, no tensor that grows in number with the calls."""
    _refer(subject)  # what is made once, caches, is no leak
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    gc.freeze()  # what there is already need not be looked through
    try:
        references = _refer(subject)
        alive = [name for name, reference in references if reference() is not None]
        if alive:
            gc.collect()
            still = [name for name, reference in references if reference() is not None]
            if still:
                raise Failure(f"{', '.join(still)} never freed after backward: a reference is kept")
            raise Failure(f"{', '.join(alive)} freed by the garbage collector only: a reference cycle")
        counts = []
        for _ in range(3):
            _refer(subject)
            counts.append(_tensors_alive())
        if counts[0] < counts[1] < counts[2]:
            raise Failure(f"{counts[2] - counts[1]} tensors more are alive after every call")
    finally:
        if not frozen:
            gc.unfreeze()
        if enabled:
            gc.enable()


def _refer(subject: Subject) -> list[tuple[str, weakref.ref[Tensor]]]:
    """Run forward and backward; return references to what took part."""
    inputs = subject.fresh()
    outputs = subject.call(*inputs)
    chosen = [outputs[i] for i in subject.wanted_outputs if outputs[i].requires_grad]
    g = subject.cotangents(chosen)
    wanted = [inputs[i] for i in subject.differentiable()]
    gradients = torch.autograd.grad(chosen, wanted, g, allow_unused=True) if chosen else ()
    # Of a module's parameters others may hold on to the copies that stand in for them (an LSTM's flat weights do).
    references = [
        (subject.name(i), weakref.ref(t))
        for i, t in enumerate(inputs)
        if isinstance(t, Tensor) and subject.name(i).startswith("input")
    ]
    references += [(f"output {i}", weakref.ref(t)) for i, t in enumerate(outputs)]
    references += [(f"incoming gradient {i}", weakref.ref(t)) for i, t in enumerate(g)]
    references += [(f"gradient {i}", weakref.ref(t)) for i, t in enumerate(gradients) if t is not None]
    return references


def _tensors_alive() -> int:
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), Tensor))
