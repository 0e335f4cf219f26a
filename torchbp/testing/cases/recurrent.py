"""Cases of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.recurrent import GRU, LSTM, RNN, Cell
from torchbp.nn.functional.recurrent import recurrent, step
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

_STEPS, _BATCH, _IN, _HIDDEN, _PROJECTED = 2, 2, 1, 2, 1
_PACKED = (2, 1)  # the rows of each step, of two sequences of two steps and one
_KINDS: dict[str, tuple[Cell, Callable[..., Any]]] = {
    "rnn": (RNN(False), torch.rnn_tanh),
    "rnn[relu]": (RNN(True), torch.rnn_relu),
    "gru": (GRU(), torch.gru),
    "lstm": (LSTM(), torch.lstm),
}
_CELLS: dict[str, Callable[..., Any]] = {
    "rnn": torch.rnn_tanh_cell,
    "rnn[relu]": torch.rnn_relu_cell,
    "gru": torch.gru_cell,
    "lstm": torch.lstm_cell,
}


def _workspace(x: Tensor) -> int:
    """Return the bytes of the workspace of oneDNN's LSTM in one direction."""
    w = [x.new_zeros(4 * _HIDDEN, n) for n in (_IN, _HIDDEN)] + [x.new_zeros(4 * _HIDDEN)] * 2
    states = [x.new_zeros(x.shape[1], _HIDDEN)] * 2
    call = torch.ops.aten.mkldnn_rnn_layer.default
    return bytes_of(call(x.detach(), *w, *states, False, [], 2, _HIDDEN, 1, True, False, False, True)[3])


def _case(
    kind: str, name: str, directions: int = 1, bias: bool = True, projected: bool = False, packed: bool = False
) -> LayerCase:
    cell, builtin = _KINDS[kind]
    gates = cell.gate_count
    out = _PROJECTED if projected else _HIDDEN
    shapes: list[tuple[int, ...]] = [(gates * _HIDDEN, _IN), (gates * _HIDDEN, out)]
    shapes += [(gates * _HIDDEN,)] * 2 if bias else []
    shapes += [(out, _HIDDEN)] if projected else []
    states = [(directions, _BATCH, out)] + ([(directions, _BATCH, _HIDDEN)] if cell.has_cell_state else [])
    lead = (sum(_PACKED),) if packed else (_STEPS, _BATCH)
    inputs = [draw(*lead, _IN), *(draw(*s, seed=1 + i) * 0.5 for i, s in enumerate(states))]
    inputs += [draw(*s, seed=5 + 10 * d + i) * 0.4 for d in range(directions) for i, s in enumerate(shapes)]
    first, count = 1 + len(states), len(shapes)

    def mine(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        parameters: list[Tensor | None] = []
        for d in range(directions):
            own = rest[len(states) + d * count : len(states) + (d + 1) * count]
            biases = own[2:4] if bias else (None, None)
            parameters += [*own[:2], *biases, own[-1] if projected else None]
        c = rest[1] if cell.has_cell_state else None
        return recurrent(cell, x, rest[0], c, parameters, _PACKED if packed else None)

    def theirs(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        start = tuple(rest[: len(states)]) if cell.has_cell_state else rest[0]
        options = (list(rest[len(states) :]), bias, 1, 0.0, True, directions == 2)
        fixed = inputs if packed else inputs[first:]
        if [t.shape for t in (x, *rest)[-len(fixed) :]] != [t.shape for t in fixed]:
            raise ValueError("the built-in reads weights of other shapes out of bounds")
        if packed:
            return builtin(x, torch.tensor(_PACKED), start, *options)
        return builtin(x, start, *options, False)

    def saved(*tensors: Tensor) -> int:
        x, parameters = tensors[0], tensors[first:]
        rows = lead[0] if packed else _STEPS * _BATCH
        y = rows * out * directions * 4
        if isinstance(cell, RNN):  # neither biases nor gates
            return bytes_of(*tensors[:2], *(p for p in parameters if p.dim() == 2)) + y
        if cell.has_cell_state and not packed and not projected:  # the workspaces and the last cell states
            states = bytes_of(*tensors[1:3]) // directions  # views of one tensor, which count once
            kept = bytes_of(x, *parameters) + states
            return kept + y + directions * (_workspace(x) + _BATCH * _HIDDEN * 4)
        return bytes_of(*tensors) + y + rows * gates * _HIDDEN * 4 * directions

    def shapes_of(kind: str) -> list[Tensor] | None:
        if packed or kind == "unbatched":
            return None
        count = 0 if kind == "empty_batch" else 1
        return [*(t[:, :count] for t in inputs[:first]), *inputs[first:]]

    subject = Subject(mine, tuple(inputs), theirs, saved=saved, names=("x", "h", "c")[:first], shapes=shapes_of)
    return LayerCase(kind.split("[")[0], name, subject)


def _cell_case(kind: str, name: str) -> LayerCase:
    cell, _ = _KINDS[kind]
    gates = cell.gate_count
    states = 2 if cell.has_cell_state else 1
    shapes: list[tuple[int, ...]] = [(_BATCH, _IN), *[(_BATCH, _HIDDEN)] * states]
    shapes += [(gates * _HIDDEN, _IN), (gates * _HIDDEN, _HIDDEN), (gates * _HIDDEN,), (gates * _HIDDEN,)]

    def mine(x: Tensor, h: Tensor, *rest: Tensor) -> Any:
        new = step(cell, x, h, rest[0] if cell.has_cell_state else None, *rest[states - 1 :])
        return new if cell.has_cell_state else new[0]

    def theirs(x: Tensor, h: Tensor, *rest: Tensor) -> Any:
        return _CELLS[kind](x, (h, rest[0]) if cell.has_cell_state else h, *rest[states - 1 :])

    def saved(*tensors: Tensor) -> int:
        if isinstance(cell, RNN):  # the new state, and no biases
            return bytes_of(*(t for t in tensors if t.dim() == 2)) + _BATCH * _HIDDEN * 4
        return bytes_of(*tensors) + _BATCH * (gates + 1) * _HIDDEN * 4

    inputs = tuple([draw(*s, seed=i) * 0.5 for i, s in enumerate(shapes)])
    batched = tuple(range(1 + states))
    return LayerCase(f"{kind.split('[')[0]}_cell", name, Subject(mine, inputs, theirs, saved=saved, batched=batched))


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    return [
        _case("rnn", "rnn"),
        _case("rnn[relu]", "rnn[relu, both directions, no bias]", directions=2, bias=False),
        _case("gru", "gru"),
        _case("gru", "gru[both directions, no bias, packed]", directions=2, bias=False, packed=True),
        _case("lstm", "lstm"),
        _case("lstm", "lstm[projected, both directions, packed]", directions=2, projected=True, packed=True),
        _cell_case("rnn", "rnn_cell"),
        _cell_case("rnn[relu]", "rnn_cell[relu]"),
        _cell_case("gru", "gru_cell"),
        _cell_case("lstm", "lstm_cell"),
    ]
