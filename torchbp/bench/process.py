"""Fresh processes: the allocator and the number of threads are settings of a whole process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torchbp
from torchbp.bench.measure import Setting
from torchbp.bench.results import FAILED, CaseResult, Resident
from torchbp.bench.suite import Case

DEFAULT, TUNED = ALLOCATORS = ("default", "tuned")


class Died(Exception):
    """A worker ended before its work did; says how."""


_LAST_WORDS = 300  # characters of a dead process's stderr


def why_not_tuned() -> str:
    """Return why the allocator of this platform cannot be tuned, or an empty string where it can."""
    from torchbp.allocator import unavailable

    return unavailable()


def tune() -> None:
    """Tune the allocator of this process."""
    from torchbp.allocator import keep_freed_memory

    keep_freed_memory()


def case_results(chosen: Sequence[Case], setting: Setting) -> Iterator[CaseResult]:
    """Measure ``chosen`` in a fresh process. Where a case ends it, that case has failed, and another goes on."""
    left = list(chosen)
    while left:
        died = yield from _until_death(left, setting)
        if died is None:
            return
        case = left.pop(0)
        result = CaseResult(case.name, case.family, setting.allocator, setting.threads, setting.dtype)
        result.status, result.detail = FAILED, died
        yield result


def resident(case: Case, peer: str, setting: Setting) -> Resident:
    """Return the peak resident size of a fresh process that runs ``case``.

    Raises:
        Died: the process did not live to tell.
    """
    with _Worker({"setting": asdict(setting), "resident": [case.name, peer]}) as worker:
        for message in worker.messages():
            return Resident(**message["resident"])
        raise Died(worker.last_words())


def _until_death(left: list[Case], setting: Setting) -> Generator[CaseResult, None, str | None]:
    """Yield results and take their cases off ``left``; return what killed the process, None where nothing did."""
    with _Worker({"setting": asdict(setting), "cases": [case.name for case in left]}) as worker:
        for message in worker.messages():
            if "result" in message:
                left.pop(0)
                yield CaseResult.from_dict(message["result"])
        return worker.last_words() if left else None


class _Worker:
    """A running :mod:`torchbp.bench.worker`; killed on the way out if it still runs."""

    def __init__(self, request: dict[str, Any]) -> None:
        root = str(Path(torchbp.__file__).resolve().parent.parent)
        threads = str(request["setting"]["threads"])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "torchbp.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request))
        self._process.stdin.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the process says until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def last_words(self) -> str:
        """Return how the process ended, and the end of what it wrote to stderr."""
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip()
        return f"the process ended with {how}" + (f": {words[-_LAST_WORDS:]}" if words else "")
