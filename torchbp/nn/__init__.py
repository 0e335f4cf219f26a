"""torch.nn's names: ``import torchbp.nn as nn`` serves a whole model.

The layers of :mod:`torchbp.nn.modules` are torchbp's; whatever has no backward of its own, or is not covered
yet, is torch.nn's (``explicit_layers()`` lists what is torchbp's).
"""

import importlib as _importlib
from typing import Any as _Any

import torch.nn as _builtin
from torch.nn import *  # noqa: F403

# The star brought torch.nn's functional, init and modules; loading ours binds the names to them.
for _name in ("functional", "init", "modules"):
    _importlib.import_module(f"{__name__}.{_name}")

from torchbp.nn.modules import *  # noqa: E402, F403


def explicit_layers() -> list[str]:
    """Return the names of the layers whose backward is torchbp's."""
    from torchbp.nn.modules import __all__ as names

    return list(names)


def __getattr__(name: str) -> _Any:
    """Return torch.nn's attribute for a name that is not here (``Parameter``, ``utils``, ...)."""
    try:
        return getattr(_builtin, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
