"""Calls that explicit() answers: values, derivatives, whose nodes they leave, and where the block reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from conformance_page import built_in_nodes
from test_conformance import (
    REFUSED,
    SWAPPED,
    Case,
    comparable,
    derivatives,
    equal,
    order_of,
    raised,
    spread,  # noqa: F401  (a fixture)
    tolerance_of,
)
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves

import torchbp
from torchbp import interception
from torchbp.testing import check

ANSWERED = set(interception._TABLE)
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


def nodes(*outputs: Any) -> set[str]:
    """Return the names of all nodes of a graph, without numbers."""
    found: dict[Any, str] = {}
    waiting = [t.grad_fn for t in tree_leaves(outputs) if isinstance(t, Tensor)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = node.name().rpartition("::")[2].rstrip("0123456789")
            waiting += [further for further, _ in node.next_functions]
    return set(found.values())


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
        graphs.append(built_in_nodes(result))
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
    return {"argvalues": ops, "ids": [f"{op.name}-{op.variant_test_name}".strip("-") for op in ops]}


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
