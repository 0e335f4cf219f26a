"""Recurrent layers: backpropagation through time, written out.

A layer reads a sequence step by step. Its steps are rows of one matrix, those of step t after those of step t - 1, so
that what needs no earlier step (the products with the input, the gates' derivatives, the gradients of the weights)
is done for all of them at once, and a step costs one product with the recurrent weight. With a the gates before their
activation, f(a) after it, and each step's own h' = h[t-1]::

    a[t] = W_ih x[t] + b_ih + W_hh h' + b_hh

Backward goes through the steps in the other direction. Every cell says with which coefficients a step's da follows
from its dh (and dc); the rest is the same for all: dh' = W_hhᵀ da[t] + (what the step passes on), and over all steps
gx = da W_ih, gW_ih = daᵀ x, gW_hh = daᵀ h', gb = Σ da.

Werbos, "Backpropagation through time" (1990); Hochreiter and Schmidhuber, "Long short-term memory" (1997); Cho et al.,
"Learning phrase representations using RNN encoder-decoder" (2014), in the variant of PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from torchbp.autograd.function import ExplicitFunction, conjugate, one_pass, records_only_reverse, save

_aten = torch.ops.aten
_sigmoid_gradient, _tanh_gradient = _aten.sigmoid_backward.grad_input, _aten.tanh_backward.grad_input
_ONEDNN = torch.ops.aten.mkldnn_rnn_layer.default
_ONEDNN_GRADIENT = torch.ops.aten.mkldnn_rnn_layer_backward.default
_LSTM_MODE = 2  # in the numbering of ATen's recurrent operators


# --------------------------------------------------------------------------------------------------
# Rows and steps


@dataclass(frozen=True)
class Steps:
    """How many rows each step has, and in which direction the steps are read.

    The sizes never grow from a step to the next: row n of every step belongs to sequence n, and the sequences are
    sorted by length.
    """

    sizes: tuple[int, ...]
    reverse: bool

    @property
    def order(self) -> range:
        """The steps as the layer reads them."""
        count = len(self.sizes)
        return range(count - 1, -1, -1) if self.reverse else range(count)

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """Return the rows of each step."""
        return rows.split(self.sizes) if len(self.sizes) > 1 else (rows,)

    def earlier(self, states: Tensor, first: Tensor) -> Tensor:
        """Return, for every row, the state that its step starts from: the one before, or the first."""
        if len(self.sizes) == 1:
            return first
        if self.sizes[0] == self.sizes[-1]:
            count, size = states.shape[0], self.sizes[0]
            return torch.cat([states[size:], first] if self.reverse else [first, states[: count - size]])
        found, state = [first] * len(self.sizes), first[: self.sizes[self.order[0]]]
        done: list[Tensor] = []
        parts = self.split(states)
        for t in self.order:
            found[t] = _fitted(state, self.sizes[t], first, done)
            state = parts[t]
        return torch.cat(found)


def _fitted(state: Tensor, rows: int, more: Tensor, done: list[Tensor]) -> Tensor:
    """Return a state with so many rows: sequences that begin come from ``more``, those that end go to ``done``."""
    have = state.shape[0]
    if have < rows:
        return torch.cat([state, more[have:rows]])
    if have > rows:
        done.append(state[rows:])
        return state[:rows]
    return state


def _whole(state: Tensor, done: list[Tensor]) -> Tensor:
    """Return a state with the rows of the sequences that had ended."""
    return torch.cat([state, *reversed(done)]) if done else state


def _joined(steps: Sequence[Tensor]) -> Tensor:
    """Return the rows of all steps."""
    return torch.cat(list(steps)) if len(steps) > 1 else steps[0]


def _rows(x: Tensor) -> Tensor:
    """Return a sequence, (T, N, size) or already packed, as the rows of its steps."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2]) if x.dim() == 3 else x


@dataclass(frozen=True)
class Weights:
    """The parameters of a layer in one direction; without biases those are None, without a projection that one."""

    ih: Any
    hh: Any
    b_ih: Any
    b_hh: Any
    hr: Any


def _stacked(states: Sequence[Tensor]) -> Tensor:
    """Return the states of all directions, in a tensor of their own."""
    return torch.stack(list(states))


def _directions(parameters: Sequence[Tensor | None]) -> list[Weights]:
    return [Weights(*parameters[i : i + 5]) for i in range(0, len(parameters), 5)]


def _flat(gates: Tensor) -> Tensor:
    """Return (rows, gates · size) from (rows, gates, size)."""
    return gates.reshape(gates.shape[0], gates.shape[1] * gates.shape[2])


def _times(k: Tensor, v: Tensor) -> Tensor:
    """Return k v, or for a mask zero where it is set and v elsewhere, also where v is infinite."""
    return v.masked_fill(k, 0) if k.dtype == torch.bool else k * v


def _affine(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return torch.mm(x, w.t()) if b is None else torch.addmm(b, x, w.t())


def _preactivation(x: Tensor, h: Tensor, w: Weights) -> Tensor:
    """Return both products and both biases."""
    b = w.b_ih if w.b_hh is None or w.b_ih is None else w.b_ih + w.b_hh
    return _affine(x, w.ih, b).addmm_(h, w.hh.t())


# --------------------------------------------------------------------------------------------------
# The cells


class Cell:
    """What one kind of recurrent layer does.

    ``run`` goes through the steps of one direction; nothing records it. The others are differentiable: what a layer
    keeps besides its output (``kept``, None if nothing) is found again from the output by ``gates``.
    """

    has_cell_state = False
    gate_count = 1  # rows of a weight for every element of a state

    def run(self, steps: Steps, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Any, ...]:
        """Return the outputs' rows, the last states h and c, and what is kept."""
        raise NotImplementedError

    def step(self, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Tensor, ...]:
        """Return the new states of one step, and what ``unstep`` reads besides them."""
        raise NotImplementedError

    def unstep(self, gh: Any, gc: Any, h: Any, c: Any, results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the cotangents of W_ih x + b_ih, of W_hh h' + b_hh, of h past the product (None for 0), and of c.

        It is what ``linearized`` and ``pull`` return for one step, in fewer passes, none of them differentiable.

        Args:
            gh: the cotangent of the new state h, None for zeros.
            gc: the cotangent of the new cell state, None for zeros.
            h: the first state; not read by an RNN.
            c: the first cell state of an LSTM.
            results: what ``step`` returned.
        """
        raise NotImplementedError

    def gates(self, x: Tensor, earlier: Tensor, w: Weights) -> Tensor | None:
        """Return what ``run`` keeps, from the inputs' rows and the states that each starts from."""
        raise NotImplementedError

    def linearized(self, steps: Steps, y: Tensor, earlier: Tensor, kept: Any, c: Any, w: Weights) -> Linear:
        """Return the steps' derivatives."""
        raise NotImplementedError


class Linear:
    """The derivatives of all steps of one direction: a linear recurrence, and its adjoint."""

    def push(self, steps: Steps, tx: Tensor, th: Tensor, h: Tensor, c: Any, w_hr: Any) -> tuple[Any, ...]:
        """Return the tangents of the outputs' rows and of the last states h and c.

        Args:
            steps: the steps.
            tx: the tangents of W_ih x + b_ih.
            th: the tangents of W_hh h' + b_hh less what comes from h'.
            h: the tangent of the first state.
            c: the tangent of the first cell state.
            w_hr: the tangent of the projection.
        """
        raise NotImplementedError

    def pull(self, steps: Steps, gy: Any, gh: Tensor, gc: Any, start: bool) -> tuple[Any, ...]:
        """Return the cotangents of W_ih x + b_ih, of W_hh h' + b_hh, of the first states h and c, and of W_hr.

        Args:
            steps: the steps.
            gy: the cotangents of the outputs' rows, None for zeros.
            gh: the cotangent of the last state.
            gc: the cotangent of the last cell state.
            start: whether the cotangent of the first state h is wanted.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class OneState(Linear):
    """A step of one state, dh = carry dh' + Σ over the gates of K_x da_x + K_h (da_h + W_hh dh').

    Attributes:
        k_x: the coefficients of the gates' input part, (rows, gates, hidden_size); or True for 0 and False for 1.
        k_h: of their recurrent part.
        carry: of the state itself, None for zero.
        w_hh: the recurrent weight.
    """

    k_x: Tensor
    k_h: Tensor
    carry: Tensor | None
    w_hh: Any

    def push(self, steps: Steps, tx: Tensor, th: Tensor, h: Tensor, c: Any, w_hr: Any) -> tuple[Any, ...]:
        """Go through the steps in their order."""
        shape = self.k_h.shape
        free = steps.split((_times(self.k_x, tx.view(shape)) + _times(self.k_h, th.view(shape))).sum(1))
        k_h = steps.split(self.k_h)
        carry = None if self.carry is None else steps.split(self.carry)
        outputs = list(free)
        done: list[Tensor] = []
        state = h[: steps.sizes[steps.order[0]]]
        for t in steps.order:
            state = _fitted(state, steps.sizes[t], h, done)
            moved = free[t] + _times(k_h[t], (state @ self.w_hh.t()).view(k_h[t].shape)).sum(1)
            state = moved if carry is None else moved + carry[t] * state
            outputs[t] = state
        return _joined(outputs), _whole(state, done), None

    def pull(self, steps: Steps, gy: Any, gh: Tensor, gc: Any, start: bool) -> tuple[Any, ...]:
        """Go back through the steps: da_h = K_h dh, dh' = W_hhᵀ da_h + carry dh; at last da_x = K_x dh."""
        order = steps.order[::-1]
        k_h = steps.split(self.k_h if self.k_h.shape[1] > 1 else self.k_h.squeeze(1))
        carry = None if self.carry is None else steps.split(self.carry)
        cotangents = None if gy is None else steps.split(gy)
        a = list(k_h)
        along = a[:]
        done: list[Tensor] = []
        state = gh[: steps.sizes[order[0]]]
        for t in order:
            state = _fitted(state, steps.sizes[t], gh, done)
            if cotangents is not None:
                state = state + cotangents[t]
            along[t] = state
            a[t] = _flat(state.unsqueeze(1) * k_h[t]) if k_h[t].dim() == 3 else _times(k_h[t], state)
            if start or t != order[-1]:
                back = torch.mm(a[t], self.w_hh)
                state = back if carry is None else back.addcmul(carry[t], state)
        a_h = _joined(a)
        a_x = a_h if self.k_x is self.k_h else _flat(_joined(along).unsqueeze(1) * self.k_x)
        return a_x, a_h, _whole(state, done) if start else None, None, None


@dataclass(frozen=True)
class RNN(Cell):
    """h = tanh(a) or relu(a), so dh = (1 - h²) da, or da where h > 0: from the output alone."""

    relu: bool

    def run(self, steps: Steps, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Any, ...]:
        """Go through the steps."""
        y = _affine(x, w.ih, w.b_ih if w.b_hh is None or w.b_ih is None else w.b_ih + w.b_hh)
        parts, weight = steps.split(y), w.hh.t()
        activate = torch.relu_ if self.relu else torch.tanh_
        state = h[: steps.sizes[steps.order[0]]]
        done: list[Tensor] = []
        for t in steps.order:
            state = _fitted(state, steps.sizes[t], h, done)
            state = activate(torch.addmm(parts[t], state, weight, out=parts[t]))
        return y, _whole(state, done), None, None

    def step(self, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Tensor, ...]:
        """Return h."""
        a = _preactivation(x, h, w)
        return (a.relu_() if self.relu else a.tanh_(),)

    def unstep(self, gh: Any, gc: Any, h: Any, c: Any, results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return da, twice."""
        (y,) = results
        a = _aten.threshold_backward(gh, y, 0) if self.relu else _aten.tanh_backward(gh, y)
        return a, a, None, None

    def gates(self, x: Tensor, earlier: Tensor, w: Weights) -> None:
        """Nothing is kept."""

    def linearized(self, steps: Steps, y: Tensor, earlier: Tensor, kept: Any, c: Any, w: Weights) -> OneState:
        """Return the coefficients."""
        k = (y <= 0 if self.relu else 1 - y * y).unsqueeze(1)
        return OneState(k, k, None, w.hh)


@dataclass(frozen=True)
class GRU(Cell):
    """h = (1 - z) n + z h', with r, z = σ(a) and n = tanh(a_x + r q), where q = W_hn h' + b_hn. Keeps r, z and n.

    With dn = (1 - z) (1 - n²): the coefficients are z (1 - z) (h' - n) of z, dn q r (1 - r) of r, dn of n's input
    part and dn r of its recurrent part, and z passes dh on.
    """

    gate_count = 3

    def run(self, steps: Steps, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Any, ...]:
        """Go through the steps."""
        hidden = w.hh.shape[1]
        gates = _affine(x, w.ih, w.b_ih)
        y = gates.new_empty(gates.shape[0], hidden)
        r, z, n = (steps.split(part) for part in gates.split(hidden, 1))
        both, outputs, weight = steps.split(gates[:, : 2 * hidden]), steps.split(y), w.hh.t()
        state = h[: steps.sizes[steps.order[0]]]
        done: list[Tensor] = []
        for t in steps.order:
            state = _fitted(state, steps.sizes[t], h, done)
            product = torch.mm(state, weight) if w.b_hh is None else torch.addmm(w.b_hh, state, weight)
            sigmoids, q = product.split([2 * hidden, hidden], 1)
            both[t].add_(sigmoids).sigmoid_()
            n[t].addcmul_(r[t], q).tanh_()
            state = torch.lerp(n[t], state, z[t], out=outputs[t])
        return y, _whole(state, done), None, gates

    def step(self, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Tensor, ...]:
        """Return h; r, z and q in one tensor; and n."""
        hidden = h.shape[1]
        a, rzq = _affine(x, w.ih, w.b_ih), _affine(h, w.hh, w.b_hh)
        rzq.narrow(1, 0, 2 * hidden).add_(a.narrow(1, 0, 2 * hidden)).sigmoid_()
        r, z, q = rzq.chunk(3, 1)
        n = torch.addcmul(a.narrow(1, 2 * hidden, hidden), r, q).tanh_()
        return torch.lerp(n, h, z), rzq, n

    def unstep(self, gh: Any, gc: Any, h: Any, c: Any, results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return da_x, da_h and z dh."""
        _, rzq, n = results
        r, z, q = rzq.chunk(3, 1)
        a_x, a_h, hidden = torch.empty_like(rzq), torch.empty_like(rzq), n.shape[1]
        a_r, a_z, a_n = a_x.chunk(3, 1)
        carry = gh * z
        _tanh_gradient(gh - carry, n, grad_input=a_n)
        _sigmoid_gradient(a_n * q, r, grad_input=a_r)
        _sigmoid_gradient((h - n).mul_(gh), z, grad_input=a_z)
        a_h.narrow(1, 0, 2 * hidden).copy_(a_x.narrow(1, 0, 2 * hidden))
        torch.mul(a_n, r, out=a_h.narrow(1, 2 * hidden, hidden))
        return a_x, a_h, carry, None

    def gates(self, x: Tensor, earlier: Tensor, w: Weights) -> Tensor:
        """Return r, z, n."""
        xr, xz, xn = _affine(x, w.ih, w.b_ih).chunk(3, 1)
        hr, hz, q = _affine(earlier, w.hh, w.b_hh).chunk(3, 1)
        r = torch.sigmoid(xr + hr)
        return torch.cat([r, torch.sigmoid(xz + hz), torch.tanh(xn + r * q)], 1)

    def linearized(self, steps: Steps, y: Tensor, earlier: Tensor, kept: Any, c: Any, w: Weights) -> OneState:
        """Return the coefficients; q is one product over all steps."""
        hidden = w.hh.shape[1]
        r, z, n = kept.split(hidden, 1)
        q = _affine(earlier, w.hh[2 * hidden :], None if w.b_hh is None else w.b_hh[2 * hidden :])
        k_n = (1 - z) * (1 - n * n)
        k_z = (earlier - n) * (z * (1 - z))
        k_r = k_n * q * (r * (1 - r))
        return OneState(torch.stack([k_r, k_z, k_n], 1), torch.stack([k_r, k_z, k_n * r], 1), z, w.hh)


@dataclass(frozen=True)
class LSTM(Cell):
    """c = f c' + i g and h = o tanh(c), with i, f, o = σ(a) and g = tanh(a); projected, h = W_hr (o tanh(c)).

    Keeps the gates i, f, g, o; the cell states follow from them, an element-wise step each. dc has, besides what the
    next step passes on, o (1 - tanh²(c)) dh, and passes on f dc. The coefficients of da are g i (1 - i), c' f (1 - f)
    and i (1 - g²) of dc, and tanh(c) o (1 - o) of dh.
    """

    has_cell_state = True
    gate_count = 4

    def run(self, steps: Steps, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Any, ...]:
        """Go through the steps."""
        hidden = c.shape[1]
        gates = _affine(x, w.ih, w.b_ih if w.b_hh is None or w.b_ih is None else w.b_ih + w.b_hh)
        y = gates.new_empty(gates.shape[0], w.hh.shape[1])
        i, f, g, o = (steps.split(part) for part in gates.split(hidden, 1))
        every, both = steps.split(gates), steps.split(gates[:, : 2 * hidden])
        outputs, weight = steps.split(y), w.hh.t()
        projection = None if w.hr is None else w.hr.t()
        state, cell = (s[: steps.sizes[steps.order[0]]] for s in (h, c))
        done: list[Tensor] = []
        cells_done: list[Tensor] = []
        for t in steps.order:
            state = _fitted(state, steps.sizes[t], h, done)
            cell = _fitted(cell, steps.sizes[t], c, cells_done)
            torch.addmm(every[t], state, weight, out=every[t])
            both[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            cell = (f[t] * cell).addcmul_(i[t], g[t])
            if projection is None:
                state = torch.mul(o[t], torch.tanh(cell), out=outputs[t])
            else:
                state = torch.mm(o[t] * torch.tanh(cell), projection, out=outputs[t])
        return y, _whole(state, done), _whole(cell, cells_done), gates

    def step(self, x: Tensor, h: Tensor, c: Any, w: Weights) -> tuple[Tensor, ...]:
        """Return h, c and the gates."""
        gates = _preactivation(x, h, w)
        i, f, g, o = gates.chunk(4, 1)
        gates.narrow(1, 0, 2 * h.shape[1]).sigmoid_()
        g.tanh_()
        o.sigmoid_()
        cell = (f * c).addcmul_(i, g)
        return torch.tanh(cell).mul_(o), cell, gates

    def unstep(self, gh: Any, gc: Any, h: Any, c: Any, results: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return da, twice, and f dc."""
        _, cell, gates = results
        i, f, g, o = gates.chunk(4, 1)
        a = torch.empty_like(gates)
        a_i, a_f, a_g, a_o = a.chunk(4, 1)
        if gh is None:
            a_o.zero_()
        else:
            squashed = torch.tanh(cell)
            _sigmoid_gradient(gh * squashed, o, grad_input=a_o)
            moved = _aten.tanh_backward(gh * o, squashed)
            gc = moved if gc is None else moved.add_(gc)
        _sigmoid_gradient(gc * g, i, grad_input=a_i)
        _sigmoid_gradient(gc * c, f, grad_input=a_f)
        _tanh_gradient(gc * i, g, grad_input=a_g)
        return a, a, None, gc * f

    def gates(self, x: Tensor, earlier: Tensor, w: Weights) -> Tensor:
        """Return i, f, g, o."""
        i, f, g, o = (_affine(x, w.ih, w.b_ih) + _affine(earlier, w.hh, w.b_hh)).chunk(4, 1)
        return torch.cat([torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)], 1)

    def linearized(self, steps: Steps, y: Tensor, earlier: Tensor, kept: Any, c: Any, w: Weights) -> TwoStates:
        """Return the coefficients."""
        i, f, g, o = kept.chunk(4, 1)
        cells = self._cells(steps, i * g, f, c)
        before, squashed = steps.earlier(cells, c), torch.tanh(cells)
        k_c = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], 1)
        k_o = squashed * o * (1 - o)
        return TwoStates(k_c, k_o, o * (1 - squashed * squashed), f, o * squashed, w.hh, w.hr)

    @staticmethod
    def _cells(steps: Steps, written: Tensor, f: Tensor, c: Tensor) -> Tensor:
        """Return the cell states of all rows: written + f c'."""
        parts, forget = steps.split(written), steps.split(f)
        cells, state = list(parts), c[: steps.sizes[steps.order[0]]]
        done: list[Tensor] = []
        for t in steps.order:
            state = torch.addcmul(parts[t], forget[t], _fitted(state, steps.sizes[t], c, done))
            cells[t] = state
        return _joined(cells)


@dataclass(frozen=True)
class TwoStates(Linear):
    """A step of an LSTM: dc = f dc' + Σ over i, f, g of K_c da, dm = s dc + k_o da_o, dh = W_hr dm.

    Attributes:
        k_c: the coefficients of the gates i, f and g, (rows, 3, hidden_size).
        k_o: of the gate o.
        slope: s = o (1 - tanh²(c)).
        forget: f.
        memory: m = o tanh(c), which the projection reads.
        w_hh: the recurrent weight.
        w_hr: the projection, None if there is none.
    """

    k_c: Tensor
    k_o: Tensor
    slope: Tensor
    forget: Tensor
    memory: Tensor
    w_hh: Tensor
    w_hr: Any

    def _parts(self, steps: Steps) -> list[Sequence[Tensor]]:
        return [steps.split(part) for part in (self.k_c, self.k_o, self.slope, self.forget)]

    def push(self, steps: Steps, tx: Tensor, th: Tensor, h: Tensor, c: Any, w_hr: Any) -> tuple[Any, ...]:
        """Go through the steps in their order."""
        k_c, k_o, slope, forget = self._parts(steps)
        free = steps.split(tx + th)
        added = None if w_hr is None else steps.split(torch.mm(self.memory, w_hr.t()))
        outputs: list[Tensor] = list(free)
        done: list[Tensor] = []
        cells_done: list[Tensor] = []
        state, cell = (s[: steps.sizes[steps.order[0]]] for s in (h, c))
        for t in steps.order:
            state = _fitted(state, steps.sizes[t], h, done)
            cell = _fitted(cell, steps.sizes[t], c, cells_done)
            a = torch.addmm(free[t], state, self.w_hh.t()).unflatten(1, (4, k_o[t].shape[1]))
            cell = forget[t] * cell + (k_c[t] * a[:, :3]).sum(1)
            state = slope[t] * cell + k_o[t] * a[:, 3]
            if self.w_hr is not None:
                state = state @ self.w_hr.t()
            if added is not None:
                state = state + added[t]
            outputs[t] = state
        return _joined(outputs), _whole(state, done), _whole(cell, cells_done)

    def pull(self, steps: Steps, gy: Any, gh: Tensor, gc: Any, start: bool) -> tuple[Any, ...]:
        """Go back through the steps: dm = W_hrᵀ dh, dc += s dm, da = K_c dc and k_o dm, dc' = f dc, dh' = W_hhᵀ da."""
        order = steps.order[::-1]
        k_c, k_o, slope, forget = self._parts(steps)
        cotangents = None if gy is None else steps.split(gy)
        a: list[Tensor] = list(k_o)
        along = a[:]
        done: list[Tensor] = []
        cells_done: list[Tensor] = []
        state, cell = (s[: steps.sizes[order[0]]] for s in (gh, gc))
        for t in order:
            state = _fitted(state, steps.sizes[t], gh, done)
            cell = _fitted(cell, steps.sizes[t], gc, cells_done)
            if cotangents is not None:
                state = state + cotangents[t]
            along[t] = state
            if self.w_hr is not None:
                state = state @ self.w_hr
            cell = torch.addcmul(cell, slope[t], state)
            a[t] = torch.cat([_flat(cell.unsqueeze(1) * k_c[t]), state * k_o[t]], 1)
            cell = forget[t] * cell
            if start or t != order[-1]:
                state = torch.mm(a[t], self.w_hh)
        a_h = _joined(a)
        gw_hr = None if self.w_hr is None else _joined(along).t() @ self.memory
        return a_h, a_h, _whole(state, done) if start else None, _whole(cell, cells_done), gw_hr


# --------------------------------------------------------------------------------------------------
# The Functions


class Recurrence(ExplicitFunction):
    """y[t], h[T] and, of an LSTM, c[T] for a layer in one direction or two; the cells and this file's head say how.

    The further outputs are what the cells keep for backward, r, z, n of a GRU and i, f, g, o of an LSTM; where a
    higher derivative is recorded they are computed again from x and y, two products over all steps.

    Saved: x, y, the first states and the weights, as far as the wanted gradients read them, and what the cells keep:
    besides x and y nothing for an RNN, whose derivative is written from y alone, 3 hidden_size numbers per row for a
    GRU, 4 for an LSTM. Without them every backward pass would need the two products over all rows, too.
    """

    @staticmethod
    def forward(
        cell: Cell, sizes: tuple[int, ...], x: Tensor, h: Tensor, c: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        rows, found = _rows(x), []
        for d, w in enumerate(_directions(parameters)):
            found.append(cell.run(Steps(sizes, bool(d)), rows, h[d], None if c is None else c[d], w))
        y = torch.cat([one[0] for one in found], -1) if len(found) > 1 else found[0][0]
        last = [torch.stack([one[i] for one in found]) for i in ((1, 2) if cell.has_cell_state else (1,))]
        return y.view(*x.shape[:-1], y.shape[-1]), *last, *[one[3] for one in found if one[3] is not None]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.sizes, x, h, c, *parameters = inputs
        y, kept = output[0], output[3 if ctx.cell.has_cell_state else 2 :]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.outputs, ctx.count = len(output), len(parameters)
        ctx.shape, ctx.states = x.shape, (h.shape, None if c is None else c.shape)
        everything = (x, h, c, y, *parameters)
        read = _read(ctx.cell, ctx.needs_input_grad[2:], len(ctx.sizes))
        needed = [t if i in read else None for i, t in enumerate(everything)]
        ctx.active = _active(ctx.needs_input_grad[2:])
        save(ctx, (*needed, *[t if on else None for t, on in zip(kept, ctx.active, strict=False)]), everything)

    @staticmethod
    def backward(ctx: Any, gy: Any, gh: Any, *others: Any) -> tuple[Any, ...]:
        gc = others[0] if ctx.cell.has_cell_state else None
        given = next((g for g in (gy, gh, gc) if g is not None), None)
        if given is None:
            return (None,) * (5 + ctx.count)
        if gh is None:
            gh = given.new_zeros(ctx.states[0])
        if gc is None and ctx.cell.has_cell_state:
            gc = given.new_zeros(ctx.states[1])
        wanted, saved = ctx.needs_input_grad[2:], [None if t is None else conjugate(t) for t in ctx.saved_tensors]
        x, h, c, y = saved[:4]
        directions, kept = _directions(saved[4 : 4 + ctx.count]), saved[4 + ctx.count :]
        rows = None if x is None else _rows(x)
        found: list[Any] = []
        gradients: list[Any] = []
        for d, w in enumerate(directions):
            if not ctx.active[d]:
                gradients += [None] * 5
                continue
            own, g = (None if t is None else _rows(t.chunk(len(directions), -1)[d]) for t in (y, gy))
            state, cell, ghd, gcd = (None if t is None else t[d] for t in (h, c, gh, gc))
            gates = None if torch.is_grad_enabled() or not kept else kept[d]
            part = (wanted[0], *wanted[3 + 5 * d : 8 + 5 * d], wanted[1])
            steps = Steps(ctx.sizes, bool(d))
            *first, gw = _gradient(ctx.cell, steps, rows, state, cell, own, gates, w, (g, ghd, gcd), part)
            found.append(first)
            gradients += gw
        gx = None
        if wanted[0]:
            gx = (found[0][0] if len(found) == 1 else found[0][0] + found[1][0]).view(ctx.shape)
        firsts = [torch.stack([one[i] for one in found]) if wanted[i] else None for i in (1, 2)]
        return None, None, gx, *firsts, *gradients

    @staticmethod
    def jvp(ctx: Any, _cell: Any, _sizes: Any, tx: Any, th: Any, tc: Any, *tangents: Any) -> tuple[Any, ...]:
        x, h, c, y, *parameters = ctx.saved_tensors
        directions, found = _directions(parameters), []
        for d, (w, tw) in enumerate(zip(directions, _directions(tangents), strict=True)):
            own = _rows(y.chunk(len(directions), -1)[d])
            first, cell, *moved = (None if s is None else s[d] for s in (h, c, th, tc))
            moved = [None if tx is None else _rows(tx), *moved]
            found.append(_tangent(ctx.cell, Steps(ctx.sizes, bool(d)), _rows(x), first, cell, own, w, moved, tw))
        ty = torch.cat([one[0] for one in found], -1)
        last = [torch.stack([one[i] for one in found]) for i in ((1, 2) if ctx.cell.has_cell_state else (1,))]
        return ty.view(y.shape), *last, *[None] * (ctx.outputs - 1 - len(last))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], cell: Cell, sizes: tuple[int, ...], *tensors: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size, dims, states = info.batch_size, in_dims[2:], 2 if cell.has_cell_state else 1
        if any(d is not None for d in dims[3:]):  # other weights for each
            each = []
            for i in range(size):
                own = [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)]
                each.append(Recurrence.call(cell, sizes, *own))
            results = [torch.stack(parts) for parts in zip(*each, strict=True)]
            return tuple(results), (0,) * len(results)
        # The mapped dimension joins the batch, which is sorted by length: it becomes the inner part.
        axis = tensors[0].dim() - 2 - (dims[0] is not None)
        folded = [
            None if t is None else _fold(t, d, size, k) for t, d, k in zip(tensors, dims, (axis, 1, 1), strict=False)
        ]
        y, *others = Recurrence.call(cell, tuple([n * size for n in sizes]), *folded, *tensors[3:])
        results = [_unfold(y, size, axis), *(_unfold(s, size, 1) for s in others[:states])]
        results += [_unfold(s, size, 0) for s in others[states:]]
        return tuple(results), (0,) * len(results)


def _fold(tensor: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    """Multiply ``axis`` by a mapped dimension, which becomes the inner one."""
    if dim is None:
        shape = tensor.shape
        tensor = tensor.unsqueeze(axis + 1).expand(*shape[: axis + 1], size, *shape[axis + 1 :])
    else:
        tensor = tensor.movedim(dim, axis + 1)
    return tensor.flatten(axis, axis + 1)


def _unfold(tensor: Tensor, size: int, axis: int) -> Tensor:
    """Return the mapped dimension first."""
    return tensor.unflatten(axis, (tensor.shape[axis] // size if size else 0, size)).movedim(axis + 1, 0)


def _active(wanted: Sequence[bool]) -> list[bool]:
    """Tell for each direction whether a gradient of x, h, c or of its parameters is wanted."""
    return [any(wanted[:3]) or any(wanted[i : i + 5]) for i in range(3, len(wanted), 5)]


def _read(cell: Cell, wanted: tuple[bool, ...], steps: int) -> set[int]:
    """Return the places, among x, h, c, y and the parameters, of what backward reads.

    RNN's derivative is written from y; the others compute their gates again where a higher derivative is recorded.
    """
    read = set()
    for d, active in enumerate(_active(wanted)):
        ih, hh = 4 + 5 * d, 5 + 5 * d
        if not active:
            continue
        if not isinstance(cell, RNN):
            read |= {0, 1, 2, *range(ih, ih + 5)} | ({3} if steps > 1 else set())
            continue
        read |= {3} | ({0} if wanted[ih - 1] else set()) | ({1} if wanted[hh - 1] else set())
        read |= ({ih} if wanted[0] else set()) | ({hh} if wanted[1] or steps > 1 else set())
    return read


def _gradient(
    cell: Cell,
    steps: Steps,
    x: Any,
    h: Any,
    c: Any,
    y: Any,
    kept: Any,
    w: Weights,
    cotangents: tuple[Any, Any, Any],
    wanted: Sequence[bool],
) -> tuple[Any, Any, Any, list[Any]]:
    """Return the gradients of x, h and c and, in a list, of the parameters, in one direction.

    Args:
        cell: the cell.
        steps: the steps.
        x: the inputs' rows.
        h: the first state.
        c: the first cell state.
        y: the outputs' rows.
        kept: what the cell kept, None if it must be differentiated.
        w: the weights.
        cotangents: of y, None for zeros, and of the last states.
        wanted: whether x, the parameters and h want a gradient.
    """
    earlier: Any = None
    if h is not None and (wanted[2] or not isinstance(cell, RNN)):
        earlier = steps.earlier(y, h)
    if kept is None:
        kept = cell.gates(x, earlier, w)
    linear = cell.linearized(steps, y, earlier, kept, c, w)
    a_x, a_h, gh, gc, gw_hr = linear.pull(steps, *cotangents, wanted[6])
    gb_ih = a_x.sum(0) if wanted[3] else None
    gb_hh = (gb_ih.clone() if a_x is a_h and gb_ih is not None else a_h.sum(0)) if wanted[4] else None
    gw_ih = torch.mm(a_x.t(), x) if wanted[1] else None
    gw_hh = torch.mm(a_h.t(), earlier) if wanted[2] else None
    gx = torch.mm(a_x, w.ih) if wanted[0] else None
    return gx, gh, gc, [gw_ih, gw_hh, gb_ih, gb_hh, gw_hr if wanted[5] else None]


def _tangent(
    cell: Cell, steps: Steps, x: Tensor, h: Any, c: Any, y: Tensor, w: Weights, tangents: Sequence[Any], tw: Weights
) -> tuple[Any, ...]:
    """Return the tangents of y and the last states in one direction, from those of x, h, c and the weights."""
    tx, th, tc = tangents
    earlier = steps.earlier(y, h)
    linear = cell.linearized(steps, y, earlier, cell.gates(x, earlier, w), c, w)
    a_x = _affine_tangent(x, w.ih, tx, tw.ih, tw.b_ih)
    a_h = _affine_tangent(earlier, w.hh, None, tw.hh, tw.b_hh)
    th, tc = (torch.zeros_like(s) if t is None and s is not None else t for s, t in ((h, th), (c, tc)))
    return linear.push(steps, a_x, a_h, th, tc, tw.hr)


def _affine_tangent(x: Tensor, w: Tensor, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor:
    """Return the tangent of x wᵀ + b."""
    total = x.new_zeros(x.shape[0], w.shape[0])
    if tx is not None:
        total = total + torch.mm(tx, w.t())
    if tw is not None:
        total = total + torch.mm(x, tw.t())
    return total if tb is None else total + tb


class Step(ExplicitFunction):
    """h' and, of an LSTM, c' of a cell: one step, in as few passes as can be, backward too.

    The further outputs are what backward reads besides: r, z, q and n of a GRU, the gates of an LSTM. Where a higher
    derivative or a batch of gradients is asked for, the cell's linear recurrence is taken, from the inputs. Saved: the
    inputs, c' and the further outputs; of an RNN h' instead, and only what the wanted gradients read.
    """

    @staticmethod
    def forward(
        cell: Cell, x: Tensor, h: Tensor, c: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
    ) -> tuple[Tensor, ...]:
        return cell.step(x, h, c, Weights(w_ih, w_hh, b_ih, b_hh, None))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, x, h, c, w_ih, w_hh, *biases = inputs
        ctx.mark_non_differentiable(*output[2 if ctx.cell.has_cell_state else 1 :])
        ctx.set_materialize_grads(False)
        if isinstance(ctx.cell, RNN):
            wanted = ctx.needs_input_grad
            read = wanted[4], wanted[5], wanted[1], wanted[2]
            x, h, w_ih, w_hh = (t if on else None for t, on in zip((x, h, w_ih, w_hh), read, strict=True))
            ctx.save_for_backward(x, h, None, w_ih, w_hh, None, None, *output)
        else:
            ctx.save_for_backward(x, h, c, w_ih, w_hh, *biases, None, *output[1:])

    @staticmethod
    def backward(ctx: Any, gh: Any, *cotangents: Any) -> tuple[Any, ...]:
        gc = cotangents[0] if ctx.cell.has_cell_state else None
        if gh is None and gc is None:
            return (None,) * 8
        x, h, c, *w, b_ih, b_hh = ctx.saved_tensors[:7]
        results, wanted = ctx.saved_tensors[7:], ctx.needs_input_grad
        if not _plain(gh, gc):
            return None, *_differentiable(ctx.cell, wanted, (x, h, c, *w, b_ih, b_hh, results[0]), gh, gc)
        w_ih, w_hh = w
        a_x, a_h, past, gc = ctx.cell.unstep(gh, gc, h, c, results)
        gx = a_x.mm(w_ih) if wanted[1] else None
        first = None
        if wanted[2]:
            first = a_h.mm(w_hh) if past is None else past.addmm_(a_h, w_hh)
        gw_ih = a_x.t().mm(x) if wanted[4] else None
        gw_hh = a_h.t().mm(h) if wanted[5] else None
        gb_ih = a_x.sum(0) if wanted[6] else None
        gb_hh = None
        if wanted[7]:
            gb_hh = gb_ih.clone() if a_x is a_h and gb_ih is not None else a_h.sum(0)
        return None, gx, first, gc if wanted[3] else None, gw_ih, gw_hh, gb_ih, gb_hh

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise AssertionError("Recurrence serves transforms and forward mode")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        raise AssertionError("Recurrence serves transforms and forward mode")


def _plain(*cotangents: Tensor | None) -> bool:
    """Tell whether a backward pass from real cotangents records nothing and is not of a batch of gradients."""
    given = [g for g in cotangents if g is not None]
    return one_pass() and not any([is_legacy_batchedtensor(g) or g.is_complex() for g in given])


def _differentiable(cell: Cell, needs: Sequence[bool], saved: Sequence[Any], gh: Any, gc: Any) -> tuple[Any, ...]:
    """Return the gradients of x, h, c and the parameters of one step, in steps that can be differentiated."""
    x, h, c, *w, y = [None if t is None else conjugate(t) for t in saved]
    if gh is None:
        gh = torch.zeros_like(gc)
    if gc is None and cell.has_cell_state:
        gc = torch.zeros_like(gh)
    wanted = needs[1], *needs[4:8], False, needs[2]
    steps = Steps((gh.shape[0],), False)
    gx, gh, gc, gw = _gradient(cell, steps, x, h, c, y, None, _directions((*w, None))[0], (None, gh, gc), wanted)
    return gx, gh if needs[2] else None, gc if needs[3] else None, *gw[:4]


class FusedLSTM(ExplicitFunction):
    """y, h[T], c[T] of an LSTM without projection in one direction, one operator of oneDNN forward and one backward.

    They are the built-in's, two to four times as fast as a loop of matrix products where the batch is small. The
    operator's workspace is the further output. Where a higher derivative or a batch of gradients is asked for, the
    steps of LSTM are taken, from x and y. Saved: x, y, the first states, the last cell state, the weights, and the
    workspace.
    """

    @staticmethod
    def forward(reverse: bool, x: Tensor, h: Tensor, c: Tensor, *w: Tensor | None) -> tuple[Tensor, ...]:
        with torch.enable_grad():  # else there is no workspace
            plain = [t.detach() for t in (x.contiguous(), *_with_biases(w), h.contiguous(), c.contiguous())]
            return _ONEDNN(*plain, reverse, [], _LSTM_MODE, h.shape[1], 1, w[2] is not None, False, False, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.reverse, x, h, c, *w = inputs
        y, _, last, workspace = output
        ctx.mark_non_differentiable(workspace)
        ctx.set_materialize_grads(False)
        save(ctx, (x, h, c, y, *w, last, workspace), (x, h, c, y, *w))

    @staticmethod
    def backward(ctx: Any, gy: Any, gh: Any, gc: Any, _workspace: Any) -> tuple[Any, ...]:
        if gy is None and gh is None and gc is None:
            return (None,) * 8
        x, h, c, y, *w, last, workspace = ctx.saved_tensors
        if not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            states = h.contiguous(), c.contiguous(), y, y[0 if ctx.reverse else -1], last
            biased = w[2] is not None
            options: tuple[Any, ...] = ctx.reverse, _LSTM_MODE, h.shape[1], 1, biased, True, False, [], False, workspace
            gx, gw_ih, gw_hh, gb_ih, gb_hh, gh, gc = _ONEDNN_GRADIENT(
                x.contiguous(), *_with_biases(w), *states, gy, gh, gc, *options
            )
            return None, gx, gh, gc, gw_ih, gw_hh, *((gb_ih, gb_hh) if biased else (None, None))
        given = next(g for g in (gy, gh, gc) if g is not None)
        gh, gc = (given.new_zeros(h.shape) if g is None else g for g in (gh, gc))
        wanted = [*(ctx.needs_input_grad[i] for i in (1, 4, 5, 6, 7)), False, ctx.needs_input_grad[2]]
        steps, rows = Steps((x.shape[1],) * x.shape[0], ctx.reverse), (_rows(x), h, c, _rows(y))
        cotangents = None if gy is None else _rows(gy), gh, gc
        gx, gh, gc, gw = _gradient(LSTM(), steps, *rows, None, _directions((*w, None))[0], cotangents, wanted)
        return None, None if gx is None else gx.view(x.shape), gh if wanted[6] else None, gc, *gw[:4]

    @staticmethod
    def jvp(ctx: Any, _reverse: Any, tx: Any, th: Any, tc: Any, *tw: Any) -> tuple[Any, ...]:
        x, h, c, y, *w = ctx.saved_tensors
        steps, rows = Steps((x.shape[1],) * x.shape[0], ctx.reverse), (_rows(x), h, c, _rows(y))
        tangents = None if tx is None else _rows(tx), th, tc
        ty, *last = _tangent(LSTM(), steps, *rows, _directions((*w, None))[0], tangents, _directions((*tw, None))[0])
        return ty.view(y.shape), *last, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        raise AssertionError("Recurrence serves transforms")


def _with_biases(w: Sequence[Any]) -> Sequence[Any]:
    """Return both weights and both biases, zeros where there are none."""
    if w[2] is not None:
        return w
    zeros = w[0].new_zeros(w[0].shape[0])
    return *w[:2], zeros, zeros


def is_fused(cell: Cell, x: Tensor, h: Tensor, c: Tensor | None, parameters: Sequence[Tensor | None]) -> bool:
    """Tell whether the built-in computes such a layer with oneDNN, and nothing asks for its steps."""
    return (
        isinstance(cell, LSTM)
        and x.dim() == 3
        and parameters[4] is None
        and all([t is None or (t.dtype == torch.float32 and t.is_cpu) for t in (x, h, c, *parameters)])
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


# --------------------------------------------------------------------------------------------------
# Layers


def step(cell: Cell, x: Tensor, h: Tensor, c: Tensor | None, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    """Return the new states of a cell, (h,) or of an LSTM (h, c): :func:`recurrent` of one step.

    Shapes: x (N, in), h (N, hidden_size) and c (N, hidden_size).

    Args:
        cell: ``RNN(relu)``, ``GRU()`` or ``LSTM()``.
        x: the input.
        h: the state.
        c: the cell state of an LSTM.
        parameters: W_ih (gates·hidden_size, in), W_hh (gates·hidden_size, hidden_size), b_ih and b_hh, both of them or
            neither None.
    """
    if not records_only_reverse():
        first = h.unsqueeze(0), None if c is None else c.unsqueeze(0)
        y, _, *others = Recurrence.call(cell, (x.shape[0],), x, *first, *parameters, None)
        return (y, others[0].squeeze(0)) if cell.has_cell_state else (y,)
    results: tuple[Tensor, ...] = Step.call(cell, x, h, c, *parameters)
    return results[: 2 if cell.has_cell_state else 1]


def recurrent(
    cell: Cell,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    parameters: Sequence[Tensor | None],
    sizes: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Return the outputs and the last states, (y, h) or of an LSTM (y, h, c), of a layer in D = 1 or 2 directions.

    Shapes: x (T, N, in), y (T, N, D·out), h (D, N, out) and c (D, N, hidden_size). Of sequences of several lengths,
    sorted, x and y are (rows, ·), as in a PackedSequence, and ``sizes`` says how many rows each step has.

    Args:
        cell: ``RNN(relu)``, ``GRU()`` or ``LSTM()``.
        x: the input.
        h: the first states.
        c: the first cell states of an LSTM.
        parameters: for each direction W_ih (gates·hidden_size, in), W_hh (gates·hidden_size, out), b_ih, b_hh and
            W_hr (out, hidden_size), where gates is 1, 3 or 4; both biases may be None, and so may W_hr.
        sizes: rows of each step, if x is packed.
    """
    if c is not None and is_fused(cell, x, h, c, parameters):
        found = [
            FusedLSTM.call(bool(d), x, h[d], c[d], *parameters[5 * d : 5 * d + 4]) for d in range(len(parameters) // 5)
        ]
        if len(found) == 1:
            y, hn, cn, _ = found[0]
            return y, hn.unsqueeze(0), cn.unsqueeze(0)
        y = torch.cat([one[0] for one in found], -1)
        return y, *[torch.stack([one[i] for one in found]) for i in (1, 2)]
    rows = (x.shape[1],) * x.shape[0] if sizes is None else tuple(sizes)
    return Recurrence.call(cell, rows, x, h, c, *parameters)[: 3 if cell.has_cell_state else 2]
