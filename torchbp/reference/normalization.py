"""Batch normalization and its gradients, one channel at a time.

For each channel c, the values x[n] of all batch entries and positions are one list of length M; the formulas
are written for one such list.
"""

from __future__ import annotations

import math

import numpy as np

from ._arrays import Array, require_real, require_shape, result_dtype, widen, zeros


def _channels(input: Array) -> int:
    require_real("input", input)
    if np.ndim(input) < 2:
        raise RuntimeError(f"input must have a batch and a channel dimension, got shape {np.shape(input)}")
    return int(np.shape(input)[1])


def _check_training(input: Array, eps: float) -> None:
    if _channels(input) and np.size(input) == 0:
        raise ValueError(f"input must have at least 1 value per channel, got shape {np.shape(input)}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")


def _parameter(name: str, value: Array | None, channels: int, default: float) -> Array:
    if value is None:
        return np.full((channels,), default)
    require_real(name, value)
    require_shape(name, value, (channels,))
    return widen(value)


def batch_norm(input: Array, weight: Array | None, bias: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """Normalize every channel to mean 0 and variance 1 over the batch, then scale and shift it.

        mean = Σ_n x[n] / M
        var  = Σ_n (x[n] - mean)² / M
        y[n] = weight · (x[n] - mean) / √(var + eps) + bias

    Args:
        input: shape (N, C, *), real.
        weight: shape (C,), or None for 1.
        bias: shape (C,), or None for 0.
        eps: positive.

    Returns:
        The output, in the shape of the input, and the mean and the biased variance, of shape (C,). A channel
        of one value has variance 0; PyTorch's function refuses it in training.

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: a channel has no values, or `eps` is not positive.

    Source: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal
    covariate shift", 2015. Equals `torch.nn.functional.batch_norm` in training.
    """
    dtype = result_dtype(input, weight, bias)
    channels = _channels(input)
    _check_training(input, eps)
    input = widen(input)
    weight = _parameter("weight", weight, channels, 1.0)
    bias = _parameter("bias", bias, channels, 0.0)
    output = zeros(input.shape, dtype)
    means, variances = zeros((channels,), dtype), zeros((channels,), dtype)
    for c in range(channels):
        x = input[:, c]
        means[c] = np.sum(x) / x.size
        variances[c] = np.sum((x - means[c]) ** 2) / x.size
        output[:, c] = weight[c] * (x - means[c]) / math.sqrt(variances[c] + eps) + bias[c]
    return output.astype(dtype), means.astype(dtype), variances.astype(dtype)


def batch_norm_gradients(
    input: Array, weight: Array | None, grad_output: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `batch_norm` to its input, weight and bias.

    With x̂[n] = (x[n] - mean) / √(var + eps), the chain rule, one intermediate value at a time:

        gx̂[n]  = gy[n] · weight
        gvar   = Σ_n gx̂[n] · (x[n] - mean) · (-1/2) (var + eps)^(-3/2)
        gmean  = -Σ_n gx̂[n] / √(var + eps) - gvar · Σ_n 2 (x[n] - mean) / M
        gx[n]  = gx̂[n] / √(var + eps) + gvar · 2 (x[n] - mean) / M + gmean / M
        gweight = Σ_n gy[n] · x̂[n]
        gbias   = Σ_n gy[n]

    Args:
        input: shape (N, C, *), real.
        weight: shape (C,), or None for 1.
        grad_output: the shape of the input.
        eps: positive.

    Returns:
        The gradients of the input, the weight and the bias, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: a channel has no values, or `eps` is not positive.

    Source: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal
    covariate shift", 2015, section 3.
    """
    dtype = result_dtype(input, weight, grad_output)
    channels = _channels(input)
    _check_training(input, eps)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(input))
    input, grad_output = widen(input), widen(grad_output)
    weight = _parameter("weight", weight, channels, 1.0)
    grad_input = zeros(input.shape, dtype)
    grad_weight, grad_bias = zeros((channels,), dtype), zeros((channels,), dtype)
    for c in range(channels):
        x, gy = input[:, c], grad_output[:, c]
        centered = x - np.sum(x) / x.size
        scale = 1 / math.sqrt(np.sum(centered**2) / x.size + eps)
        grad_normalized = gy * weight[c]
        grad_variance = np.sum(grad_normalized * centered) * -0.5 * scale**3
        grad_mean = -np.sum(grad_normalized) * scale - grad_variance * np.sum(2 * centered) / x.size
        grad_input[:, c] = grad_normalized * scale + grad_variance * 2 * centered / x.size + grad_mean / x.size
        grad_weight[c] = np.sum(gy * centered * scale)
        grad_bias[c] = np.sum(gy)
    return grad_input.astype(dtype), grad_weight.astype(dtype), grad_bias.astype(dtype)


def batch_norm_inference(
    input: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> Array:
    """Normalize every channel with a mean and a variance given from outside, then scale and shift it.

        y[n] = weight · (x[n] - running_mean) / √(running_var + eps) + bias

    Args:
        input: shape (N, C, *), real.
        running_mean: shape (C,).
        running_var: shape (C,), with running_var + eps positive.
        weight: shape (C,), or None for 1.
        bias: shape (C,), or None for 0.
        eps: added to the variance.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: running_var + eps is not positive.

    Source: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal
    covariate shift", 2015. Equals `torch.nn.functional.batch_norm` outside training.
    """
    dtype = result_dtype(input, running_mean, running_var, weight, bias)
    channels = _channels(input)
    input = widen(input)
    mean = _parameter("running_mean", running_mean, channels, 0.0)
    var = _parameter("running_var", running_var, channels, 1.0)
    weight = _parameter("weight", weight, channels, 1.0)
    bias = _parameter("bias", bias, channels, 0.0)
    output = zeros(input.shape, dtype)
    for c in range(channels):
        if var[c] + eps <= 0:
            raise ValueError(f"running_var must be greater than -eps = {-eps}, got {var[c]} in channel {c}")
        output[:, c] = weight[c] * (input[:, c] - mean[c]) / math.sqrt(var[c] + eps) + bias[c]
    return output.astype(dtype)


def update_running(running: Array, batch: Array, momentum: float) -> Array:
    """Move a running statistic towards the one of the batch.

        new = (1 - momentum) · running + momentum · batch

    For the running variance, PyTorch passes the unbiased variance of the batch, M / (M - 1) times the biased
    one that `batch_norm` returns. Momentum here weighs the new value, unlike the momentum of an optimizer.

    Args:
        running: the statistic so far, usually of shape (C,).
        batch: the statistic of the batch, the same shape.
        momentum: the weight of the batch, 0 to 1.

    Returns:
        The new statistic; `running` is left as it is.

    Raises:
        RuntimeError: the shapes differ.

    Equals what `torch.nn.functional.batch_norm` does to `running_mean` and `running_var` in training.
    """
    dtype = result_dtype(running, batch)
    require_shape("batch", batch, np.shape(running))
    return np.asarray((1 - momentum) * widen(running) + momentum * widen(batch)).astype(dtype)
