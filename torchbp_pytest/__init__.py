"""The pytest plugin of ``torchbp.testing``; it imports torch only when a test uses it.

It stands outside the package ``torchbp`` because pytest imports it in every run.

Fixture ``gradient_check(function, inputs, **options)``: runs :func:`torchbp.testing.check`, fails the test if a
property failed, returns the report.

Marker ``gradient_properties(function, inputs, **options)``: makes one test per property of a test that asks for the
fixture ``gradient_property``, whose value is the property's :class:`torchbp.testing.Result`::

    @pytest.mark.gradient_properties(Square, "randn(3, 4)", reference=torch.square)
    def test_square(gradient_property):
        gradient_property.assert_ok()

A test whose property does not apply is skipped with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torchbp.testing import Report, Result

MARKER = "gradient_properties"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--no-gradient-compile`` and ``--gradient-seed``."""
    group = parser.getgroup("torchbp", "gradient proof")
    group.addoption(
        "--no-gradient-compile",
        action="store_true",
        help="gradient_check and gradient_properties leave out the properties of torch.compile",
    )
    group.addoption(
        "--gradient-seed", type=int, default=0, metavar="N", help="the seed of gradient_check and gradient_properties"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(function, inputs, **options): one test for each property of torchbp.testing.check; "
        "the fixture gradient_property is its outcome",
    )


def _options(config: pytest.Config, given: dict[str, Any]) -> dict[str, Any]:
    options = {"seed": config.getoption("--gradient-seed"), **given}
    if config.getoption("--no-gradient-compile"):
        options["compile"] = False
    return options


@pytest.fixture
def gradient_check(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """``torchbp.testing.check`` that fails the test if a property fails."""
    from torchbp.testing import check

    def run(function: Any, inputs: Any, **options: Any) -> Report:
        report = check(function, inputs, **_options(request.config, options))
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per property of those that ask for ``gradient_property``."""
    if "gradient_property" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker(MARKER)
    if mark is None:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: gradient_property needs @pytest.mark.{MARKER}(...)")
    from torchbp.testing.check import chosen

    names = chosen(mark.kwargs.get("properties"))
    metafunc.parametrize("gradient_property", names, indirect=True)


@pytest.fixture
def gradient_property(request: pytest.FixtureRequest) -> Result:
    """The outcome of one property of the function in the marker; skips the test where it does not apply."""
    from torchbp.testing import check

    mark = request.node.get_closest_marker(MARKER)
    options = _options(request.config, {**mark.kwargs, "properties": [request.param]})
    (result,) = check(*mark.args, **options).results
    if result.status == "not applicable":
        pytest.skip(f"{result.property}: {result.detail}")
    return result
