"""The pytest plugin: installed by its entry point alone, and slow for nobody who does not use it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

SQUARE = """
import pytest
import torch
from torch.autograd import Function


class Square(Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward({saved})

    @staticmethod
    def backward(ctx, g):
        (saved,) = ctx.saved_tensors
        return g * {slope}
"""
RIGHT = SQUARE.format(saved="*inputs", slope="2 * saved")
WRONG = SQUARE.format(saved="2 * inputs[0]", slope="saved")
PROPERTIES = 'properties=["reference", "derivatives", "vmap"]'


@pytest.fixture
def run(tmp_path: Path):
    """Runs pytest on a file in a process of its own, with the entry point of pyproject.toml and no conftest."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.entry-points.pytest11]\n")[1].split("\n\n")[0].replace('"', "")
    installed = tmp_path / "site" / "torchbp_plugin-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: torchbp-plugin\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{section}\n")

    def run_(source: str, *arguments: str) -> tuple[int, str]:
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / "test_it.py").write_text(source)
        path = f"{tmp_path / 'site'}:{ROOT}"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments, "tests"]
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run_


def test_entry_point_names_the_plugin() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = text.split("[project.entry-points.pytest11]\n")[1].splitlines()[0]
    name, _, value = (part.strip(' "') for part in line.partition("="))
    plugin = EntryPoint(name, value, "pytest11").load()
    assert plugin.MARKER == "gradient_properties"


def test_the_plugin_alone_does_not_import_torch() -> None:
    program = "import sys, torchbp_pytest; sys.exit('torch' in sys.modules or 'torchbp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_marker_asks_for_the_properties_it_names() -> None:
    import torchbp_pytest

    asked = []
    mark = SimpleNamespace(kwargs={"properties": ["reference", "leaks"]})
    definition = SimpleNamespace(nodeid="test", get_closest_marker=lambda name: mark)
    metafunc = SimpleNamespace(
        fixturenames=["gradient_property"],
        definition=definition,
        parametrize=lambda name, values, indirect: asked.append((name, values, indirect)),
    )
    torchbp_pytest.pytest_generate_tests(metafunc)
    assert asked == [("gradient_property", ["value", "gradient", "leaks"], True)]
    definition.get_closest_marker = lambda name: None
    with pytest.raises(pytest.UsageError, match="needs @pytest.mark.gradient_properties"):
        torchbp_pytest.pytest_generate_tests(metafunc)


@pytest.mark.slow
def test_fixture_and_marker(run) -> None:
    use = f"""
def test_fixture(gradient_check):
    report = gradient_check(Square, "randn(3, 4)", reference=torch.square, {PROPERTIES})
    assert report["first_order"].status == "pass"


@pytest.mark.gradient_properties(Square, "randn(3, 4)", reference=torch.square, {PROPERTIES})
def test_each(gradient_property):
    gradient_property.assert_ok()
"""
    code, output = run(RIGHT + use, "--strict-markers")
    assert code == 0, output
    for name in ("value", "gradient", "first_order", "second_order", "third_order"):
        assert f"PASSED tests/test_it.py::test_each[{name}]" in output
    assert "SKIPPED" in output and "vmap: no vmap" in output
    code, output = run(WRONG + use)
    assert code == 1
    assert "FAILED tests/test_it.py::test_fixture" in output
    assert "FAILED tests/test_it.py::test_each[second_order]" in output
    assert "PASSED tests/test_it.py::test_each[first_order]" in output
    assert "silently wrong: the second derivative vanishes" in output


@pytest.mark.slow
def test_options_and_errors(run) -> None:
    use = """
def test_fixture(gradient_check):
    report = gradient_check(Square, "randn(3)")
    assert report.seed == 7
    assert report["compiled"].detail == "left out: compile=False"


def test_without_marker(gradient_property):
    pass
"""
    code, output = run(RIGHT + use, "--no-gradient-compile", "--gradient-seed", "7")
    assert code != 0 and "gradient_property needs @pytest.mark.gradient_properties" in output
    code, output = run(RIGHT + use.split("def test_without")[0], "--no-gradient-compile", "--gradient-seed", "7")
    assert code == 0, output
    code, output = run(RIGHT, "--markers")
    assert "gradient_properties(function, inputs, **options)" in output
