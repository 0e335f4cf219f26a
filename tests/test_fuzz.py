"""The driver of random arguments: it reaches every operator, and notices what it is there to notice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import fuzz_operators
import pytest
import torch

import torchbp

ROOT = Path(__file__).resolve().parent.parent


def test_every_operator_and_layer_takes_some_of_its_arguments() -> None:
    """In a process of its own, because a memory error could end it; an operator that is never called is an error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz_operators.py"), "--examples", "4"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "calls taken" in done.stdout


def test_an_operator_without_a_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_operators, "SAMPLES", [s for s in fuzz_operators.SAMPLES if s[0] != "unfold"])
    with pytest.raises(AssertionError, match="never called with arguments that they take: unfold$"):
        fuzz_operators.drive(1, 0, "unfold")


def test_a_result_that_depends_on_uninitialised_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torchbp.kernels_loaded():
        pytest.skip("composite formulas are not compared")

    class Operators:
        @staticmethod
        def partly_written(x: torch.Tensor) -> torch.Tensor:
            result = torch.empty(64)
            result[1:] = 0
            return result

    monkeypatch.setattr(fuzz_operators, "O", Operators)
    torch.empty(64).zero_()  # what the allocator gives next
    with pytest.raises(AssertionError, match="partly_written"):
        fuzz_operators.drive_operator("partly_written", (torch.ones(1),))


def test_variants_are_drawn_from_the_seed() -> None:
    call = (torch.arange(24.0).reshape(1, 2, 3, 4), [2, 2], 1, True, None, "reflect", 0.5)
    drawn = [[fuzz_operators.shown(fuzz_operators.variant(random.Random(s), call)) for s in range(30)] for _ in "ab"]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 20
