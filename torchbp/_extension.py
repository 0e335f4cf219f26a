"""Loads the compiled extension ``torchbp._C``, or says why it is not there."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

import torch

_REBUILD = "Rebuild it with: pip install --no-build-isolation --force-reinstall --no-deps torchbp"


def _same_torch(built_for: str, running: str) -> bool:
    """Tell whether two versions agree up to their local part (``2.13.0+cpu``)."""
    return built_for.split("+")[0] == running.split("+")[0]


def _load() -> tuple[Any, str]:
    """Return the extension and an empty string, or None and the reason why there is none."""
    if os.environ.get("TORCHBP_KERNELS", "1") == "0":
        return None, "switched off by TORCHBP_KERNELS=0"
    if importlib.util.find_spec("torchbp._C") is None:
        reason = "torchbp was installed without its compiled extension"
        warnings.warn(
            f"{reason}: every layer works through composite formulas, more slowly. "
            "Install with a C++ compiler and without TORCHBP_BUILD_EXTENSION=0 to have the kernels.",
            stacklevel=2,
        )
        return None, reason
    try:
        from torchbp import _C  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, OSError) as error:
        raise ImportError(
            f"torchbp's compiled extension does not load with the running torch {torch.__version__} ({error}). "
            f"It was probably built for another version. {_REBUILD}"
        ) from error
    if not _same_torch(_C.torch_version, torch.__version__):
        raise ImportError(
            f"torchbp's compiled extension was built for torch {_C.torch_version}, but torch "
            f"{torch.__version__} is running. {_REBUILD}"
        )
    return _C, ""


extension, _reason = _load()


def kernels_loaded() -> bool:
    """Return whether the compiled kernels are in use (otherwise the composite formulas are)."""
    return extension is not None


def kernels_status() -> dict[str, Any]:
    """Return facts about the compiled kernels.

    Returns:
        A dict with ``loaded`` (bool), ``reason`` (why not, or ``""``), ``instruction_set`` (the one in
        use), ``instruction_sets_built`` (list), ``built_for_torch``, ``compiler``, ``openmp``
        (whether the kernels run on several threads) and ``fast_products`` (whether PyTorch's matrix products run at
        full speed on this processor, which decides who computes some 1×1 convolutions).
    """
    loaded = extension is not None
    return {
        "loaded": loaded,
        "reason": _reason,
        "instruction_set": extension.instruction_set() if loaded else "",
        "instruction_sets_built": extension.instruction_sets_built() if loaded else [],
        "built_for_torch": extension.torch_version if loaded else "",
        "compiler": extension.compiler if loaded else "",
        "openmp": bool(extension.openmp) if loaded else False,
        "fast_products": extension.products_run_at_full_speed() if loaded else False,
    }


def require_kernels() -> None:
    """Do nothing if the compiled kernels are loaded.

    Raises:
        RuntimeError: if they are not; the message says why.
    """
    if extension is None:
        raise RuntimeError(f"torchbp's compiled kernels are not loaded: {_reason}")
