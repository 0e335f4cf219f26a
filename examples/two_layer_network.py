"""One training step of a network with two inputs, two hidden and two output sigmoid units.

Every derivative is worked out twice: by the chain rule written out in plain Python, and by the backward
pass of the layers. Page: docs/examples/two_layer_network.md.
"""

import torch
from _show import BACKWARD, FORWARD, number, run, save, table
from torch import Tensor

import torchbp.nn.functional as F

INPUTS = (0.05, 0.10)
TARGETS = (0.01, 0.99)
WEIGHTS = (0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55)
BIASES = (0.35, 0.60)
LEARNING_RATE = 0.5


def parameters() -> dict[str, Tensor]:
    """Return w1..w8 and b1, b2 as separate float64 numbers that require a gradient."""
    names = [f"w{i}" for i in range(1, 9)] + ["b1", "b2"]
    values = WEIGHTS + BIASES
    return {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in zip(names, values, strict=True)}


def forward(p: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weighted sums zh, zo, the outputs h, o of the two layers, and the error E."""
    x = torch.tensor(INPUTS, dtype=torch.float64)
    t = torch.tensor(TARGETS, dtype=torch.float64)
    weight1 = torch.stack([p["w1"], p["w2"], p["w3"], p["w4"]]).view(2, 2)
    weight2 = torch.stack([p["w5"], p["w6"], p["w7"], p["w8"]]).view(2, 2)
    zh = F.linear(x, weight1, p["b1"].expand(2))
    h = F.sigmoid(zh)
    zo = F.linear(h, weight2, p["b2"].expand(2))
    o = F.sigmoid(zo)
    error = F.mse_loss(o, t, reduction="sum") / 2
    return {"zh": zh, "h": h, "zo": zo, "o": o, "E": error}


def values() -> dict[str, float]:
    """Return every value of the forward pass by name: zh1, zh2, h1, ..., o2, E."""
    return _by_name(forward(parameters()))


def by_layers() -> dict[str, float]:
    """Return the derivative of E by every value and parameter, from the layers' backward pass."""
    p = parameters()
    v = forward(p)
    for name in ("zh", "h", "zo", "o"):
        v[name].retain_grad()
    v["E"].backward()
    found = _by_name({n: v[n].grad for n in ("o", "zo", "h", "zh")})
    return found | {n: t.grad.item() for n, t in p.items()}


def by_hand() -> dict[str, float]:
    """Return the same derivatives from the chain rule, one line for each."""
    v = values()
    i1, i2 = INPUTS
    w5, w6, w7, w8 = WEIGHTS[4:]
    d = {}
    for k in (1, 2):
        d[f"o{k}"] = v[f"o{k}"] - TARGETS[k - 1]
        d[f"zo{k}"] = d[f"o{k}"] * v[f"o{k}"] * (1 - v[f"o{k}"])
    d["w5"] = d["zo1"] * v["h1"]
    d["w6"] = d["zo1"] * v["h2"]
    d["w7"] = d["zo2"] * v["h1"]
    d["w8"] = d["zo2"] * v["h2"]
    d["b2"] = d["zo1"] + d["zo2"]
    d["h1"] = d["zo1"] * w5 + d["zo2"] * w7
    d["h2"] = d["zo1"] * w6 + d["zo2"] * w8
    for j in (1, 2):
        d[f"zh{j}"] = d[f"h{j}"] * v[f"h{j}"] * (1 - v[f"h{j}"])
    d["w1"] = d["zh1"] * i1
    d["w2"] = d["zh1"] * i2
    d["w3"] = d["zh2"] * i1
    d["w4"] = d["zh2"] * i2
    d["b1"] = d["zh1"] + d["zh2"]
    return d


def train(steps: int, biases: bool = False) -> tuple[dict[str, float], float]:
    """Take ``steps`` gradient steps; return the parameters and the error after them."""
    p = parameters()
    for _ in range(steps):
        moved = [t for n, t in p.items() if biases or n.startswith("w")]
        gradients = torch.autograd.grad(forward(p)["E"], moved)
        with torch.no_grad():
            for t, g in zip(moved, gradients, strict=True):
                t -= LEARNING_RATE * g
    return {n: t.item() for n, t in p.items()}, forward(p)["E"].item()


def _by_name(v: dict[str, Tensor]) -> dict[str, float]:
    out = {}
    for name, t in v.items():
        if t.dim() == 0:
            out[name] = t.item()
        else:
            out |= {f"{name}{i}": x for i, x in enumerate(t.tolist(), 1)}
    return out


def main() -> None:
    """Print the forward pass, every derivative, and the step."""
    print("Forward pass")
    print(table(["name", "value"], values().items(), digits=9))

    hand, layers = by_hand(), by_layers()
    print("\nDerivative of E by ...")
    rows = [(n, hand[n], layers[n]) for n in hand]
    print(table(["name", "by hand", "by the layers"], rows, digits=10))

    new, after = train(1)
    rows = [(n, w, layers[n], new[n]) for n, w in zip(new, WEIGHTS, strict=False)]
    print("\nOne step, w - 0.5 dE/dw, the biases left alone")
    print(table(["weight", "before", "dE/dw", "after"], rows, digits=8))
    print(f"\nerror before the step  {number(values()['E'], 9)}")
    print(f"error after the step   {number(after, 9)}")
    print(f"with the biases moved  {number(train(1, biases=True)[1], 9)}")

    print("\nMore steps, the biases left alone")
    print(table(["steps", "E"], [(n, train(n)[1]) for n in (0, 1, 10, 100)], digits=9))


def plot(path: str) -> None:
    """Draw the network: values and derivatives in the units and on the links."""
    from matplotlib.figure import Figure

    v, d = values(), by_layers()
    units = {"i1": (0, 1), "i2": (0, 0), "h1": (1, 1), "h2": (1, 0), "o1": (2, 1), "o2": (2, 0)}
    links = ["i1 h1", "i2 h1", "i1 h2", "i2 h2", "h1 o1", "h2 o1", "h1 o2", "h2 o2"]
    fig = Figure(figsize=(8.5, 3.8), layout="constrained")
    ax = fig.add_subplot()
    middle = {"ha": "center", "va": "center", "size": 9}
    for n, (link, w) in enumerate(zip(links, WEIGHTS, strict=True), 1):
        (x0, y0), (x1, y1) = (units[u] for u in link.split())
        ax.plot([x0, x1], [y0, y1], color="0.7", zorder=1)
        at = 0.5 if y0 == y1 else 0.3
        x, y = x0 + at * (x1 - x0), y0 + at * (y1 - y0)
        ax.scatter([x], [y], s=1500, marker="s", color="white", zorder=2)
        ax.text(x, y + 0.05, f"w{n} = {w:.2f}", color=FORWARD, **middle)
        ax.text(x, y - 0.05, number(d[f"w{n}"], 5), color=BACKWARD, **middle)
    for name, (x, y) in units.items():
        ax.scatter([x], [y], s=2900, color="white", edgecolor="black", zorder=2)
        value = v.get(name) or INPUTS[int(name[1]) - 1]
        ax.text(x, y + 0.08, name, weight="bold", **middle)
        ax.text(x, y - 0.005, number(value, 4), color=FORWARD, **middle)
        if name in d:
            ax.text(x, y - 0.085, number(d[name], 4), color=BACKWARD, **middle)
    ax.set_xlim(-0.25, 2.25)
    ax.set_ylim(-0.25, 1.25)
    ax.axis("off")
    ax.set_title("blue: values, forward     red: derivative of E by that value, backward", fontsize=10)
    save(fig, path)


if __name__ == "__main__":
    run(main, plot)
