"""``torchbp check`` with stand-ins for the layers, so that every outcome can be shown."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("typer")

import torchbp
from torchbp.cli.main import main


class FakeCase:
    """A layer case with a fixed status for each property, or an exception."""

    def __init__(self, layer, variant, **outcomes):
        self.layer, self.name, self.outcomes = layer, f"{layer}[{variant}]", outcomes
        self.asked = []

    def check(self, properties=None):
        self.asked += properties
        results = []
        for name in properties:
            status, detail = self.outcomes.get(name, ("pass", ""))
            if status == "raise":
                raise ZeroDivisionError(detail)
            if status != "missing":
                results.append(SimpleNamespace(property=name, status=status, detail=detail))
        return SimpleNamespace(results=results, passed=all(r.status != "fail" for r in results))


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs ``torchbp check`` on the cases given."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(cases, *arguments, properties=("values", "gradients", "memory")):
        fake = SimpleNamespace(layer_cases=lambda: cases, PROPERTIES=dict.fromkeys(properties, print), GROUPS={})
        monkeypatch.setattr(torchbp, "testing", fake, raising=False)
        monkeypatch.setitem(sys.modules, "torchbp.testing", fake)
        code = main(["check", *arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def rows(output):
    lines = (line.split() for line in output.splitlines())
    return {line[0]: " ".join(line[1:]) for line in lines if line}


def test_everything_passes(check):
    done = check([FakeCase("relu", "2d"), FakeCase("relu", "empty"), FakeCase("linear", "2d")])
    assert (done.code, done.err) == (0, "")
    assert rows(done.out)["relu"] == "✓ 2 ✓ 2 ✓ 2"
    assert rows(done.out)["linear"] == "✓ 1 ✓ 1 ✓ 1"
    assert "layers: 2, cases: 3, passed: 9, failed: 0, do not apply: 0" in done.out


def test_a_failure_is_listed_and_sets_the_exit_code(check):
    cases = [
        FakeCase("relu", "2d", memory=("not applicable", "saves nothing"), gradients=("fail", "off by 0.5 [bold]")),
        FakeCase("relu", "empty", memory=("not applicable", "")),
    ]
    done = check(cases)
    assert done.code == 1
    assert rows(done.out)["relu"] == "✓ 2 ✗ 1/2 –"
    assert "✗ relu[2d], gradients: off by 0.5 [bold]" in done.out
    assert "passed: 3, failed: 1, do not apply: 2" in done.out


@pytest.mark.parametrize(
    ("outcome", "detail"),
    [(("raise", "oh"), "ZeroDivisionError: oh"), (("missing", ""), "reported nothing")],
)
def test_what_cannot_be_checked_counts_as_failed(check, outcome, detail):
    done = check([FakeCase("relu", "2d", values=outcome)])
    assert done.code == 1
    assert "✗ relu[2d], values: " in done.out and detail in done.out
    assert rows(done.out)["relu"] == "✗ 1/1 ✓ 1 ✓ 1"


def test_json(check):
    cases = [FakeCase("relu", "2d", values=("fail", "wrong")), FakeCase("tanh", "2d", memory=("not applicable", "no"))]
    done = check(cases, "--json")
    assert (done.code, done.err) == (1, "")
    found = json.loads(done.out)
    assert found["passed"] is False
    assert found["counts"] == {"pass": 4, "fail": 1, "not applicable": 1}
    assert found["properties"] == ["values", "gradients", "memory"]
    assert found["results"][0] == {
        "layer": "relu",
        "case": "relu[2d]",
        "property": "values",
        "status": "fail",
        "detail": "wrong",
    }
    assert len(found["results"]) == 6


def test_layers_and_properties_can_be_chosen(check):
    cases = [FakeCase("relu", "2d"), FakeCase("tanh", "2d"), FakeCase("linear", "2d")]
    done = check(cases, "--layer", "relu", "--layer", "linear", "--property", "memory", "--property", "values")
    assert done.code == 0
    assert [case.asked for case in cases] == [["values", "memory"], [], ["values", "memory"]]
    assert "tanh" not in done.out and "gradients" not in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "max_pol2d"], "--layer max_pol2d: no such layer; try max_pool2d"),
        (["--layer", "Relu"], "try relu"),
        (["--layer", "zzzz"], "try max_pool2d, relu"),
        (["--property", "value"], "--property value: no such property; try values"),
        (["--layer", "relu", "--layer", "nothing"], "--layer nothing"),
    ],
)
def test_an_unknown_name_lists_the_near_ones(check, arguments, message):
    done = check([FakeCase("relu", "2d"), FakeCase("max_pool2d", "2x2")], *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and done.err.count("\n") == 1


def test_many_long_properties_fit_a_hundred_columns(check):
    properties = tuple(f"property_{'long' * (number % 4)}_{number}" for number in range(24))
    done = check([FakeCase("scaled_dot_product_attention", "1"), FakeCase("relu", "2")], properties=properties)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 100
    assert done.out.count("✓ 1") == 2 * 24
    assert "…" not in done.out


def test_ascii_output_tells_pass_from_failure(check, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    check([FakeCase("relu", "2d", values=("fail", "wrong"), memory=("not applicable", ""))])
    stdout.flush()
    line = next(line for line in stdout.buffer.getvalue().decode().splitlines() if "relu " in line)
    assert [cell.strip() for cell in line.strip("| ").split("|")] == ["relu", "FAIL 1/1", "ok 1", "-"]


# A function of the user's own

SOURCE = """
import torch
from torch.autograd import Function


class Double(Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return {factor} * g


def product(x, w):
    return x @ w


class Layer(torch.nn.Linear):
    pass


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch, capsys):
    """Runs ``torchbp check`` on functions of a file."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(SOURCE.format(factor=2))
    (tmp_path / "wrong.py").write_text(SOURCE.format(factor=3))

    def run(*arguments):
        code = main(["check", *arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    yield run
    for name in ("mine", "wrong"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("where", ["mine:Double", "mine.py:Double", "mine:Double.apply"])
def test_a_function_of_ones_own_passes(own, where):
    done = own(where, "--inputs", "randn(2, 3)", "--reference", "mine:(lambda x: x + x)", "--no-compile")
    assert (done.code, done.err) == (0, "")
    assert "Double: passed" in done.out
    assert "✓   first_order" in done.out and "–   compiled" in done.out


def test_a_wrong_function_fails_with_a_program_that_shows_it(own):
    done = own(
        "wrong:Double", "--inputs", "randn(2, 3)", "--property", "derivatives", "--property", "pure", "--seed", "4"
    )
    assert done.code == 1
    assert "✗   first_order" in done.out and "✓   pure" in done.out
    assert "from wrong import Double" in done.out
    assert "print(check(Double, inputs, properties=['first_order'], seed=4))" in done.out


def test_json_of_a_function_of_ones_own(own):
    done = own("wrong:Double", "--inputs", "rand(3)", "--property", "first_order", "--property", "vmap", "--json")
    assert (done.code, done.err) == (1, "")
    found = json.loads(done.out)
    assert [r["status"] for r in found["results"]] == ["fail", "not applicable"]
    assert found["results"][0]["worst"]["got"] == pytest.approx(1.5 * found["results"][0]["worst"]["expected"])


def test_options_of_a_function_of_ones_own(own):
    inputs = ("--inputs", "randn(2, 3)", "--inputs", "randn(3, 4)")
    options = ("--property", "reference", "--property", "shapes", "--dtype", "float32", "--dtype", "bfloat16")
    skip = ("--skip", "unbatched=a matrix product", "--batched", "0")
    done = own("mine:product", *inputs, "--reference", "torch:matmul", *options, *skip)
    assert done.code == 0
    assert "float32" in done.out and "bfloat16" in done.out and "float64" not in done.out
    assert "a matrix product" in done.out
    done = own("mine:Double", "--inputs", "randn(3)", "--property", "vmap", "--strict")
    assert done.code == 1
    done = own("mine:Layer(3, 2)", "--inputs", "randn(4, 3)", "--property", "derivatives")
    assert done.code == 0 and "Layer: passed" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine:Double"], '--inputs: none given; try --inputs "randn(2, 3)"'),
        (["mine", "--inputs", "randn(2)"], "the function mine: must be module:name or file.py:name"),
        (["nowhere:f", "--inputs", "randn(2)"], "the function nowhere: cannot be imported: ModuleNotFoundError"),
        (["mine:nothing", "--inputs", "randn(2)"], "the function mine:nothing: NameError"),
        (["mine:number", "--inputs", "randn(2)"], "mine:number: is no function but int"),
        (["mine:Layer", "--inputs", "randn(2)"], "mine:Layer: is a class; construct it, e.g. mine:Layer(...)"),
        (["mine:Double", "--inputs", "randm(2)"], "inputs 'randm(2)' cannot be evaluated"),
        (["mine:product", "--inputs", "randn(2, 3), randn(2)"], "product does not take these inputs"),
        (["mine:Double", "--inputs", "randn(2)", "--property", "purity_"], "no such property; try purity"),
        (["mine:Double", "--inputs", "randn(2)", "--skip", "vmap"], "--skip vmap: must be a property and a reason"),
        (["mine:Double", "--inputs", "randn(2)", "--layer", "relu"], "--layer goes without a function of yours"),
        (["--inputs", "randn(2)"], "--inputs goes with a function of yours"),
    ],
)
def test_what_cannot_be_checked_is_one_line(own, arguments, message):
    done = own(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and done.err.count("\n") == 1
