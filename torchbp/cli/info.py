"""``torchbp info``: versions, threads, and whether the C++ kernels run."""

from __future__ import annotations

import os
import platform
from typing import Any

import torchbp


def version() -> str:
    """The version of torchbp that is imported."""
    return str(torchbp.__version__)


def collect() -> dict[str, Any]:
    """What ``torchbp info --json`` prints; ``kernels`` is :func:`torchbp.kernels_status`."""
    import numpy
    import torch

    return {
        "versions": {
            "torchbp": version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "kernels": torchbp.kernels_status(),
    }


def run(*, as_json: bool) -> None:
    """Print what :func:`collect` finds."""
    from torchbp.cli.output import console, write_json

    facts = collect()
    if as_json:
        write_json(facts, None)
        return
    kernels = facts["kernels"]
    lines = {
        **facts["versions"],
        "platform": facts["platform"],
        "threads": f"{facts['threads']} on {facts['processors']} processors",
        "kernels": "loaded" if kernels["loaded"] else f"not loaded: {kernels['reason']}",
        "instruction set": kernels["instruction_set"],
        "instruction sets built": ", ".join(kernels["instruction_sets_built"]),
        "built for torch": kernels["built_for_torch"],
        "compiler": kernels["compiler"],
        "OpenMP": "yes" if kernels["openmp"] else "no",
        "fast matrix products": "yes" if kernels["fast_products"] else "no",
    }
    target = console()
    for name, value in lines.items():
        target.print(f"{name:24}{value or '-'}", markup=False, soft_wrap=True)
    if not kernels["loaded"]:
        target.print("Without its kernels torchbp computes the same with PyTorch's operators, more slowly.")
