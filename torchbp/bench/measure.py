"""One case: checked against float64, then measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from torchbp.bench import check, floor
from torchbp.bench.peers import BUILTIN, STEP, TORCHBP, Data, Peer, Side, draw, figures_of, is_ours, peers_of, survives
from torchbp.bench.results import FAILED, OK, WRONG, CaseResult
from torchbp.bench.suite import Case
from torchbp.costs import timing
from torchbp.testing import saved_bytes


@dataclass(frozen=True)
class Setting:
    """How a process measures; see the options of ``torchbp bench``."""

    allocator: str
    threads: int
    dtype: str
    rounds: int | None = None
    compiled: bool = False
    algorithms: bool = False


def measure(case: Case, setting: Setting, peaks: floor.Peaks) -> CaseResult:
    """Check every peer of ``case`` against the built-in in float64, then time those that are right, in turn.

    A case in which torchbp is wrong, or raises, is not timed. A built-in peer that is wrong or raises is left out, and
    so is a convolution by an algorithm that does not take it, or not as exactly as it should be by default.
    """
    result = CaseResult(case.name, case.family, setting.allocator, setting.threads, setting.dtype)
    data = draw(case, getattr(torch, setting.dtype))
    sides = _right_sides(case, data, peers_of(case, compiled=setting.compiled, algorithms=setting.algorithms), result)
    if result.status != OK:
        return result
    result.saved_bytes = {name: _saved(side) for name, side in sides.items() if name in ("torch", "torchbp")}
    result.floors = floor.floors(case, data, peaks)
    for figure in figures_of(case, data):
        calls = {name: side.call(figure) for name, side in sides.items() if survives(case, name, figure)}
        result.timings[figure] = timing.in_turn(calls, setting.rounds)
    return result


def _right_sides(case: Case, data: Data, peers: list[Peer], result: CaseResult) -> Mapping[str, Side]:
    """The peers whose results are right, those of torchbp last; what the others did goes to ``result``."""
    standard = check.Standard(case, data)
    sides: dict[str, Side] = {}
    for peer in sorted(peers, key=lambda peer: peer.ours):
        try:
            fault = standard.fault_in_float64() if case.amplifies and peer == TORCHBP else ""
            side = Side(case, peer, data)
            errors = standard.errors(side.values())
        except Exception as error:  # whatever a layer raises is what there is to report
            if not (peer.algorithm and "does not take" in str(error)):
                _report(result, FAILED if peer.ours else OK, f"{peer.name}: {type(error).__name__}: {error}")
            continue
        fault = fault or standard.fault(peer, errors, result.errors)
        result.errors[peer.name] = errors
        if fault:
            _report(result, WRONG if peer.ours and not peer.algorithm else OK, f"{peer.name}: {fault}")
        else:
            sides[peer.name] = side
    if result.status == OK and not any(not is_ours(name) for name in sides):
        _report(result, FAILED, f"no peer of {BUILTIN.namespace} runs it")
    return sides


def _report(result: CaseResult, status: str, detail: str) -> None:
    if status != OK and result.status != WRONG:
        result.status = status
    result.detail = "; ".join(filter(None, (result.detail, detail)))


def _saved(side: Side) -> int:
    """Bytes that a step keeps for backward, parameters not counted."""
    side.differentiate(STEP)

    def forward() -> object:
        output = side.forward()
        return output if side.loss is None else side.loss(output, *side.others)

    return saved_bytes(forward, exclude=side.parameters.values())
