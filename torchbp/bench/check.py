"""Whether a peer's result is right: its distance from the built-in's result in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import Module

from torchbp.autograd.dropout import SATURATION
from torchbp.bench.peers import BUILTIN, TORCHBP, Data, Peer, Side
from torchbp.bench.suite import Case
from torchbp.testing.measure import relative_difference

Values = dict[str, Tensor]
Errors = dict[str, float]
_Affine = tuple[Tensor, Tensor]

_ROUNDINGS = 32  # units in the last place of the largest value, whatever the length of the sums
_ROUNDINGS_PER_TERM = 8  # times the square root of the length
_GROWN_ROUNDINGS = 2**15
_GROWN_SLACK = 4
_BUILTIN_SLACK = 64  # an inaccurate peer is still a peer, and its error is reported; a wrong one is not


class Standard:
    """What is right for a case: what the built-in computes in float64 from the same numbers."""

    def __init__(self, case: Case, data: Data) -> None:
        """Run the built-in in float64."""
        self.case, self.data = case, data
        self.expected = Side(case, BUILTIN, data.double()).values()

    def errors(self, values: Values) -> Errors:
        """Return the largest error of every tensor of ``values``, relative to its largest expected value.

        What dropout and RReLU draw is read off the gradient of the input: that has to be what such draws make of the
        gradient, the output what they make of the input, and the draws have to be plausible.
        """
        expected = self._drawn(values["input gradient"]) if self.case.layer in _DRAWN else self.expected
        return {name: relative_difference(values[name], tensor) for name, tensor in expected.items()}

    def fault(self, peer: Peer, errors: Errors, others: Mapping[str, Errors]) -> str:
        """Return which ``errors`` of ``peer`` are more than rounding, in words; nothing if there are none.

        Where roundings grow, in a network, the built-in's do so too: torchbp may be as far off as four times the
        built-in peers in ``others``, and :meth:`fault_in_float64` has to be clear as well.
        """
        limits = self._limits(self.data.input.dtype)
        if not peer.ours:
            limits = {name: _BUILTIN_SLACK * limit for name, limit in limits.items()}
        elif self.case.amplifies:
            limits = {
                name: max([limit, *(_GROWN_SLACK * found[name] for found in others.values())])
                for name, limit in limits.items()
            }
        return _beyond(errors, limits)

    def fault_in_float64(self) -> str:
        """Return what is wrong with torchbp's result in float64, in words; nothing if it is right."""
        errors = self.errors(Side(self.case, TORCHBP, self.data.double()).values())
        return _beyond(errors, self._limits(torch.float64))

    def _limits(self, dtype: torch.dtype) -> Errors:
        """The errors that rounding explains: of a layer they grow as the root of the length of its sums."""
        eps = torch.finfo(dtype).eps
        if self.case.amplifies:
            return dict.fromkeys(self.expected, _GROWN_ROUNDINGS * eps)
        work = max(self.data.multiply_adds, self.data.input.numel())
        return {
            name: eps * (_ROUNDINGS + _ROUNDINGS_PER_TERM * math.sqrt(work / max(tensor.numel(), 1)))
            for name, tensor in self.expected.items()
        }

    def _drawn(self, gradient: Tensor) -> Values:
        input, grad_output = self.data.input.double(), self.data.grad_output.double()
        scale, shift = _DRAWN[self.case.layer](self.case.build(torch.nn), input, gradient.double() / grad_output)
        return {"output": scale * input + shift, "input gradient": scale * grad_output}


def _dropped(layer: Module, _input: Tensor, slope: Tensor, *, channels: bool = False, alpha: bool = False) -> _Affine:
    """Where the slope is not 0 an element, or with ``channels`` its channel of the sample, was kept."""
    p: float = layer.p  # type: ignore[assignment]
    kept = (slope != 0).double()
    if channels:
        kept = kept.flatten(2).amax(2).reshape(*kept.shape[:2], *[1] * (kept.dim() - 2))
    if not _plausible(kept, 1 - p, math.sqrt(p * (1 - p))):
        kept = torch.ones_like(kept)
    kept = kept.expand_as(slope)
    if not alpha:
        return kept / (1 - p), torch.zeros_like(kept)
    gain = 1 / math.sqrt((1 - p) * (1 + p * SATURATION**2))
    return gain * kept, gain * SATURATION * (kept + p - 1)


def _leaked(layer: Module, input: Tensor, slope: Tensor) -> _Affine:
    """Below 0 the slope was drawn between the bounds."""
    lower: float = layer.lower  # type: ignore[assignment]
    upper: float = layer.upper  # type: ignore[assignment]
    drawn = slope.clamp(lower, upper)
    if not _plausible(drawn[input < 0], (lower + upper) / 2, (upper - lower) / math.sqrt(12)):
        drawn = torch.zeros_like(slope)
    return torch.where(input < 0, drawn, 1.0), torch.zeros_like(slope)


def _plausible(draws: Tensor, mean: float, deviation: float) -> bool:
    return abs(draws.mean().item() - mean) <= 6 * deviation / math.sqrt(draws.numel())


# With which slope and shift a layer that draws makes its output of its input, from the slope that its gradient shows.
_DRAWN: dict[str, Callable[[Module, Tensor, Tensor], _Affine]] = {
    "Dropout": _dropped,
    **{f"Dropout{dimensions}d": partial(_dropped, channels=True) for dimensions in (1, 2, 3)},
    "AlphaDropout": partial(_dropped, alpha=True),
    "FeatureAlphaDropout": partial(_dropped, channels=True, alpha=True),
    "RReLU": _leaked,
}


def _beyond(errors: Errors, limits: Errors) -> str:
    large = [f"{name} {error:.1e} > {limits[name]:.1e}" for name, error in errors.items() if not error <= limits[name]]
    return f"relative error of {', '.join(large)}" if large else ""
