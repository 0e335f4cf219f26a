"""torch.nn.functional's names, computed by torchbp's explicit backwards.

Signatures, values, gradients, result layouts and exception types are the built-in's. A name that torchbp has
no layer for is torch.nn.functional's own. Under autocast each function casts as the built-in does.
"""

from typing import Any as _Any

import torch.nn.functional as _builtin

from torchbp.nn.functional.activation import gelu, leaky_relu, relu, scaled_tanh, sigmoid, silu, softplus, tanh
from torchbp.nn.functional.convolution import conv2d
from torchbp.nn.functional.dropout import dropout
from torchbp.nn.functional.folding import fold, unfold
from torchbp.nn.functional.interpolation import interpolate, upsample, upsample_bilinear, upsample_nearest
from torchbp.nn.functional.linear import bilinear, linear
from torchbp.nn.functional.loss import cross_entropy, mse_loss, nll_loss
from torchbp.nn.functional.normalization import batch_norm
from torchbp.nn.functional.padding import pad
from torchbp.nn.functional.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from torchbp.nn.functional.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "bilinear",
    "conv2d",
    "cross_entropy",
    "dropout",
    "fold",
    "gelu",
    "interpolate",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "pad",
    "relu",
    "scaled_tanh",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]


def __getattr__(name: str) -> _Any:
    """Return torch.nn.functional's function for a name that is not here."""
    try:
        return getattr(_builtin, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
