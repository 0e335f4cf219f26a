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
    activation          functions of one number
    softmax             a layer whose outputs share one Jacobian
    normalization       a layer whose statistics depend on the input
    embedding           rows of a table, and their sums
    recurrent           a layer that reads its own output
    loss                where the gradient starts
    dropout             a layer with a random factor

Functions take and return NumPy arrays and change none of their arguments. Sums run in float64 (complex128)
and are rounded once to the dtype of the arguments; integers give float64. Shapes are written with N for the
batch, C or O for channels and * for any further dimensions; a gradient of complex values is PyTorch's, the
conjugate one.
"""

from .activation import (
    gelu,
    gelu_derivative,
    leaky_relu,
    leaky_relu_derivative,
    relu,
    relu_derivative,
    scaled_tanh,
    scaled_tanh_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    softplus,
    softplus_derivative,
    tanh,
    tanh_derivative,
)
from .adaptive_pooling import (
    adaptive_average_pool,
    adaptive_average_pool_adjoint,
    adaptive_max_pool,
    adaptive_max_pool_gather,
    adaptive_max_pool_indices,
    adaptive_max_pool_scatter,
)
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
from .dropout import dropout, dropout_gradient
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
from .loss import cross_entropy, cross_entropy_gradient, mse_loss, mse_loss_gradient, nll_loss, nll_loss_gradient
from .max_unpooling import max_unpool, max_unpool_adjoint
from .normalization import (
    batch_norm,
    batch_norm_gradients,
    batch_norm_inference,
    group_norm,
    group_norm_gradients,
    layer_norm,
    layer_norm_gradients,
    update_running,
)
from .padding import pad, pad_adjoint
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
    "adaptive_max_pool",
    "adaptive_max_pool_gather",
    "adaptive_max_pool_indices",
    "adaptive_max_pool_scatter",
    "affine_grid",
    "affine_grid_adjoint",
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
    "cross_entropy",
    "cross_entropy_gradient",
    "dropout",
    "dropout_gradient",
    "embedding",
    "embedding_adjoint",
    "embedding_bag",
    "embedding_bag_gradients",
    "fold",
    "fractional_max_pool",
    "fractional_max_pool_gather",
    "fractional_max_pool_indices",
    "fractional_max_pool_scatter",
    "gelu",
    "gelu_derivative",
    "grid_sample",
    "grid_sample_gradients",
    "group_norm",
    "group_norm_gradients",
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
    "log_softmax",
    "log_softmax_gradient",
    "lp_pool",
    "lp_pool_gradient",
    "lstm",
    "lstm_gradients",
    "max_pool",
    "max_pool_gather",
    "max_pool_indices",
    "max_pool_scatter",
    "max_unpool",
    "max_unpool_adjoint",
    "mse_loss",
    "mse_loss_gradient",
    "nll_loss",
    "nll_loss_gradient",
    "output_size",
    "pad",
    "pad_adjoint",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pooled_size",
    "relu",
    "relu_derivative",
    "rnn",
    "rnn_gradients",
    "scaled_tanh",
    "scaled_tanh_derivative",
    "sigmoid",
    "sigmoid_derivative",
    "silu",
    "silu_derivative",
    "softmax",
    "softmax_gradient",
    "softplus",
    "softplus_derivative",
    "tanh",
    "tanh_derivative",
    "transposed_convolution",
    "transposed_convolution_input",
    "transposed_convolution_weight",
    "transposed_output_size",
    "unfold",
    "update_running",
]
