"""Models of other packages compute the same when converted, to the digits that the arithmetic has."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from real_models import MODELS, RealModel
from torch import Tensor, nn

import torchbp

NAMES = list(MODELS)
# A gradient that would be zero without rounding, that of a bias before a normalisation or of attention's keys, has no
# digits of its own: it counts by so much of the largest entry of all gradients.
FLOOR = 1e-4
NOISE = 1e-8  # and has so much of it in float32
# How much farther from the exact gradient torchbp may be in float32 than PyTorch is.
FACTOR = 4


def gradients(row: RealModel, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradient of every parameter that has one."""
    model.zero_grad()
    loss = row.step(model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest(found: dict[str, Tensor]) -> float:
    return max(float(g.abs().max()) for g in found.values())


def relative_difference(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """Return the largest difference of a gradient by its largest entry, and whose it is."""
    assert mine.keys() == theirs.keys()
    floor = FLOOR * largest(theirs)
    return max(
        (float((mine[name] - g).abs().max()) / (float(g.abs().max()) + floor), name) for name, g in theirs.items()
    )


def in_float32(row: RealModel) -> tuple[nn.Module, nn.Module, nn.Module, dict[str, Any], dict[str, Any]]:
    """Return a model in float64, its like in float32, that one converted, and a batch for each dtype: equal numbers."""
    theirs, batch = row.build(torch.float32), row.inputs(torch.float32)
    exact, mine = copy.deepcopy(theirs).double(), copy.deepcopy(theirs)
    torchbp.convert(mine)
    wide = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    return exact, theirs, mine, wide, batch


def test_the_page_has_every_model() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "real-models.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| ([^|]+) \| (\w+) \| \d+ of \d+ \|", page, flags=re.MULTILINE)
    assert found == [(name, row.package) for name, row in MODELS.items()]


@pytest.fixture(params=NAMES)
def row(request: pytest.FixtureRequest) -> RealModel:
    found = MODELS[request.param]
    if importlib.util.find_spec(found.package) is None:
        pytest.skip(f"the package {found.package} is not installed; it is of the extra 'models'")
    return found


@pytest.mark.slow
def test_in_float64(row: RealModel) -> None:
    """Loss and gradients to 1e-9, three steps of an optimizer, and the way back."""
    theirs, batch = row.build(), row.inputs()
    mine = copy.deepcopy(theirs)
    types, keys = [type(m) for m in mine.modules()], mine.state_dict().keys()
    report = torchbp.convert(mine)
    assert len(report) and not any(" torch.nn.modules" in reason for reason in report.left.values()), report
    assert mine.state_dict().keys() == keys and repr(mine) == repr(theirs)
    optimizers = [torch.optim.SGD(model.parameters(), 0.01, 0.9) for model in (mine, theirs)]
    for step in range(3):
        (loss, found), (expected, sought) = (gradients(row, model, batch) for model in (mine, theirs))
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        worst, name = relative_difference(found, sought)
        assert worst <= 1e-9, (step, name, worst)
        for optimizer in optimizers:
            optimizer.step()
    theirs.load_state_dict(mine.state_dict())
    torchbp.revert(mine)
    assert [type(m) for m in mine.modules()] == types
    assert torch.equal(row.step(mine, batch), row.step(theirs, batch))


def relative_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the norm of the error of all gradients by the norm of all gradients."""
    error = sum(float((found[name].double() - g).square().sum()) for name, g in exact.items())
    return (error / sum(float(g.square().sum()) for g in exact.values())) ** 0.5


@pytest.mark.slow
def test_in_float32(row: RealModel) -> None:
    """The loss and no gradient are farther from float64's than a few times the rounding of the built-in.

    That rounding is an eps, or what the model makes of it: the error of all of the built-in's gradients together.
    """
    exact, theirs, mine, wide, batch = in_float32(row)
    loss, sought = gradients(row, exact, wide)
    (first, found), (_, built_in) = (gradients(row, model, batch) for model in (mine, theirs))
    assert found.keys() == built_in.keys() == sought.keys()
    rounding = max(torch.finfo(torch.float32).eps, relative_error(built_in, sought))
    assert relative_error(found, sought) <= 2 * rounding
    assert abs(first.double() - loss) <= FACTOR * rounding * abs(loss)
    noise = NOISE * largest(sought)
    for name, g in sought.items():
        errors = [float((other[name].double() - g).abs().max()) for other in (found, built_in)]
        assert errors[0] <= FACTOR * (errors[1] + rounding * float(g.abs().max()) + noise), (name, errors)
