"""torch.nn's names: ``import torchbp.nn as nn`` serves a whole model.

The layers of :mod:`torchbp.nn.modules` are torchbp's; whatever has no backward of its own, or is not covered
yet, is torch.nn's (``explicit_layers()`` lists what is torchbp's).
"""

import torch.nn as _builtin
from torch.nn import *  # noqa: F403

# Loading a submodule binds its name here, over the one that the star brought from torch.nn.
import torchbp.nn.functional as functional  # isort: skip
import torchbp.nn.init as init  # isort: skip
import torchbp.nn.modules as modules  # isort: skip
from torchbp.nn.modules import *  # noqa: F403  # isort: skip


def explicit_layers() -> list[str]:
    """Return the names of the layers whose backward is torchbp's."""
    return list(modules.__all__)


def __getattr__(name: str):  # type: ignore[no-untyped-def]
    """Return torch.nn's attribute for a name that is not here (``Parameter``, ``utils``, ...)."""
    try:
        return getattr(_builtin, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
