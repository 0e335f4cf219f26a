"""What a forward and a backward pass cost, by kind of layer, counted in operations and bytes.

The formulas for linear layers and convolutions are checked against PyTorch's FlopCounterMode, those for
pooling and normalisation against plain loops that count. Page: docs/examples/cost.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from _show import run, save, table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import torchbp.nn.functional as F

FLOAT_BYTES = 4
WINNER_BYTES = 1  # its place in the window, 0 to k² - 1


class Cost(NamedTuple):
    """Operations of the forward pass, of each gradient alone and of both together, and bytes.

    A layer without weights has zeros for the weight's gradient.
    """

    forward: int
    grad_input: int
    grad_weight: int
    both: int
    forward_bytes: int
    grad_input_bytes: int
    grad_weight_bytes: int


class Linear(NamedTuple):
    """A linear layer, Y = X Wᵀ + b, with X of n rows and n_in columns."""

    n: int = 64
    n_in: int = 512
    n_out: int = 256

    def cost(self) -> Cost:
        """Return the multiply-adds of three matrix products; the bias is left out as it is in flop counts."""
        x, y, w = self.n * self.n_in, self.n * self.n_out, self.n_out * self.n_in
        product, b = self.n * self.n_in * self.n_out, self.n_out
        return Cost(product, product, product, 2 * product, *_float_bytes(x + w + b + y, y + w + x, y + x + w + b))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return an input, a weight and a bias."""
        return torch.randn(self.n, self.n_in), torch.randn(self.n_out, self.n_in), torch.randn(self.n_out)

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.linear(x, w, b)


class Convolution(NamedTuple):
    """A convolution with a square kernel, stride 1, and padding that keeps the image's size."""

    n: int = 4
    c_in: int = 16
    c_out: int = 32
    size: int = 32
    kernel: int = 3

    def cost(self) -> Cost:
        """Return the multiply-adds: every output is a sum over c_in·kernel² products."""
        area = self.size**2
        x, y = self.n * self.c_in * area, self.n * self.c_out * area
        w, b = self.c_out * self.c_in * self.kernel**2, self.c_out
        product = y * self.c_in * self.kernel**2
        return Cost(product, product, product, 2 * product, *_float_bytes(x + w + b + y, y + w + x, y + x + w + b))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return an input, a weight and a bias."""
        x = torch.randn(self.n, self.c_in, self.size, self.size)
        return x, torch.randn(self.c_out, self.c_in, self.kernel, self.kernel), torch.randn(self.c_out)

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.conv2d(x, w, b, padding=self.kernel // 2)


class Pooling(NamedTuple):
    """Pooling of square windows that do not overlap; kind is "max" or "average"."""

    kind: str
    n: int = 4
    channels: int = 32
    size: int = 32
    kernel: int = 2

    def cost(self) -> Cost:
        """Return the operations of the pooling loops."""
        x = self.n * self.channels * self.size**2
        y = self.n * self.channels * (self.size // self.kernel) ** 2
        k = self.kernel**2
        forward_bytes, backward_bytes, _ = _float_bytes(x + y, y + x, 0)
        if self.kind == "max":
            winners = y * WINNER_BYTES
            return Cost(y * (k - 1), y, 0, y, forward_bytes + winners, backward_bytes + winners, 0)
        return Cost(y * k, y * (k + 1), 0, y * (k + 1), forward_bytes, backward_bytes, 0)


class Normalisation(NamedTuple):
    """Batch normalisation in training: mean and variance of each channel over batch, height and width."""

    n: int = 4
    channels: int = 32
    size: int = 32

    def cost(self) -> Cost:
        """Return the operations of the normalisation loops; the running averages are left out."""
        m, c = self.n * self.size**2, self.channels
        x = m * c
        saved = 2 * c  # the mean and the inverse standard deviation of each channel
        moved = _float_bytes(x + 2 * c + x + saved, 2 * x + c + saved + x, 2 * x + saved + 2 * c)
        return Cost(c * (4 * m + 6), c * (6 * m + 5), c * (3 * m + 1), c * (6 * m + 6), *moved)


LAYERS = {
    "linear": Linear(),
    "convolution": Convolution(),
    "max pooling": Pooling("max"),
    "average pooling": Pooling("average"),
    "batch normalisation": Normalisation(),
}


def _float_bytes(*elements: int) -> tuple[int, ...]:
    return tuple(n * FLOAT_BYTES for n in elements)


def measured(layer: Linear | Convolution) -> tuple[int, int, int, int]:
    """Return the multiply-adds FlopCounterMode sees: forward, dX alone, dW alone, both.

    A flop counter counts two operations for a multiply-add, hence the division. The weight and the bias
    are frozen for dX alone, the input for dW alone.
    """
    x, w, b = layer.tensors()
    counts = [flops(lambda: layer.apply(x, w, b))]
    for input_free, weight_free in ((True, False), (False, True), (True, True)):
        free = [
            t.detach().requires_grad_(f) for t, f in zip((x, w, b), (input_free, weight_free, weight_free), strict=True)
        ]
        y = layer.apply(*free)
        counts.append(flops(lambda y=y: y.backward(torch.ones_like(y))))
    return tuple(n // 2 for n in counts)


def flops(work: Callable[[], object]) -> int:
    """Return what FlopCounterMode counts while ``work`` runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Counter:
    """Arithmetic that counts: a multiply-add, or any other single operation, counts once."""

    def __init__(self) -> None:
        """Start at zero."""
        self.count = 0

    def __call__(self, value: float) -> float:
        """Count one operation, and return its result."""
        self.count += 1
        return value


def max_pooling_loop(x: Tensor, g: Tensor, kernel: int) -> tuple[Tensor, Tensor, int, int]:
    """Return y, dx and the operations of both passes, for one channel: comparisons, then additions."""
    forward, backward = Counter(), Counter()
    y, dx, winners = torch.empty_like(g), torch.zeros_like(x), {}
    for output in places(*g.shape):
        window = [(output[0] * kernel + i, output[1] * kernel + j) for i, j in places(kernel, kernel)]
        best = window[0]
        for place in window[1:]:
            best = place if forward(x[place] > x[best]) else best
        y[output], winners[output] = x[best], best
    for output, place in winners.items():
        dx[place] = backward(dx[place] + g[output])
    return y, dx, forward.count, backward.count


def average_pooling_loop(x: Tensor, g: Tensor, kernel: int) -> tuple[Tensor, Tensor, int, int]:
    """Return y, dx and the operations of both passes, for one channel."""
    forward, backward = Counter(), Counter()
    y, dx = torch.empty_like(g), torch.zeros_like(x)
    for output in places(*g.shape):
        window = [(output[0] * kernel + i, output[1] * kernel + j) for i, j in places(kernel, kernel)]
        total = x[window[0]]
        for place in window[1:]:
            total = forward(total + x[place])
        y[output] = forward(total / kernel**2)
        part = backward(g[output] / kernel**2)
        for place in window:
            dx[place] = backward(dx[place] + part)
    return y, dx, forward.count, backward.count


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Return the places of a matrix in row-major order."""
    return [(r, c) for r in range(height) for c in range(width)]


def normalisation_loop(x: list[float], w: float, b: float, eps: float = 1e-5) -> tuple[list[float], float, float, int]:
    """Return y, the mean, the inverse standard deviation and the operations, for one channel."""
    count, m = Counter(), len(x)
    mean = variance = 0.0
    for v in x:
        mean = count(mean + v)
    mean = count(mean / m)
    centred = [count(v - mean) for v in x]
    for d in centred:
        variance = count(variance + d * d)
    variance = count(variance / m)
    inverse = count(1 / count(count(variance + eps) ** 0.5))
    scale = count(w * inverse)
    return [count(d * scale + b) for d in centred], mean, inverse, count.count


def normalisation_backward_loop(
    x: list[float], w: float, g: list[float], mean: float, inverse: float, wanted: str = "dX dW"
) -> tuple[list[float], float, float, int]:
    """Return dx, dw, db and the operations; ``wanted`` says which gradients to work out.

    The input's gradient contains the two sums that make up the weight's and the bias's gradients.
    """
    count, m = Counter(), len(x)
    db = product = dw = 0.0
    centred = [count(v - mean) for v in x]
    for d, gradient in zip(centred, g, strict=True):
        db = count(db + gradient)
        product = count(product + gradient * d)
    if "dW" in wanted:
        dw = count(product * inverse)
    dx = []
    if "dX" in wanted:
        shift = count(db / m)
        slope = count(count(count(product / m) * inverse) * inverse)
        scale = count(w * inverse)
        for d, gradient in zip(centred, g, strict=True):
            dx.append(count(count(count(gradient - shift) - d * slope) * scale))
    return dx, dw, db, count.count


def loops() -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return for a 4x4 channel the formulas' operations and the loops' counts, in the order of Cost."""
    x, g = torch.randn(4, 4), torch.randn(2, 2)
    one = {"n": 1, "channels": 1, "size": 4}
    rows = []
    for kind, loop in (("max", max_pooling_loop), ("average", average_pooling_loop)):
        *_, forward, backward = loop(x, g, 2)
        rows.append((f"{kind} pooling", Pooling(kind, **one).cost()[:4], (forward, backward, 0, backward)))
    values, upstream = x.flatten().tolist(), x.T.flatten().tolist()
    _, mean, inverse, forward = normalisation_loop(values, 1.5, 0.5)
    backward = [
        normalisation_backward_loop(values, 1.5, upstream, mean, inverse, wanted)[-1]
        for wanted in ("dX", "dW", "dX dW")
    ]
    rows.append(("batch normalisation", Normalisation(**one).cost()[:4], (forward, *backward)))
    return rows


def main() -> None:
    """Print operations, bytes, and the checks of both."""
    costs = {name: layer.cost() for name, layer in LAYERS.items()}
    print("Operations (multiply-adds for linear and convolution)")
    rows = [(n, *c[:4], c.both / c.forward) for n, c in costs.items()]
    print(table(["layer", "forward", "dX alone", "dW alone", "dX and dW", "backward/forward"], rows, digits=2))

    print("\nBytes, every tensor counted once, float32")
    print(table(["layer", "forward", "dX alone", "dW alone"], [(n, *c[4:]) for n, c in costs.items()]))

    print("\nOperations per byte")
    rows = [(n, *per_byte(c)) for n, c in costs.items()]
    print(table(["layer", "forward", "dX alone", "dW alone"], rows, digits=2))

    passes = ("forward", "dX alone", "dW alone", "dX and dW")
    print("\nMultiply-adds: formula, and what FlopCounterMode counts")
    rows = []
    for name in ("linear", "convolution"):
        rows += [(name, *row) for row in zip(passes, costs[name][:4], measured(LAYERS[name]), strict=True)]
    print(table(["layer", "pass", "formula", "counted"], rows))

    print("\nOne 4x4 channel: formula, and what plain loops count")
    rows = []
    for name, formula, counted in loops():
        rows += [(name, *row) for row in zip(passes, formula, counted, strict=True)]
    print(table(["layer", "pass", "formula", "counted"], rows))


def per_byte(c: Cost) -> list[float]:
    """Return the operations per byte of the forward pass, of dX and of dW; zero where there is no weight."""
    return [a / b if b else 0.0 for a, b in zip(c[:3], c[4:], strict=True)]


def plot(path: str) -> None:
    """Draw operations and operations per byte of the three passes, by layer."""
    from matplotlib.figure import Figure

    costs = [layer.cost() for layer in LAYERS.values()]
    fig = Figure(figsize=(9, 3), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    for i, (name, colour) in enumerate((("forward", "tab:blue"), ("dX", "tab:red"), ("dW", "tab:orange"))):
        at = [k + 0.27 * (i - 1) for k in range(len(costs))]
        left.barh(at, [c[i] for c in costs], 0.25, color=colour, label=name)
        right.barh(at, [per_byte(c)[i] for c in costs], 0.25, color=colour)
    left.set_yticks(range(len(costs)), labels=list(LAYERS))
    left.invert_yaxis()
    left.set_xlabel("operations")
    right.set_xlabel("operations per byte")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    left.legend(fontsize=8)
    save(fig, path)


if __name__ == "__main__":
    run(main, plot)
