"""PyTorch layers whose backward pass is written out and proved right to any order.

- ``torchbp.nn``: torch.nn's names, each layer with an explicit backward;
- ``torchbp.convert``, ``torchbp.revert``: the layers of an existing model turned into these, and back;
- ``torchbp.cost``: multiply-adds, memory and time of a model, layer by layer;
- ``torchbp.autograd``: the two generic mechanisms, to make layers of your own;
- ``torchbp.testing``: the gradient proof;
- ``torchbp.ops``: the raw operators;
- ``torchbp.allocator``: memory that is kept instead of fetched anew;
- ``torchbp.explicit``: a block in which PyTorch's own functions are answered by torchbp's;
- ``torchbp.reference``: the same layers as loops in NumPy.
"""

from importlib.metadata import PackageNotFoundError, version

from torchbp import allocator, autograd, nn, ops
from torchbp._extension import kernels_loaded, kernels_status, require_kernels
from torchbp.conversion import ConversionReport, convert, revert
from torchbp.costs import CostReport, cost
from torchbp.interception import explicit

try:
    __version__ = version("torchbp")
except PackageNotFoundError:  # used from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "ConversionReport",
    "CostReport",
    "allocator",
    "autograd",
    "convert",
    "cost",
    "explicit",
    "kernels_loaded",
    "kernels_status",
    "nn",
    "ops",
    "require_kernels",
    "revert",
]
