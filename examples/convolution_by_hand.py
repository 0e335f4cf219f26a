"""The backward pass of a convolution, entry by entry, and the flipped kernel it contains.

Page: docs/examples/convolution_by_hand.md.
"""

import torch
from _show import beside, grid, matrix, number, run, save, table
from torch import Tensor

import torchbp.nn.functional as F

X = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0))
W = ((1.0, 2.0), (3.0, 4.0))
ONES = ((1.0, 1.0), (1.0, 1.0))
UNEVEN = ((1.0, 2.0), (0.0, -1.0))


def image(values: tuple) -> Tensor:
    """Return a matrix as a float64 tensor of one sample and one channel, which requires a gradient."""
    return torch.tensor([[values]], dtype=torch.float64, requires_grad=True)


def by_layer(upstream: tuple) -> dict[str, Tensor]:
    """Return Y, and the dX and dW that the layer's backward gives for ``upstream`` = dL/dY."""
    x, w = image(X), image(W)
    y = F.conv2d(x, w)
    y.backward(torch.tensor([[upstream]], dtype=torch.float64))
    return {"Y": y[0, 0].detach(), "dX": x.grad[0, 0], "dW": w.grad[0, 0]}


def terms() -> tuple[list[list[list[str]]], list[list[list[str]]]]:
    """Return the products that make up each entry of dX and of dW, as text such as "g12·w21"."""
    dx = [[[] for _ in range(3)] for _ in range(3)]
    dw = [[[] for _ in range(2)] for _ in range(2)]
    for p in range(2):
        for q in range(2):
            for i in range(2):
                for j in range(2):
                    g = f"g{p + 1}{q + 1}"
                    dx[p + i][q + j].append(f"{g}·w{i + 1}{j + 1}")
                    dw[i][j].append(f"{g}·x{p + i + 1}{q + j + 1}")
    return dx, dw


def by_hand(upstream: tuple) -> dict[str, list[list[float]]]:
    """Return dX and dW: every product y[p,q] += x[p+i,q+j]·w[i,j] hands its gradient to both factors."""
    dx = [[0.0] * 3 for _ in range(3)]
    dw = [[0.0] * 2 for _ in range(2)]
    for p in range(2):
        for q in range(2):
            for i in range(2):
                for j in range(2):
                    dx[p + i][q + j] += upstream[p][q] * W[i][j]
                    dw[i][j] += upstream[p][q] * X[p + i][q + j]
    return {"dX": dx, "dW": dw}


def as_correlations(upstream: tuple) -> dict[str, Tensor]:
    """Return dX as the full correlation of dL/dY with the rotated kernel, and dW as X correlated with dL/dY.

    ``dX, no flip`` is the mistake of leaving the kernel as it is; ``dW, flipped`` that of rotating dL/dY.
    """
    g, x, w = image(upstream), image(X), image(W)
    frame = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    frame[:, :, 1:3, 1:3] = g
    results = {
        "dX": F.conv2d(frame, w.flip(-2, -1)),
        "dX, no flip": F.conv2d(frame, w),
        "dW": F.conv2d(x, g),
        "dW, flipped": F.conv2d(x, g.flip(-2, -1)),
    }
    return {name: t[0, 0].detach() for name, t in results.items()} | {"frame": frame[0, 0]}


def mistakes() -> list[tuple[str, str, float, float, float]]:
    """Return for each upstream gradient and each mistake: mean right, mean wrong, largest difference."""
    rows = []
    for name, upstream in (("all ones", ONES), ("uneven", UNEVEN)):
        right, other = by_layer(upstream), as_correlations(upstream)
        for gradient, wrong in (("dX", "dX, no flip"), ("dW", "dW, flipped")):
            difference = (right[gradient] - other[wrong]).abs().max().item()
            rows.append((name, wrong, right[gradient].mean().item(), other[wrong].mean().item(), difference))
    return rows


def print_entries(title: str, products: list, hand: list, found: Tensor) -> None:
    """Print one line for each entry: the products, their sum, and what the layer gave."""
    letter = title[-1].lower()
    rows = []
    for r, line in enumerate(products):
        for c, parts in enumerate(line):
            rows.append((f"d{letter}{r + 1}{c + 1}", " + ".join(parts), hand[r][c], found[r, c].item()))
    print(table([title, "sum of", "by hand", "by the layer"], rows, digits=1))


def main() -> None:
    """Print both gradients for two upstream gradients, and what a missing flip does to them."""
    found = by_layer(ONES)
    print(beside(matrix("X", X, 0), matrix("W", W, 0), matrix("Y", found["Y"], 0)))
    products = terms()
    for title, upstream in (("L = sum(Y): G is all ones", ONES), ("An uneven G", UNEVEN)):
        hand, found = by_hand(upstream), by_layer(upstream)
        print(f"\n{title}")
        print(matrix("G = dL/dY", upstream, 0))
        print()
        print_entries("dX", products[0], hand["dX"], found["dX"])
        print()
        print_entries("dW", products[1], hand["dW"], found["dW"])

    full = as_correlations(UNEVEN)
    print("\ndX as a correlation, uneven G")
    blocks = matrix("G with a frame of zeros", full["frame"], 0), matrix("W rotated by 180°", rotated(), 0)
    print(beside(*blocks, matrix("dX", full["dX"], 0), matrix("dX, no flip", full["dX, no flip"], 0)))

    print("\nWhat a mistake in the flip changes")
    rows = [(g, m, number(a, 4), number(b, 4), number(d, 1)) for g, m, a, b, d in mistakes()]
    print(table(["G", "mistake", "right mean", "wrong mean", "largest difference"], rows))


def rotated() -> list[list[float]]:
    """Return W rotated by 180°."""
    return [list(row[::-1]) for row in W[::-1]]


def plot(path: str) -> None:
    """Draw the full correlation that gives dX, one window marked, beside the result without the flip."""
    from matplotlib.figure import Figure

    full = as_correlations(UNEVEN)
    fig = Figure(figsize=(9.5, 2.7), layout="constrained")
    axes = fig.subplots(1, 5, width_ratios=[2, 2, 4, 3, 3])
    grid(axes[0], W, "W")
    grid(axes[1], rotated(), "W rotated by 180°", boxes=[(0, 0, 2, 2, "tab:red")])
    grid(axes[2], full["frame"], "G in a frame of zeros", boxes=[(1, 1, 2, 2, "tab:red")])
    grid(axes[3], full["dX"], "dX", boxes=[(1, 1, 1, 1, "tab:red")])
    grid(axes[4], full["dX, no flip"], "no flip: wrong")
    save(fig, path)


if __name__ == "__main__":
    run(main, plot)
