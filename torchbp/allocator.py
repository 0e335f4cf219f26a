"""Memory that stays: the C library's freed blocks, and the workspaces of the kernels.

glibc maps every large block anew and gives it back when it is freed, so a network's every step pays for fresh
pages: the kernel zeroes them and the processor faults on each. :func:`keep_freed_memory` makes glibc hold on to what
was freed, for the whole process, PyTorch's own layers included. It is off unless asked for; docs/allocator.md
says what it gains and what it costs.

The kernels of torchbp keep one workspace per thread between calls; :func:`workspace_bytes` counts them and
:func:`release_workspaces` frees them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torchbp._extension import extension

__all__ = [
    "KeptMemory",
    "keep_freed_memory",
    "keeps_freed_memory",
    "release_freed_memory",
    "release_workspaces",
    "unavailable",
    "workspace_bytes",
]

# malloc.h, sys/mman.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 14, 15
_INT_MAX = 2**31 - 1
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}
_TUNABLES = {"mmap_max": _M_MMAP_MAX, "mmap_threshold": _M_MMAP_THRESHOLD, "trim_threshold": _M_TRIM_THRESHOLD}
_FIXED_DEFAULTS = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 128 << 10, _M_TRIM_THRESHOLD: 128 << 10}
# By default glibc raises both thresholds while a program runs, up to these; that cannot be switched on again.
_GROWN_DEFAULTS = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20}
_HUGE_PAGE_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class KeptMemory:
    """What :func:`keep_freed_memory` returns: true where freed memory is kept, and a context manager.

    Attributes:
        reason: why nothing can be kept on this platform, or ``""``.
    """

    def __init__(self, reason: str, huge_pages: bool, turned_on: bool) -> None:
        """Made by :func:`keep_freed_memory` only."""
        self.reason = reason
        self._huge_pages = huge_pages
        self._turned_on = turned_on

    def __bool__(self) -> bool:
        """Whether freed memory could be kept."""
        return not self.reason

    def __repr__(self) -> str:
        """Say whether freed memory is kept, or why not."""
        return f"<freed memory is {f'not kept: {self.reason}' if self.reason else 'kept'}>"

    def __enter__(self) -> KeptMemory:
        """Keep freed memory for the block."""
        with _state.lock:
            _state.blocks += 1
            # The block holds the memory from here on, in place of the call that opened it.
            _state.called = _state.called and not self._turned_on
            self._turned_on = False
            if not _state.on:
                self.reason = _state.keep(self._huge_pages)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo it, unless another block or an earlier call still asks for it."""
        with _state.lock:
            _state.blocks -= 1
            if not _state.blocks and not _state.called:
                _state.release()


def keep_freed_memory(*, huge_pages: bool = True) -> KeptMemory:
    """Make the C library keep freed memory for the next allocation, in the whole process.

    Sets glibc's ``M_MMAP_MAX`` to 0, so that no block is mapped by itself, and ``M_TRIM_THRESHOLD`` to its maximum,
    so that none is given back to the system. Where transparent huge pages are to be had for the asking
    (``/sys/kernel/mm/transparent_hugepage/enabled`` says ``madvise``), the heap asks for them, over as many addresses
    as a quarter of the machine's memory; addresses cost nothing until they are used.

    The gain is that of page faults that no longer happen, in every layer of every library. The price is resident
    memory: the process stays as large as it ever was, and may grow larger, because the free space between blocks
    cannot always be used. docs/allocator.md has both, measured on whole models.

    A thread other than the main one has an arena of glibc's of its own, which keeps blocks of up to 64 MiB only; a
    program that trains in such a thread starts with ``MALLOC_ARENA_MAX=1`` in its environment, which cannot be set
    and undone at run time.

    The call may be repeated and may come from any thread. :func:`release_freed_memory` undoes it. As a context
    manager it lasts as long as the block, or the longest of several blocks, unless freed memory was kept before::

        with torchbp.allocator.keep_freed_memory():
            train(network)

    Args:
        huge_pages: whether to ask for transparent huge pages.

    Returns:
        An object that is true if freed memory is kept now. It is false, and ``reason`` says why, where nothing can
        be done: the C library is not glibc (musl, macOS, Windows), or another allocator is in its place (jemalloc,
        tcmalloc, a sanitizer). Nothing is raised and nothing warned of.
    """
    with _state.lock:
        reason = _state.keep(huge_pages)
        turned_on = not reason and not _state.called
        _state.called = not reason
    return KeptMemory(reason, huge_pages, turned_on)


def keeps_freed_memory() -> bool:
    """Return whether :func:`keep_freed_memory` is in force."""
    return _state.on


def unavailable() -> str:
    """Return why :func:`keep_freed_memory` can do nothing on this platform, or an empty string where it can."""
    return _glibc()[1]


def release_freed_memory() -> None:
    """Give the C library's freed memory back to the system, and undo :func:`keep_freed_memory`.

    The settings return to what the environment asked for when the process started (``GLIBC_TUNABLES``,
    ``MALLOC_MMAP_MAX_``, ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_``), else to glibc's defaults. By default
    glibc raises its two thresholds as a program frees larger blocks, up to 32 and 64 MiB; once set they are fixed, so
    they are left at these ends. Without a preceding :func:`keep_freed_memory` no setting is touched.
    Where that function can do nothing, neither does this one.
    """
    with _state.lock:
        _state.called = False
        _state.release()


def release_workspaces() -> None:
    """Free the workspaces that torchbp's kernels keep between calls, those of all threads.

    May be called at any time: a workspace that a kernel of another thread is using is freed when that kernel is done
    with it. Without the compiled extension there are none.
    """
    if extension is not None:
        extension.release_workspaces()


def workspace_bytes() -> int:
    """Return how many bytes torchbp's kernels keep in workspaces, over all threads; 0 without the extension."""
    return int(extension.workspace_bytes()) if extension is not None else 0


class _State:
    """The process's one allocator: whether it keeps freed memory, and for whom. Callers hold ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.on = False
        self.called = False  # kept by a call that nothing has undone
        self.blocks = 0  # open `with` blocks
        self.advised = False

    def keep(self, huge_pages: bool) -> str:
        """Switch on; return why that is impossible, or an empty string."""
        libc, reason = _glibc()
        if libc is None:
            return reason
        for parameter, value in _KEEP.items():
            if not libc.mallopt(parameter, value):
                _set(libc, _original_settings(_initial_environment()))
                return f"glibc's mallopt refused parameter {parameter}"
        self.on = True
        if huge_pages and _heap_may_ask_for_huge_pages(_initial_environment()):
            _extend_heap(libc)
            _advise_heap(libc, _MADV_HUGEPAGE)
            self.advised = True
        return ""

    def release(self) -> None:
        """Switch off, where it was on, and give back what is free."""
        libc, _ = _glibc()
        if libc is None:
            return
        if self.on:
            _set(libc, _original_settings(_initial_environment()))
            self.on = False
        libc.malloc_trim(0)
        if self.advised:
            # Else the kernel's background thread could fill the holes with huge pages again.
            _advise_heap(libc, _MADV_NOHUGEPAGE)
            self.advised = False


_state = _State()


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _glibc() -> tuple[Any, str]:
    """Return the C library if it is glibc and its malloc is the process's, else None and what is there instead."""
    try:
        process = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None, "the C library is not glibc"
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "mallopt"):
        return None, "the C library is not glibc"
    bases = []
    for name in ("gnu_get_libc_version", "malloc", "mallopt"):
        info = _SymbolInfo()
        if not process.dladdr(getattr(process, name), ctypes.byref(info)):
            return None, "the allocator in use is not known"
        bases.append(info.base)
        if info.base == bases[0]:
            continue
        file = os.fsdecode(info.file or b"")
        # A program that is loaded at a fixed address has stubs, which stand for the functions of libraries.
        if ".so" in file or not _takes_from_glibc(process):
            return None, f"another allocator is in place of glibc's: {file}"
    process.malloc.restype, process.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    process.free.restype, process.free.argtypes = None, [ctypes.c_void_p]
    process.malloc_trim.argtypes = [ctypes.c_size_t]
    process.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return process, ""


class _Usage(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ) + (("keepcost", ctypes.c_size_t),)


def _takes_from_glibc(process: Any) -> bool:
    """Tell whether the process's malloc takes its memory from glibc's, by what glibc says it has given out."""
    libc = ctypes.CDLL("libc.so.6")
    if not hasattr(libc, "mallinfo2"):  # before glibc 2.33
        return False
    libc.mallinfo2.restype = _Usage
    process.malloc.restype, process.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    process.free.restype, process.free.argtypes = None, [ctypes.c_void_p]
    size = 1 << 30  # more than other threads give back meanwhile; never touched, so of addresses only

    def given_out() -> int:
        usage = libc.mallinfo2()
        return int(usage.hblkhd + usage.uordblks)

    before = given_out()
    block = process.malloc(size)
    after = given_out()
    process.free(block)
    return block is not None and after - before >= size // 2


def _set(libc: Any, settings: Mapping[int, int]) -> None:
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)


def _initial_environment() -> dict[str, str]:
    """The environment as glibc read it when the process started."""
    with contextlib.suppress(OSError):
        entries = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return dict(os.environ)


def _tunables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment sets of ``glibc.malloc``; ``GLIBC_TUNABLES`` goes before ``MALLOC_..._``."""
    found = {
        name[len("MALLOC_") : -1].lower(): value
        for name, value in environment.items()
        if re.fullmatch(r"MALLOC_[A-Z_]+_", name)
    }
    for entry in environment.get("GLIBC_TUNABLES", "").split(":"):
        name, _, value = entry.partition("=")
        if name.startswith("glibc.malloc."):
            found[name.removeprefix("glibc.malloc.")] = value
    return found


def _original_settings(environment: Mapping[str, str]) -> dict[int, int]:
    """The settings that the environment asked for, else glibc's defaults."""
    tunables = _tunables(environment)
    given = {}
    for name, parameter in _TUNABLES.items():
        if (value := _number(tunables.get(name, ""))) is not None:
            given[parameter] = value
    # Whoever sets one of them fixes the others too.
    fixed = given or _number(tunables.get("top_pad", "")) is not None
    return {**(_FIXED_DEFAULTS if fixed else _GROWN_DEFAULTS), **given}


def _number(text: str) -> int | None:
    """The number that glibc reads, hexadecimal and octal included, as the int that mallopt takes."""
    if not (match := re.fullmatch(r"(-?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))", text)):
        return None
    minus, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal or "0", 8) if decimal is None else int(decimal)
    return -1 if minus else min(value, _INT_MAX)  # -1 is the largest threshold there is


def _heap_may_ask_for_huge_pages(environment: Mapping[str, str]) -> bool:
    """Whether the heap has huge pages if it asks, and only then; not where glibc asks, or fills what it allocates."""
    tunables = _tunables(environment)
    try:
        return "[madvise]" in _HUGE_PAGE_SETTING.read_text() and not {"hugetlb", "perturb"} & tunables.keys()
    except OSError:
        return False


def _extend_heap(libc: Any) -> None:
    """Let the heap grow, in addresses only, by a quarter of the machine's memory."""
    libc.free(libc.malloc(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4))


def _advise_heap(libc: Any, advice: int) -> None:
    """Give ``madvise`` an ``advice`` on the heap of the main thread."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith("[heap]"):
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                libc.madvise(start, end - start, advice)
