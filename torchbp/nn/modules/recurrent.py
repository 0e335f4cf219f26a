"""Recurrent layers and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from torchbp.autograd.function import is_exporting, records_derivative
from torchbp.autograd.recurrent import GRU as GRUSteps
from torchbp.autograd.recurrent import LSTM as LSTMSteps
from torchbp.autograd.recurrent import RNN as RNNSteps
from torchbp.autograd.recurrent import Cell
from torchbp.nn.functional.recurrent import layers, step


def _states(layer: torch.nn.RNNBase, x: Tensor, sequences: int) -> tuple[Tensor, ...]:
    """Return the first states where none are given: zeros."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    return tuple([x.new_zeros(count, sequences, size) for size in (sizes if layer.mode == "LSTM" else sizes[:1])])


def _plain(input: Any, hx: Any, module: torch.nn.Module) -> bool:
    """Tell whether nothing wants a derivative of ours: then PyTorch's own forward pass keeps nothing either."""
    if is_exporting():  # one operator, for sequences of every length
        return True
    tensors = [input.data if isinstance(input, PackedSequence) else input]
    tensors += hx if isinstance(hx, tuple | list) else [hx]
    return not (torch.compiler.is_compiling() or records_derivative(*tensors, *module._parameters.values()))


def _run(layer: Any, cell: Cell, input: Any, hx: Any) -> tuple[Any, Any]:
    """Do what torch.nn's forward does for all kinds: the checks, the layers, the layouts of sequences."""
    layer._update_flat_weights()
    paired, packed = isinstance(cell, LSTMSteps), isinstance(input, PackedSequence)
    x, sizes, order, back = input if packed else (input, None, None, None)
    if not packed and x.dim() not in (2, 3):
        raise ValueError(f"{type(layer).__name__}: Expected input to be 2D or 3D, got {x.dim()}D instead")
    unbatched = not packed and x.dim() == 2
    states = None if hx is None else tuple(hx) if paired else (hx,)
    if not packed and states is not None and any(s.dim() != x.dim() for s in states):
        kind, dims = ("unbatched" if unbatched else "batched"), " and ".join(f"{s.dim()}-D" for s in states)
        raise RuntimeError(f"For {kind} {x.dim()}-D input, hx should also be {x.dim()}-D but got {dims} tensor")
    if unbatched:
        x = x.unsqueeze(0 if layer.batch_first else 1)
        states = None if states is None else tuple([s.unsqueeze(1) for s in states])
    if states is None:
        states = _states(layer, x, int(sizes[0]) if sizes is not None else x.shape[0 if layer.batch_first else 1])
    elif order is not None:
        states = tuple([s.index_select(1, order) for s in states])
    layer.check_forward_args(x, states if paired else states[0], sizes)
    if layer.batch_first and not packed:
        x = x.transpose(0, 1)
    if not packed and x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    x, last = layers(
        cell,
        x,
        states,
        layer._flat_weights,
        biases=layer.bias,
        projected=layer.proj_size > 0,
        count=layer.num_layers,
        dropout_p=layer.dropout,
        training=layer.training,
        bidirectional=layer.bidirectional,
        sizes=None if sizes is None else sizes.tolist(),
    )
    if layer.batch_first and not packed:
        x = x.transpose(0, 1)
    if unbatched:
        x, last = x.squeeze(0 if layer.batch_first else 1), [s.squeeze(1) for s in last]
    if back is not None:
        last = [s.index_select(1, back) for s in last]
    output = PackedSequence(x, sizes, order, back) if packed else x
    return output, tuple(last) if paired else last[0]


class RNN(torch.nn.RNN):
    """h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh), or relu; see :mod:`torchbp.autograd.recurrent`."""

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Return the outputs and the last states."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        return _run(self, RNNSteps(self.mode == "RNN_RELU"), input, hx)


class LSTM(torch.nn.LSTM):
    """Long short-term memory, with or without a projection; see :class:`torchbp.autograd.recurrent.LSTM`."""

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """Return the outputs and the last states (h, c)."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        return _run(self, LSTMSteps(), input, hx)


class GRU(torch.nn.GRU):
    """Gated recurrent unit; see :class:`torchbp.autograd.recurrent.GRU`."""

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Return the outputs and the last states."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        return _run(self, GRUSteps(), input, hx)


def _step(
    module: torch.nn.RNNCellBase, cell: Cell, input: Tensor, states: Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    """Do what torch.nn's forward does for all cells; return the new states."""
    name, paired = type(module).__name__, cell.has_cell_state
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for i, state in enumerate(states or ()):
        if state.dim() not in (1, 2):
            which = f"hx[{i}]" if paired else "hidden"
            raise ValueError(f"{name}: Expected {which} to be 1D or 2D, got {state.dim()}D instead")
    unbatched = input.dim() == 1
    x = input.unsqueeze(0) if unbatched else input
    if states is None:
        states = [x.new_zeros(x.shape[0], module.hidden_size)] * (2 if paired else 1)
    elif unbatched:
        states = [s.unsqueeze(0) for s in states]
    if x.shape[1] != module.input_size:
        raise RuntimeError(f"input has inconsistent input_size: got {x.shape[1]} expected {module.input_size}")
    for i, state in enumerate(states):
        if tuple(state.shape) != (x.shape[0], module.hidden_size):
            raise RuntimeError(
                f"hidden{i} has inconsistent shape: got {tuple(state.shape)} expected "
                f"{(x.shape[0], module.hidden_size)}, input's batch size and hidden_size"
            )
    h, c = states if paired else (states[0], None)
    new = step(cell, x, h, c, module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    return tuple([s.squeeze(0) for s in new]) if unbatched else new


class RNNCell(torch.nn.RNNCell):
    """One step of :class:`RNN`."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the new state."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return _step(self, RNNSteps(self.nonlinearity == "relu"), input, None if hx is None else (hx,))[0]


class LSTMCell(torch.nn.LSTMCell):
    """One step of :class:`LSTM`."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the new states (h, c)."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        h, c = _step(self, LSTMSteps(), input, hx)
        return h, c


class GRUCell(torch.nn.GRUCell):
    """One step of :class:`GRU`."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the new state."""
        if _plain(input, hx, self):
            return super().forward(input, hx)
        return _step(self, GRUSteps(), input, None if hx is None else (hx,))[0]
