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
from torchbp.nn.functional.ctc_loss import ctc_loss
from torchbp.nn.functional.distance import cdist, cosine_similarity, pairwise_distance, pdist
from torchbp.nn.functional.dropout import dropout
from torchbp.nn.functional.folding import fold, unfold
from torchbp.nn.functional.interpolation import interpolate, upsample, upsample_bilinear, upsample_nearest
from torchbp.nn.functional.linear import bilinear, linear
from torchbp.nn.functional.linear_cross_entropy import linear_cross_entropy
from torchbp.nn.functional.loss import cross_entropy, nll_loss
from torchbp.nn.functional.margin_loss import (
    cosine_embedding_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from torchbp.nn.functional.normalization import batch_norm, group_norm, layer_norm
from torchbp.nn.functional.padding import pad
from torchbp.nn.functional.pointwise_loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    multilabel_soft_margin_loss,
    poisson_nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
)
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
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cdist",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "gaussian_nll_loss",
    "gelu",
    "grid_sample",
    "group_norm",
    "hinge_embedding_loss",
    "huber_loss",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "pad",
    "pairwise_distance",
    "pdist",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "relu",
    "scaled_tanh",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softplus",
    "tanh",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
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
