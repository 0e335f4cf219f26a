"""Circuits of add, multiply, max and sigmoid gates, each with its own backward rule.

Page: docs/examples/gates.md.
"""

from collections.abc import Callable
from typing import Any

import torch
from _show import BACKWARD, FORWARD, number, run, save, table
from torch import Tensor

import torchbp.nn.functional as F


class Add(torch.autograd.Function):
    """Add gate, f = a + b. Both inputs get the gradient as it came: df/da = df/db = 1."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        """Return a + b."""
        return a + b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing: the rule needs no values."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return (g, g)."""
        return g, g


class Multiply(torch.autograd.Function):
    """Multiply gate, f = a·b. Each input gets the gradient times the other: df/da = b, df/db = a."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        """Return a·b."""
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save both inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return (g·b, g·a)."""
        a, b = ctx.saved_tensors
        return g * b, g * a


class Max(torch.autograd.Function):
    """Max gate, f = max(a, b). The larger input gets the gradient, the other zero; a wins a tie."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        """Return the larger of a and b."""
        return torch.where(a >= b, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save both inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return (g, 0) where a won and (0, g) where b won."""
        a, b = ctx.saved_tensors
        zero = torch.zeros_like(g)
        return torch.where(a >= b, g, zero), torch.where(a >= b, zero, g)


class Sigmoid(torch.autograd.Function):
    """Sigmoid gate, f = 1/(1 + exp(-a)). The slope follows from the output alone: df/da = f·(1 - f)."""

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        """Return 1/(1 + exp(-a))."""
        return 1 / (1 + torch.exp(-a))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save the output."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Return g·f·(1 - f)."""
        (f,) = ctx.saved_tensors
        return g * f * (1 - f)


class SigmoidWithSavedSlope(torch.autograd.Function):
    """A sigmoid gate with a mistake to learn from: right first derivative, wrong second one.

    The slope is neither an input nor an output, so autograd takes the saved tensor for a constant.
    """

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        """Return 1/(1 + exp(-a))."""
        return 1 / (1 + torch.exp(-a))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save the slope: the mistake."""
        ctx.save_for_backward(output * (1 - output))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Return g·slope."""
        (slope,) = ctx.saved_tensors
        return g * slope


Readings = dict[str, tuple[float, float]]


def leaf(value: float) -> Tensor:
    """Return a float64 number that requires a gradient."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def readings(wires: dict[str, Tensor]) -> Readings:
    """Run backward from the last wire; return the value and the gradient of every wire."""
    for wire in wires.values():
        wire.retain_grad()
    list(wires.values())[-1].backward()
    return {name: (wire.item(), wire.grad.item()) for name, wire in wires.items()}


def product_of_sum() -> Readings:
    """Return the readings of f = (x + y)·z at x = -2, y = 5, z = -4."""
    x, y, z = leaf(-2.0), leaf(5.0), leaf(-4.0)
    q = Add.apply(x, y)
    f = Multiply.apply(q, z)
    return readings({"x": x, "y": y, "z": z, "q = x + y": q, "f = q·z": f})


def product_of_max() -> Readings:
    """Return the readings of f = max(x, y)·z at x = 3, y = -1, z = 2."""
    x, y, z = leaf(3.0), leaf(-1.0), leaf(2.0)
    m = Max.apply(x, y)
    f = Multiply.apply(m, z)
    return readings({"x": x, "y": y, "z": z, "m = max(x, y)": m, "f = m·z": f})


def used_twice() -> Readings:
    """Return the readings of f = x·y + x at x = 3, y = -4: x feeds two gates."""
    x, y = leaf(3.0), leaf(-4.0)
    p = Multiply.apply(x, y)
    f = Add.apply(p, x)
    return readings({"x": x, "y": y, "p = x·y": p, "f = p + x": f})


def neuron() -> Readings:
    """Return the readings of f = sigmoid(w0·x0 + w1·x1 + w2) at w = (2, -3, -3), x = (-1, -2)."""
    w0, x0, w1, x1, w2 = leaf(2.0), leaf(-1.0), leaf(-3.0), leaf(-2.0), leaf(-3.0)
    p0 = Multiply.apply(w0, x0)
    p1 = Multiply.apply(w1, x1)
    s = Add.apply(p0, p1)
    a = Add.apply(s, w2)
    f = Sigmoid.apply(a)
    wires = {"w0": w0, "x0": x0, "w1": w1, "x1": x1, "w2": w2}
    wires |= {"p0 = w0·x0": p0, "p1 = w1·x1": p1, "s = p0 + p1": s, "a = s + w2": a, "f = sigmoid(a)": f}
    return readings(wires)


def neuron_by_layers() -> dict[str, float]:
    """Return the gradients of the same neuron built from a linear layer and a sigmoid."""
    x = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    F.sigmoid(F.linear(x, weight, bias)).sum().backward()
    gradients = torch.cat([weight.grad.flatten(), bias.grad, x.grad]).tolist()
    return dict(zip(["w0", "w1", "w2", "x0", "x1"], gradients, strict=True))


def second_derivative(sigmoid: Callable[[Tensor], Tensor], at: float = 1.0) -> tuple[float, float]:
    """Return the first and second derivative of sigmoid(x)² at ``at``, by running backward twice."""
    x = leaf(at)
    y = sigmoid(x)
    (first,) = torch.autograd.grad(Multiply.apply(y, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    return first.item(), second.item()


def second_derivative_by_hand(at: float = 1.0) -> tuple[float, float]:
    """Return 2·s·s' and 2·s'² + 2·s·s'' with s' = s·(1 - s) and s'' = s'·(1 - 2·s)."""
    s = 1 / (1 + torch.exp(torch.tensor(-at, dtype=torch.float64)).item())
    slope = s * (1 - s)
    return 2 * s * slope, 2 * slope**2 + 2 * s * slope * (1 - 2 * s)


def main() -> None:
    """Print every circuit, wire by wire."""
    circuits = {
        "f = (x + y)·z": product_of_sum,
        "f = max(x, y)·z": product_of_max,
        "f = x·y + x, where x is used twice": used_twice,
        "f = sigmoid(w0·x0 + w1·x1 + w2)": neuron,
    }
    for title, circuit in circuits.items():
        print(title)
        rows = [(name, value, gradient) for name, (value, gradient) in circuit().items()]
        print(table(["wire", "value", "gradient df/d(wire)"], rows), end="\n\n")

    print("The same neuron from a linear layer and a sigmoid")
    print(table(["name", "gradient"], neuron_by_layers().items()), end="\n\n")

    print("Derivatives of sigmoid(x)² at x = 1")
    rows = [
        ("by hand", *second_derivative_by_hand()),
        ("gate that saves its output", *second_derivative(Sigmoid.apply)),
        ("gate that saves its slope", *second_derivative(SigmoidWithSavedSlope.apply)),
    ]
    print(table(["how", "first", "second"], rows))


def plot(path: str) -> None:
    """Draw two circuits: values above the wires, gradients below."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 5), layout="constrained")
    upper, lower = fig.subplots(2, 1, height_ratios=[1, 1.9])
    draw_circuit(
        upper,
        "f = (x + y)·z",
        product_of_sum(),
        {"+": (1.5, 1.5), "×": (3, 1)},
        {
            "x": ((0, 2), "+"),
            "y": ((0, 1), "+"),
            "z": ((0, 0), "×"),
            "q = x + y": ("+", "×"),
            "f = q·z": ("×", (4.5, 1)),
        },
    )
    draw_circuit(
        lower,
        "f = sigmoid(w0·x0 + w1·x1 + w2)",
        neuron(),
        {"×": (1.5, 3.5), " ×": (1.5, 1.5), "+": (3, 2.5), " +": (4.5, 2), "σ": (6, 2)},
        {
            "w0": ((0, 4), "×"),
            "x0": ((0, 3), "×"),
            "w1": ((0, 2), " ×"),
            "x1": ((0, 1), " ×"),
            "w2": ((0, 0), " +"),
            "p0 = w0·x0": ("×", "+"),
            "p1 = w1·x1": (" ×", "+"),
            "s = p0 + p1": ("+", " +"),
            "a = s + w2": (" +", "σ"),
            "f = sigmoid(a)": ("σ", (7.5, 2)),
        },
    )
    save(fig, path)


def draw_circuit(ax: Any, title: str, read: Readings, gates: dict, wires: dict) -> None:
    """Draw one circuit on a matplotlib axis: gates at their places, wires between them."""
    for name, ends in wires.items():
        (x0, y0), (x1, y1) = (gates[e] if isinstance(e, str) else e for e in ends)
        ax.plot([x0, x1], [y0, y1], color="0.6", zorder=1)
        start = isinstance(ends[0], tuple)
        x = x0 if start else (x0 + x1) / 2
        y = y0 + (x - x0) * (y1 - y0) / (x1 - x0)
        value, gradient = read[name]
        label = name.split(" = ")[0]
        ax.scatter([x], [y], s=1400, marker="s", color="white", zorder=2)
        style = {"ha": "center", "va": "center", "size": 9, "textcoords": "offset points", "xy": (x, y)}
        ax.annotate(f"{label} = {number(value, 2)}", xytext=(0, 7), color=FORWARD, **style)
        ax.annotate(number(gradient, 2), xytext=(0, -7), color=BACKWARD, **style)
    for sign, (x, y) in gates.items():
        ax.scatter([x], [y], s=420, color="white", edgecolor="black", zorder=3)
        ax.text(x, y, sign.strip(), ha="center", va="center", zorder=4, size=12)
    ax.margins(0.06, 0.15)
    ax.axis("off")
    ax.set_title(title, fontsize=10, loc="left")


if __name__ == "__main__":
    run(main, plot)
