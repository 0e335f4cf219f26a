"""Functions with mistakes that were made somewhere, and which test sees them.

Page: docs/wrong-functions.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, gradcheck, gradgradcheck

from torchbp.testing import Report, check, draw_inputs


class _SaveInputs(Function):
    """A Function that saves its inputs, as most of these do."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))


def _keep(x: Tensor) -> Tensor:
    """Return the fixed mask of a dropout with p = 0.25."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype) > 0.25


class RedrawnMask(_SaveInputs):
    """Dropout whose backward draws another mask."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * _keep(x) / 0.75

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (torch.rand(g.shape, generator=torch.Generator().manual_seed(1)) > 0.25) / 0.75


class HalvedDropout(_SaveInputs):
    """Dropout whose backward divides by 0.5, whatever p is."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * _keep(x) / 0.75

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * _keep(x) / 0.5


class DetachedMaxPool(_SaveInputs):
    """Pairwise max pooling whose second derivative vanishes without a word."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).amax(-1) ** 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        pairs = x.detach().unflatten(-1, (-1, 2))
        largest = pairs.amax(-1, keepdim=True)
        return (g.detach().unsqueeze(-1) * 2 * largest * (pairs == largest)).flatten(-2)


class SavedSlope(Function):
    """x² that saves 2 x: autograd takes it for a constant."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(2 * inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return g * slope


class UnwrittenGradient(_SaveInputs):
    """Every third element is picked; what the windows leave out keeps what the memory held before."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x[..., ::3].clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gx = torch.full_like(x, 0.37)  # stands for torch.empty_like, which holds anything
        gx[..., ::3] = g
        return gx


class InPlaceBackward(_SaveInputs):
    """A sigmoid whose backward multiplies the incoming gradient in place."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        s = ctx.saved_tensors[0].sigmoid()
        if torch.is_grad_enabled():
            return g * s * (1 - s)
        return g.mul_(s * (1 - s))


class UnflippedKernel(_SaveInputs):
    """A convolution whose input gradient forgets to flip the kernel; its mean is right."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return torch.conv1d(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        gx = torch.conv_transpose1d(g, w.flip(-1))
        return gx, torch.conv1d(x.transpose(0, 1), g.transpose(0, 1)).transpose(0, 1)


class FirstPatchOnly(_SaveInputs):
    """Average pooling whose backward stops after the first window; a network still learns."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool1d(x, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gx = torch.zeros_like(x)
        gx[..., :2] = g[..., :1] / 2
        return gx


class NumPyBackward(_SaveInputs):
    """A backward in NumPy that is not marked once_differentiable."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.as_tensor(g.detach().numpy() * x.detach().cos().numpy())


class ContiguousOnly(_SaveInputs):
    """A backward that reads the gradient's memory as if it were contiguous; sum() hands over one that is not."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        if g.is_contiguous():
            return g * 3
        memory = g.as_strided((g.untyped_storage().size() // g.element_size(),), (1,), 0)
        return memory[torch.arange(g.numel()) % memory.numel()].view(g.shape) * 3


class WrongFlag(_SaveInputs):
    """A product that asks for the other input's flag, so that a frozen factor takes the gradient along."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad
        return g * w if need_w else None, g * x if need_x else None


class SlightlyScaled(_SaveInputs):
    """A gradient that is too large by a thousandth: within gradcheck's tolerance."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2) * 1.0009


class ForgottenAutocast(_SaveInputs):
    """A matrix product without custom_fwd: under autocast gradient and factors have different dtypes."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g @ w.mT, x.mT @ g


class OverflowingSoftplus(_SaveInputs):
    """log(1 + exp x) as it stands in the book."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (1 + x.exp()).log()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.sigmoid()


class OutputOnContext(Function):
    """tanh that keeps its output as an attribute of ctx: a cycle, and its memory is never given back."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.y = output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.y**2)


class SwallowedNaN(_SaveInputs):
    """ReLU by comparison: a NaN, the sign of a diverged network, becomes zero."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.zeros_like(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x > 0)


class SteepKink(_SaveInputs):
    """Leaky ReLU whose slope at zero is the sum of both sides'."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * ((x >= 0) + 0.1 * (x <= 0))


class EmptyBatch(_SaveInputs):
    """A division by the largest gradient, for numerical safety: an empty one has none."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        scale = g.detach().abs().max() + 1
        return g / scale * 2 * scale


class FirstWeightForAll(_SaveInputs):
    """A product whose vmap rule uses the first sample's factor for every sample."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, g * x

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, Any], x: Tensor, w: Tensor) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(info.batch_size, *x.shape)
        w = w.select(in_dims[1], 0) if in_dims[1] is not None else w
        return FirstWeightForAll.apply(x, w), 0


class SingleJvp(_SaveInputs):
    """A product whose forward mode knows the first factor only."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, g * x

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None) -> Tensor:
        x, w = ctx.saved_tensors
        return torch.zeros_like(x) if tx is None else tx * w


@dataclass(frozen=True)
class Exhibit:
    """A wrong Function and what goes with it.

    Attributes:
        function: the Function.
        inputs: its inputs, as text.
        property: the property that must fail.
        reference: what it should compute.
    """

    function: type[Function]
    inputs: str
    property: str
    reference: Callable[..., Any] | None = None


def _leaky(x: Tensor) -> Tensor:
    return torch.nn.functional.leaky_relu(x, 0.1)


EXHIBITS = [
    Exhibit(RedrawnMask, "randn(3, 4)", "first_order"),
    Exhibit(HalvedDropout, "randn(3, 4)", "first_order"),
    Exhibit(UnwrittenGradient, "randn(2, 7)", "first_order"),
    Exhibit(UnflippedKernel, "randn(2, 2, 6), randn(3, 2, 3)", "first_order", torch.conv1d),
    Exhibit(FirstPatchOnly, "randn(2, 2, 6)", "first_order"),
    Exhibit(SlightlyScaled, "randn(3, 4)", "first_order", torch.tanh),
    Exhibit(DetachedMaxPool, "randn(3, 4)", "second_order"),
    Exhibit(SavedSlope, "randn(3, 4)", "second_order", torch.square),
    Exhibit(NumPyBackward, "randn(3, 4)", "second_order", torch.sin),
    Exhibit(SteepKink, "randn(3, 4)", "kinks", _leaky),
    Exhibit(SingleJvp, "randn(3), randn(3)", "forward_mode", torch.mul),
    Exhibit(FirstWeightForAll, "randn(3), randn(3)", "vmap", torch.mul),
    Exhibit(ContiguousOnly, "randn(3, 4)", "layouts"),
    Exhibit(WrongFlag, "randn(3, 4), randn(3, 4)", "wanted_gradients", torch.mul),
    Exhibit(OutputOnContext, "randn(3, 4)", "leaks", torch.tanh),
    Exhibit(InPlaceBackward, "randn(3, 4)", "pure", torch.sigmoid),
    Exhibit(ForgottenAutocast, "randn(3, 4), randn(4, 2)", "autocast", torch.matmul),
    Exhibit(OverflowingSoftplus, "randn(3, 4)", "magnitudes", torch.nn.functional.softplus),
    Exhibit(SwallowedNaN, "randn(3, 4)", "nonfinite", torch.relu),
    Exhibit(EmptyBatch, "randn(3, 4)", "empty_batch", lambda x: 2 * x),
]


def plain(test: Callable[..., bool], exhibit: Exhibit) -> bool:
    """Tell whether PyTorch's own test, as it is called by default, lets a Function through."""
    torch.manual_seed(0)
    inputs = tuple(t.requires_grad_() for t in draw_inputs(exhibit.inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return test(exhibit.function.apply, inputs, raise_exception=False)
        except Exception:
            return False


def proof(exhibit: Exhibit) -> Report:
    """Check the property that must fail."""
    return check(
        exhibit.function,
        exhibit.inputs,
        reference=exhibit.reference,
        properties=[exhibit.property],
        batched=[0] if exhibit.property == "empty_batch" else [],
    )


def table() -> str:
    """Return who sees what, as a table in Markdown."""
    rows = ["| Function | mistake | gradcheck | gradgradcheck | `check` |", "|---|---|---|---|---|"]
    for exhibit in EXHIBITS:
        mistake = (exhibit.function.__doc__ or "").strip().rstrip(".")
        seen = ["passes" if plain(test, exhibit) else "fails" for test in (gradcheck, gradgradcheck)]
        result = proof(exhibit)[exhibit.property]
        found = f"`{exhibit.property}` fails" if result.status == "fail" else f"`{exhibit.property}`: {result.status}"
        rows.append(f"| `{exhibit.function.__name__}` | {mistake} | {seen[0]} | {seen[1]} | {found} |")
    return "\n".join(rows)


def main() -> None:
    """Print the table."""
    print(table())


if __name__ == "__main__":
    main()
