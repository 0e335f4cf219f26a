"""The gradient proof: run on a function of yours what torchbp runs on its own layers.

``check(function, inputs, reference=...)`` returns a :class:`Report` with one result per property of
``PROPERTIES``; ``layer_cases()`` lists torchbp's own layers; ``saved_bytes`` counts what a graph keeps.
"""

from torchbp.testing.cases import LayerCase, layer_cases
from torchbp.testing.check import check
from torchbp.testing.measure import saved_bytes
from torchbp.testing.properties import PROPERTIES, Subject
from torchbp.testing.report import Report, Result

__all__ = ["PROPERTIES", "LayerCase", "Report", "Result", "Subject", "check", "layer_cases", "saved_bytes"]
