"""What a check found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torchbp.testing.compare import Worst

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Result:
    """The outcome of one property.

    Attributes:
        property: its name.
        status: ``"pass"``, ``"fail"`` or ``"not applicable"``.
        detail: why it failed or does not apply; what was measured, for some that passed.
        seconds: how long it took.
        worst: the element that is farthest from what was expected, where a comparison failed.
        snippet: a program that shows the failure again; for failures of ``check`` only.
    """

    property: str
    status: Status
    detail: str = ""
    seconds: float = 0.0
    worst: Worst | None = None
    snippet: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it with plain values only."""
        return {
            "property": self.property,
            "status": self.status,
            "detail": self.detail,
            "seconds": self.seconds,
            "worst": None if self.worst is None else self.worst.as_dict(),
            "snippet": self.snippet,
        }

    def assert_ok(self) -> None:
        """Raise if the property failed.

        Raises:
            AssertionError: with what was wrong and how to see it again.
        """
        if self.status == "fail":
            raise AssertionError(f"{self.property}: {self.detail}" + (f"\n\n{self.snippet}" if self.snippet else ""))


@dataclass
class Report:
    """The outcomes of a check, one per property.

    Attributes:
        name: the function.
        results: the outcomes, in the order in which they were found.
        seed: what decided all that was drawn.
        notes: what was done besides, e.g. that inputs sat on a kink and were drawn anew.
    """

    name: str
    results: list[Result] = field(default_factory=list)
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no property failed."""
        return all(result.status != "fail" for result in self.results)

    @property
    def failures(self) -> list[Result]:
        """The properties that failed."""
        return [result for result in self.results if result.status == "fail"]

    @property
    def seconds(self) -> float:
        """How long all of it took."""
        return sum(result.seconds for result in self.results)

    def __getitem__(self, property: str) -> Result:
        """Return the outcome of a property.

        Raises:
            KeyError: if it was not asked for.
        """
        for result in self.results:
            if result.property == property:
                return result
        raise KeyError(property)

    def __str__(self) -> str:
        """Return one line per property, and a program that shows the first failure."""
        lines = [f"{self.name}: {'passed' if self.passed else 'FAILED'} (seed {self.seed})"]
        lines += [f"  {note}" for note in self.notes]
        width = max((len(result.property) for result in self.results), default=0)
        for result in self.results:
            status = "n/a" if result.status == "not applicable" else result.status
            lines.append(f"  {status:4}  {result.property:{width}}  {result.detail}".rstrip())
        for result in self.failures[:1]:
            if result.snippet:
                lines += ["", f"{result.property} again:", "", *(f"    {line}" for line in result.snippet.splitlines())]
        return "\n".join(lines)

    def __rich__(self) -> Table:
        """Return a table for ``rich.print``."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        marks = {"pass": ("✓", "green"), "fail": ("✗", "bold red"), "not applicable": ("–", "dim")}
        caption = "\n".join([f"seed {self.seed}, {self.seconds:.1f} s", *self.notes])
        title = f"{self.name}: {'passed' if self.passed else 'FAILED'}"
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
        for column in ("", "property", ""):
            table.add_column(column, no_wrap=column == "property")
        for result in self.results:
            mark, style = marks[result.status]
            table.add_row(Text(mark, style), Text(result.property, style), Text(result.detail))
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return it with plain values only."""
        return {
            "name": self.name,
            "passed": self.passed,
            "seed": self.seed,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "results": [result.as_dict() for result in self.results],
        }

    def to_json(self) -> str:
        """Return it as JSON; numbers that are not finite become null."""
        return json.dumps(_finite(self.as_dict()), indent=2, allow_nan=False)

    def assert_ok(self) -> None:
        """Raise if a property failed.

        Raises:
            AssertionError: with the whole report as its message.
        """
        if not self.passed:
            raise AssertionError(str(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
