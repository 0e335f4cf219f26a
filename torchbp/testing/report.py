"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Result:
    """The outcome of one property.

    Attributes:
        property: its name.
        status: ``"pass"``, ``"fail"`` or ``"skip"``.
        detail: why it failed or was left out; empty for a pass.
        seconds: how long it took.
    """

    property: str
    status: Status
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """The outcomes of a check, one per property."""

    name: str
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no property failed."""
        return all(result.status != "fail" for result in self.results)

    @property
    def failures(self) -> list[Result]:
        """The properties that failed."""
        return [result for result in self.results if result.status == "fail"]

    def __str__(self) -> str:
        """Return one line per property."""
        lines = [f"{self.name}: {'passed' if self.passed else 'FAILED'}"]
        for result in self.results:
            line = f"  {result.status:4}  {result.property}"
            lines.append(f"{line}: {result.detail}" if result.detail else line)
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise if a property failed.

        Raises:
            AssertionError: with the whole report as its message.
        """
        if not self.passed:
            raise AssertionError(str(self))
