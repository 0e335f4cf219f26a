"""The callables that stand in for torch.ops: the same results, errors and interceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_operators import SAMPLES, O, draw
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import torchbp
from torchbp._extension import extension
from torchbp.ops.registry import read_schemas

pytestmark = pytest.mark.skipif(not torchbp.kernels_loaded(), reason="without the extension torch.ops itself is called")

X = draw(2, 4, 6, 5)
POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)


class Overload:
    """torch.ops' operator, counting its calls."""

    def __init__(self, name: str) -> None:
        self.operator, self.calls = getattr(O, name).default, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.operator(*args)


def direct(name: str) -> tuple[Callable[..., Any], Overload]:
    """Return an operator's callable and what it falls back to."""
    overload = Overload(name)
    return extension.operator_call(f"torchbp::{name}", overload), overload


def outcome(call: Callable[..., Any], *args: Any) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # whatever it is, it must be the same
        call(*args)
    return caught.type, str(caught.value)


def test_samples_give_the_same_without_torch_ops() -> None:
    calls = {name: direct(name) for name in read_schemas()}
    for name, _, arguments in SAMPLES:
        call, overload = calls[name]
        found, expected = (f(*arguments) for f in (call, getattr(O, name).default))
        assert overload.calls == 0, name
        found, expected = (r if isinstance(r, tuple) else (r,) for r in (found, expected))
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()


@pytest.mark.parametrize(
    "arguments",
    [
        (X,),
        (X, *POOL, 1),
        (None, *POOL),
        (3, *POOL),
        (X, None, *POOL[1:]),
        (X, [2, 2.5], *POOL[1:]),
        (X, ["2", 2], *POOL[1:]),
        (X, [2**70, 2], *POOL[1:]),
        (X, [2**40, 2**40], *POOL[1:]),
        (X, "22", *POOL[1:]),
        (X, *POOL[:4], "yes"),
        (X.numpy(), *POOL),
        (X.to("meta"), [0, 2], *POOL[1:]),
    ],
    ids=range(13),
)
def test_errors_are_those_of_torch_ops(arguments: tuple) -> None:
    call, _ = direct("max_pool_values")
    assert outcome(call, *arguments) == outcome(O.max_pool_values.default, *arguments)


def test_other_types_that_torch_ops_takes() -> None:
    call, overload = direct("max_pool_values")
    expected = O.max_pool_values(X, *POOL)
    assert torch.equal(call(X, torch.Size([2, 2]), (2, 2), *POOL[2:]), expected) and overload.calls == 0
    parameter = torch.nn.Parameter(X, requires_grad=False)
    assert torch.equal(call(parameter, *POOL), expected) and overload.calls == 0
    assert torch.equal(call(X, [np.int64(2), 2], *POOL[1:]), expected) and overload.calls == 1
    batch_norm, overload = direct("batch_norm")
    assert torch.equal(batch_norm(X, None, None, 1)[0], O.batch_norm(X, None, None, 1)[0]) and overload.calls == 1


def test_a_gradient_is_refused_as_by_torch_ops() -> None:
    call, overload = direct("max_pool_values")
    leaf = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="not implemented"):
        call(leaf, *POOL).sum().backward()
    assert overload.calls == 1
    with torch.no_grad():
        assert not call(leaf, *POOL).requires_grad and overload.calls == 1
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        assert outcome(call, dual, *POOL) == outcome(O.max_pool_values.default, dual, *POOL)


def test_transforms_see_the_call() -> None:
    call, overload = direct("max_pool_values")
    leaf = X.clone()
    for transformed in (torch.func.vmap, torch.func.grad):
        results = []
        for f in (call, O.max_pool_values.default):
            try:
                results.append(transformed(lambda t, f=f: f(t, *POOL).sum())(leaf[None]))
            except RuntimeError as error:
                results.append(str(error))
        assert type(results[0]) is type(results[1])
        assert results[0] == results[1] if isinstance(results[0], str) else torch.equal(*results)
    assert overload.calls == 2


def test_subclasses_and_modes_see_the_call() -> None:
    call, overload = direct("max_pool_values")
    seen: list[str] = []

    class Overriding(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append("subclass")
            return super().__torch_function__(function, types, args, kwargs or {})

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append("function mode")
            return function(*args, **(kwargs or {}))

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    assert isinstance(call(X.as_subclass(Overriding), *POOL), Overriding)
    with Functions():
        call(X, *POOL)
    assert seen == ["subclass", "function mode"] and overload.calls == 2
    with Dispatch():
        call(X, *POOL)
    assert seen[2:] == ["torchbp.max_pool_values.default"] and overload.calls == 2


def test_fake_and_meta_tensors() -> None:
    call, _ = direct("max_pool_values")
    assert call(X.to("meta"), *POOL).shape == (2, 4, 3, 2)
    with torch._subclasses.FakeTensorMode():
        assert call(torch.empty(X.shape), *POOL).shape == (2, 4, 3, 2)


def test_the_profiler_shows_the_operator() -> None:
    call, _ = direct("max_pool_values")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call(X, *POOL)
    assert "torchbp::max_pool_values" in {event.name for event in profiled.events()}


def test_jit_trace_records_the_operator() -> None:
    call, _ = direct("max_pool_values")
    traced = torch.jit.trace(lambda t: call(t, *POOL), X)
    assert torch.equal(traced(X.flip(0)), O.max_pool_values(X.flip(0), *POOL))
    assert "torchbp::max_pool_values" in str(traced.graph)
