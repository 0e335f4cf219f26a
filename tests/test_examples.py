"""The worked examples: their numbers, and that their pages quote what they print."""

import contextlib
import functools
import importlib.util
import io
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchbp.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGES = ROOT / "docs" / "examples"
NAMES = [
    "two_layer_network",
    "gates",
    "transposed_weights",
    "convolution_by_hand",
    "pooling_by_hand",
    "cost",
]
SLIPS_OF_OTHERS = {"0.75136079", "0.291027924"}


@functools.cache
def load(name):
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def printed(name):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        load(name).main()
    return out.getvalue()


def page(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# Pages


def test_every_example_has_a_page_and_every_page_an_example():
    programs = {p.stem for p in EXAMPLES.glob("[!_]*.py")}
    assert programs >= set(NAMES)
    assert {p.stem for p in PAGES.glob("*.md")} >= {*NAMES, "index"}
    assert all(f"]({name}.md)" in page("index") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_page_quotes_what_the_example_prints(name):
    quoted = blocks(page(name), "text")
    assert quoted
    for block in quoted:
        assert block in printed(name), f"docs/examples/{name}.md quotes what is not printed:\n{block}"


@pytest.mark.parametrize("name", NAMES)
def test_page_quotes_the_source_as_it_is(name):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert all(block in source for block in blocks(page(name), "python"))


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_the_prose_are_printed_too(name):
    numbers = set(re.findall(r"\d+\.\d{3,}", page(name))) - SLIPS_OF_OTHERS
    assert {n for n in numbers if n not in printed(name)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_page_shows_a_small_picture_that_the_example_draws(name, tmp_path):
    assert f"](images/{name}.png)" in page(name)
    assert (PAGES / "images" / f"{name}.png").stat().st_size < 60_000
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "picture.png"
    load(name).plot(str(drawn))
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("language", ["", "text", "python"])
def test_blocks_finds_fenced_blocks(language):
    assert blocks(f"a\n```{language}\nx 1\ny\n```\nb\n", language) == ["x 1\ny\n"]


# Two layers


def test_two_layer_forward():
    v = load("two_layer_network").values()
    assert v["o1"] == pytest.approx(0.75136507, abs=5e-9)
    assert v["o2"] == pytest.approx(0.77292847, abs=5e-9)
    assert v["E"] == pytest.approx(0.298371109, abs=5e-10)


def test_two_layer_derivatives():
    example = load("two_layer_network")
    hand, layers = example.by_hand(), example.by_layers()
    assert hand.keys() == layers.keys()
    assert len(hand) == 18
    for name in hand:
        assert layers[name] == pytest.approx(hand[name], rel=1e-13, abs=1e-16), name


def test_two_layer_derivatives_against_differences():
    example, step = load("two_layer_network"), 1e-6
    for name, derivative in example.by_layers().items():
        if name[0] not in "wb":
            continue
        errors = []
        for sign in (1, -1):
            p = {n: t.detach() for n, t in example.parameters().items()}
            p[name] = p[name] + sign * step
            errors.append(example.forward(p)["E"].item())
        assert derivative == pytest.approx((errors[0] - errors[1]) / (2 * step), abs=1e-9)


def test_two_layer_step():
    example = load("two_layer_network")
    new, error = example.train(1)
    expected = {"w5": 0.35891648, "w6": 0.40866619, "w7": 0.51130127, "w8": 0.56137012}
    expected |= {"w1": 0.14978072, "w2": 0.19956143, "w3": 0.24975114, "w4": 0.29950229}
    for name, value in expected.items():
        assert new[name] == pytest.approx(value, abs=5e-9), name
    assert (new["b1"], new["b2"]) == example.BIASES
    assert error == pytest.approx(0.291027774, abs=5e-10)
    assert abs(error - 0.291027924) > 1e-7
    assert example.train(1, biases=True)[1] < error
    assert example.train(0)[1] == example.values()["E"]


# Gates

GATES = {"Add": 2, "Multiply": 2, "Max": 2, "Sigmoid": 1}


@pytest.mark.parametrize("name", GATES)
def test_gates_are_right_to_second_order(name):
    gate = getattr(load("gates"), name).apply
    a, b = double([-2.0, -0.5, 0.3, 1.0, 3.0]), double([0.5, -1.5, 0.7, -1.0, 2.0])
    inputs = [t.requires_grad_() for t in (a, b)[: GATES[name]]]
    assert gradcheck(gate, inputs)
    assert gradgradcheck(gate, inputs)


def test_saved_slope_passes_gradcheck_only():
    gate = load("gates").SigmoidWithSavedSlope.apply
    a = double([-2.0, 0.3, 1.0]).requires_grad_()
    assert gradcheck(gate, (a,))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradgradcheck(gate, (a,))


def test_second_derivative_of_the_gates():
    example = load("gates")
    right, wrong = example.Sigmoid.apply, example.SigmoidWithSavedSlope.apply
    hand = example.second_derivative_by_hand()
    assert example.second_derivative(right) == pytest.approx(hand, rel=1e-12)
    first, second = example.second_derivative(wrong)
    assert first == pytest.approx(hand[0], rel=1e-12)
    slope = 0.7310585786 * (1 - 0.7310585786)
    assert second == pytest.approx(2 * slope**2, rel=1e-8)


def test_product_of_sum():
    read = load("gates").product_of_sum()
    assert [v for v, _ in read.values()] == [-2, 5, -4, 3, -12]
    assert [g for _, g in read.values()] == [-4, -4, 3, -4, 1]


def test_product_of_max():
    read = load("gates").product_of_max()
    assert [v for v, _ in read.values()] == [3, -1, 2, 3, 6]
    assert [g for _, g in read.values()] == [2, 0, 3, 2, 1]


def test_max_gate_gives_a_tie_to_its_first_input():
    example = load("gates")
    a, b = example.leaf(2.0), example.leaf(2.0)
    example.Max.apply(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (1, 0)


def test_gradients_of_a_value_used_twice_add_up():
    read = load("gates").used_twice()
    assert read["x"] == (3, -4 + 1)
    assert read["y"] == (-4, 3)


def test_neuron():
    example = load("gates")
    read = example.neuron()
    assert read["f = sigmoid(a)"][0] == pytest.approx(0.73, abs=0.005)
    rounded = {"w0": -0.20, "w1": -0.39, "w2": 0.20, "x0": 0.39, "x1": -0.59}
    for name, gradient in example.neuron_by_layers().items():
        assert read[name][1] == pytest.approx(rounded[name], abs=0.005)
        assert gradient == pytest.approx(read[name][1], rel=1e-13)


# Transposed weights


def test_linear_gradients_by_hand():
    example = load("transposed_weights")
    found = example.linear_gradients(example.WEIGHT, example.BIAS, example.X, example.UPSTREAM)
    for name, value in example.by_hand().items():
        torch.testing.assert_close(found[name], double(value), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(found["dx"], double([-0.05, 0.225, -0.05]), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(found["y"], double([0.25, -0.35]), rtol=1e-14, atol=1e-15)


def test_linear_gradients_of_a_batch():
    example = load("transposed_weights")
    found = example.linear_gradients(example.WEIGHT, example.BIAS, example.BATCH_X, example.BATCH_UPSTREAM)
    for name, value in example.batch_by_hand().items():
        torch.testing.assert_close(found[name], value, rtol=1e-14, atol=1e-15)


def test_square_weight():
    products = load("transposed_weights").square()
    assert products["the layer's dx"] == products["Wᵀg"] == [-2, -2]
    assert products["Wg"] == [-1, -1]


def test_rule_without_denominators_is_the_gradient():
    rules = load("transposed_weights").same_network()
    true = rules["-dL/dh by the layers"]
    assert rules["without denominators, Wᵀe"] == pytest.approx(true, rel=1e-12)
    rule = rules["proportional rule"]
    assert rule == pytest.approx([0, 0.7 / 3, 0.05 / 3], abs=1e-15)
    assert sum(rule) == pytest.approx(0.25)
    assert rule[2] * true[2] < 0


def test_which_outputs_make_the_rule_the_gradient():
    rows = {kind: (rule, true) for kind, rule, true in load("transposed_weights").output_units()}
    for kind in ("linear", "softmax"):
        assert rows[kind][0] == pytest.approx(rows[kind][1], rel=1e-12)
    assert rows["sigmoid"][0] != pytest.approx(rows["sigmoid"][1], rel=0.5)


def test_where_the_proportional_rule_breaks():
    example = load("transposed_weights")
    found = {name: example.case(weight) for name, weight in example.CASES.items()}
    for name, weight in example.CASES.items():
        assert found[name]["true"] == pytest.approx(example.without_denominators(weight, example.ERROR))
        assert found[name]["loss after true"] < 0.625
    assert found["all weights positive"]["cosine"] > 0.99
    assert found["a negative sum"]["rule"] == pytest.approx([2.125, -0.625])
    assert found["a negative sum"]["cosine"] < -0.7
    assert found["a negative sum"]["loss after rule"] > 0.625
    assert found["a sum near zero"]["rule"] == pytest.approx([50.125, -48.625])
    assert found["a sum near zero"]["loss after rule"] > 50
    assert all(map(math.isinf, found["a sum of zero"]["rule"]))


# Convolution


def test_convolution_of_ones():
    example = load("convolution_by_hand")
    found = example.by_layer(example.ONES)
    assert found["Y"].tolist() == [[37, 47], [67, 77]]
    assert found["dX"].tolist() == [[1, 3, 2], [4, 10, 6], [3, 7, 4]]
    assert found["dW"].tolist() == [[12, 16], [24, 28]]


@pytest.mark.parametrize("upstream", ["ONES", "UNEVEN"])
def test_convolution_gradients_three_ways(upstream):
    example = load("convolution_by_hand")
    g = getattr(example, upstream)
    found, hand, other = example.by_layer(g), example.by_hand(g), example.as_correlations(g)
    products = dict(zip(("dX", "dW"), example.terms(), strict=True))
    letters = {"g": g, "w": example.W, "x": example.X}
    for name in ("dX", "dW"):
        assert found[name].tolist() == hand[name] == other[name].tolist()
        for r, line in enumerate(products[name]):
            for c, parts in enumerate(line):
                factors = [[letters[f[0]][int(f[1]) - 1][int(f[2]) - 1] for f in p.split("·")] for p in parts]
                assert sum(a * b for a, b in factors) == hand[name][r][c]


def test_only_an_uneven_gradient_shows_every_missing_flip():
    rows = {(g, mistake): numbers for g, mistake, *numbers in load("convolution_by_hand").mistakes()}
    assert rows["all ones", "dW, flipped"][2] == 0
    assert rows["all ones", "dX, no flip"][0] == pytest.approx(rows["all ones", "dX, no flip"][1])
    assert rows["uneven", "dX, no flip"][0] == pytest.approx(rows["uneven", "dX, no flip"][1])
    assert rows["uneven", "dX, no flip"][2] == 8
    assert rows["uneven", "dW, flipped"][2] == 12


# Pooling


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_gradients(kind):
    example = load("pooling_by_hand")
    for x, kernel, stride in [*example.CASES.values(), (example.TIES, 2, 2)]:
        found = example.by_layer(kind, x, kernel, stride)["dX"]
        hand = double(example.by_hand(kind, x, kernel, stride))
        torch.testing.assert_close(found, hand, rtol=1e-14, atol=1e-15)
        assert found.sum().item() == pytest.approx(10)


def test_pooling_windows_that_tile():
    example = load("pooling_by_hand")
    found = example.by_layer("max", example.X, 2, 2)
    assert found["Y"].tolist() == [[4, 5], [6, 7]]
    assert found["dX"].tolist() == [[0, 0, 0, 0], [1, 0, 0, 2], [0, 0, 4, 0], [3, 0, 0, 0]]
    assert example.by_layer("avg", example.X, 2, 2)["dX"][0].tolist() == [0.25, 0.25, 0.5, 0.5]


def test_pooling_windows_that_overlap_accumulate():
    example = load("pooling_by_hand")
    assert example.by_layer("max", example.X, 3, 1)["dX"][2, 2].item() == 10
    average = example.by_layer("avg", example.X, 3, 1)["dX"]
    assert average[1, 1].item() == pytest.approx(10 / 9)
    assert average[0, 3].item() == pytest.approx(2 / 9)


def test_pooling_tie_goes_to_the_first_winner():
    example = load("pooling_by_hand")
    found = example.by_layer("max", example.TIES, 2, 2)["dX"]
    assert found.tolist() == [[1, 0, 0, 2], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_inputs_in_no_window_get_zero(kind):
    example = load("pooling_by_hand")
    found = example.by_layer(kind, example.WIDE, 2, 3)["dX"]
    assert not found[2].any()
    assert not found[:, 2].any()
    assert found[3, 0].item() == (3 if kind == "max" else 0.75)


# Cost


@pytest.mark.parametrize("size", ["table", "small"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_cost_formula_is_what_the_flop_counter_sees(kind, size):
    example = load("cost")
    small = {"linear": example.Linear(3, 5, 7), "convolution": example.Convolution(2, 3, 5, 8, 5)}
    layer = example.LAYERS[kind] if size == "table" else small[kind]
    assert example.measured(layer) == layer.cost()[:4]


def test_cost_formula_is_what_the_loops_count():
    rows = load("cost").loops()
    assert [name for name, _, _ in rows] == ["max pooling", "average pooling", "batch normalisation"]
    assert all(formula == counted for _, formula, counted in rows)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_counted_pooling_loops_compute_the_layer(kind):
    example = load("cost")
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(s, s, dtype=torch.float64, generator=generator) for s in (6, 2))
    loop = example.max_pooling_loop if kind == "max" else example.average_pooling_loop
    y, dx, forward, backward = loop(x, g, 3)
    image = x.view(1, 1, 6, 6).requires_grad_()
    out = (F.max_pool2d if kind == "max" else F.avg_pool2d)(image, 3)
    out.backward(g.view(1, 1, 2, 2))
    torch.testing.assert_close(y, out[0, 0].detach())
    torch.testing.assert_close(dx, image.grad[0, 0])
    cost = example.Pooling(kind, n=1, channels=1, size=6, kernel=3).cost()
    assert (forward, backward) == (cost.forward, cost.grad_input)


def test_counted_normalisation_loops_compute_the_layer():
    example = load("cost")
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(2, 12, dtype=torch.float64, generator=generator)
    y, mean, inverse, _ = example.normalisation_loop(x.tolist(), 1.5, 0.5)
    dx, dw, db, _ = example.normalisation_backward_loop(x.tolist(), 1.5, g.tolist(), mean, inverse)
    image = x.view(3, 1, 2, 2).requires_grad_()
    w, b = double([1.5]).requires_grad_(), double([0.5]).requires_grad_()
    out = F.batch_norm(image, None, None, w, b, training=True)
    out.backward(g.view(3, 1, 2, 2))
    for ours, layers in ((y, out.detach()), (dx, image.grad), ([dw], w.grad), ([db], b.grad)):
        torch.testing.assert_close(double(ours), layers.flatten())


def test_cost_ratios():
    costs = {name: layer.cost() for name, layer in load("cost").LAYERS.items()}
    for name in ("linear", "convolution"):
        assert costs[name].both == 2 * costs[name].forward
    assert costs["max pooling"].forward_bytes == 4 * (131072 + 32768) + 32768
    assert costs["linear"].forward_bytes == 4 * (64 * 512 + 256 * 512 + 256 + 64 * 256)
