"""Kept memory: its settings and their undoing, what it does to a process, and where it can do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from torchbp import allocator

MIB = 1 << 20
TRIM, THRESHOLD, MMAPS = -1, -3, -4
FIXED = {MMAPS: 65536, THRESHOLD: 128 << 10, TRIM: 128 << 10}
GROWN = {MMAPS: 65536, THRESHOLD: 32 * MIB, TRIM: 64 * MIB}

here = pytest.mark.skipif(bool(allocator._glibc()[1]), reason=f"on this machine {allocator._glibc()[1]}")


class FakeLibc:
    """Records what it is told."""

    def __init__(self, refuses: int | None = None) -> None:
        self.settings: dict[int, int] = {}
        self.trims = 0
        self.refuses = refuses

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == self.refuses and value == 0:
            return 0
        self.settings[parameter] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.trims += 1
        return 1


@pytest.fixture
def libc(monkeypatch):
    """A recording libc, and a state of its own."""
    fake = FakeLibc()
    monkeypatch.setattr(allocator, "_glibc", lambda: (fake, ""))
    monkeypatch.setattr(allocator, "_state", allocator._State())
    monkeypatch.setattr(allocator, "_initial_environment", dict)
    monkeypatch.setattr(allocator, "_heap_may_ask_for_huge_pages", lambda environment: False)
    return fake


def run(program: str, **environment: str) -> str:
    """Run ``program`` in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --------------------------------------------------------------------------------------------------
# Settings


def test_a_call_keeps_and_another_undoes_it(libc):
    assert not allocator.keeps_freed_memory()
    for _ in range(2):
        kept = allocator.keep_freed_memory()
        assert kept and kept.reason == "" and allocator.keeps_freed_memory()
        assert libc.settings == {MMAPS: 0, TRIM: -1}
    for trims in (1, 2):
        allocator.release_freed_memory()
        assert not allocator.keeps_freed_memory()
        assert libc.settings == GROWN and libc.trims == trims


def test_releasing_what_was_not_kept_touches_no_setting(libc):
    allocator.release_freed_memory()
    assert libc.settings == {} and libc.trims == 1


def test_a_block_ends_what_it_began(libc):
    with allocator.keep_freed_memory() as kept:
        assert kept and allocator.keeps_freed_memory()
        with allocator.keep_freed_memory():
            pass
        assert allocator.keeps_freed_memory()
    assert not allocator.keeps_freed_memory() and libc.settings == GROWN
    with kept:  # again
        assert allocator.keeps_freed_memory()
    assert not allocator.keeps_freed_memory()


def test_a_block_does_not_end_what_was_there_before(libc):
    allocator.keep_freed_memory()
    with allocator.keep_freed_memory():
        pass
    assert allocator.keeps_freed_memory() and libc.trims == 0


def test_a_call_inside_a_block_outlasts_it(libc):
    with allocator.keep_freed_memory():
        allocator.keep_freed_memory()
    assert allocator.keeps_freed_memory()


def test_a_block_ends_by_an_exception(libc):
    with pytest.raises(ZeroDivisionError), allocator.keep_freed_memory():
        raise ZeroDivisionError
    assert not allocator.keeps_freed_memory()


def test_a_release_inside_a_block_is_at_once(libc):
    with allocator.keep_freed_memory():
        allocator.release_freed_memory()
        assert not allocator.keeps_freed_memory() and libc.settings == GROWN
    assert not allocator.keeps_freed_memory()


def test_blocks_of_several_threads_last_as_long_as_the_longest(libc):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with allocator.keep_freed_memory():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with allocator.keep_freed_memory():
        thread.start()
        assert entered.wait(10)
    assert allocator.keeps_freed_memory()
    leave.set()
    thread.join()
    assert not allocator.keeps_freed_memory()


def test_a_refused_setting_is_reported_and_undone(libc):
    libc.refuses = MMAPS
    kept = allocator.keep_freed_memory()
    assert not kept and "refused" in kept.reason and not allocator.keeps_freed_memory()
    assert libc.settings.get(TRIM, GROWN[TRIM]) == GROWN[TRIM]


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, GROWN),
        ({"MALLOC_ARENA_MAX": "1", "MALLOC_CHECK_": "3"}, GROWN),
        ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, FIXED | {THRESHOLD: 1000000}),
        ({"MALLOC_TOP_PAD_": "0"}, FIXED),
        ({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}, FIXED | {MMAPS: 0, TRIM: -1}),
        ({"MALLOC_TRIM_THRESHOLD_": "99999999999"}, FIXED | {TRIM: 2**31 - 1}),
        ({"MALLOC_TRIM_THRESHOLD_": "many"}, GROWN),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=0x10000"}, FIXED | {THRESHOLD: 65536}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=010:glibc.rtld.nns=4", "MALLOC_MMAP_MAX_": "5"},
            FIXED | {MMAPS: 8},
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:nonsense::="}, GROWN),
    ],
)
def test_undoing_goes_back_to_the_environment(libc, monkeypatch, environment, settings):
    monkeypatch.setattr(allocator, "_initial_environment", lambda: environment)
    allocator.keep_freed_memory()
    allocator.release_freed_memory()
    assert libc.settings == settings


@pytest.mark.parametrize(
    ("setting", "environment", "asks"),
    [
        ("always [madvise] never", {}, True),
        ("[always] madvise never", {}, False),
        ("always madvise [never]", {}, False),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, False),
        ("always [madvise] never", {"MALLOC_PERTURB_": "7"}, False),
        (None, {}, False),
    ],
)
def test_when_the_heap_asks_for_huge_pages(tmp_path, monkeypatch, setting, environment, asks):
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting + "\n")
    monkeypatch.setattr(allocator, "_HUGE_PAGE_SETTING", file)
    assert allocator._heap_may_ask_for_huge_pages(environment) is asks


# --------------------------------------------------------------------------------------------------
# Where nothing can be done


@pytest.mark.parametrize(
    "process",
    [
        SimpleNamespace(),
        SimpleNamespace(mallopt=print),
        SimpleNamespace(mallopt=print, gnu_get_libc_version=print, malloc=print, dladdr=lambda *_: 0),
    ],
)
def test_another_c_library_is_named_and_left_alone(monkeypatch, process):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: process)
    monkeypatch.setattr(allocator, "_state", allocator._State())
    kept = allocator.keep_freed_memory()
    assert not kept and kept.reason and kept.reason in repr(kept)
    with kept:
        assert not allocator.keeps_freed_memory()
    allocator.release_freed_memory()


def test_a_process_that_cannot_be_opened(monkeypatch):
    def refuse(name: None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")  # as on Windows

    monkeypatch.setattr(allocator.ctypes, "CDLL", refuse)
    assert allocator._glibc() == (None, "the C library is not glibc")


@here
def test_another_allocator_in_place_of_glibcs_is_named(tmp_path):
    source = tmp_path / "other.c"
    source.write_text(
        """
#include <stddef.h>
#include <sys/mman.h>
extern void *__libc_malloc(size_t);
extern void __libc_free(void *);
static void *large;
static size_t bytes;
void *malloc(size_t size) {
  if (size < (1 << 29)) return __libc_malloc(size);
  bytes = size;
  return large = mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
void free(void *block) {
  if (block && block == large)
    munmap(block, bytes);
  else
    __libc_free(block);
}
"""
    )
    library = tmp_path / "libother.so"
    try:
        subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    shown = run("from torchbp import allocator; print(repr(allocator.keep_freed_memory()))", LD_PRELOAD=str(library))
    assert "another allocator is in place of glibc's: " in shown


FIXED = """
#include <Python.h>
/* Addresses of functions in a program that is not position-independent are those of its stubs. */
int main(int argc, char **argv) {
  void *(*volatile used)(size_t) = malloc;
  return used ? Py_BytesMain(argc, argv) : 1;
}
"""


@here
def test_a_program_at_a_fixed_address_has_stubs_of_glibcs(tmp_path):
    """As Debian's interpreter is."""
    from sysconfig import get_config_var, get_path

    source, program = tmp_path / "fixed.c", tmp_path / "fixed"
    source.write_text(FIXED)
    linked = [f"-L{get_config_var('LIBDIR')}", f"-lpython{get_config_var('LDVERSION')}"]
    flags = ["-no-pie", "-fno-pie", f"-I{get_path('include')}", "-rdynamic"]
    try:
        subprocess.run(
            ["cc", *flags, str(source), "-o", str(program), *linked, "-lm", "-ldl"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler that links with Python's library")
    code = "from torchbp import allocator; print(repr(allocator.keep_freed_memory()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LD_LIBRARY_PATH": get_config_var("LIBDIR")}
    done = subprocess.run([program, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "freed memory is kept" in done.stdout


# --------------------------------------------------------------------------------------------------
# What it does


PROGRAM = """
import json, os, threading, torch
from resource import RUSAGE_SELF, getrusage
from torchbp import allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def faults(count=20):
    before = None
    for _ in range(1 + count):
        torch.empty(12 * 2**20).fill_(1)
        before = before or getrusage(RUSAGE_SELF).ru_minflt
    return (getrusage(RUSAGE_SELF).ru_minflt - before) / count

os.environ["TORCHBP_TEST"] = "changed"
found = {"environment": allocator._initial_environment()["TORCHBP_TEST"]}
found["kept at first"] = allocator.keeps_freed_memory()
found["faults before"] = faults()
start = resident()
allocator.keep_freed_memory()
found["cost of the call"] = resident() - start
found["faults"] = faults()
thread = threading.Thread(target=lambda: found.update({"faults in a thread": faults()}))
thread.start(), thread.join()
held = resident()
allocator.release_freed_memory()
found["given back"] = held - resident()
found["faults after"] = faults()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What a process finds that writes 48 MiB again and again: before, while, and after memory is kept."""
    return json.loads(run(PROGRAM, TORCHBP_TEST="at first"))


PAGES = 48 * MIB // 4096
# Huge pages that the machine gives unasked take a fault each.
HUGE_PAGES = 48 * MIB // (2 * MIB)


@here
def test_it_is_off_unless_asked_for(measured):
    assert measured["kept at first"] is False
    assert measured["faults before"] >= HUGE_PAGES


@here
def test_large_blocks_are_reused(measured):
    assert measured["faults"] <= HUGE_PAGES / 8  # the interpreter may touch a page of its own


@here
def test_blocks_of_another_threads_arena_are_reused_too(measured):
    assert measured["faults in a thread"] <= PAGES / 10


@here
def test_releasing_gives_the_memory_back(measured):
    assert measured["given back"] >= 47 * MIB
    assert measured["faults after"] >= HUGE_PAGES


@here
def test_the_call_itself_costs_no_resident_memory(measured):
    assert measured["cost of the call"] <= 4 * MIB


@here
def test_the_environment_is_the_one_the_process_started_with(measured):
    assert measured["environment"] == "at first"
