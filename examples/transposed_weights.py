"""Why the backward pass of a linear layer multiplies by the transposed weight matrix.

First the true gradient entry by entry, then an old rule of thumb that splits errors in proportion to the
weights, beside the true gradient. Page: docs/examples/transposed_weights.md.
"""

import torch
from _show import BACKWARD, FORWARD, beside, matrix, number, run, save, table
from torch import Tensor

import torchbp.nn.functional as F

WEIGHT = ((0.2, 0.5, 0.3), (0.6, 0.1, 0.8))
BIAS = (0.1, -0.2)
X = (1.0, 0.5, -1.0)
UPSTREAM = (0.5, -0.25)
BATCH_X = ((1.0, 0.5, -1.0), (2.0, -1.0, 0.5))
BATCH_UPSTREAM = ((0.5, -0.25), (1.0, 2.0))
STEP = 0.1

# Two hidden units feed two outputs; every case starts from the same h and the same error.
HIDDEN = (0.5, 0.5)
ERROR = (1.0, 0.5)
CASES = {
    "all weights positive": ((2.0, 1.0), (1.0, 3.0)),
    "a negative sum": ((-2.0, 1.0), (1.0, 3.0)),
    "a sum near zero": ((0.50, -0.49), (1.0, 3.0)),
    "a sum of zero": ((0.50, -0.50), (1.0, 3.0)),
}


def tensor(values: tuple) -> Tensor:
    """Return ``values`` as a float64 tensor that requires a gradient."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def linear_gradients(weight: tuple, bias: tuple, x: tuple, upstream: tuple) -> dict[str, Tensor]:
    """Return y and the gradients dx, dW, db that the linear layer's backward gives for ``upstream``."""
    w, b, inputs = tensor(weight), tensor(bias), tensor(x)
    y = F.linear(inputs, w, b)
    y.backward(torch.tensor(upstream, dtype=torch.float64))
    return {"y": y.detach(), "dx": inputs.grad, "dW": w.grad, "db": b.grad}


def by_hand() -> dict[str, list]:
    """Return dx, dW, db of the 2x3 example, each entry a sum over the outputs it reaches."""
    outputs, inputs = range(2), range(3)
    return {
        "dx": [sum(UPSTREAM[k] * WEIGHT[k][j] for k in outputs) for j in inputs],
        "dW": [[UPSTREAM[k] * X[j] for j in inputs] for k in outputs],
        "db": [UPSTREAM[k] for k in outputs],
    }


def batch_by_hand() -> dict[str, Tensor]:
    """Return dx = G W, dW = Gᵀ X and db = the column sums of G for the batch of two samples."""
    w, x, g = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHT, BATCH_X, BATCH_UPSTREAM))
    return {"dx": g @ w, "dW": g.T @ x, "db": g.sum(0)}


def square() -> dict[str, list[float]]:
    """Return Wᵀg, Wg and the layer's dx for a square W, where both products have the right shape."""
    w, g = ((1.0, 2.0), (3.0, 4.0)), (1.0, -1.0)
    weight, upstream = torch.tensor(w), torch.tensor(g)
    return {
        "the layer's dx": linear_gradients(w, (0.0, 0.0), (1.0, 1.0), g)["dx"].tolist(),
        "Wᵀg": (weight.T @ upstream).tolist(),
        "Wg": (weight @ upstream).tolist(),
    }


def proportional(weight: tuple, error: tuple) -> list[float]:
    """Return e_hidden[j] = Σ_k e[k]·w[k][j] / Σ_i w[k][i]: the old rule."""
    w, e = torch.tensor(weight, dtype=torch.float64), torch.tensor(error, dtype=torch.float64)
    return ((e / w.sum(1)) @ w).tolist()


def without_denominators(weight: tuple, error: tuple) -> list[float]:
    """Return e_hidden = Wᵀe: the old rule with its denominators dropped."""
    w, e = torch.tensor(weight, dtype=torch.float64), torch.tensor(error, dtype=torch.float64)
    return (e @ w).tolist()


def descent(weight: tuple, h: tuple, target: tuple, output: str = "linear") -> list[float]:
    """Return -dL/dh from the layers' backward: the direction that lowers the loss the fastest."""
    hidden, t = tensor(h), torch.tensor(target, dtype=torch.float64)
    z = F.linear(hidden, torch.tensor(weight, dtype=torch.float64))
    if output == "softmax":
        loss = F.cross_entropy(z.unsqueeze(0), t.argmax().unsqueeze(0))
    else:
        y = F.sigmoid(z) if output == "sigmoid" else z
        loss = F.mse_loss(y, t, reduction="sum") / 2
    loss.backward()
    return (-hidden.grad).tolist()


def same_network() -> dict[str, list[float]]:
    """Return both rules and the layers' -dL/dh for the 2x3 weights, outputs linear, e = t - y = UPSTREAM."""
    w, h = torch.tensor(WEIGHT, dtype=torch.float64), torch.tensor(X, dtype=torch.float64)
    target = tuple((w @ h + torch.tensor(UPSTREAM, dtype=torch.float64)).tolist())
    return {
        "proportional rule": proportional(WEIGHT, UPSTREAM),
        "without denominators, Wᵀe": without_denominators(WEIGHT, UPSTREAM),
        "-dL/dh by the layers": descent(WEIGHT, X, target),
    }


def output_units() -> list[tuple[str, list[float], list[float]]]:
    """Return Wᵀe and the layers' -dL/dh for three kinds of output, e = t - o each time."""
    w, h = torch.tensor(WEIGHT, dtype=torch.float64), torch.tensor(X, dtype=torch.float64)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64)
    outputs = {"linear": w @ h, "sigmoid": F.sigmoid(w @ h), "softmax": F.softmax(w @ h, 0)}
    rows = []
    for kind, o in outputs.items():
        error = tuple((target - o).tolist())
        found = descent(WEIGHT, X, tuple(target.tolist()), kind)
        rows.append((kind, without_denominators(WEIGHT, error), found))
    return rows


def loss_after(weight: tuple, step: list[float]) -> float:
    """Return L = ½·Σ e² once h has moved by STEP·step, in a case that starts from HIDDEN and ERROR."""
    w, e = torch.tensor(weight, dtype=torch.float64), torch.tensor(ERROR, dtype=torch.float64)
    moved = e - STEP * (w @ torch.tensor(step, dtype=torch.float64))
    return 0.5 * moved.square().sum().item()


def case(weight: tuple) -> dict[str, object]:
    """Return both directions, the cosine between them and the loss after a step along each."""
    w, h = torch.tensor(weight, dtype=torch.float64), torch.tensor(HIDDEN, dtype=torch.float64)
    target = tuple((w @ h + torch.tensor(ERROR, dtype=torch.float64)).tolist())
    true, rule = descent(weight, HIDDEN, target), proportional(weight, ERROR)
    a, b = torch.tensor(true, dtype=torch.float64), torch.tensor(rule, dtype=torch.float64)
    return {
        "true": true,
        "rule": rule,
        "cosine": (a @ b / (a.norm() * b.norm())).item(),
        "loss after true": loss_after(weight, true),
        "loss after rule": loss_after(weight, rule),
    }


def pair(values: list[float], digits: int = 3) -> str:
    """Return numbers as a text in brackets."""
    return "(" + ", ".join(number(v, digits) for v in values) + ")"


def main() -> None:
    """Print the 2x3 example, the batch, the square trap and the old rule beside the true gradient."""
    found, hand = linear_gradients(WEIGHT, BIAS, X, UPSTREAM), by_hand()
    print(beside(matrix("W", WEIGHT, 1), matrix("x", [[v] for v in X], 1), matrix("b", [[v] for v in BIAS], 1)))
    print(f"\ny = W x + b = {pair(found['y'].tolist(), 2)}")
    print(f"g = dL/dy   = {pair(list(UPSTREAM), 2)}")
    print("\ndx, entry by entry")
    for j in range(3):
        terms = " + ".join(f"({UPSTREAM[k]})·{WEIGHT[k][j]}" for k in range(2))
        names = f"g1·w1{j + 1} + g2·w2{j + 1}"
        print(f"dx{j + 1} = {names} = {terms} = {number(hand['dx'][j], 3)}")
    print("\nThe layer's backward")
    rows = [[v] for v in found["dx"].tolist()], found["dW"], [[v] for v in found["db"].tolist()]
    print(beside(matrix("dx = Wᵀg", rows[0], 3), matrix("dW = g xᵀ", rows[1], 3), matrix("db = g", rows[2], 3)))

    many = linear_gradients(WEIGHT, BIAS, BATCH_X, BATCH_UPSTREAM)
    print("\nA batch of two samples, one a row")
    print(beside(matrix("X", BATCH_X), matrix("G = dL/dY", BATCH_UPSTREAM)))
    blocks = matrix("dX = G W", many["dx"], 3), matrix("dW = Gᵀ X", many["dW"], 3), matrix("db", [many["db"]])
    print(beside(*blocks))

    print("\nA square W: both products fit, one is right")
    print(table(["product", "value"], [(n, pair(v, 1)) for n, v in square().items()]))

    print("\nThe old rule on the 2x3 network, e = (0.5, -0.25)")
    rows = [(n, pair(v), number(sum(v), 3)) for n, v in same_network().items()]
    print(table(["rule", "for the three hidden units", "sum"], rows))

    print("\nOther outputs, e = t - o for t = (1, 0)")
    print(table(["output", "Wᵀe", "-dL/dh by the layers"], [(k, pair(a), pair(b)) for k, a, b in output_units()]))

    print("\nTwo hidden units, e = (1.0, 0.5), loss before any step 0.625")
    rows = []
    for name, weight in CASES.items():
        c = case(weight)
        rows.append((name, pair(weight[0], 2), pair(c["true"]), pair(c["rule"]), number(c["cosine"], 3)))
    print(table(["case", "weights of output 1", "Wᵀe", "proportional rule", "cosine"], rows))
    print("\nThe loss after a step of 0.1 times that direction")
    rows = []
    for name, weight in CASES.items():
        c = case(weight)
        rows.append((name, number(c["loss after true"], 3), number(c["loss after rule"], 3)))
    print(table(["case", "along Wᵀe", "along the rule"], rows))


def plot(path: str) -> None:
    """Draw the loss over the two hidden units and both directions, for three of the cases."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 3.3), layout="constrained")
    for ax, (name, weight) in zip(fig.subplots(1, 3), list(CASES.items())[:3], strict=True):
        w, e = torch.tensor(weight), torch.tensor(ERROR)
        side = torch.linspace(-1.5, 1.5, 61)
        dx, dy = torch.meshgrid(side, side, indexing="xy")
        left = e[:, None, None] - (w[:, 0, None, None] * dx + w[:, 1, None, None] * dy)
        ax.contour(side, side, 0.5 * left.square().sum(0), levels=[0.05, 0.3, 0.625, 1.2, 2.5, 5, 10], colors="0.75")
        c = case(weight)
        for key, colour, label in (("true", FORWARD, "Wᵀe"), ("rule", BACKWARD, "proportional rule")):
            v = torch.tensor(c[key])
            v = 0.9 * v / v.norm()
            ax.annotate(
                "",
                xy=tuple(v.tolist()),
                xytext=(0, 0),
                arrowprops={"color": colour, "arrowstyle": "->", "lw": 2},
            )
            ax.plot([], [], color=colour, label=label)
        ax.set_aspect("equal")
        ax.set_title(f"{name}: {pair(weight[0], 2)}", fontsize=9)
        ax.set_xlabel("change of h1")
    fig.axes[0].set_ylabel("change of h2")
    fig.axes[0].legend(fontsize=8, loc="lower left")
    save(fig, path)


if __name__ == "__main__":
    run(main, plot)
