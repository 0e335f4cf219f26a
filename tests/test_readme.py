"""The programs in the README run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_runs(program: str) -> None:
    exec(compile(program, str(README), "exec"), {})


def test_the_programs_have_ten_lines_at_most() -> None:
    assert all(len(program.strip().splitlines()) <= 10 for program in PROGRAMS)
