"""The properties that a differentiable function must have, each as a function that raises if it does not.

``PROPERTIES`` names them in the order in which they run, ``GROUPS`` says what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchbp.testing.properties import (
    arrivals,
    derivatives,
    kinks,
    memory,
    numerics,
    purity,
    shapes,
    transforms,
    values,
)
from torchbp.testing.subject import Subject

Property = Callable[[Subject], Any]

_GROUPS: dict[str, tuple[Property, ...]] = {
    "reference": (values.value, values.gradient),
    "derivatives": (derivatives.first_order, derivatives.second_order, derivatives.third_order),
    "modes": (
        derivatives.forward_mode,
        derivatives.forward_over_reverse,
        derivatives.nested_forward,
        derivatives.adjoint_identity,
        derivatives.batched_gradients,
    ),
    "kinks": (kinks.kinks,),
    "transforms": (transforms.vmap, transforms.functional_transforms),
    "compile": (transforms.compiled, transforms.compiled_gradient, transforms.compiled_transform),
    "arrivals": (arrivals.layouts, arrivals.undefined_gradients),
    "memory": (memory.wanted_gradients, memory.saved, memory.saved_in_vain, memory.leaks),
    "purity": (purity.pure, purity.deterministic),
    "numerics": (numerics.float32, numerics.autocast, numerics.magnitudes, numerics.nonfinite),
    "shapes": (shapes.empty_batch, shapes.unbatched, shapes.size_one),
}

#: Names of groups and of the properties in them; a group's name stands for all of them.
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(function.__name__ for function in functions) for group, functions in _GROUPS.items()
}

PROPERTIES: dict[str, Property] = {
    function.__name__: function for functions in _GROUPS.values() for function in functions
}

__all__ = ["GROUPS", "PROPERTIES", "Subject"]
