"""The same proofs on the other instruction sets, and without the extension, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import torchbp

TESTS = Path(__file__).resolve().parent
# What can differ between instruction sets; the rest is Python.
NUMERIC = "value or gradient or first_order or adjoint or layouts or float32 or deterministic or operators"
INSTRUCTION_SETS = {"default": "baseline", "avx2": "avx2"}


def run_suite(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=TESTS.parent, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("capability", INSTRUCTION_SETS)
def test_suite_on_another_instruction_set(capability: str) -> None:
    if INSTRUCTION_SETS[capability] not in torchbp.kernels_status()["instruction_sets_built"]:
        pytest.skip(f"this build has no kernels for {INSTRUCTION_SETS[capability]}")
    program = "import torchbp; print(torchbp.kernels_status()['instruction_set'])"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    used = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert used.stdout.strip() == INSTRUCTION_SETS[capability]
    run_suite(
        str(TESTS / "test_layers.py"), str(TESTS / "test_operators.py"), "-k", NUMERIC, ATEN_CPU_CAPABILITY=capability
    )


@pytest.mark.slow
def test_suite_without_the_extension() -> None:
    run_suite(str(TESTS / "test_layers.py"), str(TESTS / "test_operators.py"), "-m", "not slow", TORCHBP_KERNELS="0")
