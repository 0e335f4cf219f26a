"""Every layer of torchbp as a subject: what ``torchbp check`` and the test suite prove. A file per family."""

from torchbp.testing.cases import (
    activation,
    convolution,
    dropout,
    folding,
    interpolation,
    linear,
    loss,
    normalization,
    padding,
    pooling,
    sampling,
    shuffle,
)
from torchbp.testing.cases._case import LayerCase

__all__ = ["LayerCase", "layer_cases"]

_FAMILIES = (
    linear,
    convolution,
    pooling,
    padding,
    interpolation,
    folding,
    shuffle,
    sampling,
    activation,
    normalization,
    dropout,
    loss,
)


def layer_cases() -> list[LayerCase]:
    """Return every layer with arguments that between them meet each of its branches."""
    return [case for family in _FAMILIES for case in family.cases()]
