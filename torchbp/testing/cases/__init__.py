"""Every layer of torchbp as a subject: what ``torchbp check`` and the test suite prove. A file per family."""

import re
from dataclasses import replace

from torchbp._extension import kernels_loaded
from torchbp.testing.cases import (
    activation,
    attention,
    convolution,
    ctc_loss,
    distance,
    dropout,
    embedding,
    folding,
    interpolation,
    linear,
    linear_cross_entropy,
    loss,
    margin_loss,
    normalization,
    padding,
    pointwise_loss,
    pooling,
    recurrent,
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
    attention,
    normalization,
    dropout,
    loss,
    pointwise_loss,
    distance,
    margin_loss,
    ctc_loss,
    linear_cross_entropy,
    embedding,
    recurrent,
)


# Without the kernels a window's mean and an interpolation are products with matrices that are mostly zero; but for
# the mean of all, and for the nearest pixel.
_MATRICES = re.compile(
    r"(adaptive_avg_pool[123]d\[(?!global)|avg_pool|lp_pool|interpolate\[(?!nearest)|local_response_norm|CrossMapLRN2d).*"
)
_SPREADS = {"nonfinite": "without the kernels, NaN times the zeros of a matrix is NaN"}
_CUBES = {"magnitudes": "without the kernels, cubes that overflow are infinity times the zeros of a matrix, NaN"}


def layer_cases() -> list[LayerCase]:
    """Return every layer with arguments that between them meet each of its branches."""
    found = [case for family in _FAMILIES for case in family.cases()]
    if kernels_loaded():
        return found
    return [
        replace(case, skip={**case.skip, **_SPREADS, **(_CUBES if "[3-norm" in case.name else {})})
        if _MATRICES.fullmatch(case.name)
        else case
        for case in found
    ]
