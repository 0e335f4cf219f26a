"""Normalization and its gradients, one list of numbers at a time.

For each channel c, the values x[n] of all batch entries and positions are one list of length M, for group and layer
normalization those of a group or a sample; the formulas are written for one such list.
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
    covariate shift", 2015. Equals `torch.nn.functional.batch_norm` in training. Synchronised over processes it is
    that of their batches joined, each of which gets its part.
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


def group_norm(
    input: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalize every group of channels of every sample to mean 0 and variance 1, then scale and shift the channels.

        mean = Σ_i x[i] / M
        var  = Σ_i (x[i] - mean)² / M
        y[i] = weight · (x[i] - mean) / √(var + eps) + bias

    over the M values x[i] of C / num_groups neighbouring channels, at all positions, of one sample.

    Args:
        input: shape (N, C, *), real.
        num_groups: positive, a divisor of C.
        weight: shape (C,), or None for 1.
        bias: shape (C,), or None for 0.
        eps: positive.

    Returns:
        The output, in the shape of the input, and the mean and the biased variance, of shape (N, num_groups).

    Raises:
        RuntimeError: the shapes do not fit together, or `num_groups` does not divide C.
        TypeError: an array is complex.
        ValueError: a group has no values, or `eps` is not positive.

    Source: Wu and He, "Group normalization", 2018. Equals `torch.nn.functional.group_norm`.
    """
    dtype = result_dtype(input, weight, bias)
    groups = _groups(input, num_groups, eps)
    input = widen(input)
    channels, size = input.shape[1], input.shape[1] // num_groups
    weight = _parameter("weight", weight, channels, 1.0)
    bias = _parameter("bias", bias, channels, 0.0)
    output = zeros(input.shape, dtype)
    means, variances = zeros((input.shape[0], num_groups), dtype), zeros((input.shape[0], num_groups), dtype)
    for n, k in groups:
        x = input[n, k * size : (k + 1) * size]
        means[n, k] = np.sum(x) / x.size
        variances[n, k] = np.sum((x - means[n, k]) ** 2) / x.size
        for c in range(size):
            normal = (x[c] - means[n, k]) / math.sqrt(variances[n, k] + eps)
            output[n, k * size + c] = weight[k * size + c] * normal + bias[k * size + c]
    return output.astype(dtype), means.astype(dtype), variances.astype(dtype)


def group_norm_gradients(
    input: Array, num_groups: int, weight: Array | None, grad_output: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `group_norm` to its input, weight and bias.

    For each list, the formulas of `batch_norm_gradients`, with the weight of each value's own channel; gweight and
    gbias are sums over the samples and positions of a channel.

    Args:
        input: shape (N, C, *), real.
        num_groups: positive, a divisor of C.
        weight: shape (C,), or None for 1.
        grad_output: the shape of the input.
        eps: positive.

    Returns:
        The gradients of the input, the weight and the bias, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together, or `num_groups` does not divide C.
        TypeError: an array is complex.
        ValueError: a group has no values, or `eps` is not positive.

    Source: Wu and He, "Group normalization", 2018.
    """
    dtype = result_dtype(input, weight, grad_output)
    groups = _groups(input, num_groups, eps)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(input))
    input, grad_output = widen(input), widen(grad_output)
    channels, size = input.shape[1], input.shape[1] // num_groups
    weight = _parameter("weight", weight, channels, 1.0)
    grad_input = zeros(input.shape, dtype)
    grad_weight, grad_bias = zeros((channels,), dtype), zeros((channels,), dtype)
    for n, k in groups:
        own = slice(k * size, (k + 1) * size)
        x = input[n, own]
        centered = x - np.sum(x) / x.size
        scale = 1 / math.sqrt(np.sum(centered**2) / x.size + eps)
        grad_normalized = zeros(x.shape, dtype)
        for c in range(size):
            gy = grad_output[n, k * size + c]
            grad_normalized[c] = gy * weight[k * size + c]
            grad_weight[k * size + c] += np.sum(gy * centered[c] * scale)
            grad_bias[k * size + c] += np.sum(gy)
        grad_variance = np.sum(grad_normalized * centered) * -0.5 * scale**3
        grad_mean = -np.sum(grad_normalized) * scale - grad_variance * np.sum(2 * centered) / x.size
        grad_input[n, own] = grad_normalized * scale + grad_variance * 2 * centered / x.size + grad_mean / x.size
    return grad_input.astype(dtype), grad_weight.astype(dtype), grad_bias.astype(dtype)


def _groups(input: Array, num_groups: int, eps: float) -> list[tuple[int, int]]:
    """Return every sample with every group."""
    channels = _channels(input)
    if num_groups < 1 or channels % num_groups:
        raise RuntimeError(f"num_groups must be positive and divide {channels} channels, got {num_groups}")
    _check_training(input, eps)
    return [(n, k) for n in range(np.shape(input)[0]) for k in range(num_groups)]


def layer_norm(
    input: Array, normalized_shape: tuple[int, ...], weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalize the last dimensions of every sample to mean 0 and variance 1, then scale and shift each place.

        mean = Σ_i x[i] / M
        var  = Σ_i (x[i] - mean)² / M
        y[i] = weight[i] · (x[i] - mean) / √(var + eps) + bias[i]

    It is group normalization in one group, where every place of a sample is a channel of one position.

    Args:
        input: shape (*, *normalized_shape), real.
        normalized_shape: the last sizes of the input, at least one.
        weight: shape normalized_shape, or None for 1.
        bias: shape normalized_shape, or None for 0.
        eps: positive.

    Returns:
        The output, in the shape of the input, and the mean and the biased variance, of shape (*).

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: a sample has no values, or `eps` is not positive.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016. Equals `torch.nn.functional.layer_norm`.
    """
    rows, leading = _rows(input, normalized_shape)
    y, mean, variance = group_norm(
        rows, 1, _flat("weight", weight, normalized_shape), _flat("bias", bias, normalized_shape), eps
    )
    return y.reshape(np.shape(input)), mean.reshape(leading), variance.reshape(leading)


def layer_norm_gradients(
    input: Array, normalized_shape: tuple[int, ...], weight: Array | None, grad_output: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `layer_norm` to its input, weight and bias.

    The formulas of `group_norm_gradients` for one group, where every place of a sample is a channel.

    Args:
        input: shape (*, *normalized_shape), real.
        normalized_shape: the last sizes of the input, at least one.
        weight: shape normalized_shape, or None for 1.
        grad_output: the shape of the input.
        eps: positive.

    Returns:
        The gradients of the input, the weight and the bias, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: a sample has no values, or `eps` is not positive.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """
    rows, _ = _rows(input, normalized_shape)
    require_shape("grad_output", grad_output, np.shape(input))
    gx, gw, gb = group_norm_gradients(
        rows, 1, _flat("weight", weight, normalized_shape), np.reshape(grad_output, np.shape(rows)), eps
    )
    return gx.reshape(np.shape(input)), gw.reshape(normalized_shape), gb.reshape(normalized_shape)


def instance_norm(input: Array, weight: Array | None, bias: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """Normalize every channel of every sample to mean 0 and variance 1, then scale and shift it.

    It is group normalization in as many groups as channels.

    Args:
        input: shape (N, C, *), real.
        weight: shape (C,), or None for 1.
        bias: shape (C,), or None for 0.
        eps: positive.

    Returns:
        The output, in the shape of the input, and the mean and the biased variance, of shape (N, C).

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.
        ValueError: a channel has no values, or `eps` is not positive.

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance normalization", 2016. Equals `torch.nn.functional.instance_norm`.
    """
    return group_norm(input, max(1, _channels(input)), weight, bias, eps)


def instance_norm_gradients(
    input: Array, weight: Array | None, grad_output: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Carry a gradient from the output of `instance_norm` to its input, weight and bias.

    The formulas of `group_norm_gradients` for groups of one channel.

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

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance normalization", 2016.
    """
    return group_norm_gradients(input, max(1, _channels(input)), weight, grad_output, eps)


def rms_norm(input: Array, normalized_shape: tuple[int, ...], weight: Array | None, eps: float) -> tuple[Array, Array]:
    """Divide the last dimensions of every sample by their root mean square, then scale each place.

        q    = Σ_i x[i]² / M
        y[i] = weight[i] · x[i] / √(q + eps)

    Args:
        input: shape (*, *normalized_shape), real.
        normalized_shape: the last sizes of the input, at least one.
        weight: shape normalized_shape, or None for 1.
        eps: added to the mean square.

    Returns:
        The output, in the shape of the input, and the mean square, of shape (*).

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.

    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019. Equals `torch.nn.functional.rms_norm`.
    """
    rows, leading = _rows(input, normalized_shape)
    dtype = result_dtype(input, weight)
    scale = _parameter("weight", _flat("weight", weight, normalized_shape), rows.shape[1], 1.0)
    output, squares = zeros(rows.shape, dtype), zeros(rows.shape[:1], dtype)
    for n, x in enumerate(widen(rows)):
        squares[n] = np.sum(x**2) / max(1, x.size)
        output[n] = scale * x / math.sqrt(squares[n] + eps)
    return output.reshape(np.shape(input)).astype(dtype), squares.reshape(leading).astype(dtype)


def rms_norm_gradients(
    input: Array, normalized_shape: tuple[int, ...], weight: Array | None, grad_output: Array, eps: float
) -> tuple[Array, Array]:
    """Carry a gradient from the output of `rms_norm` to its input and weight.

    With r = 1 / √(q + eps), the chain rule, one intermediate value at a time:

        gr         = Σ_i gy[i] · weight[i] · x[i]
        gq         = gr · (-1/2) r³
        gx[i]      = gy[i] · weight[i] · r + gq · 2 x[i] / M
        gweight[i] = Σ_samples gy[i] · x[i] · r

    Args:
        input: shape (*, *normalized_shape), real.
        normalized_shape: the last sizes of the input, at least one.
        weight: shape normalized_shape, or None for 1.
        grad_output: the shape of the input.
        eps: added to the mean square.

    Returns:
        The gradients of the input and the weight, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together.
        TypeError: an array is complex.

    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """
    rows, _ = _rows(input, normalized_shape)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(input))
    dtype = result_dtype(input, weight, grad_output)
    scale = _parameter("weight", _flat("weight", weight, normalized_shape), rows.shape[1], 1.0)
    grad_input, grad_weight = zeros(rows.shape, dtype), zeros(rows.shape[1:], dtype)
    for n, (x, gy) in enumerate(zip(widen(rows), widen(np.reshape(grad_output, rows.shape)), strict=True)):
        r = 1 / math.sqrt(np.sum(x**2) / max(1, x.size) + eps)
        grad_square = np.sum(gy * scale * x) * -0.5 * r**3
        grad_input[n] = gy * scale * r + grad_square * 2 * x / max(1, x.size)
        grad_weight += gy * x * r
    return grad_input.reshape(np.shape(input)).astype(dtype), grad_weight.reshape(normalized_shape).astype(dtype)


def local_response_norm(input: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Divide every channel by a power of the squares of its neighbours.

        s[c] = k + alpha / size · Σ_j x[j]²    over the channels c - size//2 <= j <= c + (size - 1)//2
        y[c] = x[c] · s[c]^(-beta)

    Args:
        input: shape (N, C, *), real.
        size: how many channels the sum runs over; those that do not exist count as 0.
        alpha: what the sum is multiplied by.
        beta: the power.
        k: what is added.

    Returns:
        The output, in the shape of the input.

    Raises:
        RuntimeError: the input has no channels, or `size` is not positive.
        TypeError: an array is complex.

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 3.3. Equals `torch.nn.functional.local_response_norm`. For an odd `size` CrossMapLRN2d of Torch 7 is the
    same; for an even one its sum runs over the `size` - 1 channels around c.
    """
    dtype, x = result_dtype(input), widen(input)
    output = zeros(x.shape, dtype)
    for c, neighbours in enumerate(_neighbours(input, size)):
        output[:, c] = x[:, c] * _response(x, neighbours, size, alpha, k) ** -beta
    return output.astype(dtype)


def local_response_norm_gradient(
    input: Array, grad_output: Array, size: int, alpha: float, beta: float, k: float
) -> Array:
    """Carry a gradient from the output of `local_response_norm` to its input.

    y[c] depends on x[c], and through s[c] on every x[j] of its window:

        gs[c] = gy[c] · x[c] · (-beta) s[c]^(-beta - 1)
        gx[c] = gy[c] · s[c]^(-beta),  and for every j of its window  gx[j] += gs[c] · 2 alpha / size · x[j]

    Args:
        input: shape (N, C, *), real.
        grad_output: the shape of the input.
        size: as in `local_response_norm`.
        alpha: as in `local_response_norm`.
        beta: as in `local_response_norm`.
        k: as in `local_response_norm`.

    Returns:
        The gradient, in the shape of the input.

    Raises:
        RuntimeError: the shapes do not fit together, or `size` is not positive.
        TypeError: an array is complex.

    Source: as `local_response_norm`.
    """
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(input))
    dtype, x, gy = result_dtype(input, grad_output), widen(input), widen(grad_output)
    grad_input = zeros(x.shape, dtype)
    for c, neighbours in enumerate(_neighbours(input, size)):
        s = _response(x, neighbours, size, alpha, k)
        grad_s = gy[:, c] * x[:, c] * -beta * s ** (-beta - 1)
        grad_input[:, c] += gy[:, c] * s**-beta
        for j in neighbours:
            grad_input[:, j] += grad_s * 2 * alpha / size * x[:, j]
    return grad_input.astype(dtype)


def _neighbours(input: Array, size: int) -> list[range]:
    """Return the channels of each channel's window."""
    channels = _channels(input)
    if size < 1:
        raise RuntimeError(f"size must be positive, got {size}")
    return [range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1)) for c in range(channels)]


def _response(x: Array, neighbours: range, size: int, alpha: float, k: float) -> Array:
    total = np.zeros(x[:, 0].shape)
    for j in neighbours:
        total = total + x[:, j] ** 2
    return k + alpha / size * total


def normalize(input: Array, p: float, dim: int, eps: float) -> Array:
    """Divide every list of numbers along a dimension by its p-norm.

        n    = (Σ_i |x[i]|^p)^(1/p)
        y[i] = x[i] / max(n, eps)

    Args:
        input: any shape of at least one dimension, real.
        p: 1 or more.
        dim: the dimension along which the lists run.
        eps: the smallest divisor.

    Returns:
        The output, in the shape of the input.

    Raises:
        ValueError: `p` is less than 1, or not finite.
        TypeError: an array is complex.

    Equals `torch.nn.functional.normalize`.
    """
    _check_norm(input, p)
    dtype = result_dtype(input)

    def one(x: Array) -> Array:
        return x / max(np.sum(np.abs(x) ** p) ** (1 / p), eps)

    return np.asarray(np.apply_along_axis(one, dim, widen(input))).astype(dtype)


def normalize_gradient(input: Array, grad_output: Array, p: float, dim: int, eps: float) -> Array:
    """Carry a gradient from the output of `normalize` to its input.

    Where n >= eps, dn / dx[i] = sign(x[i]) (|x[i]| / n)^(p - 1), so

        gn    = -Σ_i gy[i] · x[i] / n²
        gx[i] = gy[i] / n + gn · sign(x[i]) (|x[i]| / n)^(p - 1)

    Elsewhere the divisor is eps, a constant. A list of zeros whose norm is not below eps has no gradient through n.

    Args:
        input: as in `normalize`.
        grad_output: the shape of the input.
        p: as in `normalize`.
        dim: as in `normalize`.
        eps: as in `normalize`, positive.

    Returns:
        The gradient, in the shape of the input.

    Raises:
        RuntimeError: the shapes do not fit together.
        ValueError: `p` is less than 1, or not finite.
        TypeError: an array is complex.
    """
    _check_norm(input, p)
    require_real("grad_output", grad_output)
    require_shape("grad_output", grad_output, np.shape(input))
    dtype = result_dtype(input, grad_output)
    lists, gradients = (np.moveaxis(widen(a), dim, -1) for a in (input, grad_output))
    grad_input = zeros(lists.shape, dtype)
    for place in np.ndindex(*lists.shape[:-1]):
        x, gy = lists[place], gradients[place]
        n = np.sum(np.abs(x) ** p) ** (1 / p)
        grad_input[place] = gy / max(n, eps)
        if n >= eps and n > 0:
            grad_input[place] += -np.sum(gy * x) / n**2 * np.sign(x) * (np.abs(x) / n) ** (p - 1)
    return np.moveaxis(grad_input, -1, dim).astype(dtype)


def _check_norm(input: Array, p: float) -> None:
    require_real("input", input)
    if not 1 <= p < math.inf:
        raise ValueError(f"p must be a number from 1 on, got {p}")


def _rows(input: Array, normalized_shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Return the input with one row per sample, and the sizes of the samples."""
    require_real("input", input)
    dims, shape = len(normalized_shape), np.shape(input)
    if dims == 0 or dims > len(shape) or shape[-dims:] != tuple(normalized_shape):
        raise RuntimeError(
            f"normalized_shape must be the last sizes of an input of shape {shape}, got {normalized_shape}"
        )
    return np.reshape(input, (math.prod(shape[:-dims]), math.prod(normalized_shape))), shape[:-dims]


def _flat(name: str, parameter: Array | None, normalized_shape: tuple[int, ...]) -> Array | None:
    if parameter is None:
        return None
    require_shape(name, parameter, tuple(normalized_shape))
    return np.reshape(parameter, -1)
