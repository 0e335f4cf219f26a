"""Recurrent layers, step by step, and backpropagation through time: the same steps, last one first.

Letters: t counts steps, x[t] is (N, in), the states h[t] and c[t] are (N, hidden); a is what a gate's activation is
applied to, with W x + b + V h[t-1] + d for the weights (W, V, b, d) of a layer.

    RNN     h[t] = tanh(a), or max(a, 0)
    GRU     r, z = σ(a),  n = tanh(W_n x + b_n + r (V_n h[t-1] + d_n)),  h[t] = (1 - z) n + z h[t-1]
    LSTM    i, f, o = σ(a),  g = tanh(a),  c[t] = f c[t-1] + i g,  h[t] = o tanh(c[t]), or R (o tanh(c[t]))

A state is read twice, by the output and by the next step, so its gradient is the sum of two. The weights are the
same at every step, so theirs is a sum over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._arrays import Array, result_dtype, widen


def _rounded(results: Sequence[Array], *given: Array) -> tuple[Array, ...]:
    """Return the results in the dtype of what was given."""
    dtype = result_dtype(*given)
    return tuple(result.astype(dtype) for result in results)


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def rnn(x: Array, h: Array, weights: Sequence[Array], relu: bool = False) -> Array:
    """Return h[t] for every step, (T, N, hidden).

    Args:
        x: shape (T, N, in).
        h: the state before the first step, (N, hidden).
        weights: W (hidden, in), V (hidden, hidden), b (hidden,), d (hidden,).
        relu: whether the activation is max(a, 0) and not tanh.

    Equals `torch.rnn_tanh` and `torch.rnn_relu` with one layer.
    """
    w, v, b, d = (widen(p) for p in weights)
    states = [widen(h)]
    for step in widen(x):
        a = step @ w.T + b + states[-1] @ v.T + d
        states.append(np.maximum(a, 0) if relu else np.tanh(a))
    return _rounded([np.stack(states[1:])], x, h, *weights)[0]


def rnn_gradients(
    grad_output: Array, x: Array, h: Array, weights: Sequence[Array], relu: bool = False
) -> tuple[Array, ...]:
    """Return the gradients of x, h, W, V, b and d.

    Per step da = (1 - h[t]²) dh, or dh where h[t] > 0; then dx[t] = Wᵀ da and dh[t-1] += Vᵀ da.

    Args:
        grad_output: gradient of the outputs, (T, N, hidden); the rest as in `rnn`.
    """
    given = (grad_output, x, h, *weights)
    x, weights = widen(x), [widen(p) for p in weights]
    w, v = weights[:2]
    states = [widen(h), *rnn(x, widen(h), weights, relu)]
    gx, gw, gv, gb = np.zeros_like(x), np.zeros_like(w), np.zeros_like(v), np.zeros(len(w))
    gh = np.zeros_like(states[0])
    for t in reversed(range(len(x))):
        gh = gh + grad_output[t]
        ga = gh * (states[t + 1] > 0 if relu else 1 - states[t + 1] ** 2)
        gx[t], gh = ga @ w, ga @ v
        gw, gv, gb = gw + ga.T @ x[t], gv + ga.T @ states[t], gb + ga.sum(0)
    return _rounded((gx, gh, gw, gv, gb, gb), *given)


def _gru_step(x: Array, h: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    w, v, b, d = weights
    xr, xz, xn = np.split(x @ w.T + b, 3, axis=1)
    hr, hz, q = np.split(h @ v.T + d, 3, axis=1)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    return r, z, np.tanh(xn + r * q), q


def gru(x: Array, h: Array, weights: Sequence[Array]) -> Array:
    """Return h[t] for every step, (T, N, hidden); weights W (3 hidden, in) and so on, in the order r, z, n.

    Equals `torch.gru` with one layer.
    """
    wide, state, states = [widen(p) for p in weights], widen(h), []
    for step in widen(x):
        _, z, n, _ = _gru_step(step, state, wide)
        state = (1 - z) * n + z * state
        states.append(state)
    return _rounded([np.stack(states)], x, h, *weights)[0]


def gru_gradients(grad_output: Array, x: Array, h: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gradients of x, h, W, V, b and d.

    Per step dn = (1 - z) dh and dz = (h[t-1] - n) dh, through tanh da_n = (1 - n²) dn, and dr = q da_n for
    q = V_n h[t-1] + d_n, which itself gets r da_n; z passes dh on.

    Args:
        grad_output: gradient of the outputs, (T, N, hidden); the rest as in `gru`.
    """
    given = (grad_output, x, h, *weights)
    x, weights = widen(x), [widen(p) for p in weights]
    states = [widen(h), *gru(x, widen(h), weights)]
    gx, gh = np.zeros_like(x), np.zeros_like(states[0])
    gw, gv, gb, gd = (np.zeros_like(p) for p in weights)
    for t in reversed(range(len(x))):
        r, z, n, q = _gru_step(x[t], states[t], weights)
        gh = gh + grad_output[t]
        an = gh * (1 - z) * (1 - n**2)
        az = gh * (states[t] - n) * z * (1 - z)
        ar = an * q * r * (1 - r)
        ax, ah = np.concatenate([ar, az, an], axis=1), np.concatenate([ar, az, an * r], axis=1)
        gx[t], gh = ax @ weights[0], ah @ weights[1] + gh * z
        gw, gv, gb, gd = gw + ax.T @ x[t], gv + ah.T @ states[t], gb + ax.sum(0), gd + ah.sum(0)
    return _rounded((gx, gh, gw, gv, gb, gd), *given)


def _lstm_step(x: Array, h: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    w, v, b, d = weights[:4]
    i, f, g, o = np.split(x @ w.T + b + h @ v.T + d, 4, axis=1)
    return _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)


def lstm(x: Array, h: Array, c: Array, weights: Sequence[Array]) -> tuple[Array, Array]:
    """Return h[t], (T, N, out), and c[t], (T, N, hidden), for every step.

    Args:
        x: shape (T, N, in).
        h: the state before the first step, (N, out).
        c: the cell state before the first step, (N, hidden).
        weights: W (4 hidden, in), V (4 hidden, out), b, d (4 hidden,), in the order i, f, g, o, and for a projection
            R (out, hidden).

    Equals `torch.lstm` with one layer.
    """
    wide = [widen(p) for p in weights]
    outputs, cells = [widen(h)], [widen(c)]
    for step in widen(x):
        i, f, g, o = _lstm_step(step, outputs[-1], wide)
        cells.append(f * cells[-1] + i * g)
        memory = o * np.tanh(cells[-1])
        outputs.append(memory @ wide[4].T if len(wide) > 4 else memory)
    y, states = _rounded([np.stack(outputs[1:]), np.stack(cells[1:])], x, h, c, *weights)
    return y, states


def lstm_gradients(grad_output: Array, x: Array, h: Array, c: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gradients of x, h, c, W, V, b, d and, of a projection, R.

    Per step, with m = o tanh(c[t]) and dm = dh, or Rᵀ dh: dc += o (1 - tanh²(c[t])) dm, do = tanh(c[t]) dm,
    di = g dc, df = c[t-1] dc, dg = i dc, each times the activation's derivative; f passes dc on.

    Args:
        grad_output: gradient of the outputs, (T, N, out); the rest as in `lstm`.
    """
    given = (grad_output, x, h, c, *weights)
    x, h, c, weights = widen(x), widen(h), widen(c), [widen(p) for p in weights]
    outputs, cells = ([first, *rest] for first, rest in zip((h, c), lstm(x, h, c, weights), strict=True))
    gx, gh, gc = np.zeros_like(x), np.zeros_like(outputs[0]), np.zeros_like(cells[0])
    gradients = [np.zeros_like(p) for p in weights]
    for t in reversed(range(len(x))):
        i, f, g, o = _lstm_step(x[t], outputs[t], weights)
        squashed = np.tanh(cells[t + 1])
        gh = gh + grad_output[t]
        gm = gh
        if len(weights) > 4:
            gm = gh @ weights[4]
            gradients[4] += gh.T @ (o * squashed)
        gc = gc + gm * o * (1 - squashed**2)
        parts = [gc * g * i * (1 - i), gc * cells[t] * f * (1 - f), gc * i * (1 - g**2), gm * squashed * o * (1 - o)]
        a = np.concatenate(parts, axis=1)
        for k, part in enumerate((a.T @ x[t], a.T @ outputs[t], a.sum(0), a.sum(0))):
            gradients[k] += part
        gx[t], gh, gc = a @ weights[0], a @ weights[1], gc * f
    return _rounded((gx, gh, gc, *gradients), *given)
