"""Contractions of a multilinear form: the one mechanism behind linear, convolution and bilinear layers.

A trilinear form T(x, w, g) = <layer(x, w), g> has three contractions, one per missing operand::

    y  = T(x, w, .)      position 2 is missing: the layer itself
    dx = T(., w, g)      position 0 is missing: gradient of the input
    dw = T(x, ., g)      position 1 is missing: gradient of the weight

Each is linear in both operands it is given, and its derivative with respect to one of them is again one
of the three. So one Function with a slot serves them all, and any order of derivative follows::

    z = T with position s missing, operands a_p at the other positions
    gz at position s   =>   ga_p = T with position p missing, gz at position s, the other a_q unchanged

Complex operands: PyTorch's gradient is conjugated, so the unchanged operands are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchbp.autograd.function import ExplicitFunction, conjugate, save, without_base


class MultilinearForm:
    """A form that is linear in each of ``positions`` operands; the last one pairs with the output.

    A subclass is immutable (a frozen dataclass, say) and implements ``contract``. It may override
    ``bias_dim``, ``bias_slots``, ``contract_bias`` and ``batched``.
    """

    #: What graphs and profiles call it: the class's name, of private ones that of their base.
    title: ClassVar[str] = "Contraction"
    positions = 3
    #: The dimension of the result along which a bias is added.
    bias_dim = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the form its title."""
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            cls.title = cls.__name__.removesuffix("Form")

    @property
    def bias_slots(self) -> tuple[int, ...]:
        """The slots whose result takes a bias; the output's only."""
        return (self.positions - 1,)

    def contract(self, slot: int, operands: tuple[Tensor, ...]) -> Tensor:
        """Contract with position ``slot`` missing; ``operands`` are the others, in order."""
        raise NotImplementedError(f"{type(self).__name__}.contract")

    def contract_bias(self, slot: int, operands: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """Contract and add a bias along ``bias_dim``; override where both can be made at once."""
        z = self.contract(slot, operands)
        return z + _along(bias, self.bias_dim, z.dim())

    def batched(
        self, slot: int, operands: tuple[Tensor, ...], in_dims: tuple[int | None, ...], batch_size: int
    ) -> Tensor:
        """Contract operands of which those with an ``in_dims`` entry carry a mapped dimension there.

        Returns the result with the mapped dimension first. The default maps ``contract`` with
        ``torch.vmap``; a form that can fold the mapped dimension into a batch or into groups overrides it.
        """
        return contract(_Mapped(self, slot, in_dims), slot, *operands)


class TrilinearForm(MultilinearForm):
    """A trilinear form given by its three products.

    Example::

        @dataclass(frozen=True)
        class Linear(TrilinearForm):
            def output(self, x, w): return x @ w.mT
            def input(self, w, g): return g @ w
            def weight(self, x, g): return g.mT @ x
    """

    def output(self, x: Tensor, w: Tensor) -> Tensor:
        """Return y = T(x, w, .)."""
        raise NotImplementedError(f"{type(self).__name__}.output")

    def input(self, w: Tensor, g: Tensor) -> Tensor:
        """Return dx = T(., w, g)."""
        raise NotImplementedError(f"{type(self).__name__}.input")

    def weight(self, x: Tensor, g: Tensor) -> Tensor:
        """Return dw = T(x, ., g)."""
        raise NotImplementedError(f"{type(self).__name__}.weight")

    def contract(self, slot: int, operands: tuple[Tensor, ...]) -> Tensor:
        """Contract with position ``slot`` missing."""
        first, second = operands
        return (self.input, self.weight, self.output)[slot](first, second)


@dataclass(frozen=True)
class Einsum(MultilinearForm):
    """The multilinear form of an einsum without repeated output labels, e.g. ``"bi,oi->bo"``.

    Every contraction is the einsum with the labels of the missing operand on the right, so each label
    must occur at least twice among operands and output.

    Raises:
        ValueError: if a label occurs once only (then some contraction is not an einsum).
    """

    equation: str

    def __post_init__(self) -> None:
        """Check the labels."""
        labels = self._labels()
        joined = "".join(labels)
        lonely = sorted({label for label in joined if joined.count(label) < 2})
        if "->" not in self.equation or lonely:
            raise ValueError(
                f"equation must have the form 'ab,bc->ac' with every label in two places or more, got "
                f"{self.equation!r}" + (f" (only once: {', '.join(lonely)})" if lonely else "")
            )

    def _labels(self) -> list[str]:
        inputs, _, output = self.equation.replace(" ", "").partition("->")
        return [*inputs.split(","), output]

    @property
    def positions(self) -> int:  # type: ignore[override]
        """The number of operands, the output's included."""
        return len(self._labels())

    @property
    def bias_dim(self) -> int:  # type: ignore[override]
        """The last dimension of the output."""
        return len(self._labels()[-1]) - 1

    def contract(self, slot: int, operands: tuple[Tensor, ...]) -> Tensor:
        """Contract with position ``slot`` missing."""
        every = self._labels()
        target, labels = every[slot], every[:slot] + every[slot + 1 :]
        z, left = operands[0], labels[0]
        for i, operand in enumerate(operands[1:], start=1):
            # A label is summed as soon as no later operand and not the result needs it.
            z, left = _product(z, left, operand, labels[i], set(target).union(*labels[i + 1 :]))
        return z.permute([left.index(label) for label in target])


def _product(a: Tensor, a_labels: str, b: Tensor, b_labels: str, wanted: set[str]) -> tuple[Tensor, str]:
    """Multiply two labelled tensors as one batched matrix product, keeping the wanted labels.

    (torch.einsum does the same, but has no rule for the batched gradients of torch.autograd.grad.)
    """

    def kept(labels: str, other: str) -> str:
        return "".join(label for label in labels if label in wanted or label in other)

    a_kept, b_kept = kept(a_labels, b_labels), kept(b_labels, a_labels)
    a = a.sum([i for i, label in enumerate(a_labels) if label not in a_kept]) if a_kept != a_labels else a
    b = b.sum([i for i, label in enumerate(b_labels) if label not in b_kept]) if b_kept != b_labels else b
    batch = "".join(label for label in a_kept if label in b_kept and label in wanted)
    inner = "".join(label for label in a_kept if label in b_kept and label not in wanted)
    rows = "".join(label for label in a_kept if label not in b_kept)
    columns = "".join(label for label in b_kept if label not in a_kept)
    sizes = {**dict(zip(b_kept, b.shape, strict=True)), **dict(zip(a_kept, a.shape, strict=True))}

    def shape(*groups: str) -> list[int]:
        extents = []
        for group in groups:
            extent = 1
            for label in group:  # math.prod takes no symbolic sizes under torch.compile
                extent = extent * sizes[label]
            extents.append(extent)
        return extents

    left = a.permute([a_kept.index(label) for label in batch + rows + inner]).reshape(shape(batch, rows, inner))
    right = b.permute([b_kept.index(label) for label in batch + inner + columns])
    product = torch.bmm(left, right.reshape(shape(batch, inner, columns)))
    labels = batch + rows + columns
    return product.reshape([sizes[label] for label in labels]), labels


@dataclass(frozen=True)
class _Mapped(MultilinearForm):
    """A form whose operands carry one more dimension, mapped over; the result at ``slot`` has it first."""

    form: MultilinearForm
    slot: int
    in_dims: tuple[int | None, ...]

    @property
    def positions(self) -> int:  # type: ignore[override]
        return self.form.positions

    def contract(self, slot: int, operands: tuple[Tensor, ...]) -> Tensor:
        dims: list[int | None] = list(self.in_dims)
        dims.insert(self.slot, 0)
        target = dims.pop(slot)
        z = torch.vmap(lambda *mapped: self.form.contract(slot, mapped), in_dims=tuple(dims))(*operands)
        return z.sum(0) if target is None else z.movedim(0, target)


def _along(bias: Tensor, dim: int, dimensions: int) -> Tensor:
    shape = [1] * dimensions
    shape[dim] = bias.shape[-1]
    return bias.reshape(shape)


def _reduce_bias(g: Tensor, dim: int) -> Tensor:
    """Return the gradient of a bias along ``dim``: g summed over every other dimension."""
    return g.sum([d for d in range(g.dim()) if d != dim % g.dim()]) if g.dim() > 1 else g


class Contraction(ExplicitFunction):
    """z = form with position ``slot`` missing, plus a bias if there is one.

    Backward of operand p: the form with p missing, gz in the slot, the other operands unchanged.
    Backward of the bias: gz summed over all dimensions but ``bias_dim``.
    Saved: an operand is kept only if the gradient of another one is wanted; the bias never.
    """

    named_by_first = True

    @staticmethod
    def forward(form: MultilinearForm, slot: int, bias: Tensor | None, *operands: Tensor) -> Tensor:
        z = form.contract(slot, operands) if bias is None else form.contract_bias(slot, operands, bias)
        return without_base(z, *operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        form, slot, _, *operands = inputs
        ctx.form, ctx.slot = form, slot
        wanted = ctx.needs_input_grad[3:]
        others = sum(wanted)
        kept = tuple([operand if others > own else None for operand, own in zip(operands, wanted, strict=True)])
        save(ctx, kept, tuple(operands))

    @staticmethod
    def backward(ctx: Any, gz: Tensor) -> tuple[Any, ...]:
        form, slot = ctx.form, ctx.slot
        operands = [None if t is None else conjugate(t) for t in ctx.saved_tensors]
        operands.insert(slot, gz)
        wanted = list(ctx.needs_input_grad[3:])
        wanted.insert(slot, False)
        gradients = [
            Contraction.call(form, p, None, *operands[:p], *operands[p + 1 :]) if needed else None
            for p, needed in enumerate(wanted)
        ]
        del gradients[slot]
        gbias = _reduce_bias(gz, form.bias_dim) if ctx.needs_input_grad[2] else None
        return None, None, gbias, *gradients

    @staticmethod
    def jvp(ctx: Any, _form: Any, _slot: Any, tbias: Tensor | None, *tangents: Tensor | None) -> Tensor | None:
        operands = ctx.saved_tensors
        total: Tensor | None = None
        for i, tangent in enumerate(tangents):
            if tangent is None:
                continue
            term = contract(ctx.form, ctx.slot, *operands[:i], tangent, *operands[i + 1 :])
            total = term if total is None else total + term
        if tbias is not None:
            if total is None:
                total = torch.zeros_like(contract(ctx.form, ctx.slot, *operands))
            total = total + _along(tbias, ctx.form.bias_dim, total.dim())
        return total

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], form: MultilinearForm, slot: int, bias: Tensor | None, *operands: Tensor
    ) -> tuple[Tensor, int]:
        mapped = any(dim is not None for dim in in_dims[3:])
        if mapped:
            z = form.batched(slot, operands, tuple(in_dims[3:]), info.batch_size)
        else:
            z = contract(form, slot, *operands).unsqueeze(0)
        if bias is not None:
            dim = form.bias_dim % (z.dim() - 1)
            rows = bias.unsqueeze(0) if in_dims[2] is None else bias.movedim(in_dims[2], 0)
            shape = [1] * z.dim()
            shape[0], shape[1 + dim] = rows.shape
            z = z + rows.reshape(shape)
        return z, 0


def contract(form: MultilinearForm, slot: int, *operands: Tensor, bias: Tensor | None = None) -> Tensor:
    """Contract a multilinear form with the operand at position ``slot`` missing.

    z = form(operands, .), linear in every operand and differentiable in all of them to any order, in
    reverse and forward mode, under vmap and under torch.compile.

    Args:
        form: the form; see :class:`TrilinearForm` and :class:`Einsum`.
        slot: the position that is missing, 0 to ``form.positions - 1``; the last one gives the output.
        operands: the others, in order of their positions.
        bias: added along ``form.bias_dim``, if the slot is one of ``form.bias_slots``.

    Raises:
        TypeError: if ``form`` is not a MultilinearForm.
        ValueError: if ``slot``, the number of operands or the presence of a bias does not fit the form.
    """
    if not isinstance(form, MultilinearForm):
        raise TypeError(f"form must be a MultilinearForm, got {type(form).__name__}")
    last = form.positions - 1
    if not 0 <= slot <= last:
        raise ValueError(f"slot must be between 0 and {last}, got {slot}")
    if len(operands) != last:
        raise ValueError(f"operands must be {last} tensors, got {len(operands)}")
    if bias is not None and slot not in form.bias_slots:
        raise ValueError(f"bias belongs to the results at slots {form.bias_slots}, got slot {slot}")
    return Contraction.call(form, slot, bias, *operands)


def trilinear(
    output: Callable[[Tensor, Tensor], Tensor],
    input: Callable[[Tensor, Tensor], Tensor],
    weight: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a differentiable layer y = layer(x, w) from the three products of a trilinear form.

    Args:
        output: ``(x, w) -> y``.
        input: ``(w, g) -> dx``.
        weight: ``(x, g) -> dw``; the three must satisfy <y, g> = <x, dx> = <w, dw>.
    """
    form = _Products((output, input, weight))
    return lambda x, w: contract(form, 2, x, w)


@dataclass(frozen=True)
class _Products(TrilinearForm):
    products: Sequence[Callable[[Tensor, Tensor], Tensor]]

    def output(self, x: Tensor, w: Tensor) -> Tensor:
        return self.products[0](x, w)

    def input(self, w: Tensor, g: Tensor) -> Tensor:
        return self.products[1](w, g)

    def weight(self, x: Tensor, g: Tensor) -> Tensor:
        return self.products[2](x, g)
