"""Embeddings: rows gathered from a table, alone or reduced in bags. Backward scatters them again.

Gathering is linear in the table and its adjoint adds each gradient to its row; the gradient that PyTorch defines
leaves out the padding row and may divide by how often a row occurs, so it is the adjoint of a gather with those
factors, :class:`Rows`, a pair that is closed. Sums run in the order of the indices, whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchbp.autograd.adjoint import LinearMap, linear_map
from torchbp.autograd.function import ExplicitFunction, records_derivative, save

_aten = torch.ops.aten
MODES = ("sum", "mean", "max")


@dataclass(frozen=True)
class Rows(LinearMap):
    """y[i] = f[i] w[index[i]] for a table w (rows, size), with f[i] = 0 where index[i] is ``padding_idx``.

    Elsewhere f[i] is 1, or with ``by_frequency`` 1 / (how often index[i] occurs). The adjoint adds f[i] g[i] to row
    index[i]. The fixed tensor is index, of any shape.
    """

    rows: int
    padding_idx: int
    by_frequency: bool

    def forward(self, w: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """Gather."""
        y = _aten.embedding(w, index)
        if self.by_frequency:
            flat = index.reshape(-1).long()
            count = w.new_zeros(self.rows).scatter_add(0, flat, torch.ones_like(flat, dtype=w.dtype))
            y = y / count[index.long()].unsqueeze(-1)
        return y if self.padding_idx < 0 else y.masked_fill((index == self.padding_idx).unsqueeze(-1), 0)

    def adjoint(self, g: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """Scatter and add."""
        return _aten.embedding_dense_backward(g, index, self.rows, self.padding_idx, self.by_frequency)


def _scattered(map: Rows, g: Tensor, index: Tensor, sparse: bool) -> Tensor:
    """Return the gradient of a table from those of gathered rows: a sparse tensor has each where it belongs."""
    if not sparse:
        return linear_map(map.transposed, g, index)
    if map.by_frequency:
        raise RuntimeError("embedding: scale_grad_by_freq is not supported with sparse gradients")
    index, g = index.reshape(-1), g.reshape(-1, g.shape[-1])
    if map.padding_idx >= 0:
        kept = index != map.padding_idx
        index, g = index[kept], g[kept]
    return torch.sparse_coo_tensor(index.unsqueeze(0), g, (map.rows, g.shape[-1]), check_invariants=False)


class Embedding(ExplicitFunction):
    """y[i] = w[index[i]], also of the padding row. Backward: the adjoint of :class:`Rows`. Saved: the index."""

    @staticmethod
    def forward(map: Rows, sparse: bool, w: Tensor, index: Tensor) -> Tensor:
        padding = -1 if map.padding_idx is None else map.padding_idx
        return _aten.embedding(w, index, padding, map.by_frequency, sparse)  # what an exported program differentiates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.map, ctx.sparse, _, index = inputs
        save(ctx, (index,), (index,))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return None, None, _scattered(ctx.map, g, ctx.saved_tensors[0], ctx.sparse), None

    @staticmethod
    def jvp(ctx: Any, _map: Any, _sparse: Any, tw: Tensor, _index: Any) -> Tensor:
        return Embedding.call(ctx.map, ctx.sparse, tw, ctx.saved_tensors[0])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], map: Rows, sparse: bool, w: Tensor, index: Tensor
    ) -> tuple[Tensor, int]:
        size, (w_dim, index_dim) = info.batch_size, in_dims[2:]
        if w_dim is not None and index_dim is not None or (map.by_frequency and index_dim is not None):
            each = [_of(i, in_dims, (map, sparse, w, index)) for i in range(size)]
            return torch.stack([Embedding.call(*one) for one in each]), 0
        if w_dim is None:  # more indices into one table
            return Embedding.call(map, sparse, w, index.movedim(index_dim, 0)), 0
        # More columns of one table.
        y = Embedding.call(map, sparse, _columns(w, w_dim), index)
        return y.unflatten(-1, (size, y.shape[-1] // size)).movedim(-2, 0), 0


def _of(i: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of one of the calls that are mapped over."""
    return [a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]


def _columns(w: Tensor, dim: int) -> Tensor:
    """Return a table per mapped index as columns of one table."""
    return w.movedim(dim, 1).flatten(1, 2)


@dataclass(frozen=True)
class Bags:
    """How rows are reduced in bags.

    Attributes:
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        map: how a row of the table gets its gradient.
        sparse: whether that is a sparse tensor.
        include_last_offset: whether the offsets end with the number of indices.
        regular: whether the offsets are known to ascend from 0 up to the number of indices at most.
    """

    mode: str
    map: Rows
    sparse: bool
    include_last_offset: bool
    regular: bool = False

    def count(self, offsets: Tensor) -> int:
        """Return the number of bags."""
        return offsets.shape[0] - (1 if self.include_last_offset else 0)

    def of(self, index: Tensor, offsets: Tensor) -> Tensor:
        """Return the bag of every index."""
        places = torch.arange(index.shape[0], dtype=offsets.dtype, device=index.device)
        return torch.searchsorted(offsets, places, right=True) - 1

    def factors(self, index: Tensor, bag: Tensor, bag_size: Tensor, s: Tensor | None, like: Tensor) -> Tensor:
        """Return what multiplies the row of every index, (indices, 1): its weight, or of a mean one over the size."""
        if self.mode == "mean":
            s = (1 / bag_size.clamp(min=1).to(like.dtype))[bag]
        f = like.new_ones(index.shape) if s is None else s
        if self.map.padding_idx >= 0:
            f = f.masked_fill(index == self.map.padding_idx, 0)
        return f.unsqueeze(1)


@dataclass(frozen=True)
class Winners(LinearMap):
    """y[b, d] = w[winner[b, d], d], zero for an empty bag: a maximum once the winners are known."""

    rows: int

    def forward(self, w: Tensor, winner: Tensor, bag_size: Tensor) -> Tensor:  # type: ignore[override]
        """Gather."""
        return w.gather(0, winner.long()).masked_fill((bag_size == 0).unsqueeze(1), 0)

    def adjoint(self, g: Tensor, winner: Tensor, bag_size: Tensor) -> Tensor:  # type: ignore[override]
        """Scatter and add."""
        g = g.masked_fill((bag_size == 0).unsqueeze(1), 0)
        return g.new_zeros(self.rows, g.shape[1]).scatter_add(0, winner.long(), g)


def _check_offsets(index: Tensor, offsets: Tensor) -> None:
    """Raise unless the offsets ascend within the indices: PyTorch's operator looks at the first and the last only."""
    if torch.compiler.is_compiling() or offsets.is_meta or offsets.shape[0] == 0:
        return
    bounds = torch.cat([offsets, offsets.new_full((1,), index.shape[0])])
    if int(offsets[0]) != 0 or bool((bounds[1:] < bounds[:-1]).any()):
        raise RuntimeError(
            f"embedding_bag(): offsets must ascend from 0 up to the {index.shape[0]} indices of input at most, "
            f"got {offsets.tolist()}"
        )


def _arguments(bags: Bags, w: Tensor, index: Tensor, offsets: Tensor, s: Tensor | None) -> tuple[Any, ...]:
    """Return what PyTorch's operator takes; it reads strided indices as if they were contiguous."""
    if not bags.regular:
        _check_offsets(index, offsets)
    index, offsets, mode = index.contiguous(), offsets.contiguous(), MODES.index(bags.mode)
    options = mode, bags.sparse, s, bags.include_last_offset, bags.map.padding_idx
    return w, index, offsets, bags.map.by_frequency, *options


class EmbeddingBag(ExplicitFunction):
    """y[b] = Σ or mean or max over the indices i of bag b of s[i] w[index[i]], padding left out.

    With f[i] the weight s[i], or 1 / (size of the bag): gw adds f[i] g[b] to row index[i], and gs[i] = <w[index[i]],
    g[b]>. A maximum is linear once its winners are known. The further outputs are the bags' sizes and the winners.
    Where no higher derivative is recorded, PyTorch's own operators compute both gradients; it has no second ones.
    Saved: index and offsets; s, and the table if s wants a gradient; for a mean the sizes; for a maximum the winners
    too.
    """

    @staticmethod
    def forward(
        bags: Bags, w: Tensor, index: Tensor, offsets: Tensor, s: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, _, sizes, winner = _aten._embedding_bag(*_arguments(bags, w, index, offsets, s))
        return y, sizes, winner.clone() if bags.mode == "max" else winner.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.bags, w, index, offsets, s = inputs
        _, sizes, winner = output
        ctx.mark_non_differentiable(sizes, winner)
        ctx.set_materialize_grads(False)
        mode = ctx.bags.mode
        kept = (index, offsets, None if mode == "sum" else sizes, winner if mode == "max" else None)
        save(
            ctx, (w if ctx.needs_input_grad[4] else None, s if ctx.needs_input_grad[1] else None, *kept), (w, s, *kept)
        )

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_others: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 5
        bags, map, (w, s, index, offsets, sizes, winner) = ctx.bags, ctx.bags.map, ctx.saved_tensors
        wanted, gw, gs = ctx.needs_input_grad, None, None
        if not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            empty, mode = index.new_empty(0), MODES.index(bags.mode)
            g, where = g.contiguous(), (index.contiguous(), offsets.contiguous(), empty)
            if wanted[1]:
                sizes, winner = (empty if t is None else t for t in (sizes, winner))
                options = map.rows, map.by_frequency, mode, bags.sparse, s, map.padding_idx
                gw = _aten._embedding_bag_backward(g, *where, sizes, winner, *options)
            if wanted[4]:
                gs = _aten._embedding_bag_per_sample_weights_backward(g, w, *where, mode, map.padding_idx)
            return None, gw, None, None, gs
        if bags.mode == "max":
            return None, linear_map(Winners(map.rows).transposed, g, winner, sizes), None, None, None
        bag = bags.of(index, offsets)
        each = linear_map(Rows(bags.count(offsets), -1, False), g, bag)
        if wanted[1]:
            gw = _scattered(map, each * bags.factors(index, bag, sizes, s, g), index, bags.sparse)
        if wanted[4]:
            gs = (linear_map(Rows(map.rows, map.padding_idx, False), w, index) * each).sum(1)
        return None, gw, None, None, gs

    @staticmethod
    def jvp(ctx: Any, _bags: Any, tw: Tensor | None, _index: Any, _offsets: Any, ts: Tensor | None) -> tuple[Any, ...]:
        bags, map, (w, s, index, offsets, sizes, winner) = ctx.bags, ctx.bags.map, ctx.saved_tensors
        if bags.mode == "max":
            return linear_map(Winners(map.rows), tw, winner, sizes), None, None  # type: ignore[arg-type]
        bag, rows = bags.of(index, offsets), Rows(map.rows, map.padding_idx, False)
        total: Any = 0
        if tw is not None:
            total = total + linear_map(rows, tw, index) * bags.factors(index, bag, sizes, s, tw)
        if ts is not None:
            total = total + linear_map(rows, w, index) * ts.unsqueeze(1)
        return linear_map(Rows(bags.count(offsets), -1, False).transposed, total, bag), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        size = info.batch_size
        if all(d is None for d in in_dims[2:]):  # more columns of one table
            bags, w, *rest = args
            y, sizes, winner = EmbeddingBag.call(bags, _columns(w, in_dims[1]), *rest)
            y = y.unflatten(-1, (size, y.shape[-1] // size)).movedim(-2, 0)
            if bags.mode == "max":
                winner = winner.unflatten(-1, (size, winner.shape[-1] // size)).movedim(-2, 0)
            return (y, sizes, winner), (0, None, 0 if bags.mode == "max" else None)
        each = [EmbeddingBag.call(*_of(i, in_dims, args)) for i in range(size)]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0)


def embedding(w: Tensor, index: Tensor, padding_idx: int, by_frequency: bool, sparse: bool) -> Tensor:
    """Return w[index], (*, size) for a table w (rows, size) and index (*). Keeps the index.

    The gradient leaves out row ``padding_idx`` (-1: none), divides by how often a row occurs with ``by_frequency``,
    and is a sparse tensor with ``sparse``.
    """
    return Embedding.call(Rows(w.shape[0], padding_idx, by_frequency), sparse, w, index)


def embedding_bag(w: Tensor, index: Tensor, offsets: Tensor, s: Tensor | None, bags: Bags) -> Tensor:
    """Return the reduced rows of each bag, (bags, size), for index (n,), offsets and weights s (n,) or None."""
    if offsets.shape[0] == 0:  # no bags; PyTorch's operator would look for the first one all the same
        index, s = index[:0], None if s is None else s[:0]
    if records_derivative(w, s):
        return EmbeddingBag.call(bags, w, index, offsets, s)[0]
    return _aten._embedding_bag_forward_only(*_arguments(bags, w, index, offsets, s))[0]
