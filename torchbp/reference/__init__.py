"""Backpropagation in plain loops: what every kernel of torchbp computes, written as its definition reads.

Read this room first. Each file holds one family of layers: the forward formula, the gradients that follow
from it, and a loop for each, in NumPy alone. Nothing is arranged for speed. The tests hold the fast kernels
against these loops, and these loops against PyTorch.

One idea carries every file. A layer is a sum of products, output[y] += input[x] · factor, and the chain rule
sends the gradient back along the same products: grad_input[x] += grad_output[y] · factor. A backward pass is
the forward loop with its assignment turned around. Layers that are not linear first take their derivative at
the input, and then do the same.

    linear              linear and bilinear maps: the plainest sums
    convolution         the same sum through a sliding window, and its transpose
    folding             the windows themselves, as columns
    pooling             maximum, mean and p-norm of a sliding window
    adaptive_pooling    maximum and mean of a given number of windows
    fractional_pooling  maximum of windows at random distances
    max_unpooling       a maximum put back where it came from
    padding             values around the input
    shuffle             values moved elsewhere
    interpolation       resizing: a matrix for each dimension
    sampling            an image read at positions that are inputs too
    activation          functions of one number, and gates
    softmax             a layer whose outputs share one Jacobian
    attention           softmax between two products
    normalization       a layer whose statistics depend on the input
    embedding           rows of a table, and their sums
    recurrent           a layer that reads its own output
    loss                where the gradient starts
    pointwise_loss      losses of every element: a table
    margin_loss         margins between scores of classes, distances, angles
    ctc_loss            the likelihood of all alignments of a labelling
    linear_cross_entropy  log-probabilities of many classes, in clusters
    distance            p-norms of the differences of rows, cosines
    dropout             a layer with a random factor

Functions take and return NumPy arrays and change none of their arguments. Sums run in float64 (complex128)
and are rounded once to the dtype of the arguments; integers give float64. Shapes are written with N for the
batch, C or O for channels and * for any further dimensions; a gradient of complex values is PyTorch's, the
conjugate one.
"""

from .activation import (
    elu,
    elu_derivative,
    gelu,
    gelu_derivative,
    glu,
    glu_gradient,
    hardshrink,
    hardsigmoid,
    hardsigmoid_derivative,
    hardswish,
    hardswish_derivative,
    hardtanh,
    hardtanh_derivative,
    leaky_relu,
    leaky_relu_derivative,
    logsigmoid,
    logsigmoid_derivative,
    mish,
    mish_derivative,
    prelu,
    prelu_gradient,
    relu,
    relu_derivative,
    scaled_tanh,
    scaled_tanh_derivative,
    shrink_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    softplus,
    softplus_derivative,
    softshrink,
    softsign,
    softsign_derivative,
    tanh,
    tanh_derivative,
    tanhshrink,
    tanhshrink_derivative,
    threshold,
    threshold_derivative,
)
from .adaptive_pooling import (
    adaptive_average_pool,
    adaptive_average_pool_adjoint,
    adaptive_max_pool,
    adaptive_max_pool_gather,
    adaptive_max_pool_indices,
    adaptive_max_pool_scatter,
)
from .attention import attention, attention_gradients
from .convolution import (
    convolution,
    convolution_bias,
    convolution_input,
    convolution_weight,
    output_size,
    transposed_convolution,
    transposed_convolution_input,
    transposed_convolution_weight,
    transposed_output_size,
)
from .ctc_loss import ctc_loss, ctc_loss_gradient
from .distance import (
    cosine_similarity,
    cosine_similarity_gradients,
    distance,
    distance_gradients,
    pair_distances,
    pair_distances_gradients,
)
from .dropout import (
    alpha_dropout,
    alpha_dropout_gradient,
    dropout,
    dropout_gradient,
    feature_dropout,
)
from .embedding import embedding, embedding_adjoint, embedding_bag, embedding_bag_gradients
from .folding import fold, unfold
from .fractional_pooling import (
    fractional_max_pool,
    fractional_max_pool_gather,
    fractional_max_pool_indices,
    fractional_max_pool_scatter,
)
from .interpolation import interpolate, interpolate_adjoint
from .linear import bilinear, bilinear_gradients, linear, linear_bias, linear_input, linear_weight
from .linear_cross_entropy import adaptive_log_softmax, adaptive_log_softmax_gradients
from .loss import cross_entropy, cross_entropy_gradient, mse_loss, mse_loss_gradient, nll_loss, nll_loss_gradient
from .margin_loss import (
    cosine_embedding_loss,
    cosine_embedding_loss_gradients,
    margin_loss,
    margin_loss_gradient,
    triplet_margin_loss,
    triplet_margin_loss_gradients,
)
from .max_unpooling import max_unpool, max_unpool_adjoint
from .normalization import (
    batch_norm,
    batch_norm_gradients,
    batch_norm_inference,
    group_norm,
    group_norm_gradients,
    instance_norm,
    instance_norm_gradients,
    layer_norm,
    layer_norm_gradients,
    local_response_norm,
    local_response_norm_gradient,
    normalize,
    normalize_gradient,
    rms_norm,
    rms_norm_gradients,
    update_running,
)
from .padding import pad, pad_adjoint
from .pointwise_loss import (
    gaussian_nll_loss,
    gaussian_nll_loss_gradients,
    margin_ranking_loss,
    margin_ranking_loss_gradients,
    multilabel_soft_margin_loss,
    multilabel_soft_margin_loss_gradient,
    pointwise_loss,
    pointwise_loss_gradient,
)
from .pooling import (
    average_pool,
    average_pool_adjoint,
    lp_pool,
    lp_pool_gradient,
    max_pool,
    max_pool_gather,
    max_pool_indices,
    max_pool_scatter,
    pooled_size,
)
from .recurrent import gru, gru_gradients, lstm, lstm_gradients, rnn, rnn_gradients
from .sampling import affine_grid, affine_grid_adjoint, grid_sample, grid_sample_gradients
from .shuffle import channel_shuffle, pixel_shuffle, pixel_unshuffle
from .softmax import log_softmax, log_softmax_gradient, softmax, softmax_gradient

__all__ = [
    "adaptive_average_pool",
    "adaptive_average_pool_adjoint",
    "adaptive_log_softmax",
    "adaptive_log_softmax_gradients",
    "adaptive_max_pool",
    "adaptive_max_pool_gather",
    "adaptive_max_pool_indices",
    "adaptive_max_pool_scatter",
    "affine_grid",
    "affine_grid_adjoint",
    "alpha_dropout",
    "alpha_dropout_gradient",
    "attention",
    "attention_gradients",
    "average_pool",
    "average_pool_adjoint",
    "batch_norm",
    "batch_norm_gradients",
    "batch_norm_inference",
    "bilinear",
    "bilinear_gradients",
    "channel_shuffle",
    "convolution",
    "convolution_bias",
    "convolution_input",
    "convolution_weight",
    "cosine_embedding_loss",
    "cosine_embedding_loss_gradients",
    "cosine_similarity",
    "cosine_similarity_gradients",
    "cross_entropy",
    "cross_entropy_gradient",
    "ctc_loss",
    "ctc_loss_gradient",
    "distance",
    "distance_gradients",
    "dropout",
    "dropout_gradient",
    "elu",
    "elu_derivative",
    "feature_dropout",
    "embedding",
    "embedding_adjoint",
    "embedding_bag",
    "embedding_bag_gradients",
    "fold",
    "fractional_max_pool",
    "fractional_max_pool_gather",
    "fractional_max_pool_indices",
    "fractional_max_pool_scatter",
    "gaussian_nll_loss",
    "gaussian_nll_loss_gradients",
    "gelu",
    "gelu_derivative",
    "glu",
    "glu_gradient",
    "grid_sample",
    "grid_sample_gradients",
    "group_norm",
    "group_norm_gradients",
    "instance_norm",
    "instance_norm_gradients",
    "hardshrink",
    "hardsigmoid",
    "hardsigmoid_derivative",
    "hardswish",
    "hardswish_derivative",
    "hardtanh",
    "hardtanh_derivative",
    "gru",
    "gru_gradients",
    "interpolate",
    "interpolate_adjoint",
    "layer_norm",
    "layer_norm_gradients",
    "leaky_relu",
    "leaky_relu_derivative",
    "linear",
    "linear_bias",
    "linear_input",
    "linear_weight",
    "local_response_norm",
    "local_response_norm_gradient",
    "log_softmax",
    "log_softmax_gradient",
    "logsigmoid",
    "logsigmoid_derivative",
    "lp_pool",
    "lp_pool_gradient",
    "margin_loss",
    "margin_loss_gradient",
    "lstm",
    "lstm_gradients",
    "margin_ranking_loss",
    "margin_ranking_loss_gradients",
    "max_pool",
    "max_pool_gather",
    "max_pool_indices",
    "max_pool_scatter",
    "max_unpool",
    "max_unpool_adjoint",
    "mish",
    "mish_derivative",
    "mse_loss",
    "mse_loss_gradient",
    "multilabel_soft_margin_loss",
    "multilabel_soft_margin_loss_gradient",
    "nll_loss",
    "nll_loss_gradient",
    "normalize",
    "normalize_gradient",
    "output_size",
    "pad",
    "pad_adjoint",
    "pair_distances",
    "pair_distances_gradients",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pointwise_loss",
    "pointwise_loss_gradient",
    "pooled_size",
    "prelu",
    "prelu_gradient",
    "relu",
    "relu_derivative",
    "rms_norm",
    "rms_norm_gradients",
    "rnn",
    "rnn_gradients",
    "scaled_tanh",
    "scaled_tanh_derivative",
    "shrink_derivative",
    "sigmoid",
    "sigmoid_derivative",
    "silu",
    "silu_derivative",
    "softmax",
    "softmax_gradient",
    "softplus",
    "softplus_derivative",
    "softshrink",
    "softsign",
    "softsign_derivative",
    "tanh",
    "tanh_derivative",
    "tanhshrink",
    "tanhshrink_derivative",
    "threshold",
    "threshold_derivative",
    "transposed_convolution",
    "transposed_convolution_input",
    "transposed_convolution_weight",
    "transposed_output_size",
    "triplet_margin_loss",
    "triplet_margin_loss_gradients",
    "unfold",
    "update_running",
]
