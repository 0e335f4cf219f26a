"""What a model costs, layer by layer, before and after conversion."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from torchbp.costs.measure import Cost, Figures

if TYPE_CHECKING:
    from rich.console import Group

MODEL, ELSEWHERE = "(model)", "(elsewhere)"


@dataclass(frozen=True)
class Row:
    """One layer, what is computed outside of layers, or the whole model.

    Attributes:
        name: the qualified name; ``"(model)"`` for the model itself and ``"(elsewhere)"`` for the rest.
        type: the name of the class.
        converted: whether ``torchbp.convert`` converts it.
        calls: how often it is called.
        output_shapes: the shapes of the tensors that its first call returns.
        parameters: the number of its parameters' elements; of the rest, those that are in no layer.
        before: the cost as it is.
        after: the cost after conversion.
    """

    name: str
    type: str
    converted: bool
    calls: int
    output_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    before: Cost
    after: Cost


@dataclass(frozen=True)
class CostReport:
    """What :func:`torchbp.cost` found.

    Attributes:
        rows: the layers, in the order in which they are called first.
        elsewhere: what the whole model costs beside its layers: functions called between them, parameters that belong
            to no layer. None if the model is a layer itself.
        total: the whole model: measured as one, not the sum of the rows.
        torch: the version of PyTorch.
        threads: the number of threads.
    """

    rows: tuple[Row, ...]
    elsewhere: Row | None
    total: Row
    torch: str
    threads: int

    def __getitem__(self, name: str) -> Row:
        """Return a layer's row by the layer's qualified name.

        Raises:
            KeyError: if no layer of that name was called.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        """Return the table as text.

        Raises:
            ImportError: without rich.
        """
        from torchbp.costs.rendering import text

        return text(self)

    def __rich__(self) -> Group:
        """Return the table for ``rich.print``."""
        return self.table()

    def table(self) -> Group:
        """Return the tables for rich: shapes and memory, multiply-adds, times.

        Raises:
            ImportError: without rich.
        """
        from torchbp.costs.rendering import table

        return table(self)

    def to_png(self, path: str | PathLike[str]) -> None:
        """Write the table as a picture, with a bar for every number.

        Raises:
            ImportError: without matplotlib.
        """
        from torchbp.costs.rendering import draw

        draw(self, path)

    def as_dict(self) -> dict[str, Any]:
        """Return it with plain values only."""
        return asdict(self)

    def to_json(self) -> str:
        """Return it as JSON; what there is not is null."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CostReport:
        """Return the report that :meth:`to_json` wrote."""
        found = json.loads(text)
        rows, elsewhere, total = found.pop("rows"), found.pop("elsewhere"), found.pop("total")
        return cls(tuple(map(_row, rows)), None if elsewhere is None else _row(elsewhere), _row(total), **found)


def _row(found: dict[str, Any]) -> Row:
    shapes = tuple(tuple(shape) for shape in found.pop("output_shapes"))
    before, after = _cost(found.pop("before")), _cost(found.pop("after"))
    return Row(output_shapes=shapes, before=before, after=after, **found)


def _cost(found: dict[str, Any]) -> Cost:
    seconds = found["seconds"]
    return Cost(
        Figures(**found["multiply_adds"]), found["saved_bytes"], None if seconds is None else Figures(**seconds)
    )
