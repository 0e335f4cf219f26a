"""Linear and bilinear maps, and the sums that carry a gradient back through them.

Letters: i and j count input features, o counts output features, n counts the rows, that is every leading
index.
"""

from __future__ import annotations

import numpy as np

from ._arrays import Array, require_shape, result_dtype, widen, zeros


def _check_features(name: str, array: Array, features: int) -> None:
    if np.ndim(array) == 0 or np.shape(array)[-1] != features:
        raise RuntimeError(f"{name} must have {features} features in its last dimension, got {np.shape(array)}")


def _check_weight(weight: Array, dims: int) -> None:
    if np.ndim(weight) != dims:
        raise RuntimeError(f"weight must have {dims} dimensions, got shape {np.shape(weight)}")


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Map every row of the input to `weight · row + bias`.

        y[n, o] = Σ_i x[n, i] · w[o, i] + b[o]

    Args:
        input: shape (*, in_features), with any leading dimensions.
        weight: shape (out_features, in_features).
        bias: shape (out_features,), or None for no bias.

    Returns:
        Shape (*, out_features).

    Raises:
        RuntimeError: the shapes do not fit together.

    Equals `torch.nn.functional.linear`.
    """
    dtype = result_dtype(input, weight, bias)
    _check_weight(weight, 2)
    input, weight = widen(input), widen(weight)
    out_features, in_features = weight.shape
    _check_features("input", input, in_features)
    output = zeros((*input.shape[:-1], out_features), dtype)
    for n in np.ndindex(*input.shape[:-1]):
        for o in range(out_features):
            output[n + (o,)] = np.sum(input[n] * weight[o])
    if bias is not None:
        require_shape("bias", bias, (out_features,))
        output = output + widen(bias)
    return output.astype(dtype)


def linear_input(grad_output: Array, weight: Array) -> Array:
    """Carry a gradient from the output of `linear` to its input.

    x[n, i] enters y[n, o] with the factor w[o, i], so by the chain rule

        gx[n, i] = Σ_o gy[n, o] · w[o, i]

    (the conjugate of w, if complex: PyTorch's gradient is the adjoint map).

    Args:
        grad_output: shape (*, out_features).
        weight: shape (out_features, in_features).

    Returns:
        Shape (*, in_features).

    Raises:
        RuntimeError: the shapes do not fit together.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
    """
    dtype = result_dtype(grad_output, weight)
    _check_weight(weight, 2)
    grad_output, weight = widen(grad_output), widen(weight)
    out_features, in_features = weight.shape
    _check_features("grad_output", grad_output, out_features)
    grad_input = zeros((*grad_output.shape[:-1], in_features), dtype)
    for n in np.ndindex(*grad_output.shape[:-1]):
        for o in range(out_features):
            grad_input[n] += grad_output[n + (o,)] * np.conj(weight[o])
    return grad_input.astype(dtype)


def linear_weight(input: Array, grad_output: Array) -> Array:
    """Carry a gradient from the output of `linear` to its weight.

    w[o, i] enters y[n, o] with the factor x[n, i], in every row n, so by the chain rule

        gw[o, i] = Σ_n gy[n, o] · x[n, i]

    (the conjugate of x, if complex).

    Args:
        input: shape (*, in_features).
        grad_output: shape (*, out_features), with the same leading dimensions.

    Returns:
        Shape (out_features, in_features).

    Raises:
        RuntimeError: the leading dimensions differ.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
    """
    dtype = result_dtype(input, grad_output)
    input, grad_output = widen(input), widen(grad_output)
    _check_rows(input, grad_output)
    grad_weight = zeros((grad_output.shape[-1], input.shape[-1]), dtype)
    for n in np.ndindex(*input.shape[:-1]):
        for o in range(grad_output.shape[-1]):
            grad_weight[o] += grad_output[n + (o,)] * np.conj(input[n])
    return grad_weight.astype(dtype)


def linear_bias(grad_output: Array) -> Array:
    """Carry a gradient from the output of `linear` to its bias.

    b[o] is added to y[n, o] in every row n, so

        gb[o] = Σ_n gy[n, o]

    Args:
        grad_output: shape (*, out_features).

    Returns:
        Shape (out_features,).

    Raises:
        RuntimeError: `grad_output` has no dimension.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    if grad_output.ndim == 0:
        raise RuntimeError(f"grad_output must have at least 1 dimension, got shape {grad_output.shape}")
    grad_bias = zeros((grad_output.shape[-1],), dtype)
    for n in np.ndindex(*grad_output.shape[:-1]):
        grad_bias += grad_output[n]
    return grad_bias.astype(dtype)


def _check_rows(input: Array, grad_output: Array) -> None:
    if input.ndim == 0 or grad_output.ndim == 0 or grad_output.shape[:-1] != input.shape[:-1]:
        raise RuntimeError(
            f"grad_output must have the leading dimensions of the input, {input.shape[:-1]}, "
            f"got shape {grad_output.shape}"
        )


def _check_bilinear(input1: Array, input2: Array, weight: Array) -> None:
    _check_weight(weight, 3)
    _check_features("input1", input1, np.shape(weight)[1])
    _check_features("input2", input2, np.shape(weight)[2])
    if np.shape(input1)[:-1] != np.shape(input2)[:-1]:
        raise RuntimeError(
            f"input2 must have the leading dimensions of input1, {np.shape(input1)[:-1]}, got shape {np.shape(input2)}"
        )


def bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None = None) -> Array:
    """Map every pair of rows to one bilinear form for each output feature.

        y[n, o] = Σ_i Σ_j x1[n, i] · w[o, i, j] · x2[n, j] + b[o]

    Args:
        input1: shape (*, in1_features), with any leading dimensions.
        input2: shape (*, in2_features), with the same leading dimensions.
        weight: shape (out_features, in1_features, in2_features).
        bias: shape (out_features,), or None for no bias.

    Returns:
        Shape (*, out_features).

    Raises:
        RuntimeError: the shapes do not fit together.

    Equals `torch.nn.functional.bilinear`.
    """
    dtype = result_dtype(input1, input2, weight, bias)
    _check_bilinear(input1, input2, weight)
    input1, input2, weight = widen(input1), widen(input2), widen(weight)
    out_features, in1_features, in2_features = weight.shape
    output = zeros((*input1.shape[:-1], out_features), dtype)
    for n in np.ndindex(*input1.shape[:-1]):
        for o, i, j in np.ndindex(out_features, in1_features, in2_features):
            output[n + (o,)] += input1[n + (i,)] * weight[o, i, j] * input2[n + (j,)]
    if bias is not None:
        require_shape("bias", bias, (out_features,))
        output = output + widen(bias)
    return output.astype(dtype)


def bilinear_gradients(
    input1: Array, input2: Array, weight: Array, grad_output: Array
) -> tuple[Array, Array, Array, Array]:
    """Carry a gradient from the output of `bilinear` to both inputs, the weight and the bias.

    Every summand of y[n, o] is a product of three factors, and each receives gy[n, o] times the other two:

        gx1[n, i]   = Σ_o Σ_j gy[n, o] · w[o, i, j] · x2[n, j]
        gx2[n, j]   = Σ_o Σ_i gy[n, o] · w[o, i, j] · x1[n, i]
        gw[o, i, j] = Σ_n gy[n, o] · x1[n, i] · x2[n, j]
        gb[o]       = Σ_n gy[n, o]

    (the conjugates of the other two, if complex).

    Args:
        input1: shape (*, in1_features).
        input2: shape (*, in2_features).
        weight: shape (out_features, in1_features, in2_features).
        grad_output: shape (*, out_features).

    Returns:
        The gradients of `input1`, `input2`, `weight` and the bias, in their shapes.

    Raises:
        RuntimeError: the shapes do not fit together.

    Equals the gradients of `torch.nn.functional.bilinear`.
    """
    dtype = result_dtype(input1, input2, weight, grad_output)
    _check_bilinear(input1, input2, weight)
    input1, input2, weight, grad_output = widen(input1), widen(input2), widen(weight), widen(grad_output)
    require_shape("grad_output", grad_output, (*input1.shape[:-1], weight.shape[0]))
    grad_input1 = zeros(input1.shape, dtype)
    grad_input2 = zeros(input2.shape, dtype)
    grad_weight = zeros(weight.shape, dtype)
    for n in np.ndindex(*input1.shape[:-1]):
        for o, i, j in np.ndindex(*weight.shape):
            x1, x2, w, gy = input1[n + (i,)], input2[n + (j,)], weight[o, i, j], grad_output[n + (o,)]
            grad_input1[n + (i,)] += gy * np.conj(w * x2)
            grad_input2[n + (j,)] += gy * np.conj(w * x1)
            grad_weight[o, i, j] += gy * np.conj(x1 * x2)
    return (
        grad_input1.astype(dtype),
        grad_input2.astype(dtype),
        grad_weight.astype(dtype),
        linear_bias(grad_output).astype(dtype),
    )
