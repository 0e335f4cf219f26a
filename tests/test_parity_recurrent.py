"""Recurrent modules and cells against torch.nn's, for arguments drawn by Hypothesis; see parity.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as builtin
from hypothesis import given
from hypothesis import strategies as st
from parity import arranged, normal, parity, seeds, set_seed
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from torchbp import nn
from torchbp.autograd.recurrent import LSTM
from torchbp.costs.graph import built_in_nodes
from torchbp.nn.functional.recurrent import recurrent, step

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
LAYERS = ("RNN", "LSTM", "GRU")


@st.composite
def layer_arguments(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(LAYERS))
    hidden, layers = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    options: dict[str, Any] = {
        "num_layers": layers,
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dropout": draw(st.sampled_from((0.0, 0.4))) if layers > 1 else 0.0,
    }
    if name == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(("tanh", "relu")))
    if name == "LSTM" and hidden > 1:
        options["proj_size"] = draw(st.integers(0, hidden - 1))
    how = draw(st.sampled_from(("batched", "unbatched", "packed", "packed unsorted")))
    return {
        "name": name,
        "sizes": (draw(st.integers(1, 4)), hidden),
        "options": options,
        "how": how,
        "lengths": draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)),
        "states": draw(st.booleans()),
        "dtype": draw(st.sampled_from((torch.float64, torch.float32))),
        "layout": draw(st.sampled_from(("contiguous", "permuted", "strided"))),
        "training": draw(st.booleans()),
        "seed": draw(seeds),
    }


@given(layer_arguments())
def test_layers(arguments: dict[str, Any]) -> None:
    name, options, how, seed = (arguments[key] for key in ("name", "options", "how", "seed"))
    dtype, lengths = arguments["dtype"], arguments["lengths"]
    if how == "packed":
        lengths = sorted(lengths, reverse=True)
    modules = []
    for place in (nn, builtin):
        set_seed(seed)
        modules.append(getattr(place, name)(*arguments["sizes"], **options).train(arguments["training"]))
    features, hidden = arguments["sizes"]
    batch, steps = len(lengths), max(lengths)
    shape: tuple[int, ...] = (batch, steps, features) if options["batch_first"] else (steps, batch, features)
    if how == "unbatched":
        shape = (steps, features)
    count = options["num_layers"] * (2 if options["bidirectional"] else 1)
    lead = (count,) if how == "unbatched" else (count, batch)
    states = [normal((*lead, options.get("proj_size", 0) or hidden), seed + 1, dtype)] if arguments["states"] else []
    states += [normal((*lead, hidden), seed + 2, dtype)] if states and name == "LSTM" else []
    state = {key: value.detach() for key, value in modules[0].state_dict().items()}

    def of(module: torch.nn.Module) -> Callable[..., Any]:
        def call(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            given: Any = x
            if how.startswith("packed"):
                given = pack_padded_sequence(x, lengths, options["batch_first"], how == "packed")
            first = rest[: len(states)]
            hx = None if not first else tuple(first) if name == "LSTM" else first[0]
            parameters = dict(zip(state, rest[len(states) :], strict=True))
            set_seed(seed)
            y, last = torch.func.functional_call(module, parameters, (given, hx))
            return (y.data if how.startswith("packed") else y, *(last if name == "LSTM" else (last,)))

        return call

    parameters = [value.to(dtype) for value in state.values()]
    x = arranged(normal(shape, seed + 3, dtype), arguments["layout"])
    terms = 8 * steps * batch * (hidden + features) * options["num_layers"] * 4
    parity(of(modules[0]), of(modules[1]), x, *states, *parameters, terms=terms, seed=seed, keep_layout=True)


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("given_states", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name: str, bias: bool, given_states: bool, unbatched: bool) -> None:
    results = []
    lead = () if unbatched else (3,)
    for place in (nn, builtin):
        set_seed(0)
        module = getattr(place, name)(4, 5, bias=bias).double()
        x, h, c = (normal((*lead, size), i).requires_grad_() for i, size in enumerate((4, 5, 5)))
        found = module(x, None if not given_states else (h, c) if name == "LSTMCell" else h)
        outputs = list(found) if isinstance(found, tuple) else [found]
        leaves = [x, *module.parameters(), *((h, c)[: len(outputs)] if given_states else ())]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, [normal(y.shape, 9) for y in outputs])])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("frozen", [(), ("weight_ih", "bias_hh"), ("weight_hh", "weight_ih", "bias_ih", "bias_hh")])
def test_an_lstm_cell_goes_back_from_either_state(used: tuple[int, ...], frozen: tuple[str, ...]) -> None:
    for order in (1, 2):
        results = []
        for place in (nn, builtin):
            torch.manual_seed(0)
            module = place.LSTMCell(4, 5).double()
            for name in frozen:
                getattr(module, name).requires_grad_(False)
            x, h, c = (normal((3, size), i).requires_grad_(i != 1) for i, size in enumerate((4, 5, 5)))
            outputs = [module(x, (h, c))[i] for i in used]
            leaves = [x, c, *(p for p in module.parameters() if p.requires_grad)]
            found = torch.autograd.grad(
                outputs, leaves, [normal(y.shape, 9) for y in outputs], create_graph=order == 2, allow_unused=True
            )
            if order == 2:
                total = sum(g.square().sum() for g in found if g is not None)
                found = torch.autograd.grad(total, leaves, allow_unused=True)
            results.append([torch.zeros(()).double() if g is None else g for g in found])
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs.expand_as(mine), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_graphs_hold_our_functions_only(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        module = getattr(nn, name)(3, 4, num_layers=2, bidirectional=True).to(dtype)
        y = module(torch.randn(5, 2, 3, dtype=dtype))[0]
        assert set(built_in_nodes([y])) <= {"AccumulateGrad", "CatBackward"}, dtype


def test_states_come_back_in_the_order_given() -> None:
    sequences = [normal((n, 3), n) for n in (2, 5, 1)]
    module = nn.GRU(3, 4, bidirectional=True).double()
    _, last = module(pack_sequence(sequences, enforce_sorted=False))
    for i, one in enumerate(sequences):
        torch.testing.assert_close(last[:, i], module(one)[1])


@pytest.mark.parametrize("name", LAYERS)
def test_the_second_derivative_in_float32(name: str) -> None:
    """The built-in LSTM has none: its operator of oneDNN is differentiable once."""
    results = []
    for dtype in (torch.float32, torch.float64):
        set_seed(0)
        module = getattr(nn, name)(3, 4, bidirectional=True).to(dtype)
        x = normal((4, 2, 3), 1, dtype).requires_grad_()
        (g,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        results.append([v.double() for v in torch.autograd.grad(g.square().sum(), [x, *module.parameters()])])
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Of parameters and states of other shapes the operators that compute a layer read out of bounds."""
    good: dict[str, tuple[int, ...]] = {"h": (1, 2, 4), "c": (1, 2, 4), "w_ih": (16, 3), "w_hh": (16, 4)}
    good |= {"b_ih": (16,), "b_hh": (16,)}
    for name, shape in good.items():
        for axis in range(len(shape)):
            bad = {**good, name: (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])}
            h, c, *parameters = (torch.zeros(size) for size in bad.values())
            with pytest.raises(RuntimeError, match=r"must have"):
                recurrent(LSTM(), torch.zeros(5, 2, 3), h, c, [*parameters, None])
            if name not in ("h", "c"):
                with pytest.raises(RuntimeError, match=r"must have"):
                    step(LSTM(), torch.zeros(2, 3), h[0], c[0], *parameters)
    h, c, *parameters = (torch.zeros(size) for size in good.values())
    assert recurrent(LSTM(), torch.zeros(5, 2, 3), h, c, [*parameters, None])[0].shape == (5, 2, 4)
