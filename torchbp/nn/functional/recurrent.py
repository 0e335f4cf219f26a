"""What the recurrent modules compute: a layer, cast under autocast as the built-in casts, and layers of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.recurrent import GRU, LSTM, RNN, Cell, is_fused
from torchbp.autograd.replay import replayable
from torchbp.nn.functional.dropout import dropout


def _check_shapes(
    cell: Cell, x: Tensor, h: Tensor, c: Tensor | None, parameters: Sequence[Tensor | None], batch: int
) -> None:
    """Raise unless states and parameters fit; oneDNN's operator and PyTorch's read others out of bounds."""
    w_hh, w_hr = parameters[1], parameters[4]
    assert w_hh is not None
    rows, directions = w_hh.shape[0], len(parameters) // 5
    hidden = rows // cell.gate_count
    out = hidden if w_hr is None else w_hr.shape[0]
    wanted: list[tuple[str, Tensor | None, tuple[int, ...]]] = [("h", h, (directions, batch, out))]
    if c is not None:
        wanted.append(("c", c, (directions, batch, hidden)))
    for start in range(0, 5 * directions, 5):
        w_ih, w_hh, b_ih, b_hh, w_hr = parameters[start : start + 5]
        wanted += [("w_ih", w_ih, (rows, x.shape[-1])), ("w_hh", w_hh, (rows, out))]
        wanted += [("b_ih", b_ih, (rows,)), ("b_hh", b_hh, (rows,)), ("w_hr", w_hr, (out, hidden))]
    for name, tensor, shape in wanted:
        if tensor is not None and tensor.shape != shape:
            raise RuntimeError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if rows != hidden * cell.gate_count:
        raise RuntimeError(f"w_hh must have {cell.gate_count} rows per element of a state, got {rows} rows")


def step(cell: Cell, x: Tensor, h: Tensor, c: Tensor | None, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    """Return what :func:`torchbp.autograd.recurrent.step` does, under autocast in :func:`recurrent`'s precision.

    Raises:
        RuntimeError: if the shapes of the parameters do not fit those of x and the states.
    """
    return _STEPS[cell](x, h, c, *parameters)


def _step(cell: Cell, x: Tensor, h: Tensor, c: Tensor | None, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    w_ih, w_hh, b_ih, b_hh = parameters
    assert w_ih is not None and w_hh is not None
    rows, hidden = cell.gate_count * h.shape[1], h.shape[1]
    fits = w_ih.shape == (rows, x.shape[1]) and w_hh.shape == (rows, hidden)
    fits = fits and all([b is None or b.shape == (rows,) for b in (b_ih, b_hh)])
    if fits and not torch._C._is_any_autocast_enabled():
        return autograd.recurrent.step(cell, x, h, c, *parameters)
    states = h.unsqueeze(0), None if c is None else c.unsqueeze(0)
    y, _, *cells = recurrent(cell, x, *states, (*parameters, None), (x.shape[0],))  # refuses what does not fit
    return (y, *[s.squeeze(0) for s in cells])


def _replayed_step(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    @replayable
    def step(x: Tensor, h: Tensor, c: Tensor | None, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        return _step(cell, x, h, c, *parameters)

    return step


_CELLS: tuple[Cell, ...] = RNN(False), RNN(True), GRU(), LSTM()
_STEPS = {cell: _replayed_step(cell) for cell in _CELLS}


def recurrent(
    cell: Cell,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    parameters: Sequence[Tensor | None],
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Return what :func:`torchbp.autograd.recurrent.recurrent` does, which says what the arguments are.

    Under autocast an RNN, an LSTM that is one operator of oneDNN, and the output of a projection are of lower
    precision; the states of the others stay what they are.

    Raises:
        RuntimeError: if the shapes do not fit.
    """
    batch = x.shape[1] if sizes is None else max(sizes, default=0)
    _check_shapes(cell, x, h, c, parameters, batch)
    device = x.device.type
    if not torch._C._is_any_autocast_enabled() or device == "meta" or not torch.is_autocast_enabled(device):
        return autograd.recurrent.recurrent(cell, x, h, c, parameters, sizes)
    lower = torch.get_autocast_dtype(device)
    fused = isinstance(cell, LSTM) and sizes is None and is_fused(cell, x.float(), h.float(), c, parameters)
    to = lower if isinstance(cell, RNN) or fused else h.dtype
    with torch.autocast(device, enabled=False):
        x, h, c, *parameters = (None if t is None else t.to(to) for t in (x, h, c, *parameters))  # type: ignore[assignment]
        y, last, *cells = autograd.recurrent.recurrent(cell, x, h, c, parameters, sizes)
        return (y, last, *cells) if parameters[4] is None else (y.to(lower), last.to(lower), *cells)


def layers(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    biases: bool,
    projected: bool,
    count: int,
    dropout_p: float,
    training: bool,
    bidirectional: bool,
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run ``count`` layers one after another, with dropout between them; return the output and the last states.

    ``weights`` are those of all layers and directions in torch.nn's order, ``states`` those of all at once.
    """
    directions = 2 if bidirectional else 1
    given = len(weights) // (count * directions)
    last: list[tuple[Tensor, ...]] = []
    for k in range(count):
        if k:
            x = dropout(x, dropout_p, training)
        parameters: list[Tensor | None] = []
        for d in range(directions):
            first = (k * directions + d) * given
            own = list(weights[first : first + given])
            parameters += [*own[:2], *(own[2:4] if biases else (None, None)), own[-1] if projected else None]
        here = [s if count == 1 else s[k * directions : (k + 1) * directions] for s in states]
        x, *ends = recurrent(cell, x, here[0], here[1] if len(here) > 1 else None, parameters, sizes)
        last.append(tuple(ends))
    return x, [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*last, strict=True)]
