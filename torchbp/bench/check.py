"""Whether a peer's result is right: its distance from the built-in's result in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchbp.bench.peers import BUILTIN, Data, Side
from torchbp.bench.suite import Case
from torchbp.testing.measure import relative_difference

Values = dict[str, Tensor]

_ROUNDINGS = 32  # units in the last place of the largest value, whatever the length of the sums
_ROUNDINGS_PER_TERM = 8  # times the square root of the length
_NETWORK_ROUNDINGS = 2**15  # a rounding can turn a ReLU, and that a gradient


def expected(case: Case, data: Data) -> Values:
    """Return what the built-in computes in float64 from the numbers of ``data``."""
    return Side(case, BUILTIN, data.double()).values()


def errors(case: Case, data: Data, values: Values, exact: Values) -> dict[str, float]:
    """Return the largest error of every tensor of ``values``, relative to its largest expected value.

    The mask of dropout is random, so that it is read off the output: the rest has to be what that mask makes of the
    input and of the gradient, and the share it keeps has to be plausible.
    """
    if case.layer == "Dropout":
        exact = _dropout_values(case, data, values["output"])
    return {name: relative_difference(values[name], tensor) for name, tensor in exact.items()}


def tolerances(case: Case, data: Data, exact: Values) -> dict[str, float]:
    """Return the largest errors that rounding explains: they grow as the root of the length of the sums."""
    eps = torch.finfo(data.input.dtype).eps
    if case.is_model:
        return dict.fromkeys(exact, min(_NETWORK_ROUNDINGS * eps, 0.25))
    work = max(data.multiply_adds, data.input.numel())
    return {
        name: eps * (_ROUNDINGS + _ROUNDINGS_PER_TERM * math.sqrt(work / max(tensor.numel(), 1)))
        for name, tensor in exact.items()
    }


def _dropout_values(case: Case, data: Data, output: Tensor) -> Values:
    kept = output != 0
    probability = getattr(case.build(torch.nn), "p")  # noqa: B009
    deviation = math.sqrt(probability * (1 - probability) / output.numel())
    if abs(kept.double().mean().item() - (1 - probability)) > 6 * deviation:
        kept = torch.full_like(kept, True)
    scale = kept.double() / (1 - probability)
    return {"output": data.input.double() * scale, "input gradient": data.grad_output.double() * scale}
