"""A process that measures under one setting: reads a request from stdin, writes a line of JSON for each result.

The request has ``setting``, the fields of :class:`~torchbp.bench.measure.Setting`, and either ``cases``, names of
cases to time, or ``resident``, a case and a peer whose peak resident size is wanted. Lines are objects with one key:
``begin`` (a case), ``result``, ``resident``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict
from typing import Any, TextIO

import torch

from torchbp.bench.floor import measure_peaks
from torchbp.bench.measure import Setting, measure
from torchbp.bench.peers import STEP, Side, draw, peers_of
from torchbp.bench.process import TUNED, tune
from torchbp.bench.results import Resident
from torchbp.bench.suite import Case, cases

_STEPS = 3


def main() -> None:
    """Serve the request on stdin."""
    # Whatever else prints to stdout must not stand between the lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(json.load(sys.stdin), answers)


def serve(request: dict[str, Any], answers: TextIO) -> None:
    """Answer ``request``."""
    setting = Setting(**request["setting"])
    if setting.allocator == TUNED:
        tune()
    torch.set_num_threads(setting.threads)
    known = {case.name: case for case in cases()}
    if "resident" in request:
        name, peer = request["resident"]
        _answer(answers, resident=asdict(_resident(known[name], peer, setting)))
        return
    peaks = measure_peaks(getattr(torch, setting.dtype))
    for name in request["cases"]:
        _answer(answers, begin=name)
        _answer(answers, result=asdict(measure(known[name], setting, peaks)))


def _answer(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _resident(case: Case, name: str, setting: Setting) -> Resident:
    peer = next(peer for peer in peers_of(case, compiled=True) if peer.name == name)
    data = draw(case, getattr(torch, setting.dtype))
    side = Side(case, peer, data)
    before = _peak_bytes()
    step = side.call(STEP)
    for _ in range(_STEPS):
        step()
    return Resident(case.name, name, setting.allocator, setting.threads, before, _peak_bytes())


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
