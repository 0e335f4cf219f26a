"""docs/conformance.md is what tests/conformance_page.py writes."""

from __future__ import annotations

import re

import conformance_page as conformance
import pytest

TEXT = conformance.PAGE.read_text(encoding="utf-8")
WRITE = "run `make conformance`"
# Rows that are quick to make again: a kind of each, and one with nothing to compare.
SAMPLE = ("AvgPool1d", "RMSNorm", "hinge_embedding_loss", "local_response_norm", "normalize", "one_hot")


def committed() -> dict[str, str]:
    """Return the rows of the page by name."""
    return {
        row.split("|")[1].strip(): row for row in re.findall(r"^\| .* \| (?:torch|torchbp) \| .*$", TEXT, re.MULTILINE)
    }


def test_the_page_has_every_name_and_whose_it_is() -> None:
    entries = [*conformance.modules(), *conformance.functions()]
    whose = {name: "torchbp" if conformance.has(name) else "torch" for name, _ in entries}
    assert len(whose) == len(entries)
    assert {name: row.split("|")[2].strip() for name, row in committed().items()} == whose, WRITE


def test_some_rows_are_made_again() -> None:
    rows = [conformance.module_row(name, info) for name, info in conformance.modules() if name in SAMPLE]
    rows += [conformance.function_row(name, op) for name, op in conformance.functions() if name in SAMPLE]
    assert {row.name for row in rows} == set(SAMPLE)
    for row in rows:
        assert str(row) == committed()[row.name], WRITE


def test_totals_are_those_of_the_rows() -> None:
    for what, first in (("modules", str.isupper), ("functions", str.islower)):
        rows = [row for name, row in committed().items() if first(name[0])]
        ours = sum(row.split("|")[2].strip() == "torchbp" for row in rows)
        right = sum(bool(re.search(r"\| torchbp \| [1-9]\d* \| all.* \| (torchbp's|no)[^`]*\|$", row)) for row in rows)
        assert f"| {what} | {len(rows)} | {ours} | {right} |" in TEXT


@pytest.mark.slow
def test_the_whole_page_is_made_again() -> None:
    assert conformance.page(*conformance.rows()) == TEXT, WRITE
