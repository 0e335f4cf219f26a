"""Padding in any number of dimensions, by a constant or by what the input holds.

In every dimension each output position either copies one input position or holds the constant. `_sources` lists
which; forward and backward pass walk the same list:

    output[y] = input[x]
    grad_input[x] += grad_output[y]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ._arrays import Array, result_dtype, widen, zeros

_MODES = ("constant", "reflect", "replicate", "circular")


def _source(position: int, size: int, before: int, after: int, mode: str) -> int | None:
    """Return the input position that one output position copies, None for the constant."""
    source = position - before
    if mode == "replicate":
        return min(max(source, 0), size - 1)
    if mode == "reflect":
        # Mirrors at both ends; the end itself is not repeated.
        source = abs(source)
        return min(source, 2 * (size - 1) - source)
    if mode == "circular":
        # What a negative padding cuts off is gone before the rest repeats.
        start, stop = max(-before, 0), size - max(-after, 0)
        return start + (position - max(before, 0)) % (stop - start)
    return source if 0 <= source < size else None


def _check_dimension(size: int, before: int, after: int, mode: str, padding: tuple[int, ...]) -> None:
    """Raise RuntimeError unless a dimension of `size` values can be padded."""
    kept = size + min(before, 0) + min(after, 0)
    if mode in ("constant", "circular") and kept < 0:
        raise RuntimeError(f"padding must not cut off more than there is, got {padding} for a size of {size}")
    if mode == "circular" and max(before, after) > kept:
        raise RuntimeError(f"padding must not wrap around more than once, got {padding} for a size of {size}")
    if mode == "reflect" and max(before, after) >= size:
        raise RuntimeError(f"padding must be smaller than the dimension to reflect, got {padding} for a size of {size}")
    if mode in ("reflect", "replicate") and (size < 1 or size + before + after < 1):
        raise RuntimeError(f"padding must leave something of the dimension, got {padding} for a size of {size}")


def _pairs(ndim: int, padding: tuple[int, ...], mode: str) -> list[tuple[int, int]]:
    """Return (before, after) for every dimension, first dimension first."""
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
    if len(padding) % 2 or len(padding) > 2 * ndim:
        raise RuntimeError(f"padding must have two entries for each of up to {ndim} dimensions, got {padding}")
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    return [(0, 0)] * (ndim - len(pairs)) + pairs


def _sources(
    input_size: tuple[int, ...], pairs: list[tuple[int, int]], mode: str
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield `(y, x)` for every output position that copies an input position."""
    copies = [
        [(y, x) for y in range(n + before + after) if (x := _source(y, n, before, after, mode)) is not None]
        if before or after
        else [(y, y) for y in range(n)]
        for n, (before, after) in zip(input_size, pairs, strict=True)
    ]
    for combination in itertools.product(*copies):
        yield tuple(y for y, _ in combination), tuple(x for _, x in combination)


def pad(input: Array, padding: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Array:
    """Put values before and after the input in every dimension; a negative number of them cuts off.

    What stands at output position i of a dimension of n values, with p values before it:

        constant     x[i - p], or `value` outside the input
        replicate    x[i - p], or the nearest end
        reflect      x[i - p], mirrored at the ends without repeating them: ... x[2] x[1] x[0] x[1] x[2] ...
        circular     x[(i - p) mod n], once what a negative padding cuts off is gone

    Args:
        input: any shape.
        padding: two entries (before, after) for each dimension to pad, the last dimension first.
        mode: "constant", "reflect", "replicate" or "circular". PyTorch takes the last three for the last one,
            two or three dimensions of inputs with one or two more; here they work everywhere.
        value: the constant.

    Returns:
        The shape of the input, each padded dimension longer by the sum of its two entries.

    Raises:
        RuntimeError: the entries of `padding` do not fit the shape: more is cut off than there is, the
            reflected part is not smaller than the dimension, or the repeated part is longer than what is kept.
        ValueError: the mode does not exist.

    Equals `torch.nn.functional.pad`. Where "circular" would repeat what is cut off entirely, and so is refused here,
    PyTorch returns memory that it has not written.
    """
    dtype = result_dtype(input)
    input = widen(input)
    pairs = _pairs(input.ndim, padding, mode)
    for n, (before, after) in zip(input.shape, pairs, strict=True):
        if before or after:
            _check_dimension(n, before, after, mode, padding)
    output = zeros(tuple(n + before + after for n, (before, after) in zip(input.shape, pairs, strict=True)), dtype)
    output[...] = value
    for y, x in _sources(input.shape, pairs, mode):
        output[y] = input[x]
    return output.astype(dtype)


def pad_adjoint(grad_output: Array, padding: tuple[int, ...], mode: str = "constant") -> Array:
    """Carry a gradient from the output of `pad` to its input.

    Every output position hands its gradient back to the input position that it copied:

        gx[m] = Σ gy[i]    over all output positions i that hold x[m]

    What was cut off gets exactly zero, and the gradient at the constant is lost. The shape of the input follows
    from that of the output.

    Args:
        grad_output: any shape.
        padding: as in `pad`.
        mode: as in `pad`.

    Returns:
        The shape of the output, each padded dimension shorter by the sum of its two entries.

    Raises:
        RuntimeError: no input has an output of this shape.
        ValueError: the mode does not exist.

    Equals the gradient of `torch.nn.functional.pad`.
    """
    dtype = result_dtype(grad_output)
    grad_output = widen(grad_output)
    pairs = _pairs(grad_output.ndim, padding, mode)
    shape = tuple(n - before - after for n, (before, after) in zip(grad_output.shape, pairs, strict=True))
    if any(n < 0 for n in shape):
        raise RuntimeError(f"grad_output must be at least as long as padding {padding}, got shape {grad_output.shape}")
    for n, (before, after) in zip(shape, pairs, strict=True):
        if before or after:
            _check_dimension(n, before, after, mode, padding)
    grad_input = zeros(shape, dtype)
    for y, x in _sources(shape, pairs, mode):
        grad_input[x] += grad_output[y]
    return grad_input.astype(dtype)
