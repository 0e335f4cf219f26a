"""Calls that explicit() answers: values, derivatives, whose nodes they leave, and where the block reaches."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from conformance_page import computing_nodes as nodes
from interception_coverage import built_in
from real_models import RealModel
from test_conformance import (
    REFUSED,
    SWAPPED,
    Case,
    comparable,
    copied,
    derivatives,
    equal,
    order_of,
    raised,
    spread,  # noqa: F401  (a fixture)
    tolerance_of,
)
from test_real_models import gradients, relative_difference, row  # noqa: F401  (a fixture)
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, redispatch_function
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils.checkpoint import checkpoint

import torchbp
from torchbp import interception
from torchbp.testing import check

ANSWERED = {function for function, own in interception._TABLE.items() if own is not interception._opened}
# Nodes that torchbp's own layers are made of beside their Functions; docs/conformance.md lists them by layer.
ARITHMETIC = frozenset(f"{name}Backward" for name in ("Add", "Div", "Mean", "Mul", "Neg", "Sub", "Sum", "Where"))


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Require that no test leaves a mode behind."""
    with comparable():
        yield
    assert _get_current_function_mode_stack() == []


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


# --------------------------------------------------------------------------------------------------
# Every function of the table


def cloning(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that overwrites a copy of its first argument."""
    return lambda first, *args, **kwargs: function(first.clone(), *args, **kwargs)


def agree(
    function: Callable[..., Any],
    arguments: Any,
    order: int,
    tolerance: float = 1e-10,
    process: Any = None,
    allowed: frozenset[str] = ARITHMETIC,
) -> None:
    """Compare values and derivatives in and out of a block, and require that torchbp answered."""
    seen: list[torchbp.interception.Calls] = []
    graphs: list[set[str]] = []

    def inside(*args: Any, **kwargs: Any) -> Any:
        with torchbp.explicit() as calls:
            result = function(*args, **kwargs)
        seen.append(calls)
        graphs.append(nodes(result))
        return result

    keep = process or (lambda output: output)
    mine, theirs = Case(inside, arguments, keep), Case(function, arguments, keep)
    equal(derivatives(mine, order), derivatives(theirs, order), str(arguments), tolerance)
    assert seen[0].explicit and not seen[0].left, seen[0]
    assert graphs[0] <= allowed, graphs[0]


def variants(op: OpInfo) -> list[Callable[..., Any]]:
    """Return the function, the method and the in-place method of an entry, where the table has them."""
    found = [one for one in (op.op, op.method_variant) if one in ANSWERED]
    if op.inplace_variant in ANSWERED:
        found.append(cloning(op.inplace_variant))
    return found


DATABASE = [op for op in op_db if variants(op)] + [op for op in op_db if op.name == "einsum"]
# Whose arguments torch.nn.functional has in another way, or not at all: what a plain look-up could get wrong.
TRANSLATED = [op for op in DATABASE if not op.name.startswith("nn.functional.")]


def left_to_built_in(op: OpInfo, arguments: Any) -> bool:
    """Tell whether a sample is one of those that the table leaves: complex factors, no part of the input, diagonals."""
    args, kwargs = arguments
    if op.name in ("addmm", "baddbmm"):
        return kwargs.get("beta") == 0 or any(isinstance(v, complex) for v in kwargs.values()) or not _meets(args)
    if op.name == "einsum":
        terms = args[0].partition("->")[0].split(",")
        return len(terms) < 2 or any(len(set(term) - {"."}) != len(term.replace(".", "")) for term in terms)
    return False


def _meets(args: Sequence[Any]) -> bool:
    """Tell whether input broadcasts to the product without enlarging it."""
    shape = (*args[1].shape[:-1], args[2].shape[-1])
    return torch.broadcast_shapes(args[0].shape, shape) == shape


def samples(op: OpInfo, count: int, spread: Any) -> Iterator[tuple[Any, Any, Any]]:  # noqa: F811
    """Yield arguments, the order to compare to, and how the output is processed."""
    plain = op.name.removeprefix("nn.functional.")
    for dtype in (torch.float64, torch.complex128):
        if dtype not in op.supported_backward_dtypes("cpu"):
            continue
        for sample in spread(op.sample_inputs("cpu", dtype, requires_grad=True), count):
            arguments = ((sample.input, *sample.args), sample.kwargs)
            if plain in SWAPPED:
                arguments = ((sample.args[0], sample.input, *sample.args[1:]), sample.kwargs)
            if plain in REFUSED and REFUSED[plain][0](arguments[0]):
                continue
            if op.name == "einsum":
                arguments = ((sample.args[0], *sample.input), {})
            if not left_to_built_in(op, arguments):
                yield arguments, order_of(plain, op, arguments[0]), sample.output_process_fn_grad


def identified(ops: Sequence[OpInfo]) -> dict[str, Any]:
    """Return the arguments of a parametrization; what is an entry's other variant is slow."""
    marks = [[pytest.mark.slow] if op.variant_test_name else [] for op in ops]
    return {
        "argvalues": [pytest.param(op, marks=m) for op, m in zip(ops, marks, strict=True)],
        "ids": [f"{op.name}-{op.variant_test_name}".strip("-") for op in ops],
    }


@pytest.mark.parametrize("op", **identified(TRANSLATED))
def test_translated_functions(op: OpInfo, spread: Any) -> None:  # noqa: F811
    """PyTorch's samples of functions that are not torch.nn.functional's, as functions and as methods."""
    for function in variants(op) or [torch.einsum]:
        for arguments, order, process in samples(op, 2, spread):
            agree(function, arguments, order, process=process)


@pytest.mark.slow
@pytest.mark.parametrize("op", **identified([op for op in DATABASE if op not in TRANSLATED]))
def test_functions(op: OpInfo, spread: Any) -> None:  # noqa: F811
    """PyTorch's samples of torch.nn.functional."""
    tolerance = tolerance_of(op.name.removeprefix("nn.functional."))
    # A distance that the caller gives is the caller's.
    allowed = ARITHMETIC | ({"NormBackward"} if "with_distance" in op.name else set())
    for function in variants(op):
        for arguments, order, process in samples(op, 10, spread):
            agree(function, arguments, order, tolerance, process, allowed)


@pytest.mark.parametrize("op", **identified([op for op in TRANSLATED if op.error_inputs_func]))
def test_errors(op: OpInfo) -> None:
    """PyTorch's error inputs raise what the built-in raises."""
    for error in op.error_inputs("cpu"):
        given = error.sample_input
        expected = raised(lambda given=given: op.op(given.input, *given.args, **given.kwargs))
        with torchbp.explicit():
            found = raised(lambda given=given: op.op(given.input, *given.args, **given.kwargs))
        assert found is expected is not None, f"raised {found}, expected {expected}: {given}"


IMAGE, ROWS, LINE = normal(2, 4, 6, 6), normal(3, 4, seed=1), normal(2, 4, 6, seed=2)
VOLUME, WEIGHT, CHANNELS = normal(1, 4, 4, 4, 4, seed=3), normal(5, 4, seed=4), normal(4, seed=5)
MEAN, SIGNS = torch.zeros(4, dtype=torch.float64), torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
INDICES, GATES = torch.tensor([[0, 2], [2, 1]]), {1: normal(5, 4, seed=6), 3: normal(15, 4), 4: normal(20, 4)}


def recurrent_arguments(gates: int, states: int) -> tuple[Any, ...]:
    """Return the arguments of two layers in two directions behind torch.nn's modules."""
    hx = [normal(4, 3, 5, seed=7 + i) for i in range(states)]
    weights = [
        normal(gates * 5, size, seed=seed) if size else normal(gates * 5, seed=seed)
        for layer in range(2)
        for seed, size in enumerate((4 if layer == 0 else 10, 5, 0, 0) * 2, start=20 + 8 * layer)
    ]
    return hx if states > 1 else hx[0], weights, True, 2, 0.25, True, True, False


def cell_arguments(gates: int, states: int) -> tuple[Any, ...]:
    hx = [normal(3, 5, seed=7 + i) for i in range(states)]
    return (
        ROWS,
        hx if states > 1 else hx[0],
        normal(gates * 5, 4, seed=8),
        normal(gates * 5, 5, seed=9),
        normal(gates * 5, seed=10),
        normal(gates * 5, seed=11),
    )


# What the database has no entry for, or under another callable: positional and keyword spellings of the built-in.
OTHERS: dict[Callable[..., Any], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    torch.relu: [((ROWS,), {}), ((), {"input": ROWS})],
    Tensor.relu: [((ROWS,), {})],
    torch.celu: [((ROWS, 0.5), {}), ((ROWS,), {"alpha": 0.5})],
    torch.selu: [((ROWS,), {})],
    torch.threshold: [((ROWS, 0.1, 0.2), {})],
    torch.rrelu: [((ROWS, 0.1, 0.3, True), {}), ((ROWS,), {})],
    torch.rms_norm: [((ROWS, (4,), CHANNELS), {"eps": 1e-3})],
    Tensor.hardshrink: [((ROWS, 0.2), {}), ((ROWS,), {"lambd": 0.2})],
    Tensor.prelu: [((ROWS, CHANNELS), {})],
    Tensor.__matmul__: [
        ((ROWS, ROWS.detach().T), {}),
        ((ROWS, WEIGHT.T), {}),
        ((IMAGE, ROWS[:, :1].expand(3, 6).T), {}),
    ],
    torch.linalg.matmul: [((LINE, LINE.detach().mT), {})],
    torch.special.expit: [((ROWS,), {})],
    torch.special.softmax: [((ROWS, -1), {}), ((ROWS,), {"dim": 0, "dtype": torch.float64})],
    torch.special.log_softmax: [((ROWS, 1), {})],
    torch.softmax: [((ROWS,), {"axis": 1}), ((ROWS, 1), {"dtype": None, "out": None})],
    torch.layer_norm: [((ROWS, (4,), CHANNELS, CHANNELS, 1e-3, False), {}), ((ROWS, (4,)), {"cudnn_enable": True})],
    torch.group_norm: [((IMAGE, 2, CHANNELS, None, 1e-3), {}), ((IMAGE, 2), {"cudnn_enabled": False})],
    torch.batch_norm: [
        ((IMAGE, CHANNELS, CHANNELS, MEAN, MEAN + 1, True, 0.1, 1e-3, False), {}),
        ((IMAGE, CHANNELS, CHANNELS, MEAN, MEAN + 2, False, 0.1, 1e-3, False), {}),
    ],
    torch.instance_norm: [((IMAGE, CHANNELS, None, None, None, True, 0.1, 1e-3, False), {})],
    torch.embedding: [((WEIGHT, INDICES), {}), ((WEIGHT, INDICES, 2, True), {}), ((WEIGHT,), {"indices": INDICES})],
    torch.dropout: [((ROWS, 0.5, True), {}), ((ROWS,), {"p": 0.5, "train": True})],
    torch.alpha_dropout: [((ROWS, 0.5, True), {})],
    torch.feature_alpha_dropout: [((ROWS, 0.5, True), {})],
    torch.max_pool1d: [((LINE, 2), {}), ((LINE, 3, [], 1, 1, True), {})],
    torch.max_pool2d: [((IMAGE, 2), {}), ((IMAGE, (3, 2), (1, 2)), {"padding": 1, "ceil_mode": True})],
    torch.max_pool3d: [((VOLUME, 2), {})],
    torch.max_pool1d_with_indices: [((LINE, 2), {})],
    torch.adaptive_max_pool1d: [((LINE, 2), {})],
    torch.binary_cross_entropy_with_logits: [
        ((ROWS, ROWS.detach().sigmoid()), {}),
        ((ROWS, ROWS.detach().sigmoid(), None, CHANNELS.detach().exp(), 0), {}),
    ],
    torch.cosine_embedding_loss: [((ROWS, WEIGHT[:3], SIGNS, 0.1, 2), {})],
    torch.hinge_embedding_loss: [((ROWS[:, 0], SIGNS, 0.3, 0), {}), ((ROWS[:, 0], SIGNS), {})],
    torch.margin_ranking_loss: [((ROWS[:, 0], ROWS[:, 1], SIGNS, 0.1, 1), {})],
    torch.poisson_nll_loss: [((ROWS, WEIGHT[:3].detach().exp(), True, True, 1e-8, 2), {})],
    torch.triplet_margin_loss: [((ROWS, WEIGHT[:3], WEIGHT[1:4], 0.9, 2, 1e-6, True, 0), {})],
    torch.rnn_tanh: [((normal(6, 3, 4), *recurrent_arguments(1, 1)), {})],
    torch.rnn_relu: [((normal(6, 3, 4), *recurrent_arguments(1, 1)), {})],
    torch.gru: [((normal(6, 3, 4), *recurrent_arguments(3, 1)), {})],
    torch.lstm: [((normal(6, 3, 4), *recurrent_arguments(4, 2)), {})],
    torch.rnn_tanh_cell: [(cell_arguments(1, 1), {})],
    torch.rnn_relu_cell: [(cell_arguments(1, 1), {})],
    torch.gru_cell: [(cell_arguments(3, 1), {})],
    torch.lstm_cell: [(cell_arguments(4, 2), {})],
    TF.log_softmax: [((ROWS, 1), {"dtype": torch.float64})],
    TF.softmax: [((ROWS,), {"dim": 1})],
    TF.sigmoid: [((ROWS,), {})],
    TF.tanh: [((ROWS,), {})],
    TF.rrelu: [((ROWS,), {"training": True})],
    TF.embedding: [((INDICES, WEIGHT, 1), {})],
    TF.embedding_bag: [((INDICES, WEIGHT), {"mode": "sum"})],
    TF.dropout: [((ROWS, 0.3), {}), ((ROWS, 0.3, False), {})],
    TF.dropout1d: [((LINE, 0.5), {})],
    TF.dropout2d: [((IMAGE, 0.5), {})],
    TF.dropout3d: [((VOLUME, 0.5), {})],
    TF.alpha_dropout: [((ROWS, 0.5, True), {})],
    TF.feature_alpha_dropout: [((ROWS, 0.5, True), {})],
    TF.affine_grid: [((normal(2, 2, 3), [2, 1, 3, 4]), {"align_corners": False})],
    TF.fold: [((normal(1, 8, 9), (4, 4), (2, 2)), {})],
    TF.lp_pool1d: [((LINE, 2.0, 2), {})],
    TF.lp_pool2d: [((IMAGE, 2.0, 2), {})],
    TF.lp_pool3d: [((VOLUME, 2.0, 2), {})],
    TF.upsample: [((IMAGE,), {"scale_factor": 2, "mode": "nearest"})],
    TF.fractional_max_pool2d: [((IMAGE, 2, 3), {})],
    TF.fractional_max_pool3d: [((VOLUME, 2, 2), {})],
    TF.scaled_dot_product_attention: [((IMAGE, IMAGE, IMAGE), {"is_causal": True})],
    TF.multi_head_attention_forward: [
        ((LINE.mT, LINE.mT, LINE.mT, 4, 2, normal(12, 4), normal(12), None, None, False, 0.0, normal(4, 4), None), {})
    ],
    **{
        getattr(TF, f"{name}_with_indices"): [((x, 2), {}), ((x, 2), {"return_indices": False})]
        for n, x in ((1, LINE), (2, IMAGE), (3, VOLUME))
        for name in (f"max_pool{n}d", f"adaptive_max_pool{n}d")
    },
    TF.fractional_max_pool2d_with_indices: [((IMAGE, 2, 3), {})],
    TF.fractional_max_pool3d_with_indices: [((VOLUME, 2, 2), {})],
}
IN_PLACE: dict[Callable[..., Any], tuple[Any, ...]] = {
    **dict.fromkeys((torch.relu_, Tensor.relu_, torch.sigmoid_, torch.tanh_, torch.selu_, torch.celu_), ()),
    **dict.fromkeys((TF.elu_, TF.hardtanh_, TF.leaky_relu_), ()),
    **dict.fromkeys((torch.dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_), (0.5, True)),
    torch.rrelu_: (0.1, 0.3, True),
    torch.threshold_: (0.1, 0.2),
}


def named(functions: Any) -> dict[str, Any]:
    return {"argvalues": list(functions), "ids": [interception._name(function) for function in functions]}


@pytest.mark.parametrize("function", **named(OTHERS))
def test_other_functions(function: Callable[..., Any]) -> None:
    for arguments in OTHERS[function]:
        agree(function, arguments, 1 if function is TF.embedding_bag else 2)  # the built-in has no second derivative


@pytest.mark.parametrize("function", **named(IN_PLACE))
def test_in_place(function: Callable[..., Any]) -> None:
    agree(cloning(function), ((ROWS, *IN_PLACE[function]), {}), 2)
    with torchbp.explicit(), pytest.raises(RuntimeError, match="leaf Variable"):
        function(ROWS, *IN_PLACE[function])


def test_the_tests_reach_the_whole_table() -> None:
    reached = {*OTHERS, *IN_PLACE, torch.einsum}
    for op in DATABASE:
        reached |= {one for one in (op.op, op.method_variant, op.inplace_variant) if one in ANSWERED}
    assert reached >= ANSWERED, [interception._name(f) for f in ANSWERED - reached]


# --------------------------------------------------------------------------------------------------
# Products


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        pytest.param(torch.matmul, [(3, 4), (4, 5)], marks=pytest.mark.slow),
        (torch.matmul, [(2, 1, 3, 4), (5, 4, 2)]),
        pytest.param(torch.matmul, [(3, 4), (2, 4, 5)], marks=pytest.mark.slow),
        pytest.param(torch.matmul, [(4,), (2, 4, 3)], marks=pytest.mark.slow),
        pytest.param(
            lambda bias, a, b: torch.addmm(bias, a, b, alpha=0.5), [(5,), (3, 4), (4, 5)], marks=pytest.mark.slow
        ),
        pytest.param(
            lambda a, b, c: torch.einsum("...i,ij,kj->...k", a, b, c),
            [(2, 3, 4), (4, 5), (2, 5)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["mm", "broadcast", "matrix by batch", "vector", "addmm", "einsum"],
)
def test_products_are_proved(function: Callable[..., Any], shapes: Sequence[Sequence[int]]) -> None:
    """The questions that every layer of torchbp answers."""
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    report = check(torchbp.explicit(function), inputs, reference=function, compile=False)
    report.assert_ok()


# --------------------------------------------------------------------------------------------------
# What the built-in must answer


class Wrapped(Tensor):
    """A subclass that handles functions itself, by what it wraps."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def bare(value: Any) -> Any:
            return value.as_subclass(Tensor) if isinstance(value, cls) else value

        return function(*map(bare, args), **{key: bare(value) for key, value in (kwargs or {}).items()}), "wrapped"


class Kept(Tensor):
    """A subclass that results keep."""


def left(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """Return the result in a block, and why it is the built-in's."""
    with torchbp.explicit() as calls:
        result = function(*args, **kwargs)
    assert not calls.explicit
    ((_, why),) = calls.left
    return result, why


def test_an_out_argument_is_filled() -> None:
    x, out = ROWS.detach(), torch.empty_like(ROWS)
    result, why = left(torch.sigmoid, x, out=out)
    assert result is out and why == "out= is given"
    assert torch.equal(out, x.sigmoid())
    with torchbp.explicit(), pytest.raises(RuntimeError, match="out="):
        torch.matmul(ROWS, ROWS.T, out=torch.empty(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ROWS.detach().relu().to_sparse(), "a sparse_coo tensor"),
        (lambda: torch.quantize_per_tensor(ROWS.detach().float(), 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda: torch.nested.nested_tensor([ROWS.detach(), WEIGHT.detach()]), "a nested tensor"),
        (lambda: ROWS.as_subclass(Kept), "a Kept"),
    ],
    ids=["sparse", "quantized", "nested", "subclass"],
)
def test_tensors_that_are_not_plain(make: Callable[[], Tensor], why: str) -> None:
    x = make()
    result, reason = left(torch.relu, x)
    assert reason == why
    assert type(result) is type(x) and result.layout == x.layout and result.is_quantized == x.is_quantized


def test_a_list_of_tensors_is_looked_into() -> None:
    _, why = left(torch.einsum, "ij,kj->ik", [ROWS, WEIGHT.as_subclass(Kept)])
    assert why == "a Kept"


def test_a_subclass_handles_functions_inside_the_block() -> None:
    """It takes part, and what it calls is answered."""
    x = ROWS.as_subclass(Wrapped)
    with torchbp.explicit() as calls:
        by_method, by_function, by_operator = x.relu(), TF.relu(x), x @ ROWS.T
    assert [one[1] for one in (by_method, by_function, by_operator)] == ["wrapped"] * 3
    assert calls.explicit == {"Tensor.relu": 1, "torch.nn.functional.relu": 1, "Tensor.matmul": 1}
    assert all("ReluBackward" not in nodes(one[0]) for one in (by_method, by_function))


def test_lazy_modules() -> None:
    """Their parameters are a subclass that handles functions and hands them on."""
    with torchbp.explicit() as calls:
        result = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.LazyBatchNorm1d()).double()(ROWS)
    assert not nodes(result) and calls.explicit.total() == 2


def test_symbolic_traces_hold_the_calls() -> None:
    with torchbp.explicit() as calls:
        graph = torch.fx.symbolic_trace(lambda x: TF.gelu(x) @ x.T)
        assert not calls.explicit
        assert not nodes(graph(ROWS))
    assert nodes(graph(ROWS))


def test_exported_programs_hold_the_operators() -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return TF.max_pool2d(TF.conv2d(x, w), 2)

    with torchbp.explicit():
        program = torch.export.export(Network(), (IMAGE, normal(3, 4, 3, 3)))
    called = {str(node.target) for node in program.graph.nodes}
    assert {"torchbp.convolution.default", "torchbp.max_pool.default"} <= called


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (torch.matmul, (torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64))),
        (torch.einsum, ("ii->i", normal(3, 3))),
        (torch.einsum, ("ij,jk->ik", normal(2, 1), normal(3, 2))),
        (torch.rrelu, (ROWS, 0.1, 0.3, True, None)),
    ],
    ids=["integers", "diagonal", "broadcast label", "generator"],
)
def test_arguments_of_no_layer(function: Callable[..., Any], arguments: Any) -> None:
    """What no explicit backward serves is the built-in's."""
    torch.manual_seed(0)
    expected = function(*arguments)
    torch.manual_seed(0)
    result, _ = left(function, *arguments)
    assert torch.equal(result, expected)


def test_recurrent_layers_that_record_nothing_are_the_built_in() -> None:
    """As in torchbp's modules: then it keeps nothing either."""
    with torch.no_grad():
        result, _ = left(torch.lstm, normal(6, 3, 4), *recurrent_arguments(4, 2)[:4], 0.0, False, True, False)
    assert result[0].shape == (6, 3, 10)


def test_integers_are_not_overwritten_by_fractions() -> None:
    for function in (torch.sigmoid_, Tensor.tanh_):
        with torchbp.explicit(), pytest.raises(RuntimeError, match="can't be cast"):
            function(torch.zeros(2, dtype=torch.int64))


def test_dtypes_that_differ_raise_what_the_built_in_raises() -> None:
    for function in (torch.matmul, torch.mm, Tensor.__matmul__):
        expected = raised(lambda function=function: function(ROWS, ROWS.float().T))
        with torchbp.explicit():
            assert raised(lambda function=function: function(ROWS, ROWS.float().T)) is expected is not None


# --------------------------------------------------------------------------------------------------
# Where the block reaches


def network(x: Tensor) -> Tensor:
    """Return a number, through a function, a method, a product and a module."""
    return (TF.gelu(TF.layer_norm(x, (4,))) @ WEIGHT.T).softmax(-1).pow(2).sum()


BUILT_IN = {"GeluBackward", "NativeLayerNormBackward", "MmBackward", "SoftmaxBackward"}


def test_only_the_block() -> None:
    with torchbp.explicit():
        inside = network(ROWS)
    assert not nodes(inside) & BUILT_IN
    assert nodes(network(ROWS)) >= BUILT_IN


def test_exceptions_leave_the_block() -> None:
    with pytest.raises(ZeroDivisionError), torchbp.explicit(), torchbp.explicit():
        TF.relu(ROWS)
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="linear"), torchbp.explicit():
        TF.linear(ROWS, LINE)
    assert nodes(network(ROWS)) >= BUILT_IN


def test_blocks_nest_and_an_object_is_entered_again() -> None:
    block = torchbp.explicit()
    with block as outer:
        TF.relu(ROWS)
        with block as inner, torchbp.explicit() as innermost:
            TF.gelu(ROWS)
        assert len(_get_current_function_mode_stack()) == 1
        TF.relu(ROWS)
    assert innermost.explicit == inner.explicit == {"torch.nn.functional.gelu": 1}
    assert outer.explicit == {"torch.nn.functional.gelu": 1, "torch.nn.functional.relu": 2}


def test_other_modes_stay_where_they_are() -> None:
    """A mode entered inside and left later than the block is not lost; the default device is one."""

    class Other(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return function(*args, **(kwargs or {}))

    block, other = torchbp.explicit(), Other()
    block.__enter__()
    other.__enter__()
    result = TF.relu(ROWS)
    block.__exit__(None, None, None)
    assert _get_current_function_mode_stack() == [other] and other.seen and not nodes(result) & {"ReluBackward"}
    other.__exit__(None, None, None)
    with torch.device("meta"), torchbp.explicit():
        assert (torch.ones(2, 3, requires_grad=True) @ torch.ones(3, 2)).device.type == "meta"


def test_threads_are_apart() -> None:
    entered, done, found = threading.Event(), threading.Event(), []

    def other() -> None:
        entered.wait(10)
        found.append(nodes(network(ROWS)) >= BUILT_IN)
        with torchbp.explicit() as calls:
            found.append(not nodes(network(ROWS)) & BUILT_IN)
        found.append(sum(calls.explicit.values()) == 4)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with torchbp.explicit() as calls:
        entered.set()
        done.wait(10)
        assert not nodes(network(ROWS)) & BUILT_IN
    thread.join()
    assert found == [True] * 3 and sum(calls.explicit.values()) == 4


def test_a_block_is_left_where_it_was_entered() -> None:
    errors = []

    def leave() -> None:
        try:
            block.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(str(error))

    with torchbp.explicit() as calls:
        block = torchbp.explicit()
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        TF.relu(ROWS)
    assert errors == ["explicit(): a block must be left in the thread that entered it"] and calls.explicit


def test_hooks_and_functions_of_others() -> None:
    """Modules, their hooks, hooks of gradients, and what a Function computes."""

    class Squared(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            with torch.enable_grad():
                seen.append(nodes(TF.relu(x)))
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            seen.append(nodes(TF.relu(ROWS)))
            return g

    seen: list[set[str]] = []
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).double()
    module[0].register_forward_hook(lambda module, args, output: TF.gelu(output))
    module.register_full_backward_hook(lambda module, gx, gy: seen.append(nodes(TF.gelu(ROWS))))
    with torchbp.explicit() as calls:
        y = module(ROWS.clone())
        y.register_hook(lambda g: seen.append(nodes(TF.gelu(ROWS))))
        z = Squared.apply(y)
        z.sum().backward()
    assert len(seen) == 4
    assert not {name for names in (*seen, nodes(y)) for name in names} & {*BUILT_IN, "AddmmBackward", "TanhBackward"}
    assert calls.explicit["torch.nn.functional.gelu"] == 3
    assert calls.explicit["torch.nn.functional.linear"] == calls.explicit["torch.tanh"] + calls.explicit["Tensor.tanh"]


def test_functions_that_call_others() -> None:
    """What they call is answered, and counted in their place."""
    torch.manual_seed(0)
    with torchbp.explicit() as calls:
        result = TF.gumbel_softmax(ROWS)
    assert calls.explicit == {"Tensor.softmax": 1} and "torch.nn.functional.gumbel_softmax" not in calls.built_in
    torch.manual_seed(0)
    torch.testing.assert_close(result, TF.gumbel_softmax(ROWS))


def test_torchbp_itself_is_not_answered() -> None:
    """What torchbp's layers call, forward and backward, is no call of the code in the block."""
    layer = torchbp.nn.Linear(4, 3).double()
    with torchbp.explicit() as calls, torch.device("cpu"):  # which is a mode between
        loss = torchbp.nn.functional.cross_entropy(layer(ROWS), torch.tensor([0, 1, 2]))
        (gradient,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        gradient.sum().backward()
    assert not calls.explicit and not calls.left


def test_modes_do_not_see_the_backward_pass() -> None:
    """As they do not see that of a built-in, though torchbp's is written in Python; hooks they see."""

    class Seen(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(interception._name(function))
            with self:
                return redispatch_function(function, types, args, kwargs or {})

    names: list[str] = []
    x = ROWS.clone()
    y = torchbp.explicit(network)(x)
    x.register_hook(lambda g: g.neg())
    with Seen():
        torch.autograd.backward(y)
    inside = names[names.index("torch.autograd.backward") + 1 :]
    assert "Tensor.neg" in inside and not {"torch.matmul", "Tensor.mT", "Tensor.is_complex"} & set(inside), inside


def test_the_fused_layer_of_transformers_is_not_taken() -> None:
    layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dtype=torch.float64).eval()
    expected = layer(LINE.mT)
    with torch.no_grad(), torchbp.explicit() as calls:
        result = layer(LINE.mT)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert calls.explicit["torch.nn.functional.multi_head_attention_forward"] == 1


def test_workers_of_a_loader() -> None:
    """A worker that is forked inside the block is inside it; its results are the same anyhow."""
    data = torch.utils.data.StackDataset(list(ROWS.detach()))
    with torchbp.explicit():
        for workers in (0, 1):
            loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=workers, collate_fn=_collated)
            (batch,) = loader
            torch.testing.assert_close(batch, TF.gelu(ROWS.detach()), rtol=1e-12, atol=1e-12)


def _collated(rows: list[tuple[Tensor]]) -> Tensor:
    return TF.gelu(torch.stack([one[0] for one in rows]))


# --------------------------------------------------------------------------------------------------
# The decorator


def test_decorated_functions_and_methods() -> None:
    class Model:
        @torchbp.explicit
        def call(self, x: Tensor, *, scale: float = 1) -> Tensor:
            """Compute."""
            return network(x) * scale

    for function in (torchbp.explicit(network), torchbp.explicit()(network), Model().call):
        assert not nodes(function(ROWS)) & BUILT_IN
    assert Model.call.__doc__ == "Compute." and "scale" in inspect.signature(Model.call).parameters
    assert nodes(network(ROWS)) >= BUILT_IN


def test_decorated_generators_run_in_the_block_step_by_step() -> None:
    @torchbp.explicit
    def steps(x: Tensor) -> Iterator[Tensor]:
        while True:
            x = yield TF.gelu(x)

    generator = steps(ROWS)
    assert not nodes(next(generator)) & BUILT_IN
    assert nodes(TF.gelu(ROWS)) & BUILT_IN
    assert not nodes(generator.send(WEIGHT)) & BUILT_IN
    generator.close()


def test_decorated_coroutines_leave_other_tasks_alone() -> None:
    @torchbp.explicit
    async def inside() -> list[set[str]]:
        return [nodes(TF.gelu(ROWS)) for _ in range(3) if await asyncio.sleep(0) is None]

    async def outside() -> list[set[str]]:
        return [nodes(TF.gelu(ROWS)) for _ in range(3) if await asyncio.sleep(0) is None]

    async def both() -> Any:
        return await asyncio.gather(inside(), outside(), inside())

    first, second, third = asyncio.run(both())
    assert not any(names & BUILT_IN for names in (*first, *third)) and all(names & BUILT_IN for names in second)


@pytest.mark.parametrize("thing", [torch.nn.Linear, 3, None])
def test_what_cannot_be_decorated(thing: Any) -> None:
    with pytest.raises(TypeError, match="explicit"):
        torchbp.explicit()(thing)


# --------------------------------------------------------------------------------------------------
# Checkpoints, torch.func, autocast, torch.compile


def double_checkpoint(x: Tensor) -> Tensor:
    return checkpoint(lambda y: checkpoint(network, y * 2, use_reentrant=False) * 3, x, use_reentrant=False)


@pytest.mark.parametrize("backward_inside", (True, False), ids=("backward inside", "backward outside"))
@pytest.mark.parametrize("reentrant", (True, False, "nested"), ids=("reentrant", "not reentrant", "nested"))
def test_checkpoints(reentrant: Any, backward_inside: bool) -> None:
    """What is computed again is computed as it was first, wherever the backward pass runs."""
    function = double_checkpoint if reentrant == "nested" else checkpointed(reentrant)
    x = copied(ROWS)
    (expected,) = torch.autograd.grad(function(x) if reentrant is not True else network(x), x)
    with torchbp.explicit() as calls:
        loss = function(x)
        before = calls.explicit.total()
        if backward_inside:
            loss.backward()
    assert before == 4
    if backward_inside:
        assert calls.explicit.total() >= 7 and not calls.left  # the last one stops when all is saved again
    else:
        loss.backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-11, atol=1e-12)


def checkpointed(reentrant: bool) -> Callable[[Tensor], Tensor]:
    return lambda x: checkpoint(network, x, use_reentrant=reentrant)


def test_a_checkpoint_of_built_ins_stays_theirs() -> None:
    x = copied(ROWS)
    loss = checkpointed(False)(x)
    with torchbp.explicit() as calls:
        loss.backward()
    assert not calls.explicit
    assert {why for _, why in calls.left} == {"it computes again what built-ins computed"}
    torch.testing.assert_close(x.grad, torch.autograd.grad(network(x), x)[0], rtol=1e-11, atol=1e-12)


def test_checkpoint_contexts() -> None:
    """The documented way to say it, with checks of what is saved."""
    x = copied(ROWS)
    loss = checkpoint(network, x, use_reentrant=False, context_fn=lambda: (torchbp.explicit(), torchbp.explicit()))
    loss.backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(network(x), x)[0], rtol=1e-11, atol=1e-12)


def test_a_checkpoint_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(x: Tensor) -> Tensor:
        return x

    pack.__module__ = "torch.utils.checkpoint"
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torchbp.explicit():
        with pytest.raises(RuntimeError, match="context_fn"):
            TF.relu(ROWS)


def test_transforms_inside_and_outside() -> None:
    x = ROWS.detach()
    transforms: list[Callable[[Any], Any]] = [
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.vmap(torch.func.grad(f))(x[:, None]),
        lambda f: torch.func.hessian(f)(x),
        lambda f: torch.func.jvp(f, (x,), (x,))[1],
    ]
    for transform in transforms:
        expected = transform(network)
        with torchbp.explicit() as calls:
            inside = transform(network)
        outside = transform(torchbp.explicit(network))
        assert calls.explicit.total() == 4 and not calls.left
        for found in (inside, outside):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_autocast_casts_what_it_casts() -> None:
    x, w = ROWS.detach().float(), WEIGHT.detach().float()
    calls: dict[str, Callable[[], Tensor]] = {
        "matmul": lambda: x @ w.T,
        "mm": lambda: torch.mm(x, w.T),
        "bmm": lambda: torch.bmm(x[None], w.T[None]),
        "mv": lambda: torch.mv(x, w[0]),
        "dot": lambda: torch.dot(x[0], w[0]),
        "vector": lambda: x @ w[0],
        "addmm": lambda: torch.addmm(w[:, 0], x, w.T),
        "baddbmm": lambda: torch.baddbmm(x[None], x[None], w[None, :4, :4]),
        "einsum": lambda: torch.einsum("ij,kj->ik", x, w),
        "linear": lambda: TF.linear(x, w),
        "softmax": lambda: x.softmax(-1),
        "sigmoid": lambda: torch.sigmoid(x),
        "layer_norm": lambda: torch.layer_norm(x, (4,)),
    }
    with torch.autocast("cpu"):
        expected = {name: call() for name, call in calls.items()}
        with torchbp.explicit():
            found = {name: call() for name, call in calls.items()}
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        torch.testing.assert_close(found[name], value, rtol=1e-5 if value.dtype == torch.float32 else 0.02, atol=0.02)


def explicit_applications(graphs: list[torch.fx.GraphModule]) -> int:
    return sum(str(node.target) == "autograd_function_apply" for graph in graphs for node in graph.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("full", (True, False), ids=("fullgraph", "with breaks"))
@pytest.mark.parametrize("where", ("around", "within", "decorated", "both"))
def test_compiled(where: str, full: bool) -> None:
    """torch.compile traces the block, and what is answered in it, wherever the block stands."""

    def within(x: Tensor) -> Tensor:
        with torchbp.explicit():
            return network(x)

    function = {"around": network, "within": within, "decorated": torchbp.explicit(network), "both": within}[where]
    graphs: list[torch.fx.GraphModule] = []
    torch._dynamo.reset()

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(function, backend=backend, fullgraph=full)
    if where in ("around", "both"):
        with torchbp.explicit():
            loss = compiled(ROWS)
    else:
        loss = compiled(ROWS)
    assert len(graphs) == 1 and explicit_applications(graphs) == 4
    torch.testing.assert_close(*(torch.autograd.grad(y, ROWS) for y in (loss, network(ROWS))), rtol=1e-11, atol=1e-12)
    if where == "around":
        assert nodes(network(ROWS)) >= BUILT_IN
        compiled(ROWS)  # outside the block, so traced anew
        assert len(graphs) == 2 and explicit_applications(graphs) == 4


@pytest.mark.slow
def test_compiled_transforms_are_right_or_refused() -> None:
    x = ROWS.detach()
    torch._dynamo.reset()
    with torchbp.explicit():
        with pytest.raises(Exception, match="drops the backward pass"):
            torch.compile(lambda x: torch.func.grad(network)(x), backend="aot_eager", fullgraph=True)(x)
        found = torch.compile(lambda x: torch.func.grad(network)(x), backend="aot_eager")(x)
    torch.testing.assert_close(found, torch.func.grad(network)(x), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_compiled_checkpoint() -> None:
    torch._dynamo.reset()
    with torchbp.explicit():
        loss = torch.compile(checkpointed(False), backend="aot_eager", fullgraph=True)(ROWS)
    torch.testing.assert_close(*(torch.autograd.grad(y, ROWS) for y in (loss, network(ROWS))), rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_by_jit() -> None:
    """A trace holds torchbp's Functions."""
    with torchbp.explicit():
        traced = torch.jit.trace(lambda x, w: TF.relu(x) @ w, (ROWS, WEIGHT.T), check_trace=False)
    result = traced(ROWS, WEIGHT.T)
    assert not nodes(result) & {"ReluBackward", "MmBackward"}
    torch.testing.assert_close(result, TF.relu(ROWS) @ WEIGHT.T)


# --------------------------------------------------------------------------------------------------
# The report


def test_the_report_says_what_was_called() -> None:
    with torchbp.explicit() as calls:
        x = TF.relu(ROWS).view(4, 3)
        y = torch.max_pool2d(IMAGE, 2).exp() + TF.max_pool2d(IMAGE, 2)
        torch.special.expit(x).mul(2)
        TF.relu(ROWS.as_subclass(Kept))
        with torch.no_grad():
            y.sin()
    assert calls.explicit == {
        "torch.nn.functional.relu": 1,
        "torch.max_pool2d": 1,
        "torch.nn.functional.max_pool2d": 1,
        "torch.special.expit": 1,
    }
    assert calls.built_in == {"Tensor.exp": 1, "Tensor.add": 1, "Tensor.mul": 1}
    assert calls.left == {("torch.nn.functional.relu", "a Kept"): 1}
    assert "explicit: 4 calls" in str(calls) and "torch.nn.functional.relu: a Kept" in str(calls)


# --------------------------------------------------------------------------------------------------
# Models of other packages

# What the built-in computes there in a block, and no layer of torchbp does.
REMAINING = {name.removesuffix("Backward") for name in ARITHMETIC} | {
    *("Clamp", "Exp", "Gather", "Index", "Logsumexp", "MaskedFill", "Pow", "Roll", "Rsqrt"),
    "WeightNormInterface",
}


class Wide(TorchFunctionMode):
    """Compute in float64 what a model casts to float32, where no more digits could be compared."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        function = Tensor.double if function is Tensor.float else function
        return function(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


@pytest.mark.slow
def test_real_models(row: RealModel) -> None:  # noqa: F811
    """Loss and gradients to 1e-9 in a block, converted or not, and what remains is arithmetic for the most part."""
    model, batch = row.build(), row.inputs()
    with Wide():
        expected, sought = gradients(row, model, batch)
    for converted in (False, True):
        if converted:
            torchbp.convert(model)
        with torchbp.explicit() as calls, Wide():
            loss, found = gradients(row, model, batch)
            remaining = built_in(row.step(model, batch))
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        worst, name = relative_difference(found, sought)
        assert worst <= 1e-9, (name, worst)
        assert remaining.keys() <= REMAINING, remaining
        assert not calls.left, calls
