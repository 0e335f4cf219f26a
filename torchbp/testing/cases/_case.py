"""What the cases of every family share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchbp.testing.check import check_subject
from torchbp.testing.properties import Subject
from torchbp.testing.report import Report


@dataclass(frozen=True)
class LayerCase:
    """A layer with arguments.

    Attributes:
        layer: the layer's name, e.g. ``"max_pool2d"``.
        name: a unique name, e.g. ``"max_pool2d[3x3 stride 2]"``.
        subject: what is checked.
        skip: properties that do not apply, with reasons.
    """

    layer: str
    name: str
    subject: Subject
    skip: Mapping[str, str] = field(default_factory=dict)

    def check(self, properties: Sequence[str] | None = None) -> Report:
        """Run the properties (all by default) and report."""
        return check_subject(self.name, self.subject, properties, self.skip)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal draws that keep clear of each other and of zero, so that no kink is met."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    count = math.prod(shape)
    # A permutation of distinct values: the smallest gap is far above a finite-difference step.
    values = (torch.randperm(count, generator=generator) + 0.5 - count / 2) * (4.0 / max(count, 1))
    noise = torch.rand(count, generator=generator, dtype=torch.float64) * (0.5 / max(count, 1))
    return (values.double() + noise).reshape(shape)


def bytes_of(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
