"""Whether a peer's result is right: its distance from the built-in's result in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from torchbp.bench.peers import BUILTIN, TORCHBP, Data, Peer, Side
from torchbp.bench.suite import Case
from torchbp.testing.measure import relative_difference

Values = dict[str, Tensor]
Errors = dict[str, float]

_ROUNDINGS = 32  # units in the last place of the largest value, whatever the length of the sums
_ROUNDINGS_PER_TERM = 8  # times the square root of the length
_NETWORK_ROUNDINGS = 2**15
_NETWORK_SLACK = 4
_BUILTIN_SLACK = 64  # an inaccurate peer is still a peer, and its error is reported; a wrong one is not


class Standard:
    """What is right for a case: what the built-in computes in float64 from the same numbers."""

    def __init__(self, case: Case, data: Data) -> None:
        """Run the built-in in float64."""
        self.case, self.data = case, data
        self.expected = Side(case, BUILTIN, data.double()).values()

    def errors(self, values: Values) -> Errors:
        """Return the largest error of every tensor of ``values``, relative to its largest expected value.

        The mask of dropout is random, so that it is read off the output: the rest has to be what that mask makes of
        the input and of the gradient, and the share it keeps has to be plausible.
        """
        expected = self._masked(values["output"]) if self.case.layer == "Dropout" else self.expected
        return {name: relative_difference(values[name], tensor) for name, tensor in expected.items()}

    def fault(self, peer: Peer, errors: Errors, others: Mapping[str, Errors]) -> str:
        """Return which ``errors`` of ``peer`` are more than rounding, in words; nothing if there are none.

        In a network a rounding can turn a ReLU, and that a gradient, the built-in's too: torchbp may be as far off as
        four times the built-in peers in ``others``, and :meth:`network_fault` has to be clear as well.
        """
        limits = self._limits(self.data.input.dtype)
        if not peer.ours:
            limits = {name: _BUILTIN_SLACK * limit for name, limit in limits.items()}
        elif self.case.is_model:
            limits = {
                name: max([limit, *(_NETWORK_SLACK * found[name] for found in others.values())])
                for name, limit in limits.items()
            }
        return _beyond(errors, limits)

    def network_fault(self) -> str:
        """Return what is wrong with torchbp's network in float64, in words; nothing if it is right."""
        errors = self.errors(Side(self.case, TORCHBP, self.data.double()).values())
        return _beyond(errors, self._limits(torch.float64))

    def _limits(self, dtype: torch.dtype) -> Errors:
        """The errors that rounding explains: of a layer they grow as the root of the length of its sums."""
        eps = torch.finfo(dtype).eps
        if self.case.is_model:
            return dict.fromkeys(self.expected, _NETWORK_ROUNDINGS * eps)
        work = max(self.data.multiply_adds, self.data.input.numel())
        return {
            name: eps * (_ROUNDINGS + _ROUNDINGS_PER_TERM * math.sqrt(work / max(tensor.numel(), 1)))
            for name, tensor in self.expected.items()
        }

    def _masked(self, output: Tensor) -> Values:
        kept = output != 0
        probability: float = self.case.build(torch.nn).p  # type: ignore[assignment]
        deviation = math.sqrt(probability * (1 - probability) / output.numel())
        if abs(kept.double().mean().item() - (1 - probability)) > 6 * deviation:
            kept = torch.full_like(kept, True)
        scale = kept.double() / (1 - probability)
        return {"output": self.data.input.double() * scale, "input gradient": self.data.grad_output.double() * scale}


def _beyond(errors: Errors, limits: Errors) -> str:
    large = [f"{name} {error:.1e} > {limits[name]:.1e}" for name, error in errors.items() if not error <= limits[name]]
    return f"relative error of {', '.join(large)}" if large else ""
