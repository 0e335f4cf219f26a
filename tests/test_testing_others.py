"""The proof on code that is not ours: PyTorch's own custom Functions, and twenty with mistakes made on purpose."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import torchbp
from torchbp.testing import check

pytest.importorskip("expecttest")
from torch.testing._internal.autograd_function_db import autograd_function_db
from torch.testing._internal.custom_op_db import custom_op_db

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = {op.name: op for op in [*autograd_function_db, *custom_op_db] if op.supports_autograd}

# What fails, and why it should: PyTorch keeps two of these wrong on purpose, and does not know about the others.
KEEPS_BOTH = {"saved_in_vain": "both factors are saved whatever needs_input_grad says"}
KNOWN: dict[str, dict[str, str]] = {
    "NumpyMulAutogradFunction": KEEPS_BOTH,
    "MulGenVmapAutogradFunction": KEEPS_BOTH,
    "NumpyMulCustomOp": KEEPS_BOTH,
    "NumpyCubeNotComposableAutogradFunction": dict.fromkeys(
        ("first_order", "layouts"), "its backward ignores the gradient that arrives"
    ),
    "NumpySortAutogradFunction": dict.fromkeys(
        ("first_order", "forward_mode"),
        "its forward returns the input unsorted, its gradient is that of the sorted one",
    ),
    "CubeGenVmapAutogradFunction": dict.fromkeys(
        (
            "first_order",
            "second_order",
            "third_order",
            "adjoint_identity",
            "functional_transforms",
            "layouts",
            "saved_in_vain",
        ),
        "the gradient of its second output is a constant, not 6 x times what arrives",
    ),
    "ScaleGradGenVmapAutogradFunction": dict.fromkeys(("first_order", "forward_mode"), "wrong on purpose"),
    "ZeroGradientsGenVmapAutogradFunction": dict.fromkeys(("first_order", "forward_mode"), "wrong on purpose"),
    "NumpyCatCustomOp": {"vmap": "its vmap rule takes a list of dimensions for one"},
}


@pytest.mark.parametrize("name", OPERATORS)
def test_functions_of_pytorch(name: str) -> None:
    op = OPERATORS[name]
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", torch.float64):

        def function(*args: Any, sample: Any = sample) -> Any:
            return op.op(*args, **sample.kwargs)

        report = check(function, (sample.input, *sample.args), compile=False)
        assert {result.property for result in report.failures} == set(KNOWN.get(name, {})), str(report)


def test_every_known_failure_is_of_an_operator_there_is() -> None:
    assert set(KNOWN) <= set(OPERATORS)


@cache
def gallery() -> Any:
    path = ROOT / "examples" / "wrong_functions.py"
    spec = importlib.util.spec_from_file_location("wrong_functions", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_functions"] = module
    spec.loader.exec_module(module)
    return module


@cache
def table() -> str:
    return gallery().table()


def test_wrong_functions_fail_at_the_right_property() -> None:
    rows = table().splitlines()[2:]
    assert len(rows) == len(gallery().EXHIBITS) >= 20
    for exhibit, row in zip(gallery().EXHIBITS, rows, strict=True):
        assert row.endswith(f"| `{exhibit.property}` fails |"), row


def test_page_shows_the_table_as_it_is() -> None:
    page = (ROOT / "docs" / "wrong-functions.md").read_text(encoding="utf-8")
    assert table() in page, "write what examples/wrong_functions.py prints into docs/wrong-functions.md"


def test_gradcheck_alone_lets_most_through() -> None:
    rows = table().splitlines()[2:]
    assert sum("| passes | passes |" in row for row in rows) >= 12


def test_third_derivative_of_the_built_in_batch_norm() -> None:
    properties = ["derivatives", "nested_forward"]
    found = {
        library: {r.property: r.status for r in check(norm(2), "randn(4, 2)", properties=properties).results}
        for library, norm in (("torch", torch.nn.BatchNorm1d), ("torchbp", torchbp.nn.BatchNorm1d))
    }
    assert set(found["torchbp"].values()) == {"pass"}
    right = {"first_order": "pass", "second_order": "pass"}
    assert found["torch"] == {**right, "third_order": "fail", "nested_forward": "fail"}
