"""The gradient proof: run on a function of yours what torchbp runs on its own layers.

``check(function, inputs, reference=...)`` returns a :class:`Report` with one result per property of
``PROPERTIES``; ``mutants`` makes wrong versions of a Function, to prove that a check can fail;
``layer_cases()`` lists torchbp's own layers; ``saved_bytes`` counts what a graph keeps. The plugin ``torchbp_pytest``
gives pytest the fixture ``gradient_check`` and the marker ``gradient_properties``.
"""

from torchbp.costs.saved import saved_bytes
from torchbp.testing.cases import LayerCase, layer_cases
from torchbp.testing.check import check
from torchbp.testing.compare import Worst
from torchbp.testing.drawing import draw_inputs
from torchbp.testing.properties import GROUPS, PROPERTIES
from torchbp.testing.report import Report, Result
from torchbp.testing.subject import Subject

__all__ = [
    "GROUPS",
    "PROPERTIES",
    "LayerCase",
    "Report",
    "Result",
    "Subject",
    "Worst",
    "check",
    "draw_inputs",
    "layer_cases",
    "saved_bytes",
]
