"""Connectionist temporal classification of one sequence.

The likelihood of a labelling is the sum over all its alignments, and a dynamic programme adds them up: α[t, s] for
the first steps, β[t, s] for the rest. Their product over the whole is the share of alignments that are in state s at
step t, and that is already the gradient.
"""

from __future__ import annotations

import numpy as np

from ._arrays import Array, require_real, result_dtype, widen


def _states(labels: Array, blank: int) -> list[int]:
    """Return the labels with blanks before, between and after them."""
    states = [blank]
    for label in np.asarray(labels).tolist():
        states += [int(label), blank]
    return states


def _ways(states: list[int], s: int, blank: int) -> list[int]:
    """Return the states from which state s is reached: itself, the one before, and across a blank."""
    found = [s] + ([s - 1] if s > 0 else [])
    if s > 1 and states[s] != blank and states[s] != states[s - 2]:
        found.append(s - 2)
    return found


def _lattice(log_probs: Array, labels: Array, blank: int) -> tuple[list[int], Array, Array, float]:
    """Return the states, α, β and the likelihood; α counts the emission at its own step, β does not."""
    require_real("log_probs", log_probs)
    steps, classes = np.shape(log_probs)
    states = _states(labels, blank)
    if not all(0 <= state < classes for state in states):
        raise RuntimeError(f"labels and blank must be from 0 to {classes - 1}, got {states}")
    probability = np.exp(widen(log_probs))
    alpha, beta = np.zeros((steps, len(states))), np.zeros((steps, len(states)))
    for s in range(min(2, len(states))):
        alpha[0, s] = probability[0, states[s]]
    for s in range(max(0, len(states) - 2), len(states)):
        beta[-1, s] = 1
    for t in range(1, steps):
        for s, state in enumerate(states):
            alpha[t, s] = probability[t, state] * sum(alpha[t - 1, r] for r in _ways(states, s, blank))
    for t in range(steps - 2, -1, -1):
        for s, state in enumerate(states):
            for r in _ways(states, s, blank):
                beta[t, r] += beta[t + 1, s] * probability[t + 1, state]
    return states, alpha, beta, float(np.sum(alpha[-1] * beta[-1]))


def ctc_loss(log_probs: Array, labels: Array, blank: int = 0) -> Array:
    """Compute -log of the probability that a labelling has, whatever its alignment.

    An alignment emits one class a step; merging repetitions and taking out blanks leaves the labels.

        α[t, s] = exp(x[t, l'[s]]) · (α[t-1, s] + α[t-1, s-1] + α[t-1, s-2])
        loss = -log (α[T-1, S-1] + α[T-1, S-2])

    where l' are the labels with blanks around them, and the last term counts only if l'[s] is neither a blank nor
    l'[s-2].

    Args:
        log_probs: x, logarithms of probabilities, shape (T, C), T > 0.
        labels: classes, shape (S,).
        blank: the class that stands for no label.

    Returns:
        Shape (); infinity if there is no alignment.

    Raises:
        RuntimeError: a label is no class.
        TypeError: log_probs is complex.

    Source: Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification", 2006. Equals
    `torch.nn.functional.ctc_loss` of one sequence, summed.
    """
    likelihood = _lattice(log_probs, labels, blank)[3]
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(likelihood)).astype(result_dtype(log_probs))


def ctc_loss_gradient(log_probs: Array, labels: Array, grad_output: Array, blank: int = 0) -> Array:
    """Carry a gradient from the output of `ctc_loss` to its input.

    With β[t, s] the probability of all that follows step t in state s:

        gx[t, c] = -g · Σ over s with l'[s] = c of α[t, s] β[t, s] / likelihood

    Args:
        log_probs: as in `ctc_loss`.
        labels: as in `ctc_loss`.
        grad_output: shape ().
        blank: as in `ctc_loss`.

    Returns:
        The shape of log_probs.

    Raises:
        As `ctc_loss`.

    PyTorch's gradient has exp(x) added, which makes no difference behind `log_softmax`.
    """
    states, alpha, beta, likelihood = _lattice(log_probs, labels, blank)
    grad_input = np.zeros(np.shape(log_probs))
    for t in range(len(alpha)):
        for s, state in enumerate(states):
            grad_input[t, state] -= float(widen(grad_output)) * alpha[t, s] * beta[t, s] / likelihood
    return grad_input.astype(result_dtype(log_probs, grad_output))
