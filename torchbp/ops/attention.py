"""Scaled dot-product attention and its gradients, computed over blocks of rows.

q (B, H, L, E) has as many heads as k (B, H, S, E) and v (B, H, S, V), or q (B, H, R, L, E) R heads for each of theirs;
``mask``, boolean or added, and ``kept``, the scores that dropout keeps, broadcast to (B, H, L, S) or (B, H, R, L, S).
PyTorch's fused operator computes what it can; the blocks everything else: dropout, a gradient of the mask, values of
another size, other devices. Each needs memory linear in L and S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchbp.ops.dropout import masked_scale

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_fused_gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_unsafe_view = torch.ops.aten._unsafe_view.default
_FUSED_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
# Scores of a block: few enough for a processor's cache, enough for matrix products at full speed.
_BLOCK, _ROWS, _FEWEST_ROWS = 2**19, 128, 16


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    scale: float | None,
    causal: bool,
    growth: float,
) -> tuple[Tensor, Tensor]:
    """Return softmax(scale q kᵀ + mask) v, in q's shape but for its last size, and log sum exp of each row of scores.

    A row whose scores are all -inf gives 0, and 0 for its logarithm. ``growth`` is what dropout multiplies by.
    """
    # An exported program may be differentiated here, and the operator has no gradient of a mask.
    constant = mask is None or not (mask.requires_grad and torch.is_grad_enabled())
    if constant and _is_fused(q, k, v, kept, causal, scale):
        results = [_fused(one, k, v, 0.0, causal, attn_mask=m, scale=scale) for one, m in _heads(q, mask)]
        if not any([_hides_nan(q, k, normalizer) for _, normalizer in results]):
            if q.dim() == 4:
                return results[0]
            return torch.stack([y for y, _ in results], 2), torch.stack([n for _, n in results], 2)
    if q.dim() == 4:
        y, normalizer = attention(q.unsqueeze(2), k, v, grouped(mask), grouped(kept), scale, causal, growth)
        # No views: to one that an autograd.Function returns forward mode gives no tangent of another layout.
        return _unsafe_view(y, (*q.shape[:-1], y.shape[-1])), _unsafe_view(normalizer, q.shape[:-1])
    wide = wide_dtype(q.dtype)
    y = q.new_empty((*q.shape[:-1], v.shape[-1]))
    normalizer = q.new_empty(q.shape[:-1], dtype=wide)
    if k.shape[2] == 0:
        return y.zero_(), normalizer.zero_()
    blocks, factor = _Blocks(q, k, causal, buffers=1), scale_of(q, scale)
    for batch, heads in blocks.chunks():
        keys, values = blocks.of(k, batch, heads), blocks.of(v, batch, heads)
        for rows in blocks.rows():
            end = blocks.end(rows)
            queries = blocks.of(q, batch, heads, rows).mul(factor)
            p = blocks.product(0, queries, keys[:, :end].mT)
            blocks.add_masks(p, mask, batch, heads, rows, end)
            largest = p.amax(-1, keepdim=True)
            largest.masked_fill_(largest == -math.inf, 0)
            total = p.sub_(largest).exp_().sum(-1, keepdim=True)
            total.masked_fill_(total == 0, 1)
            used = p if kept is None else blocks.dropped(p, kept, growth, batch, heads, rows)
            mixed = torch.bmm(used, values[:, :end]).div_(total)
            y[batch, heads, :, rows] = blocks.whole(mixed, batch, heads, rows)
            normalizer[batch, heads, :, rows] = blocks.whole(largest.add_(total.log()), batch, heads, rows)[..., 0]
    return y, normalizer


def attention_gradients(
    gy: Tensor,
    gn: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    kept: Tensor | None,
    y: Tensor | None,
    normalizer: Tensor,
    scale: float | None,
    causal: bool,
    growth: float,
    wanted: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return the wanted gradients of q, k, v and mask, from those of the two results of :func:`attention`.

    v and y may be missing if v's gradient alone is wanted.
    """
    need_q, need_k, need_v, need_mask = wanted
    others = (v, y) if v is not None and y is not None and (need_q or need_k or need_mask) else None
    if others is not None and not need_mask and gn is None and _is_fused(q, k, others[0], kept, causal, scale):
        return _from_fused(gy, q, k, *others, mask, normalizer, scale, causal)
    if q.dim() == 4:
        gy, q, normalizer = (t.unsqueeze(2) for t in (gy, q, normalizer))
        gn, mask, kept, y = (grouped(t) for t in (gn, mask, kept, y))
        how = (scale, causal, growth, wanted)
        gq, gk, gv, gm = attention_gradients(gy, gn, q, k, v, mask, kept, y, normalizer, *how)
        return None if gq is None else gq.squeeze(2), gk, gv, None if gm is None else gm.squeeze(2)
    wide = wide_dtype(q.dtype)
    gq = torch.empty_like(q, memory_format=torch.contiguous_format) if need_q else None
    gk = k.new_zeros(k.shape, dtype=wide) if need_k else None
    gv = k.new_zeros((*k.shape[:-1], gy.shape[-1]), dtype=wide) if need_v else None
    gm = torch.zeros_like(mask, dtype=wide, memory_format=torch.contiguous_format) if need_mask else None  # type: ignore[arg-type]
    blocks, factor = _Blocks(q, k, causal, buffers=2), scale_of(q, scale)
    for batch, heads in blocks.chunks() if k.shape[2] else ():
        keys = blocks.of(k, batch, heads)
        values = None if others is None else blocks.of(others[0], batch, heads)
        gkeys, gvalues = (None if t is None else t[batch, heads].view(len(keys), *t.shape[2:]) for t in (gk, gv))
        for rows in blocks.rows():
            end = blocks.end(rows)
            queries = blocks.of(q, batch, heads, rows).mul(factor)
            p = blocks.product(0, queries, keys[:, :end].mT)
            blocks.add_masks(p, mask, batch, heads, rows, end)
            # Large scores may round otherwise than those that the normalizer was made of.
            p.sub_(blocks.of(normalizer.unsqueeze(-1), batch, heads, rows)).clamp_(max=0).exp_()
            g = blocks.of(gy, batch, heads, rows)
            if gvalues is not None:
                used = p if kept is None else blocks.dropped(p, kept, growth, batch, heads, rows)
                gvalues[:, :end].baddbmm_(used.mT, g)
            if others is None or values is None:
                continue
            d = (g * blocks.of(others[1], batch, heads, rows)).sum(-1, keepdim=True)
            if gn is not None:
                d = d - blocks.of(gn.unsqueeze(-1), batch, heads, rows)
            gs = blocks.product(1, g, values[:, :end].mT)
            if kept is not None:
                gs = blocks.dropped(gs, kept, growth, batch, heads, rows)
            gs.sub_(d).mul_(p)
            if gm is not None:
                part = _part(gm, batch, heads, rows, end)
                part.add_(blocks.whole(gs, batch, heads, rows).sum_to_size(part.shape))
            if gq is not None:
                gq[batch, heads, :, rows] = blocks.whole(torch.bmm(gs, keys[:, :end]).mul_(factor), batch, heads, rows)
            if gkeys is not None:
                gkeys[:, :end].baddbmm_(gs.mT, queries)
    if gq is not None and k.shape[2] == 0:
        gq.zero_()
    gk, gv = (None if t is None else t.to(k.dtype) for t in (gk, gv))
    return gq, gk, gv, None if gm is None else gm.to(mask.dtype)  # type: ignore[union-attr]


def grouped(tensor: Tensor | None) -> Tensor | None:
    """Return what belongs to one query head for each head of the keys with a dimension for them."""
    return None if tensor is None else tensor.unsqueeze(2)


def scale_of(q: Tensor, scale: float | None) -> float:
    """Return what the scores are multiplied by: 1 / sqrt(E) if nothing else is asked for."""
    if scale is not None:
        return scale
    return 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else math.inf


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that scores are computed in."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores: a boolean mask lets through what is True."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


def _is_fused(q: Tensor, k: Tensor, v: Tensor, kept: Tensor | None, causal: bool, scale: float | None) -> bool:
    return (
        kept is None
        and (scale is None or scale > 0 or not causal)  # it multiplies the -inf of keys that come later by the scale
        and q.device.type == "cpu"
        and q.dtype in _FUSED_DTYPES
        and q.shape[-1] == v.shape[-1]
        and all(t.numel() > 0 and t.stride(-1) == 1 for t in (q, k, v))
    )


def _hides_nan(q: Tensor, k: Tensor, normalizer: Tensor) -> bool:
    """Tell whether the fused operator may have taken a row of NaN for one that sees no key."""
    if torch.compiler.is_compiling() or type(normalizer) is not Tensor:  # no values to look at
        return False
    return not bool(normalizer.all()) and not bool((q.sum() + k.sum()).isfinite())


def _heads(q: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield one query head for each head of the keys, and its mask to add, until there is no more."""
    mask = None if mask is None else added(mask, q.dtype)
    if q.dim() == 4:
        yield q, mask
        return
    for r in range(q.shape[2]):
        yield q[:, :, r], None if mask is None else mask[:, :, r if mask.shape[2] > 1 else 0]


def _from_fused(
    gy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    mask: Tensor | None,
    normalizer: Tensor,
    scale: float | None,
    causal: bool,
) -> tuple[Tensor | None, ...]:
    gy = gy if gy.stride(-1) == 1 else gy.contiguous()
    if q.dim() == 4:
        mask = None if mask is None else added(mask, q.dtype)
        return *_fused_gradients(gy, q, k, v, y, normalizer, 0.0, causal, attn_mask=mask, scale=scale), None
    parts = [
        _fused_gradients(gy[:, :, r], one, k, v, y[:, :, r], normalizer[:, :, r], 0.0, causal, attn_mask=m, scale=scale)
        for r, (one, m) in enumerate(_heads(q, mask))
    ]
    gq, gk, gv = zip(*parts, strict=True)
    return torch.stack(gq, 2), sum(gk[1:], gk[0]), sum(gv[1:], gv[0]), None


def _part(mask: Tensor, batch: slice, heads: slice, rows: slice, end: int | None) -> Tensor:
    """Return the part of a tensor, broadcast against the scores, that belongs to a block."""
    wanted = (batch, heads, slice(None), rows, slice(None, end))
    return mask[tuple([slice(None) if size == 1 else part for size, part in zip(mask.shape, wanted, strict=True)])]


class _Blocks:
    """The blocks that the scores are cut into, and the memory that one block after the other is computed in."""

    def __init__(self, q: Tensor, k: Tensor, causal: bool, buffers: int) -> None:
        self.shape, self.keys, self.causal = q.shape[:-1], k.shape[2], causal
        self.dtype = wide_dtype(q.dtype)
        self.traced = torch.compiler.is_compiling()  # one block: sizes are symbols
        self.buffers: list[Tensor] = []
        if self.traced:
            return
        batch, heads, group, length = self.shape
        most = _ROWS // 2 if causal else _ROWS  # a causal block computes a triangle in vain
        row = max(1, group * self.keys)
        self.step = max(1, min(length, max(_FEWEST_ROWS, min(most, _BLOCK // row))))
        several = max(1, _BLOCK // (row * self.step))
        self.of_batch, self.of_heads = (max(1, several // max(1, heads)), heads) if several >= heads else (1, several)
        scores = min(self.of_batch, batch) * self.of_heads * row * self.step
        self.buffers = [q.new_empty(scores, dtype=self.dtype) for _ in range(buffers)]

    def chunks(self) -> Iterator[tuple[slice, slice]]:
        """Yield slices of the batch and of the heads."""
        batch, heads = self.shape[:2]
        if self.traced:
            yield slice(None), slice(None)
            return
        for b in range(0, batch, self.of_batch):
            for h in range(0, heads, max(1, self.of_heads)):
                yield slice(b, min(b + self.of_batch, batch)), slice(h, min(h + self.of_heads, heads))

    def rows(self) -> Iterator[slice]:
        """Yield slices of the rows."""
        length = self.shape[3]
        if self.traced:
            yield slice(None)
            return
        for start in range(0, length, self.step):
            yield slice(start, min(start + self.step, length))

    def end(self, rows: slice) -> int | None:
        """Return how many keys the rows see at most; None for all."""
        return min(self.keys, rows.stop) if self.causal and not self.traced else None

    def of(self, tensor: Tensor, batch: slice, heads: slice, rows: slice | None = None) -> Tensor:
        """Return a part as matrices, wide: (n, S, size) of keys and values, (n, R · rows, size) of all else."""
        part = tensor[batch, heads] if rows is None else tensor[batch, heads, :, rows].flatten(2, 3)
        return part.flatten(0, 1).to(self.dtype)

    def whole(self, matrices: Tensor, batch: slice, heads: slice, rows: slice) -> Tensor:
        """Return the matrices of a block as (batch, heads, R, rows, size)."""
        if self.traced:
            return matrices.view(*self.shape, matrices.shape[-1])
        sizes = (batch.stop - batch.start, heads.stop - heads.start, self.shape[2], rows.stop - rows.start)
        return matrices.view(*sizes, matrices.shape[-1])

    def dropped(self, matrices: Tensor, kept: Tensor, growth: float, batch: slice, heads: slice, rows: slice) -> Tensor:
        """Return what dropout makes of a block."""
        block = self.whole(matrices, batch, heads, rows)
        mask = _part(kept, batch, heads, rows, self.end(rows)).expand(block.shape).contiguous()
        return masked_scale(block, mask, growth).view(matrices.shape)

    def product(self, number: int, a: Tensor, b: Tensor) -> Tensor:
        """Return a b, in one of the buffers."""
        if self.traced:
            return torch.bmm(a, b)
        count = a.shape[0] * a.shape[1] * b.shape[2]
        return torch.bmm(a, b, out=self.buffers[number][:count].view(a.shape[0], a.shape[1], b.shape[2]))

    def add_masks(
        self, scores: Tensor, mask: Tensor | None, batch: slice, heads: slice, rows: slice, end: int | None
    ) -> None:
        """Add the mask to the scores of a block, and -inf where a key comes after the row."""
        block = self.whole(scores, batch, heads, rows)
        if mask is not None:
            block.add_(added(_part(mask, batch, heads, rows, end), self.dtype))
        if self.causal:
            block = block[..., rows.start :]  # the keys before are seen by all rows
            block.masked_fill_(torch.ones(block.shape[-2:], dtype=torch.bool, device=block.device).triu_(1), -math.inf)
