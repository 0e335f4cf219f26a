"""Where max and average pooling send their gradients.

Page: docs/examples/pooling_by_hand.md.
"""

import torch
from _show import beside, grid, matrix, number, run, save, table
from torch import Tensor

import torchbp.nn.functional as F

X = ((1.0, 3.0, 2.0, 0.0), (4.0, 2.0, 1.0, 5.0), (0.0, 1.0, 7.0, 2.0), (6.0, 2.0, 3.0, 4.0))
G = ((1.0, 2.0), (3.0, 4.0))
TIES = ((1.0, 1.0, 0.0, 2.0), (1.0, 1.0, 2.0, 2.0), (0.0, 0.0, 3.0, 0.0), (0.0, 0.0, 3.0, 3.0))
WIDE = tuple(tuple(float((3 * r + 7 * c) % 10) for c in range(5)) for r in range(5))

Matrix = list[list[float]]


def by_layer(kind: str, x: tuple, kernel: int, stride: int) -> dict[str, Tensor]:
    """Return Y and the dX that the layer's backward gives for dL/dY = G; kind is "max" or "avg"."""
    image = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    pool = F.max_pool2d if kind == "max" else F.avg_pool2d
    y = pool(image, kernel, stride)
    y.backward(torch.tensor([[G]], dtype=torch.float64))
    return {"Y": y[0, 0].detach(), "dX": image.grad[0, 0]}


def by_hand(kind: str, x: tuple, kernel: int, stride: int) -> Matrix:
    """Return dX from plain loops over the windows, the outputs' gradients being G."""
    dx = [[0.0] * len(x[0]) for _ in x]
    for p, row in enumerate(G):
        for q, g in enumerate(row):
            window = [(p * stride + i, q * stride + j) for i in range(kernel) for j in range(kernel)]
            if kind == "max":
                r, c = winner(x, window)
                dx[r][c] += g
            else:
                for r, c in window:
                    dx[r][c] += g / kernel**2
    return dx


def winner(x: tuple, window: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the place of the largest value, the first in row-major order among equals."""
    best = window[0]
    for r, c in window[1:]:
        if x[r][c] > x[best[0]][best[1]]:
            best = r, c
    return best


def winners(x: tuple, kernel: int, stride: int) -> list[tuple[int, int]]:
    """Return the winner of every window, window by window."""
    places = []
    for p in range(len(G)):
        for q in range(len(G[0])):
            window = [(p * stride + i, q * stride + j) for i in range(kernel) for j in range(kernel)]
            places.append(winner(x, window))
    return places


CASES = {
    "2x2 windows, stride 2": (X, 2, 2),
    "3x3 windows, stride 1: they overlap": (X, 3, 1),
    "2x2 windows, stride 3: a row and a column lie in no window": (WIDE, 2, 3),
}


def sums() -> list[tuple[str, float, float, float]]:
    """Return for each case the sums of G, of the maximum's dX and of the average's dX."""
    total = sum(map(sum, G))
    rows = []
    for name, (x, kernel, stride) in CASES.items():
        parts = (by_layer(kind, x, kernel, stride)["dX"].sum().item() for kind in ("max", "avg"))
        rows.append((name.split(":")[0], total, *parts))
    return rows


def main() -> None:
    """Print every case: input, outputs and the gradients they send back."""
    print(matrix("G = dL/dY in every case", G, 0))
    for name, (x, kernel, stride) in CASES.items():
        top, mean = by_layer("max", x, kernel, stride), by_layer("avg", x, kernel, stride)
        digits = 3 if kernel == 3 else 2
        print(f"\n{name}")
        print(beside(matrix("X", x, 0), matrix("max Y", top["Y"], 0), matrix("avg Y", mean["Y"], digits)))
        print(beside(matrix("max dX", top["dX"], 0), matrix("avg dX", mean["dX"], digits)))
    print("\nTies, 2x2 windows, stride 2")
    print(beside(matrix("X", TIES, 0), matrix("max dX", by_layer("max", TIES, 2, 2)["dX"], 0)))
    print("\nNothing is lost on the way back")
    rows = [(name, *(number(v, 1) for v in values)) for name, *values in sums()]
    print(table(["case", "sum of G", "sum of max dX", "sum of avg dX"], rows))


def plot(path: str) -> None:
    """Draw input, winners and both gradients for the 2x2 and the overlapping windows."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8.5, 4.9), layout="constrained")
    for axes, (name, (x, kernel, stride)) in zip(fig.subplots(2, 4), list(CASES.items())[:2], strict=True):
        colours = ["tab:blue", "tab:red", "tab:green", "tab:purple"]
        places = winners(x, kernel, stride)
        boxes = [(r, c, 1, 1, colour) for (r, c), colour in zip(places, colours, strict=True)]
        outputs = [(p, q, 1, 1, colours[2 * p + q]) for p in range(2) for q in range(2)]
        grid(axes[0], x, f"X: {name.split(',')[0]}", boxes=boxes)
        grid(axes[1], G, "G = dL/dY", boxes=outputs)
        grid(axes[2], by_layer("max", x, kernel, stride)["dX"], "max dX", boxes=boxes)
        grid(axes[3], by_layer("avg", x, kernel, stride)["dX"], "avg dX", digits=2)
    save(fig, path)


if __name__ == "__main__":
    run(main, plot)
