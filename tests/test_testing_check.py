"""``torchbp.testing.check``: what it takes, what it reports, and that its verdicts are right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from torchbp.testing import GROUPS, PROPERTIES, check, draw_inputs


class Cube(Function):
    """x³, right to any order."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * g * x * x


class OneWrongElement(Cube):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        factor = torch.ones_like(x)
        factor.view(-1)[5] = 1.001
        return 3 * g * x * x * factor


class Once(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * g * x * x


class VanishingThird(Cube):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * _Slope.apply(x)


class _Slope(Function):
    """3 x² with a gradient that is cut off after the first."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 3 * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 6 * g * ctx.saved_tensors[0].detach()


def statuses(report: Any) -> dict[str, str]:
    return {result.property: result.status for result in report.results}


# --------------------------------------------------------------------------------------------------
# Verdicts


def test_a_right_function_passes_every_property_that_applies() -> None:
    report = check(Cube, "randn(3, 4)", reference=lambda x: x**3, batched=[0], compile=False)
    report.assert_ok()
    assert set(statuses(report)) == set(PROPERTIES)
    assert {one for one in GROUPS["compile"] if report[one].detail == "left out: compile=False"} == set(
        GROUPS["compile"]
    )


@pytest.mark.parametrize("shape", ["(2, 4)", "(40, 30)"])
def test_the_worst_element_is_found_moved_by_itself_or_by_halving(shape: str) -> None:
    report = check(OneWrongElement, f"rand{shape} + 0.5", properties=["first_order"])
    worst = report["first_order"].worst
    assert worst is not None and worst.tensor == "gradient of input 0"
    columns = int(shape.strip("()").split(",")[1])
    assert worst.index == divmod(5, columns)
    assert worst.got == pytest.approx(worst.expected * 1.001, rel=1e-6)
    assert worst.tolerance < 1e-6


@pytest.mark.parametrize(("function", "order"), [(Cube, 4), (VanishingThird, 3)])
def test_the_order_at_which_a_derivative_is_wrong_is_named(function: Any, order: int) -> None:
    report = check(function, "rand(4) + 0.5", properties=["derivatives"])
    for number, name in enumerate(("first_order", "second_order", "third_order"), start=1):
        assert report[name].status == ("pass" if number < order else "fail")
    if order == 3:
        assert "silently wrong: the third derivative" in report["third_order"].detail


def test_a_function_that_says_it_is_differentiable_once_is_not_wrong() -> None:
    report = check(Once, "randn(3)", properties=["derivatives"])
    assert list(statuses(report).values()) == ["pass", "not applicable", "not applicable"]
    assert "differentiable once only" in report["second_order"].detail
    report = check(Once, "randn(3)", properties=["derivatives"], strict=True)
    assert list(statuses(report).values()) == ["pass", "fail", "fail"]


@pytest.mark.parametrize("shape", ["(2, 4)", "(40, 30)"])
def test_a_gradient_that_is_nan_is_wrong_and_a_value_that_is_infinite_is_not(shape: str) -> None:
    class OneNaN(Cube):
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            mask = torch.zeros_like(x)
            mask.view(-1)[5] = torch.nan
            return 3 * g * x * x + mask

    worst = check(OneNaN, f"randn{shape}", properties=["first_order"])["first_order"].worst
    assert worst is not None and np.isnan(worst.got) and worst.index == divmod(5, int(shape.strip("()").split(",")[1]))

    def masked(x: Tensor) -> Tensor:
        return x.sin().masked_fill(torch.arange(x.numel()).view(x.shape) % 3 == 0, -torch.inf)

    check(masked, f"randn{shape}", properties=["derivatives"]).assert_ok()


def test_a_random_function_is_seeded() -> None:
    state = torch.get_rng_state()
    report = check(
        nn.Dropout(0.5), "randn(5, 3)", properties=["derivatives", "modes", "arrivals", "memory", "purity", "vmap"]
    )
    report.assert_ok()
    assert "draws random numbers" in report.notes[0] and report["vmap"].status == "not applicable"
    assert torch.equal(state, torch.get_rng_state())

    class Redrawn(Cube):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * (torch.rand_like(x) > 0.5)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * (torch.rand_like(g) > 0.5)

    for seed in (0, 1):  # also where the user's generator begins as the check's inputs do
        torch.manual_seed(seed)
        assert check(Redrawn, "randn(64)", properties=["first_order"])["first_order"].status == "fail"


def test_badly_scaled_inputs_are_no_mistake() -> None:
    check(lambda x: 1 / x, torch.tensor([1e-3, 0.02, 5.0, 1e4]), properties=["derivatives"]).assert_ok()
    check(lambda x: (1e3 * x).sin(), "randn(5)", properties=["first_order", "second_order"]).assert_ok()
    check(lambda x, y: x.exp() @ y, "10 * rand(2, 3), 1e-6 * randn(3, 2)", properties=["derivatives"]).assert_ok()


def test_complex_inputs() -> None:
    wrong = lambda z: z.conj() * z.detach()  # noqa: E731
    right = lambda z: z * z.conj() * z  # noqa: E731
    inputs = torch.randn(3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    names = ["derivatives", "modes", "vmap", "arrivals", "memory", "purity"]
    check(right, inputs, properties=names).assert_ok()
    assert check(wrong, inputs, properties=["first_order"])["first_order"].status == "fail"


# --------------------------------------------------------------------------------------------------
# Kinks


def test_inputs_on_a_kink_are_moved_and_the_subgradient_is_reported() -> None:
    report = check(torch.relu, torch.zeros(3), reference=nn.functional.relu, properties=["derivatives", "kinks"])
    report.assert_ok()
    assert "the inputs sit on a kink" in report.notes[0]
    assert "subgradient 0 of 0 to 1" in report["kinks"].detail
    smooth = check(torch.sin, "randn(3)", properties=["kinks"])
    assert not smooth.notes and smooth["kinks"].status == "not applicable"


def test_ties_are_found_at_equal_elements() -> None:
    report = check(lambda x: x.amax(), "randn(4)", properties=["kinks"])
    assert "equal elements in input 0: subgradient 0.25 of 0 to 1" in report["kinks"].detail


def test_another_subgradient_than_the_references_fails() -> None:
    other = check(lambda x: x.amax(), "randn(4)", reference=lambda x: x.max(0).values, properties=["kinks"])
    assert "not the reference's" in other["kinks"].detail


# --------------------------------------------------------------------------------------------------
# What is taken


def test_several_results_lists_of_tensors_and_other_arguments() -> None:
    def function(parts: list[Tensor], scale: float, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = torch.cat(parts) * scale
        return joined[index], joined.sum(), joined.argmax()

    inputs = ([torch.randn(2), torch.randn(3)], 2.5, torch.tensor([4, 0, 0]))
    report = check(function, inputs, compile=False)
    report.assert_ok()
    assert report["first_order"].detail == "each of 5 elements moved"


def test_parameters_of_a_module_are_differentiated() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight.detach() + self.weight

    report = check(Wrong(), "randn(2, 3)", properties=["first_order"])
    assert report["first_order"].worst.tensor == "gradient of weight"
    layer = nn.Linear(3, 2)
    before = [p.clone() for p in layer.parameters()]
    for reference in (nn.Linear(3, 2), nn.functional.linear, layer):
        check(layer, "randn(4, 3)", reference=reference, properties=["reference", "derivatives"]).assert_ok()
    assert all(
        torch.equal(a, b) and p.grad is None
        for a, b, p in zip(before, layer.parameters(), layer.parameters(), strict=True)
    )


def test_references_in_numpy() -> None:
    report = check(Cube, "randn(3)", reference=lambda x: np.power(x, 3), properties=["reference", "nonfinite"])
    report.assert_ok()
    assert report["gradient"].detail == "the reference is not differentiable"
    report = check(Cube, "randn(3)", reference=lambda x: np.asarray(x) ** 3 + 1e-9, properties=["value"])
    assert report["value"].status == "fail"


def test_dtypes_that_are_asked_for() -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    report = check(Cube, "randn(3)", reference=lambda x: x**3, properties=["value"], dtypes=dtypes)
    assert all(name in report["value"].detail for name in ("float64", "float32", "bfloat16", "float16"))
    report.assert_ok()


def test_a_function_that_works_in_place() -> None:
    double = lambda x: x.mul_(2)  # noqa: E731
    check(double, "randn(3)", inplace=[0], compile=False).assert_ok()
    with pytest.raises(ValueError, match="does not take these inputs.*leaf Variable"):
        check(double, "randn(3)")


def test_shapes_that_are_given() -> None:
    asked = []

    def shapes(kind: str) -> Any:
        asked.append(kind)
        return {"empty_batch": (torch.zeros(0, 3),), "unbatched": (torch.ones(3),), "size_one": (torch.ones(1, 1),)}[
            kind
        ]

    check(Cube, "randn(2, 3)", reference=lambda x: x**3, shapes=shapes, properties=["shapes"]).assert_ok()
    assert asked == ["empty_batch", "unbatched", "size_one"]


def test_errors_name_the_argument() -> None:
    with pytest.raises(TypeError, match="function must be callable, got int"):
        check(3, "randn(2)")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inputs must hold a floating-point tensor, got .'torch.int64'."):
        check(Cube, "arange(3)")
    with pytest.raises(TypeError, match="must return a floating-point tensor"):
        check(torch.argmax, "randn(3)")
    with pytest.raises(ValueError, match="Cube does not take these inputs: TypeError"):
        check(Cube, "randn(2), 'no'")
    with pytest.raises(ValueError, match="reference does not take these inputs"):
        check(Cube, "randn(2)", reference=lambda: None)
    with pytest.raises(ValueError, match="unknown property 'second'; there are value, .*groups reference, "):
        check(Cube, "randn(2)", properties=["second"])
    with pytest.raises(ValueError, match=r"skip\['vmap'\] must give a reason, got ''"):
        check(Cube, "randn(2)", skip={"vmap": ""})
    with pytest.raises(ValueError, match="inputs 'randm.3.' cannot be evaluated: NameError"):
        check(Cube, "randm(3)")


def test_inputs_written_as_text() -> None:
    a, b, c = draw_inputs("randn(2, 3), randint(0, 4, (3,)), 2")
    assert a.dtype == torch.float64 and a.shape == (2, 3) and b.dtype == torch.int64 and c == 2
    assert torch.equal(draw_inputs("randn(4)", seed=1)[0], draw_inputs("randn(4)", seed=1)[0])
    assert not torch.equal(draw_inputs("randn(4)", seed=1)[0], draw_inputs("randn(4)", seed=2)[0])


# --------------------------------------------------------------------------------------------------
# Reports


def test_reports_can_be_read_by_people_and_programs() -> None:
    report = check(OneWrongElement, "rand(2, 4) + 0.5", properties=["first_order", "vmap", "pure"], seed=3)
    assert not report.passed and [r.property for r in report.failures] == ["first_order"]
    with pytest.raises(AssertionError, match=r"OneWrongElement: FAILED \(seed 3\)"):
        report.assert_ok()
    with pytest.raises(AssertionError, match="first_order: not the derivative"):
        report["first_order"].assert_ok()
    found = json.loads(report.to_json())
    assert found["passed"] is False and found["seed"] == 3
    first, second, third = found["results"]
    assert first["status"] == "fail" and first["worst"]["index"] == [1, 1]
    assert (second["status"], second["detail"]) == ("not applicable", "no vmap") and third["status"] == "pass"
    with pytest.raises(KeyError):
        report["value"]


def test_the_rich_table_holds_every_property() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))
    console.print(check(Cube, "randn(2)", properties=["first_order", "vmap"]))
    text = console.export_text()
    assert "Cube: passed" in text and "first_order" in text and "no vmap" in text


@pytest.mark.parametrize("inputs", ["rand(2, 4) + 0.5", torch.full((2, 4), 0.3)])
def test_the_snippet_shows_the_failure_again(inputs: Any, capsys: Any) -> None:
    report = check(OneWrongElement, inputs, properties=["first_order"], reference=torch.square, seed=5)
    snippet = report["first_order"].snippet
    assert f"from {__name__} import OneWrongElement" in snippet and "reference=torch.square" in snippet
    exec(snippet, {})
    printed = capsys.readouterr().out
    assert report["first_order"].detail in printed


def test_every_property_stands_alone() -> None:
    """Nothing that an earlier one has computed is needed."""
    x = torch.randn(3, 4, dtype=torch.float64)
    names = [name for name in PROPERTIES if not name.startswith("compiled")]
    alone = [check(torch.tanh, (x,), properties=[name], reference=torch.tanh).results[0] for name in names]
    together = check(torch.tanh, (x,), properties=names, reference=torch.tanh).results
    assert [(r.property, r.status) for r in alone] == [(r.property, r.status) for r in together]
    assert "fail" not in {r.status for r in alone}
