"""A linear layer and the cross-entropy of its output in one, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchbp import ops
from torchbp.autograd.function import ExplicitFunction, one_pass, save
from torchbp.autograd.linear import linear
from torchbp.autograd.loss import _cotangents, _cross_entropy_slope, _reduced, _vmap_class_loss
from torchbp.ops.loss import sample_weight
from torchbp.ops.normalization import statistics_dtype

_LOGITS = 2**21  # elements that a chunk may have
_FEWEST = 64  # rows of a chunk, so that a product reads the weight often enough to be worth it


def chunk_rows(rows: int, classes: int) -> int:
    """Return how many rows are done at a time."""
    return min(max(rows, 1), max(_FEWEST, _LOGITS // max(classes, 1)))


class LinearCrossEntropy(ExplicitFunction):
    """y = cross-entropy of z = x Wᵀ + b for x (N, D), W (C, D), b (C), in chunks of rows.

    With gz the gradient of the cross-entropy by the logits (see CrossEntropy): gx = gz W, gW = gzᵀ x, gb = Σ gz, where
    every chunk of gz is made from logits computed anew, used and overwritten, and gW and gb are summed chunk by chunk.
    The further outputs are the total weight of the targets and two numbers per row that normalise the softmax.
    Saved: x, W, b, target, class weights, those: nothing with a size of N · C.
    """

    @staticmethod
    def forward(
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        smoothing: float,
        rows: int,
        wide: bool,
        w: Tensor,
        b: Tensor | None,
        reduction: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        losses, normalizers = [], []
        for start in range(0, max(x.shape[0], 1), rows):
            logits = ops.linear.linear(x[start : start + rows], w, b)
            logits = logits.float() if wide else logits
            chunk = target[start : start + rows]
            loss, _, normalizer = ops.loss.cross_entropy(logits, chunk, weight, ignore_index, smoothing, "none")
            losses.append(loss)
            normalizers.append(normalizer)
        found, normalizer = torch.cat(losses), torch.cat(normalizers, 1)
        total = sample_weight(target, weight, ignore_index, normalizer.dtype).sum()
        if reduction == "none":
            return found, total, normalizer
        summed = found.to(normalizer.dtype).sum()
        return (summed / total if reduction == "mean" else summed).to(found.dtype), total, normalizer

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, target, weight, *options, w, b, ctx.reduction = inputs
        ctx.options = options
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        kept = (x, target, weight, w, b, output[1] if ctx.reduction == "mean" else None)
        save(ctx, (*kept, output[2]), kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_others: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 10
        x, target, weight, w, b, total, normalizer = ctx.saved_tensors
        ignore_index, smoothing, rows, wide = ctx.options
        need_x, need_w, need_b = (ctx.needs_input_grad[i] for i in (0, 7, 8))
        g = _cotangents(g, total, target, ctx.reduction)
        if not one_pass():
            logits = linear(x, w, b)
            logits = logits.float() if wide else logits
            gz = _cross_entropy_slope(g, logits, target, weight, ignore_index, smoothing).to(x.dtype)
            both = gz.mT @ x if need_w else None, gz.sum(0) if need_b else None
            return gz @ w if need_x else None, *(None,) * 6, *both, None
        kind = statistics_dtype(x.dtype)
        parts: list[Tensor] = []
        gw: Tensor | None = None
        gb: Tensor | None = None
        for start in range(0, max(x.shape[0], 1), rows):
            at = slice(start, start + rows)
            logits = ops.linear.linear(x[at], w, b)
            logits = logits.float() if wide else logits
            share = g[at].to(logits.dtype)
            arguments = (share, logits, target[at], weight, None, normalizer[:, at], ignore_index, smoothing, "none")
            gz = ops.loss.cross_entropy_gradient(*arguments).to(x.dtype)
            if need_x:
                parts.append(gz @ w)
            if need_w:
                if gw is None:
                    gw = (gz.mT @ x[at]).to(kind)
                else:
                    gw = gw.addmm_(gz.mT, x[at]) if kind == x.dtype else gw.add_(gz.mT @ x[at])
            if need_b:
                gb = gz.sum(0, dtype=kind) if gb is None else gb + gz.sum(0, dtype=kind)
        gx = (torch.cat(parts) if len(parts) > 1 else parts[0]) if need_x else None
        summed = [None if v is None else v.to(x.dtype) for v in (gw, gb)]
        return gx, *(None,) * 6, *summed, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, *others: Any) -> tuple[Tensor, None, None]:
        x, target, weight, w, b, total = ctx.saved_tensors
        ignore_index, smoothing, _, wide = ctx.options
        tw, tb = others[6:8]
        logits = linear(x, w, b)
        moved = torch.zeros_like(logits) if tx is None else linear(tx, w)
        moved = moved if tw is None else moved + linear(x, tw)
        moved = moved if tb is None else moved + tb
        logits, moved = (v.float() if wide else v for v in (logits, moved))
        slope = _cross_entropy_slope(torch.ones_like(logits[:, 0]), logits, target, weight, ignore_index, smoothing)
        return _reduced((slope * moved).sum(1), total, ctx.reduction), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        if in_dims[7] is None and in_dims[8] is None:
            return _vmap_class_loss(LinearCrossEntropy, info, in_dims, args)
        each = [
            LinearCrossEntropy.call(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0)


def linear_cross_entropy(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    rows: int,
    wide: bool = False,
) -> Tensor:
    """Return the cross-entropy of softmax(x wᵀ + b) with class indices; x (N, D), w (C, D), b (C), target (N).

    Args:
        x: features.
        w: weight of the linear layer.
        b: its bias.
        target: class indices.
        weight: of the classes; it gets no gradient.
        ignore_index: a target to leave out.
        smoothing: the share of the uniform distribution in the target.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        rows: how many rows are done at a time.
        wide: whether the loss is computed in float32 whatever the dtype of the logits.

    Keeps its tensors and two numbers per row, no logits. Higher derivatives compute all logits at once.
    """
    arguments = (x, target, weight, ignore_index, smoothing, rows, wide, w, b, reduction)
    return LinearCrossEntropy.call(*arguments)[0]
