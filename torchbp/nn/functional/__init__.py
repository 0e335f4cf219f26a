"""torch.nn.functional's names, computed by torchbp's explicit backwards.

Signatures, values, gradients, result layouts and exception types are the built-in's. A name that torchbp has
no layer for is torch.nn.functional's own. Under autocast each function casts as the built-in does.
"""

from typing import Any as _Any

import torch.nn.functional as _builtin

from torchbp.nn.functional.activation import gelu, leaky_relu, relu, scaled_tanh, sigmoid, silu, softplus, tanh
from torchbp.nn.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from torchbp.nn.functional.dropout import dropout
from torchbp.nn.functional.embedding import embedding, embedding_bag
from torchbp.nn.functional.folding import fold, unfold
from torchbp.nn.functional.interpolation import interpolate, upsample, upsample_bilinear, upsample_nearest
from torchbp.nn.functional.linear import bilinear, linear
from torchbp.nn.functional.loss import cross_entropy, mse_loss, nll_loss
from torchbp.nn.functional.normalization import batch_norm, group_norm, layer_norm
from torchbp.nn.functional.padding import pad
from torchbp.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    fractional_max_pool2d,
    fractional_max_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from torchbp.nn.functional.sampling import affine_grid, grid_sample
from torchbp.nn.functional.shuffle import channel_shuffle, pixel_shuffle, pixel_unshuffle
from torchbp.nn.functional.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "affine_grid",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bilinear",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "embedding",
    "embedding_bag",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "gelu",
    "grid_sample",
    "group_norm",
    "interpolate",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mse_loss",
    "nll_loss",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
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
