"""The workspaces of the kernels: kept between calls, bounded, released, and never read before they are written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from test_operators import SAMPLES

from torchbp import _extension, allocator

O = torch.ops.torchbp  # noqa: E741
kernels = pytest.mark.skipif(not _extension.kernels_loaded(), reason="without the extension there are no workspaces")


def convolve(size: int = 20) -> torch.Tensor:
    x, w = torch.ones(2, 4, size, size), torch.ones(8, 4, 3, 3)
    return O.convolution(x, w, None, [1, 1], [1, 1], [1, 1], 1)


def wide(columns: int) -> torch.Tensor:
    """An average pool, whose workspace is a row."""
    return O.average_pool(torch.ones(1, 1, 2, columns), [2, 2], [1, 1], [0, 0], False, True, None)


@kernels
def test_workspaces_are_kept_and_released():
    expected = convolve()
    kept = allocator.workspace_bytes()
    assert kept > 0
    assert torch.equal(convolve(), expected) and allocator.workspace_bytes() == kept
    allocator.release_workspaces()
    assert allocator.workspace_bytes() == 0
    assert torch.equal(convolve(), expected) and allocator.workspace_bytes() > 0


@kernels
def test_a_larger_one_takes_the_place_of_a_smaller_up_to_the_bound(threads):
    threads(1)
    allocator.release_workspaces()
    bound = _extension.extension.kept_workspace
    held = []
    for columns in (1000, 100_000, 500, bound // 4 + 1000):
        wide(columns)
        held.append(allocator.workspace_bytes())
    assert 4000 <= held[0] < held[1] and held[1] >= 400_000
    assert held[2] == held[1]
    assert held[3] == held[1] <= bound  # too large to be kept


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@kernels
def test_a_thread_that_ends_frees_its_own(threads):
    threads(1)
    allocator.release_workspaces()
    held = []

    def other() -> None:
        convolve()
        held.append(allocator.workspace_bytes())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert held[0] > 0
    for _ in range(1000):  # Python's thread is joined a moment before the system's has ended
        if allocator.workspace_bytes() == 0:
            break
        time.sleep(0.01)
    assert allocator.workspace_bytes() == 0


@kernels
def test_releasing_while_other_threads_run_kernels(threads):
    threads(1)
    expected, stop, wrong = convolve(), threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            if not torch.equal(convolve(), expected):
                wrong.append(True)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(2000):
        allocator.release_workspaces()
        allocator.workspace_bytes()
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong
    allocator.release_workspaces()
    assert allocator.workspace_bytes() == 0


@kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_its_own_only():
    program = (
        "import os, threading, torch\n"
        "from test_workspace import allocator, convolve\n"
        "torch.set_num_threads(1)\n"
        "expected, entered, leave = convolve(), threading.Event(), threading.Event()\n"
        "mine = allocator.workspace_bytes()\n"
        "def other():\n"
        "    convolve(), entered.set(), leave.wait()\n"
        "thread = threading.Thread(target=other, daemon=True)\n"
        "thread.start()\n"
        "entered.wait()\n"
        "assert allocator.workspace_bytes() > mine\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    right = allocator.workspace_bytes() == mine and torch.equal(convolve(), expected)\n"
        "    allocator.release_workspaces()\n"
        "    os._exit(0 if right and allocator.workspace_bytes() == 0 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert allocator.workspace_bytes() > mine\n"
        "leave.set(), thread.join()\n"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def filled():
    """PyTorch's debug mode: uninitialised memory is filled, with NaN where it is floating."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@kernels
def test_no_operator_reads_or_leaves_memory_it_has_not_written(filled):
    """Outputs and workspaces start as NaN here; each sample must give what it gives without."""
    for name, i, call in SAMPLES:
        torch.use_deterministic_algorithms(False)
        expected = getattr(O, name)(*call)
        torch.use_deterministic_algorithms(True)
        found = getattr(O, name)(*call)
        for a, b in zip(*[v if isinstance(v, tuple) else (v,) for v in (found, expected)], strict=True):
            assert torch.equal(a, b) and not (a.is_floating_point() and a.isnan().any()), f"{name} {i}"


@kernels
def test_the_debug_mode_fills_the_workspace_before_every_task(filled):
    contents = _extension.extension.workspace_contents
    torch.use_deterministic_algorithms(False)
    convolve()
    assert set(contents(64, 1)[0]) != {0xFF}
    torch.use_deterministic_algorithms(True)
    assert [set(found) for found in contents(64, 3)] == [{0xFF}] * 3


def test_without_the_extension_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(allocator, "extension", None)
    allocator.release_workspaces()
    assert allocator.workspace_bytes() == 0
