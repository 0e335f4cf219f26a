"""The time a case needs at least: the bytes it must move, or its multiply-adds, at the measured peaks."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from torchbp.bench.peers import (
    BUILTIN,
    FORWARD,
    INPUT_GRADIENT,
    STEP,
    TORCHBP,
    WEIGHT_GRADIENT,
    Data,
    Side,
    figures_of,
)
from torchbp.bench.suite import Case
from torchbp.costs.timing import seconds
from torchbp.testing import saved_bytes

_COPIES = tuple(2**power for power in range(18, 29, 2))  # bytes read and written by a copy
_ROUNDS = 7
_PRODUCT_SIZE = 1536


@dataclass(frozen=True)
class Peaks:
    """What the machine does at best, with the threads of this process.

    Attributes:
        bandwidths: bytes a copy reads and writes, and the bytes per second of that copy, by size.
        multiply_adds: per second, of a large matrix product.
    """

    bandwidths: tuple[tuple[int, float], ...]
    multiply_adds: float

    def seconds(self, moved: int, multiply_adds: int) -> float:
        """Return the time that moving so many bytes, or so many multiply-adds, takes: the longer of the two."""
        return max(moved / self._bandwidth(moved), multiply_adds / self.multiply_adds)

    def _bandwidth(self, moved: int) -> float:
        """Bytes per second of a copy as large as this, between the sizes measured in proportion of their logarithms."""
        sizes = [size for size, _ in self.bandwidths]
        after = bisect_left(sizes, moved)
        if after in (0, len(sizes)):
            return self.bandwidths[min(after, len(sizes) - 1)][1]
        (low, slow), (high, fast) = self.bandwidths[after - 1], self.bandwidths[after]
        share = math.log(moved / low) / math.log(high / low)
        return math.exp((1 - share) * math.log(slow) + share * math.log(fast))


def measure_peaks(dtype: torch.dtype, copies: Sequence[int] = _COPIES, product_size: int = _PRODUCT_SIZE) -> Peaks:
    """Measure copies between tensors that exist already, and one matrix product; medians."""
    bandwidths = []
    for size in copies:
        source = torch.zeros(size // 2, dtype=torch.uint8)
        target = torch.zeros_like(source)
        bandwidths.append((size, size / _median_seconds(partial(target.copy_, source))))
    left = torch.rand(product_size, product_size).to(dtype)
    product = torch.empty_like(left)
    taken = _median_seconds(lambda: torch.mm(left, left, out=product))
    return Peaks(tuple(bandwidths), product_size**3 / taken)


def floors(case: Case, data: Data, peaks: Peaks) -> dict[str, float]:
    """Return the least seconds of every figure of ``case``.

    Bytes that must move: forward reads input and weights and writes the output; backward reads the arriving gradient
    and what was saved, at the least of torch.nn's and torchbp's, and writes the gradients. Input, gradient and what
    was saved are read ``case.passes`` times. A network counts the inputs and outputs of all its layers, and three
    times its weights for the optimiser. Multiply-adds: those of the forward pass, and as many for each gradient.
    """
    figures = figures_of(case, data)
    sides = [Side(case, peer, data) for peer in (BUILTIN, TORCHBP)]
    weights = sum(_bytes(parameter) for parameter in sides[0].parameters.values())

    def kept(figure: str) -> int:
        for side in sides:
            side.differentiate(figure)
        return min(saved_bytes(side.forward) for side in sides)

    if case.is_model:
        read, written = _layer_traffic(sides[0])
        forward = read + written + weights
        moved = {FORWARD: forward, STEP: forward + kept(STEP) + read + written + 3 * weights}
    else:
        read, written = _bytes(data.input), _bytes(data.grad_output)
        forward = case.passes * read + weights + written
        moved = {
            FORWARD: forward,
            INPUT_GRADIENT: case.passes * (written + kept(INPUT_GRADIENT)) + read,
            WEIGHT_GRADIENT: written + (kept(WEIGHT_GRADIENT) if WEIGHT_GRADIENT in figures else 0) + weights,
            STEP: forward + case.passes * (written + kept(STEP)) + read + weights,
        }
    gradients = 2 if weights else 1
    times = {FORWARD: 1, INPUT_GRADIENT: 1, WEIGHT_GRADIENT: 1, STEP: 1 + gradients}
    return {figure: peaks.seconds(moved[figure], times[figure] * data.multiply_adds) for figure in figures}


def _layer_traffic(side: Side) -> tuple[int, int]:
    """Bytes of the inputs and of the outputs of all layers without layers inside."""
    counted = [0, 0]

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        counted[0] += sum(map(_bytes, inputs))
        counted[1] += _bytes(output)

    leaves = [module for module in side.module.modules() if not list(module.children())]
    handles = [
        leaf.register_forward_hook(hook)
        for leaf in leaves
        if not isinstance(leaf, (torch.nn.Flatten, torch.nn.Identity))
    ]
    with torch.no_grad():
        side.forward()
    for handle in handles:
        handle.remove()
    return counted[0], counted[1]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _median_seconds(call: Callable[[], object]) -> float:
    call()
    return median(seconds(call) for _ in range(_ROUNDS))
