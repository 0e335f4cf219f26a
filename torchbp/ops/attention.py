"""Scaled dot-product attention and its gradients, computed over blocks of rows.

q (B, H, R, L, E) holds R query heads for each of H heads of k (B, H, S, E) and v (B, H, S, V). ``mask``, boolean
or added, and ``kept``, the scores that dropout keeps, broadcast to (B, H, R, L, S). PyTorch's fused operator
computes what it can; the blocks everything else: dropout, a gradient of the mask, values of another size, other
devices. Each needs memory linear in L and S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_unsafe_view = torch.ops.aten._unsafe_view
_FUSED_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
# Scores of a block: few enough for a processor's cache, enough for matrix products at full speed.
_BLOCK, _ROWS, _FEWEST_ROWS = 2**20, 128, 16


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    scale: float,
    causal: bool,
    growth: float,
) -> tuple[Tensor, Tensor]:
    """Return softmax(scale q kᵀ + mask) v, (B, H, R, L, V), and log sum exp of the scores of each row, (B, H, R, L).

    A row whose scores are all -inf gives 0, and 0 for its logarithm. ``growth`` is what dropout multiplies by.
    """
    if _is_fused(q, k, v, kept):
        parts = [_fused(q[:, :, r], k, v, 0.0, causal, attn_mask=m, scale=scale) for r, m in _heads(q, mask)]
        if not any([_hides_nan(q, k, n) for _, n in parts]):
            if len(parts) > 1:
                return torch.stack([y for y, _ in parts], 2), torch.stack([n for _, n in parts], 2)
            (y, normalizer), shape = parts[0], q.shape[:-1]
            # No view: to one that an autograd.Function returns forward mode gives no tangent of another layout.
            return _unsafe_view(y, (*shape, y.shape[-1])), _unsafe_view(normalizer, shape)
    wide = wide_dtype(q.dtype)
    y = q.new_empty((*q.shape[:-1], v.shape[-1]))
    normalizer = q.new_empty(q.shape[:-1], dtype=wide)
    if k.shape[2] == 0:
        return y.zero_(), normalizer.zero_()
    blocks = _Blocks(q, k, causal, buffers=1)
    for batch, heads in blocks.chunks():
        keys, values = blocks.of(k, batch, heads), blocks.of(v, batch, heads)
        for rows in blocks.rows():
            end = blocks.end(rows)
            queries = blocks.of(q, batch, heads, rows).mul(scale)
            p = blocks.product(0, queries, keys[:, :end].mT)
            blocks.add_masks(p, mask, batch, heads, rows, end)
            largest = p.amax(-1, keepdim=True)
            largest.masked_fill_(largest == -math.inf, 0)
            total = p.sub_(largest).exp_().sum(-1, keepdim=True)
            total.masked_fill_(total == 0, 1)
            if kept is not None:
                blocks.whole(p, batch, heads, rows).mul_(_part(kept, batch, heads, rows, end))
            mixed = torch.bmm(p, values[:, :end]).mul_(growth / total)
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
    scale: float,
    causal: bool,
    growth: float,
    wanted: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return the wanted gradients of q, k, v and mask, from those of the two results of :func:`attention`.

    v and y may be missing if v's gradient alone is wanted.
    """
    need_q, need_k, need_v, need_mask = wanted
    others = (v, y) if v is not None and y is not None and (need_q or need_k or need_mask) else None
    if others is not None and not need_mask and gn is None and _is_fused(q, k, others[0], kept):
        return _from_fused(gy, q, k, *others, mask, normalizer, scale, causal)
    wide = wide_dtype(q.dtype)
    gq = torch.empty_like(q, memory_format=torch.contiguous_format) if need_q else None
    gk = k.new_zeros(k.shape) if need_k else None
    gv = k.new_zeros((*k.shape[:-1], gy.shape[-1])) if need_v else None
    gm = torch.zeros_like(mask, dtype=wide, memory_format=torch.contiguous_format) if need_mask else None  # type: ignore[arg-type]
    blocks = _Blocks(q, k, causal, buffers=3 if kept is not None and need_v else 2)
    for batch, heads in blocks.chunks() if k.shape[2] else ():
        keys = blocks.of(k, batch, heads)
        values = None if others is None else blocks.of(others[0], batch, heads)
        gkeys, gvalues = (None if t is None else t.new_zeros((len(keys), *t.shape[2:]), dtype=wide) for t in (gk, gv))
        for rows in blocks.rows():
            end = blocks.end(rows)
            queries = blocks.of(q, batch, heads, rows).mul(scale)
            p = blocks.product(0, queries, keys[:, :end].mT)
            blocks.add_masks(p, mask, batch, heads, rows, end)
            # Large scores may round otherwise than those that the normalizer was made of.
            p.sub_(blocks.of(normalizer.unsqueeze(-1), batch, heads, rows)).clamp_(max=0).exp_()
            g = blocks.of(gy, batch, heads, rows)
            grown = g if growth == 1 else g * growth
            keep = None if kept is None else _part(kept, batch, heads, rows, end)
            if gvalues is not None:
                used = p
                if keep is not None:
                    used = blocks.buffer(2, p)
                    torch.mul(blocks.whole(p, batch, heads, rows), keep, out=blocks.whole(used, batch, heads, rows))
                gvalues[:, :end].baddbmm_(used.mT, grown)
            if others is None or values is None:
                continue
            d = (g * blocks.of(others[1], batch, heads, rows)).sum(-1, keepdim=True)
            if gn is not None:
                d = d - blocks.of(gn.unsqueeze(-1), batch, heads, rows)
            gs = blocks.product(1, grown, values[:, :end].mT)
            if keep is not None:
                blocks.whole(gs, batch, heads, rows).mul_(keep)
            gs.sub_(d).mul_(p)
            if gm is not None:
                part = _part(gm, batch, heads, rows, end)
                part.add_(blocks.whole(gs, batch, heads, rows).sum_to_size(part.shape))
            if gq is not None:
                gq[batch, heads, :, rows] = blocks.whole(torch.bmm(gs, keys[:, :end]).mul_(scale), batch, heads, rows)
            if gkeys is not None:
                gkeys[:, :end].baddbmm_(gs.mT, queries)
        for whole, of_chunk in ((gk, gkeys), (gv, gvalues)):
            if whole is not None and of_chunk is not None:
                whole[batch, heads] = of_chunk.unflatten(0, whole[batch, heads].shape[:2])
    if gq is not None and k.shape[2] == 0:
        gq.zero_()
    return gq, gk, gv, None if gm is None else gm.to(mask.dtype)  # type: ignore[union-attr]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that scores are computed in."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores: a boolean mask lets through what is True."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


def _is_fused(q: Tensor, k: Tensor, v: Tensor, kept: Tensor | None) -> bool:
    return (
        kept is None
        and q.device.type == "cpu"
        and q.dtype in _FUSED_DTYPES
        and q.shape[-1] == v.shape[-1]
        and all(t.numel() > 0 and t.stride(-1) == 1 for t in (q, k, v))
    )


def _hides_nan(q: Tensor, k: Tensor, normalizer: Tensor) -> bool:
    """Tell whether the fused operator may have taken a row of NaN for one that sees no key."""
    if torch.compiler.is_compiling() or type(normalizer) is not Tensor:  # no values to look at
        return False
    return bool((normalizer == 0).any()) and not bool((q.sum() + k.sum()).isfinite())


def _heads(q: Tensor, mask: Tensor | None) -> Iterator[tuple[int, Tensor | None]]:
    """Yield each query head of a group with its mask to add."""
    mask = None if mask is None else added(mask, q.dtype)
    for r in range(q.shape[2]):
        yield r, None if mask is None else mask[:, :, r if mask.shape[2] > 1 else 0]


def _from_fused(
    gy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    mask: Tensor | None,
    normalizer: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor | None, ...]:
    gy = gy if gy.stride(-1) == 1 else gy.contiguous()
    parts = [
        _fused_gradients(
            gy[:, :, r], q[:, :, r], k, v, y[:, :, r], normalizer[:, :, r], 0.0, causal, attn_mask=m, scale=scale
        )
        for r, m in _heads(q, mask)
    ]
    if len(parts) == 1:
        gq, gk, gv = parts[0]
        return gq.unsqueeze(2), gk, gv, None
    gq, gk, gv = zip(*parts, strict=True)
    return torch.stack(gq, 2), sum(gk[1:], gk[0]), sum(gv[1:], gv[0]), None


def _part(mask: Tensor, batch: slice, heads: slice, rows: slice, end: int) -> Tensor:
    """Return the part of a tensor, broadcast against the scores, that belongs to a block."""
    wanted = (batch, heads, slice(None), rows, slice(0, end))
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
            yield slice(0, batch), slice(0, heads)
            return
        for b in range(0, batch, self.of_batch):
            for h in range(0, heads, max(1, self.of_heads)):
                yield slice(b, min(b + self.of_batch, batch)), slice(h, min(h + self.of_heads, heads))

    def rows(self) -> Iterator[slice]:
        """Yield slices of the rows."""
        length = self.shape[3]
        if self.traced:
            yield slice(0, length)
            return
        for start in range(0, length, self.step):
            yield slice(start, min(start + self.step, length))

    def end(self, rows: slice) -> int:
        """Return how many keys the rows see."""
        return min(self.keys, rows.stop) if self.causal and not self.traced else self.keys

    def of(self, tensor: Tensor, batch: slice, heads: slice, rows: slice | None = None) -> Tensor:
        """Return a part as matrices, wide: (n, S, size) of keys and values, (n, R · rows, size) of all else."""
        part = tensor[batch, heads] if rows is None else tensor[batch, heads, :, rows].flatten(2, 3)
        return part.flatten(0, 1).to(self.dtype)

    def whole(self, matrices: Tensor, batch: slice, heads: slice, rows: slice) -> Tensor:
        """Return the matrices of a block as (batch, heads, R, rows, size)."""
        sizes = (batch.stop - batch.start, heads.stop - heads.start, self.shape[2], rows.stop - rows.start)
        return matrices.view(*sizes, matrices.shape[-1])

    def buffer(self, number: int, like: Tensor) -> Tensor:
        """Return memory in the shape of a block."""
        if self.traced:
            return torch.empty_like(like)
        return self.buffers[number][: like.numel()].view(like.shape)

    def product(self, number: int, a: Tensor, b: Tensor) -> Tensor:
        """Return a b, in one of the buffers."""
        if self.traced:
            return torch.bmm(a, b)
        count = a.shape[0] * a.shape[1] * b.shape[2]
        return torch.bmm(a, b, out=self.buffers[number][:count].view(a.shape[0], a.shape[1], b.shape[2]))

    def add_masks(self, scores: Tensor, mask: Tensor | None, batch: slice, heads: slice, rows: slice, end: int) -> None:
        """Add the mask to the scores of a block, and -inf where a key comes after the row."""
        block = self.whole(scores, batch, heads, rows)
        if mask is not None:
            block.add_(added(_part(mask, batch, heads, rows, end), self.dtype))
        if self.causal and end > rows.start:
            later = torch.ones(rows.stop - rows.start, end - rows.start, dtype=torch.bool, device=scores.device)
            block[..., rows.start :].masked_fill_(later.triu_(1), -math.inf)
