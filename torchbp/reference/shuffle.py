"""Layers that move values and compute nothing: the gradient moves back.

Each is a permutation, so its adjoint is its inverse: `pixel_unshuffle` for `pixel_shuffle` and the other way
round, and `channel_shuffle` with C / groups groups for `channel_shuffle` with `groups`.
"""

from __future__ import annotations

import numpy as np

from ._arrays import Array, result_dtype, split_shape, widen, zeros


def pixel_shuffle(input: Array, upscale_factor: int) -> Array:
    """Turn r² channels into r × r pixels, r being `upscale_factor`.

        y[c, h · r + i, w · r + j] = x[c · r² + i · r + j, h, w]    for 0 <= i, j < r

    Args:
        input: shape (*, C · r², H, W).
        upscale_factor: r, at least 1.

    Returns:
        Shape (*, C, H · r, W · r).

    Raises:
        RuntimeError: the factor is out of range, or r² does not divide the number of channels.

    Its gradient is `pixel_unshuffle`.

    Source: Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", 2016. Equals `torch.nn.functional.pixel_shuffle`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, (channels, height, width) = split_shape("input", input, 3)
    r = upscale_factor
    if r < 1:
        raise RuntimeError(f"upscale_factor must be at least 1, got {r}")
    if channels % r**2:
        raise RuntimeError(f"upscale_factor must have a square that divides the {channels} channels, got {r}")
    output = zeros((*leading, channels // r**2, height * r, width * r), dtype)
    for c, h, w, i, j in np.ndindex(channels // r**2, height, width, r, r):
        output[..., c, h * r + i, w * r + j] = input[..., c * r**2 + i * r + j, h, w]
    return output.astype(dtype)


def pixel_unshuffle(input: Array, downscale_factor: int) -> Array:
    """Turn r × r pixels into r² channels, r being `downscale_factor`.

        y[c · r² + i · r + j, h, w] = x[c, h · r + i, w · r + j]    for 0 <= i, j < r

    Args:
        input: shape (*, C, H · r, W · r).
        downscale_factor: r, at least 1.

    Returns:
        Shape (*, C · r², H, W).

    Raises:
        RuntimeError: the factor is out of range, or does not divide height and width.

    Its gradient is `pixel_shuffle`.

    Equals `torch.nn.functional.pixel_unshuffle`, which however leaves an empty input in its shape.
    """
    dtype = result_dtype(input)
    input = widen(input)
    leading, (channels, height, width) = split_shape("input", input, 3)
    r = downscale_factor
    if r < 1:
        raise RuntimeError(f"downscale_factor must be at least 1, got {r}")
    if height % r or width % r:
        raise RuntimeError(f"downscale_factor must divide height {height} and width {width}, got {r}")
    output = zeros((*leading, channels * r**2, height // r, width // r), dtype)
    for c, h, w, i, j in np.ndindex(channels, height // r, width // r, r, r):
        output[..., c * r**2 + i * r + j, h, w] = input[..., c, h * r + i, w * r + j]
    return output.astype(dtype)


def channel_shuffle(input: Array, groups: int) -> Array:
    """Deal the channels of all groups in turn, so that the groups of the next convolution mix them.

        y[n, k · groups + g] = x[n, g · C / groups + k]    for 0 <= g < groups

    Args:
        input: shape (N, C, *), with at least one further dimension.
        groups: at least 1.

    Returns:
        The shape of the input.

    Raises:
        RuntimeError: the input has fewer than 3 dimensions, or `groups` does not divide its channels.

    Its gradient is `channel_shuffle` with C / groups groups, which is its inverse.

    Source: Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile devices",
    2018. Equals `torch.nn.functional.channel_shuffle`.
    """
    dtype = result_dtype(input)
    input = widen(input)
    if input.ndim < 3:
        raise RuntimeError(f"input must have at least 3 dimensions, got shape {input.shape}")
    channels = input.shape[1]
    if groups < 1:
        raise RuntimeError(f"groups must be at least 1, got {groups}")
    if channels % groups:
        raise RuntimeError(f"groups must divide the {channels} channels, got {groups}")
    output = zeros(input.shape, dtype)
    for g, k in np.ndindex(groups, channels // groups):
        output[:, k * groups + g] = input[:, g * (channels // groups) + k]
    return output.astype(dtype)
