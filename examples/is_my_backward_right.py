"""From a wrong Function to a green report: swish, y = x · sigmoid(b x), in four versions.

Page: docs/is-my-backward-right.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, gradcheck

from torchbp.testing import GROUPS, PROPERTIES, Report, check


def swish(x: Tensor, b: Tensor) -> Tensor:
    """Return x · sigmoid(b x) as PyTorch differentiates it: the reference."""
    return x * torch.sigmoid(b * x)


INPUTS = "randn(3, 4), rand(4) + 0.5"


class First(Function):
    """The rule of the product, half of it."""

    @staticmethod
    def forward(x: Tensor, b: Tensor) -> Tensor:
        return x * torch.sigmoid(b * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        x, b = inputs
        s = torch.sigmoid(b * x)
        ctx.save_for_backward(s, x * s * (1 - s))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        s, slope = ctx.saved_tensors
        return g * s, (g * slope).sum(0)


class Second(First):
    """Both halves, from what forward has computed anyway."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        x, b = inputs
        s = torch.sigmoid(b * x)
        slope = x * s * (1 - s)
        ctx.save_for_backward(s + b * slope, x * slope)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        by_x, by_b = ctx.saved_tensors
        return g * by_x, (g * by_b).sum(0)


class Third(First):
    """Saves its inputs and computes the rest again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, b = ctx.saved_tensors
        s = torch.sigmoid(b * x)
        slope = x * s * (1 - s)
        return g * (s + b * slope), (g * x * slope).sum(0)


class Fourth(Third):
    """With a forward mode and a rule for vmap as well."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tb: Tensor | None) -> Tensor:
        x, b = ctx.saved_tensors
        s = torch.sigmoid(b * x)
        slope = x * s * (1 - s)
        y = torch.zeros_like(x)
        if tx is not None:
            y = y + (s + b * slope) * tx
        if tb is not None:
            y = y + x * slope * tb
        return y


def report(function: type[Function]) -> Report:
    """Check a version, without the properties of torch.compile."""
    return check(function, INPUTS, reference=swish, compile=False)


def failures(function: type[Function]) -> str:
    """Return what fails, with the worst element where there is one."""
    found = report(function)
    lines = [f"check({function.__name__}): {len(found.failures)} of {len(found.results)} properties fail"]
    for result in found.failures:
        lines.append(f"  {result.property}: {result.detail.split(': ')[0]}")
        if result.worst is not None:
            worst = result.worst
            place = f"{worst.tensor}{list(worst.index)}"
            lines.append(f"    {place}: {worst.got:.4f}, not {worst.expected:.4f}")
    return "\n".join(lines)


def gradcheck_says(function: type[Function]) -> str:
    """Return the verdict of gradcheck."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(size, generator=generator, dtype=torch.float64).requires_grad_() for size in ((3, 4), (4,))]
    passed = gradcheck(function.apply, inputs, raise_exception=False)
    return f"gradcheck({function.__name__}): {'passes' if passed else 'fails'}"


def outcome(function: type[Function]) -> str:
    """Return whether each property holds, and why not every one applies; without what was measured."""
    found = report(function)
    lines = [f"check({function.__name__}): {'passed' if found.passed else 'FAILED'}"]
    for result in found.results:
        reason = f": {result.detail}" if result.status == "not applicable" else ""
        lines.append(f"  {result.status:14}  {result.property}{reason[:70]}")
    return "\n".join(lines)


def property_table() -> str:
    """Return the properties with what they say, by group, as a table in Markdown."""
    rows = ["| group | property | holds if |", "|---|---|---|"]
    for group, names in GROUPS.items():
        for name in names:
            text = " ".join((PROPERTIES[name].__doc__ or "").split()).rstrip(".").replace("``", "`")
            rows.append(f"| `{group}` | `{name}` | {text} |")
            group = ""
    return "\n".join(rows).replace("| `` |", "| |")


def main() -> None:
    """Print what every version gets."""
    for function in (First, Second):
        print(gradcheck_says(function))
        print(failures(function), end="\n\n")
    print(outcome(Third), end="\n\n")
    print(outcome(Fourth), end="\n\n")
    print(property_table())


if __name__ == "__main__":
    main()
