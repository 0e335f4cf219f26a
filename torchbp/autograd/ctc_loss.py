"""Connectionist temporal classification: the likelihood of a labelling, summed over all its alignments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.adjoint import fold_batch, unfold_batch
from torchbp.autograd.function import ExplicitFunction, one_pass, save

_aten = torch.ops.aten
_NEVER = -1e30  # the logarithm of no probability: finite, so that no derivative is 0 · inf
_IMPOSSIBLE = -1e29  # a likelihood below it has no alignment at all


class ConnectionistTemporalClassification(ExplicitFunction):
    """y = -log p(l | x) for each of N sequences of log-probabilities x (T, N, C) and labellings l.

    Graves, Fernández, Gomez and Schmidhuber (2006), with logarithms: the states are the labels with blanks before,
    between and after them, l'. With α_t(s) the probability of the first t steps that end in state s, and β_t(s) of
    the rest that begins there,

        α_t(s) = x_t(l'_s) (α_(t-1)(s) + α_(t-1)(s-1) + α_(t-1)(s-2) if l'_s is no blank and not l'_(s-2))
        β_t(s) = the same from the right, without x_t;     p = Σ_s α_t(s) β_t(s) for every t,

    so ∂y/∂log x_t(c) = -γ_t(c) with γ_t(c) = Σ over s with l'_s = c of α_t(s) β_t(s) / p, the share of alignments that
    emit c at t. All three are sums in logarithms of differentiable steps, vectorised over sequences and states.

    Saved: x, labels, lengths; the losses and ATen's log α, both outputs, for a backward pass without higher
    derivatives. ATen's gradient is exp(x) - γ, the same behind log_softmax only, so exp(x) is taken off again.
    """

    @staticmethod
    def forward(
        x: Tensor, labels: Tensor, steps: Tensor, lengths: Tensor, blank: int, zero_infinity: bool
    ) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():
            likelihood = _Lattice(x, labels, steps, lengths, blank).likelihood
            return torch.where(likelihood < _IMPOSSIBLE, torch.inf, -likelihood), x.new_empty(0)
        x, lowered = _lowered(x, steps)
        losses, alpha = _aten._ctc_loss.Tensor(x, labels, steps, lengths, blank, zero_infinity)
        return losses if lowered is None else losses - lowered, alpha

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, labels, steps, lengths, ctx.blank, ctx.zero_infinity = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        kept = (x, labels, steps, lengths)
        save(ctx, kept if torch.compiler.is_compiling() else (*kept, *output), kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _alpha: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 6
        x, labels, steps, lengths, *fused = ctx.saved_tensors
        if not (fused and one_pass()):
            gx = -g.unsqueeze(1) * _emissions(x, labels, steps, lengths, ctx.blank, ctx.zero_infinity)
            return gx, *(None,) * 5
        losses, alpha = fused
        x, lowered = _lowered(x, steps)
        losses = losses if lowered is None else losses + lowered
        arguments = (x, labels, steps, lengths, losses, alpha, ctx.blank, ctx.zero_infinity)
        gx = _aten._ctc_loss_backward.Tensor(g.contiguous(), *arguments)
        if ctx.zero_infinity:
            g = g.masked_fill(losses == torch.inf, 0)
        added = x.exp().masked_fill_(_beyond(x, steps), 0)
        return torch.addcmul(gx, added, g.unsqueeze(1), value=-1), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_others: Any) -> tuple[Tensor, None]:
        x, labels, steps, lengths = ctx.saved_tensors
        share = _emissions(x, labels, steps, lengths, ctx.blank, ctx.zero_infinity)
        return -(share * t).sum((0, 2)), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size, (blank, zero_infinity) = info.batch_size, args[4:]
        x = fold_batch(args[0], in_dims[0], size, 1)
        rest = [fold_batch(t, d, size) for t, d in zip(args[1:4], in_dims[1:4], strict=True)]
        results = ConnectionistTemporalClassification.call(x, *rest, blank, zero_infinity)
        return tuple(unfold_batch(t, size) for t in results), (0, 0)


def _beyond(x: Tensor, steps: Tensor) -> Tensor:
    """Tell which steps of x (T, N, C) come after the last of their sequence, (T, N, 1)."""
    return (torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= steps).unsqueeze(2)


def _lowered(x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return x with what is above zero at a step taken off, so that exp(x) is at most 1, and how much per sequence.

    Logarithms of probabilities are never above zero, and γ does not depend on it.
    """
    if bool(x.max() <= 0):
        return x, None
    excess = x.amax(2, keepdim=True)
    none = _beyond(x, steps) | ~((excess > 0) & excess.isfinite())
    excess = excess.masked_fill_(none, 0)
    return x - excess, excess.sum((0, 2))


class _Lattice:
    """The states of N labellings and, for x (T, N, C), their log α, in differentiable steps."""

    def __init__(self, x: Tensor, labels: Tensor, steps: Tensor, lengths: Tensor, blank: int) -> None:
        self.count = 2 * labels.shape[1] + 1
        place = torch.arange(self.count, device=x.device)
        # Labels beyond a sequence's length are blanks: no path of the sequence ends there.
        within = torch.arange(labels.shape[1], device=x.device) < lengths.unsqueeze(1)
        labels = torch.where(within, labels, blank)
        pairs = torch.stack([torch.full_like(labels, blank), labels], 2).flatten(1)
        self.states = torch.cat([pairs, torch.full_like(lengths, blank).unsqueeze(1)], 1)
        before = torch.cat([torch.full_like(self.states[:, :2], blank), self.states[:, :-2]], 1)
        skips = (self.states != blank) & (self.states != before[:, : self.count])
        self.skips = torch.where(skips, 0.0, _NEVER).to(x.dtype)
        self.steps = steps
        last = 2 * lengths.unsqueeze(1)
        ends = (place == last) | ((place == last - 1) & (last > 0))
        self.ends = torch.where(ends, 0.0, _NEVER).to(x.dtype)
        index = self.states.expand(x.shape[0], *self.states.shape)
        self.emitted = x.clamp(min=_NEVER).masked_fill(_beyond(x, steps), 0).gather(2, index)
        self.alpha = self._forward(torch.where(place <= 1, 0.0, _NEVER).to(x.dtype))
        self.likelihood = (self.alpha[-1] + self.ends).logsumexp(1)

    def _forward(self, start: Tensor) -> Tensor:
        """Return log α (T, N, states); after a sequence's last step it stands still."""
        if self.count == 1:
            start = start[:1]
        a = torch.where((self.steps > 0).unsqueeze(1), start + self.emitted[0], self._rest(start))
        found = [a]
        for t in range(1, self.emitted.shape[0]):
            ways = torch.stack([a, _shifted(a, 1), _shifted(a, 2) + self.skips])
            a = torch.where((t < self.steps).unsqueeze(1), ways.logsumexp(0) + self.emitted[t], a)
            found.append(a)
        return torch.stack(found)

    def _rest(self, start: Tensor) -> Tensor:
        """Return log α of a sequence without steps: it is in no state but the first blank."""
        return torch.where(torch.arange(self.count, device=start.device) == 0, 0.0, _NEVER).to(start.dtype)

    def backward(self) -> Tensor:
        """Return log β (T, N, states)."""
        b = self.ends
        onward = _shifted(self.skips, -2)
        found = [b]
        for t in range(self.emitted.shape[0] - 2, -1, -1):
            after = b + self.emitted[t + 1]
            ways = torch.stack([after, _shifted(after, -1), _shifted(after, -2) + onward])
            b = torch.where((t + 1 < self.steps).unsqueeze(1), ways.logsumexp(0), self.ends)
            found.append(b)
        return torch.stack(found[::-1])


def _shifted(v: Tensor, by: int) -> Tensor:
    """Return v moved along its last dimension, with no probability where nothing came."""
    count = v.shape[-1]
    empty = torch.full_like(v[..., : min(abs(by), count)], _NEVER)
    return torch.cat([empty, v[..., :-by]] if by > 0 else [v[..., -by:], empty], -1)


def _emissions(x: Tensor, labels: Tensor, steps: Tensor, lengths: Tensor, blank: int, zero_infinity: bool) -> Tensor:
    """Return γ (T, N, C), the share of alignments that emit a class at a step; NaN if there are none, or zero."""
    lattice = _Lattice(x, labels, steps, lengths, blank)
    likelihood = lattice.likelihood
    none = likelihood < _IMPOSSIBLE
    share = (lattice.alpha + lattice.backward() - likelihood.masked_fill(none, 0).unsqueeze(1)).exp()
    beyond = _beyond(x, steps)
    share = share.masked_fill(beyond, 0)
    index = lattice.states.expand(x.shape[0], *lattice.states.shape)
    gamma = torch.zeros_like(x).scatter_add(2, index, share)
    return gamma.masked_fill(none.unsqueeze(1) & ~beyond, 0.0 if zero_infinity else torch.nan)


def ctc_loss(x: Tensor, labels: Tensor, steps: Tensor, lengths: Tensor, blank: int, zero_infinity: bool) -> Tensor:
    """Return -log p(labels | x) for x (T, N, C) of log-probabilities and labels (N, S), as (N).

    Args:
        x: log-probabilities; only the first ``steps[n]`` steps of sequence n count.
        labels: classes; only the first ``lengths[n]`` of sequence n count.
        steps: (N).
        lengths: (N).
        blank: the class that stands for no label.
        zero_infinity: whether a labelling without an alignment, which is too long, costs nothing.

    Keeps its arguments, the losses, and the probabilities of all states at all steps.
    """
    losses, _ = ConnectionistTemporalClassification.call(x, labels, steps, lengths, blank, zero_infinity)
    return torch.where(losses == torch.inf, 0, losses) if zero_infinity else losses
