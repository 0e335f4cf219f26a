"""What the recurrent modules compute: a layer, cast under autocast as the built-in casts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.recurrent import LSTM, RNN, Cell, is_fused


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
    for name, state in (("h", h), ("c", c)):
        if state is not None and (state.dim() != 3 or state.shape[1] != batch):
            raise RuntimeError(f"{name} must have {batch} rows per direction, as x has, got shape {tuple(state.shape)}")
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
