"""Embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.embedding import MODES, Bags, Rows
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import check_tensors, warn


def _renormalize(weight: Tensor, input: Tensor, max_norm: float | None, norm_type: float) -> None:
    """Scale the rows that are looked up, in place, so that none has a larger norm, as the built-in does."""
    if max_norm is not None:
        with torch.no_grad():
            torch.embedding_renorm_(weight.detach(), input, max_norm, norm_type)


@replayable
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return the rows w[i].

    Shapes: input (*) of indices, weight (rows, size); output (*, size).

    Args:
        input: indices, int64 or int32.
        weight: the table.
        padding_idx: a row that gets no gradient.
        max_norm: the largest norm of a row: rows that are looked up are scaled in place.
        norm_type: of which p-norm.
        scale_grad_by_freq: whether to divide a row's gradient by how often it is looked up.
        sparse: whether the gradient is a sparse tensor.

    Raises:
        AssertionError: if ``padding_idx`` is no row.
        IndexError, RuntimeError: if an index is no row, or a shape or dtype does not fit.
    """
    op = "embedding"
    check_tensors(op, input=input, weight=weight)
    if weight.dim() != 2:
        raise RuntimeError(f"{op}(): weight must be 2-D, got shape {tuple(weight.shape)}")
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < max(rows, 1):
        raise AssertionError(f"{op}(): padding_idx must be one of {rows} rows, got {padding_idx}")
    padding_idx = -1 if padding_idx is None else padding_idx % rows if rows else padding_idx
    if max_norm is not None:
        input = input.contiguous()
        _renormalize(weight, input, max_norm, norm_type)
    return autograd.embedding.embedding(weight, input, padding_idx, scale_grad_by_freq, sparse)


@replayable
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the sum of w[i], or of s w[i] with weights s, their mean, or their maximum over the indices i of a bag.

    Of several largest elements the first gets the gradient.

    Shapes: input (bags, n) of indices, or (n,) with offsets (bags,) where each bag starts; weight (rows, size);
    output (bags, size), zero for an empty bag.

    Args:
        input: indices, int64 or int32.
        weight: the table.
        offsets: where each bag starts, if input is 1-D.
        max_norm: the largest norm of a row: rows that are looked up are scaled in place.
        norm_type: of which p-norm.
        scale_grad_by_freq: whether to divide a row's gradient by how often it is looked up; not for a maximum.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: whether the gradient is a sparse tensor; not for a maximum.
        per_sample_weights: what multiplies each row of a sum, shaped as input.
        include_last_offset: whether the offsets end with the number of indices.
        padding_idx: a row that no bag counts.

    Raises:
        ValueError: if a shape, the mode or a combination of arguments does not fit.
        NotImplementedError: if ``per_sample_weights`` are given and the mode is not ``"sum"``.
        IndexError, RuntimeError: if an index is no row, offsets do not ascend, or a dtype does not fit.
    """
    op = "embedding_bag"
    check_tensors(op, "offsets", "per_sample_weights", input=input, weight=weight, offsets=offsets)
    check_tensors(op, "per_sample_weights", per_sample_weights=per_sample_weights)
    if weight.dtype == torch.long and input.is_floating_point():
        warn(f"{op}(): the order (weight, input) is deprecated, give (input, weight)", stacklevel=2)
        input, weight = weight, input
    if per_sample_weights is not None and input.size() != per_sample_weights.size():
        raise ValueError(
            f"{op}(): per_sample_weights must have input's shape {tuple(input.shape)}, "
            f"got {tuple(per_sample_weights.shape)}"
        )
    if weight.dim() != 2:
        raise ValueError(f"{op}(): weight must be 2-D, got shape {tuple(weight.shape)}")
    regular = False
    if input.dim() == 2 and input.is_nested:
        if per_sample_weights is not None and not per_sample_weights.is_nested:
            raise ValueError(f"{op}(): per_sample_weights must be nested, as input is, got {per_sample_weights.layout}")
        include_last_offset, offsets = True, input.offsets()  # type: ignore[attr-defined]
        input = input.values().reshape(-1)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.values().reshape(-1)
    elif input.dim() == 2:
        regular = True
        if offsets is not None:
            raise ValueError(f"{op}(): offsets must be None if input is 2-D, got {type(offsets).__name__}")
        offsets = torch.arange(0, input.numel(), input.shape[1], dtype=input.dtype, device=input.device)
        include_last_offset = False
        input = input.reshape(-1)
        per_sample_weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    elif input.dim() != 1:
        raise ValueError(f"{op}(): input must be 1-D or 2-D, got shape {tuple(input.shape)}")
    elif offsets is None or offsets.dim() != 1:
        got = None if offsets is None else f"shape {tuple(offsets.shape)}"
        raise ValueError(f"{op}(): offsets must be a 1-D Tensor if input is 1-D, got {got}")
    if mode not in MODES:
        raise ValueError(f"{op}(): mode must be one of {MODES}, got {mode!r}")
    for name, value in (("scale_grad_by_freq", scale_grad_by_freq), ("sparse", sparse)):
        if mode == "max" and value:
            raise ValueError(f"{op}(): {name} must be False if mode is 'max', got {value!r}")
    _renormalize(weight, input, max_norm, norm_type)
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(f"{op}(): per_sample_weights need mode 'sum', got {mode!r}")
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise RuntimeError(f"{op}(): padding_idx must be one of {rows} rows, got {padding_idx}")
    map = Rows(rows, -1 if padding_idx is None else padding_idx % rows, scale_grad_by_freq)
    bags = Bags(mode, map, sparse, include_last_offset, regular)
    return autograd.embedding.embedding_bag(weight, input, offsets, per_sample_weights, bags)
