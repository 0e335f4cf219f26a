"""The machine a result belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

import torchbp

_SYSTEM = Path("/sys/devices/system/cpu")


def facts() -> dict[str, str]:
    """Return processor, cores, caches, instruction set and versions, as text."""
    kernels = torchbp.kernels_status()
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "caches": _caches() or "unknown",
        "instruction set of PyTorch": torch.backends.cpu.get_cpu_capability(),
        "instruction set of torchbp": kernels["instruction_set"] if kernels["loaded"] else "kernels not loaded",
        "platform": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "torch": torch.__version__,
        "torchbp": torchbp.__version__,
        "python": platform.python_version(),
    }


def cores() -> int:
    """Return the number of cores this process may use, hardware threads of one core counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    siblings = {_read(_SYSTEM / f"cpu{index}/topology/thread_siblings_list") or str(index) for index in usable}
    return len(siblings)


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _caches() -> str:
    found = []
    for cache in sorted((_SYSTEM / "cpu0/cache").glob("index*")):
        level, kind, size = (_read(cache / name) for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size.removesuffix('K')} KiB")
    return ", ".join(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
