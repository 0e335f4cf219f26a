"""Scaled dot-product attention, over blocks of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.adjoint import fold_batch, unfold_batch
from torchbp.autograd.contraction import Einsum, contract
from torchbp.autograd.dropout import dropout
from torchbp.autograd.function import ExplicitFunction, save
from torchbp.autograd.softmax import softmax
from torchbp.ops.attention import added, grouped, scale_of, wide_dtype


@dataclass(frozen=True)
class Scores:
    """How the scores are made.

    Attributes:
        scale: what q kᵀ is multiplied by; by default 1 / sqrt(E).
        causal: whether row i sees the keys 0 to i only.
        growth: what dropout multiplies the probabilities that it keeps by.
        like_query: whether the output has the query's layout where it can; else it is contiguous.
    """

    scale: float | None = None
    causal: bool = False
    growth: float = 1.0
    like_query: bool = False


class Attention(ExplicitFunction):
    """Y = (P ∘ Z) v with P = exp(S - n), S = scale q kᵀ + mask and n = log of the sum of exp(S) over a row.

    Z is 1, or dropout's mask: 0 where a probability is dropped, 1 / (1 - p) elsewhere. Outputs Y and n, both
    differentiable, since backward recomputes P from n block by block. With dn = sum_j P dS, hence dP = P (dS - dn)::

        gv = (P ∘ Z)ᵀ gy,   gP = (gy vᵀ) ∘ Z
        gS = P ∘ (gP - D + gn),   D = sum_j P gP = sum over the values of gy ∘ Y
        gq = scale gS k,   gk = scale gSᵀ q,   gmask = gS summed over what was broadcast

    A row that sees no key has Y = 0, n = 0 and P = 0, so no gradient. Saved: q, k, v, mask, Z as one byte a score, Y
    and n; no v and no Y if the gradient of v alone is wanted. (Dao, "FlashAttention-2", 2023, section 3.1.)
    """

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        y, normalizer = ops.attention.attention(q, k, v, mask, kept, scores.scale, scores.causal, scores.growth)
        return y if scores.like_query else y.contiguous(), normalizer

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, mask, kept, ctx.scores = inputs
        ctx.set_materialize_grads(False)
        need_q, need_k, _, need_mask = ctx.needs_input_grad[:4]
        probabilities = (q, k, mask, kept, output[1])
        others = (v, output[0]) if need_q or need_k or need_mask else (None, None)
        save(ctx, (*probabilities, *others), (*probabilities, v, output[0]))

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gn: Tensor | None) -> tuple[Any, ...]:
        if gy is None and gn is None:
            return (None,) * 6
        if torch.compiler.is_compiling():
            gn = None  # Dynamo fills in zeros, and what it compiles has no second derivative
        q, k, mask, kept, n, v, y = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:4])
        if gy is None:
            if y is None:  # v has no part in n
                return (None,) * 6
            gy = torch.zeros_like(y)
        if not torch.is_grad_enabled() and not _is_batched(gy, gn):
            how = (ctx.scores.scale, ctx.scores.causal, ctx.scores.growth)
            found = ops.attention.attention_gradients(gy, gn, q, k, v, mask, kept, y, n, *how, wanted)
        else:
            found = _gradients(gy, gn, q, k, v, mask, kept, y, n, ctx.scores, wanted)
        return *(t if need else None for t, need in zip(found, wanted, strict=True)), None, None

    @staticmethod
    def jvp(
        ctx: Any, tq: Tensor | None, tk: Tensor | None, tv: Tensor | None, tmask: Tensor | None, *_rest: Any
    ) -> tuple[Tensor, Tensor]:
        q, k, mask, kept, n, v, y = ctx.saved_tensors
        scores, scale, wide = ctx.scores, scale_of(q, ctx.scores.scale), wide_dtype(q.dtype)
        single = q.dim() == 4
        if single:
            q, mask, kept, n, y, tq, tmask = (grouped(t) for t in (q, mask, kept, n, y, tq, tmask))
        p = _probabilities(q, k, mask, n, scores)
        used = _dropped(p, kept, scores)
        keys = k.unsqueeze(2).to(wide)
        ts = None
        if tq is not None:
            ts = _product(tq.to(wide) * scale, keys.mT)
        if tk is not None:
            term = _product(q.to(wide) * scale, tk.unsqueeze(2).to(wide).mT)
            ts = term if ts is None else ts + term
        if tmask is not None:
            ts = tmask.expand(p.shape) if ts is None else ts + tmask
        ty, tn = torch.zeros_like(y, dtype=wide), torch.zeros_like(n)
        if ts is not None:
            tn = (p * ts).sum(-1)
            ty = _product(used * ts, v.unsqueeze(2).to(wide)) - tn.unsqueeze(-1) * y
        if tv is not None:
            ty = ty + _product(used, tv.unsqueeze(2).to(wide))
        ty = ty.to(q.dtype)
        return (ty.squeeze(2), tn.squeeze(2)) if single else (ty, tn)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        kept: Tensor | None,
        scores: Scores,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """The mapped dimension folds into the batch."""
        size = info.batch_size
        batch = q.shape[0] if in_dims[0] is None else q.movedim(in_dims[0], 0).shape[1]

        def fold(tensor: Tensor | None, dim: int | None) -> Tensor | None:
            if tensor is None or (dim is None and tensor.shape[0] == 1 != batch):
                return tensor
            if dim is not None:
                tensor = tensor.movedim(dim, 0)
            shape = list(tensor.shape)
            shape[0 if dim is None else 1] = batch
            return fold_batch(tensor.expand(shape), None if dim is None else 0, size)

        folded = (fold(t, dim) for t, dim in zip((q, k, v, mask, kept), in_dims, strict=False))
        y, n = Attention.call(*folded, scores)
        return (unfold_batch(y, size), unfold_batch(n, size)), (0, 0)


_BATCHED = torch._C._dispatch_key_parse("Batched")


def _is_batched(*tensors: Tensor | None) -> bool:
    """Tell whether gradients come batched, which nothing that writes into memory of its own can take."""
    if torch.compiler.is_compiling():
        return False
    return any([t is not None and torch._C._dispatch_keys(t).has(_BATCHED) for t in tensors])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b for (B, H, R, rows, inner) and (B, H, R or 1, inner, columns)."""
    if b.shape[2] == 1 != a.shape[2]:  # the rows of a group as those of one matrix
        rows = a.reshape(*a.shape[:2], a.shape[2] * a.shape[3], a.shape[4])
        return torch.matmul(rows, b[:, :, 0]).reshape(*a.shape[:4], b.shape[4])
    return torch.matmul(a, b)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, n: Tensor, scores: Scores) -> Tensor:
    """Return P in differentiable steps."""
    wide = wide_dtype(q.dtype)
    s = _product(q.to(wide) * scale_of(q, scores.scale), k.unsqueeze(2).to(wide).mT)
    if mask is not None:
        s = s + added(mask, wide)
    if scores.causal:
        later = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu_(1)
        s = s.masked_fill(later, -math.inf)
    return torch.exp(s - n.unsqueeze(-1))


def _dropped(p: Tensor, kept: Tensor | None, scores: Scores) -> Tensor:
    return p if kept is None else p * kept * scores.growth


def _gradients(
    gy: Tensor,
    gn: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    kept: Tensor | None,
    y: Tensor | None,
    n: Tensor,
    scores: Scores,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of q, k, v and mask in differentiable steps."""
    need_q, need_k, need_v, need_mask = wanted
    wide, scale, single = wide_dtype(q.dtype), scale_of(q, scores.scale), q.dim() == 4
    if single:
        gy, q, n = (t.unsqueeze(2) for t in (gy, q, n))
        gn, mask, kept, y = (grouped(t) for t in (gn, mask, kept, y))
    p, g = _probabilities(q, k, mask, n, scores), gy.to(wide)
    gq = gk = gv = gm = None
    if need_v:
        gv = _product(_dropped(p, kept, scores).mT, g).sum(2).to(k.dtype)
    if v is not None and y is not None:
        gp = _dropped(_product(g, v.unsqueeze(2).to(wide).mT), kept, scores)
        d = (g * y).sum(-1)
        gs = p * (gp - (d if gn is None else d - gn).unsqueeze(-1))
        gq = (_product(gs, k.unsqueeze(2).to(wide)) * scale).to(q.dtype) if need_q else None
        gk = (_product(gs.mT, q.to(wide)).sum(2) * scale).to(k.dtype) if need_k else None
        gm = gs.sum_to_size(mask.shape).to(mask.dtype) if mask is not None and need_mask else None
    if single:
        gq, gm = (None if t is None else t.squeeze(2) for t in (gq, gm))
    return gq, gk, gv, gm


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None, scores: Scores) -> Tensor:
    """Return softmax(scale q kᵀ + mask) v, after dropout of the probabilities that are not ``kept``.

    Shapes: q (B, H, L, E), or (B, H, R, L, E) where R heads share each of k (B, H, S, E) and v (B, H, S, V). ``mask``,
    boolean (True takes part) or added, and ``kept``, boolean, broadcast to (B, H, L, S) or (B, H, R, L, S). The result
    is (B, H, L, V) or (B, H, R, L, V). Keeps its inputs and outputs, and one number per row.
    """
    if torch.compiler.is_compiling():  # Dynamo refuses a Function that gets one tensor twice
        k = k.view_as(k) if k is q else k
        v = v.view_as(v) if v is q or v is k else v
    return Attention.call(q, k, v, mask, kept, scores)[0]


def draw_kept(q: Tensor, k: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    """Return which probabilities dropout keeps, drawn in the order in which the built-in draws for (*shape)."""
    if torch._C._are_functorch_transforms_active():  # the draws belong to every mapped example
        like = (q.sum() + k.sum()).to(torch.bool).expand(shape)
        return torch.empty_like(like, memory_format=torch.contiguous_format).bernoulli_(1 - p)
    return q.new_empty(shape, dtype=torch.bool).bernoulli_(1 - p)


_SCORES = Einsum("nhle,nhse->nhls")
_MIXED = Einsum("nhls,nhse->nhle")


def attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """Return softmax(q kᵀ / sqrt(E) + mask) v and the probabilities, after dropout, that v is averaged with.

    Shapes: q (N, H, L, E), k (N, H, S, E), v (N, H, S, V). A row that sees no key is NaN, as the built-in has it where
    it returns probabilities. Two contractions with softmax and dropout between them, each with its own backward.
    """
    scores = contract(_SCORES, 2, q, k) * math.sqrt(1.0 / q.shape[-1])
    weights = softmax(scores if mask is None else scores + added(mask, q.dtype), -1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p)
    return contract(_MIXED, 2, weights, v), weights
