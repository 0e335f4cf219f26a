"""The pages of the proof quote what their programs print and say."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest
from test_examples import EXAMPLES, blocks, load

from torchbp.testing import PROPERTIES

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "is-my-backward-right.md").read_text(encoding="utf-8")


@functools.cache
def printed() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        load("is_my_backward_right").main()
    return out.getvalue()


def test_tutorial_quotes_what_its_program_prints() -> None:
    quoted = blocks(PAGE, "text")
    assert len(quoted) == 4
    for block in quoted:
        assert block in printed(), f"docs/is-my-backward-right.md quotes what is not printed:\n{block}"


def test_tutorial_quotes_the_source_as_it_is() -> None:
    source = (EXAMPLES / "is_my_backward_right.py").read_text(encoding="utf-8")
    versions = [block for block in blocks(PAGE, "python") if block.startswith("class ")]
    assert len(versions) == 4
    assert all(block in source for block in versions)


def test_tutorial_lists_every_property_as_it_describes_itself() -> None:
    assert load("is_my_backward_right").property_table() in PAGE
    assert all(f"| `{name}` |" in PAGE for name in PROPERTIES)


def test_tutorial_says_what_gradcheck_says() -> None:
    example = load("is_my_backward_right")
    verdicts = [example.gradcheck_says(version).split()[-1] for version in (example.First, example.Second)]
    assert verdicts == ["fails", "passes"]


@pytest.mark.parametrize("name", ["is-my-backward-right", "wrong-functions"])
def test_links_lead_somewhere(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (DOCS / link).exists(), link
