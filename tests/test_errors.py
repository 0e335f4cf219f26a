"""Bad arguments: the built-in's exception type, a message that names the argument and its value, no crash.

Sections: what functions refuse, what modules refuse, where we differ on purpose, warnings, and hostile
sizes, which run in a process of their own with little memory and little time.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import differences
import numpy as np
import pytest
import torch
import torch.nn.functional as builtin
from differences import (
    EMPTY_BATCH,
    EMPTY_IMAGES,
    INTEGERS,
    LENGTHS,
    MIXED_DTYPES,
    MORE_DTYPES,
    NO_PLACES,
    NOT_A_TENSOR,
    ONE_SIZE,
    ONE_WINDOW,
    OVERFLOW,
    RANK,
    RATIOS,
    TYPES,
    WIDE,
    Difference,
)
from torch import Tensor

import torchbp.nn as nn
from torchbp.nn import functional as F

NAN = float("nan")
HUGE, HUGER = 2**62, 2**63  # the largest power that 64 bits hold, and the first that they do not


def t(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def classes(*shape: int) -> Tensor:
    return torch.arange(int(torch.Size(shape).numel())).reshape(shape) % 3


@dataclass(frozen=True)
class Bad:
    """A call that must raise, and what its message must say."""

    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    says: tuple[str, ...]

    def __str__(self) -> str:
        def short(value: Any) -> str:
            if isinstance(value, Tensor):
                return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}".replace(" ", "")
            return repr(value)[:30]

        parts = [short(v) for v in self.arguments] + [f"{k}={short(v)}" for k, v in self.keywords.items()]
        return f"{self.name}({', '.join(parts)})"


def caught(call: Callable[[], Any]) -> BaseException | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            return error
    return None


def fresh(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v for v in arguments)


ROWS: list[Bad] = []


def bad(name: str, *arguments: Any, says: str | tuple[str, ...], **keywords: Any) -> None:
    ROWS.append(Bad(name, arguments, keywords, (says,) if isinstance(says, str) else says))


# --------------------------------------------------------------------------------------------------
# Functions

# Linear
bad("linear", t(2, 3), t(4, 5), says=("weight", "(4, 5)", "(2, 3)"))
bad("linear", t(), t(4, 5), says=("input", "()"))
bad("linear", t(2, 3), t(4, 3, 1), says=("weight", "(4, 3, 1)"))
bad("linear", t(2, 3), t(), says=("weight", "()"))
bad("linear", t(2, 3), t(4, 3), t(5), says=("bias", "(5,)"))
bad("linear", t(2, 3), t(4, 3), t(3, 4), says=("bias", "(3, 4)"))
bad("linear", t(2, 3), t(4, 3), t(5, 2, 4), says=("bias", "(5, 2, 4)"))
bad("linear", t(3), t(4, 3), t(2, 4), says=("bias", "(2, 4)"))
bad("linear", t(2, 3), t(3), t(3), says=("bias", "(3,)"))
bad("linear", t(2, 3), t(4, 3).float(), says=("weight", "float32", "float64"))
bad("linear", t(2, 3), t(4, 3), t(4).float(), says=("bias", "float32", "float64"))
bad("linear", t(2, 3).long(), t(4, 3), says=("weight", "float64", "int64"))
for position, name in enumerate(("input", "weight", "bias")):
    for value in ([1.0], 3.0, *((None,) if position < 2 else ())):
        given = [t(2, 3), t(4, 3), t(4)]
        given[position] = value
        bad("linear", *given, says=(name, type(value).__name__))

# Bilinear
bad("bilinear", t(2, 3), t(2, 4), t(5, 3, 5), says=("weight", "(5, 3, 5)"))
bad("bilinear", t(2, 3), t(3, 4), t(5, 3, 4), says=("input2", "(3, 4)"))
bad("bilinear", t(2, 1, 3), t(2, 4), t(5, 3, 4), says=("input1", "(2, 1, 3)"))
bad("bilinear", t(2, 3), t(2, 4), t(5, 3), says=("weight", "(5, 3)"))
bad("bilinear", t(2, 3), t(2, 4), t(5, 3, 4), t(4), says=("bias", "(4,)"))
bad("bilinear", t(2, 3), t(2, 4), t(5, 3, 4), t(), says=("bias", "()"))
bad("bilinear", t(), t(), t(5, 3, 4), says=("input1", "()"))
bad("bilinear", t(2, 3), t(2, 4).float(), t(5, 3, 4), says=("input2", "float32"))
bad("bilinear", t(2, 3), t(2, 4), t(5, 3, 4), t(5).float(), says=("bias", "float32"))
bad("bilinear", None, t(2, 4), t(5, 3, 4), says=("input1", "NoneType"))
bad("bilinear", t(2, 3), t(2, 4), t(5, 3, 4), 1.0, says=("bias", "float"))

# Convolution
IMAGES = {n: t(2, 4, *[6] * n) for n in (1, 2, 3)}
KERNELS = {n: t(4, 4, *[3] * n) for n in (1, 2, 3)}
PLACES = {n: torch.arange(6**n).expand(2, 4, 6**n).reshape(2, 4, *[6] * n) for n in (1, 2, 3)}
X, W = IMAGES[2], KERNELS[2]


def ones(n: int, *last: Any) -> tuple[Any, ...]:
    """Return n values, ones but for the last."""
    return (*[1] * (n - len(last)), *last)


for n in (1, 2, 3):
    for name in (f"conv{n}d", f"conv_transpose{n}d"):
        x, w, transposed = IMAGES[n], KERNELS[n], "transpose" in name
        rows: list[tuple[str, Any]] = []
        for what in ("stride", "dilation", "padding", *(("output_padding",) if transposed else ())):
            rows += [
                (what, value) for value in (-1, ones(n, -2), (1,) * (n + 1), (), [], 1.5, ones(n, 1.0), None, True)
            ]
            rows += [(what, value) for value in ({1, 2}, "a", HUGER, ones(n, HUGER), [None] * n)]
        rows += [(what, value) for what in ("stride", "dilation") for value in (0, ones(n, 0))]
        rows += [("groups", value) for value in (0, -1, 3, HUGE, HUGER, 1.0, "1", None, True)]
        if transposed:
            rows += [("padding", 7), ("padding", "same"), ("output_padding", 1), ("output_padding", ones(n, 3))]
        else:
            rows += [("padding", "sane"), ("padding", "SAME"), ("padding", range(2)), ("dilation", 9), ("groups", 2)]
            bad(name, x, w, padding="same", stride=2, says=("stride", str((2,) * n)))
            bad(name, x, t(4, 4, 7, *[3] * (n - 1)), says=("kernel_size", "7"))
        for what, value in rows:
            bad(name, x, w, says=(what, str(value)), **{what: value})
        for shape in ((4,), (1, 2, 4, *[6] * n), (2, 3, *[6] * n), (0, 3, *[6] * n)):
            bad(name, t(*shape), w, says=("input", str(shape)))
        bad(name, t(2, 4, 0, *[6] * (n - 1)), w, says=("input", "0, 6" if n > 1 else "0"))
        for shape in ((4, 4), (4, 4, *[3] * (n + 1)), (4, 4, *[3] * (n - 1), 0), (0, 4, *[3] * n)):
            bad(name, x, t(*shape), says=("weight", str(shape)))
        bad(name, x.long(), w, says=("weight", "int64", "float64"))
        bad(name, x, w.float(), says=("weight", "float32", "float64"))
        bad(name, x.bool(), w.bool(), says=("input", "bool"))
        bad(name, x, w, t(3), says=("bias", "(3,)"))
        bad(name, x, w, t(4, 1), says=("bias", "(4, 1)"))
        for position, what in enumerate(("input", "weight", "bias")):
            for value in ([1.0], 1.0, *((None,) if position < 2 else ())):
                operands = [x, w, t(4)]
                operands[position] = value
                bad(name, *operands, says=(what, type(value).__name__))

# Pooling at a stride
for n in (1, 2, 3):
    for name, before in ((f"max_pool{n}d", ()), (f"avg_pool{n}d", ()), (f"lp_pool{n}d", (2.0,))):
        powers = name.startswith("lp")
        pool = [("kernel_size", value) for value in (0, -1, ones(n, 0), 7, None, 2.0, ones(n, 2.0), True)]
        pool += [("kernel_size", value) for value in (HUGER, ones(n, HUGER))]
        if n == 2:  # in one dimension the built-in loops for ever, see the hostile sizes below
            pool.append(("kernel_size", HUGE))
        if not powers:  # its built-in unpacks a list of a wrong length itself; see differences.py
            pool += [("kernel_size", value) for value in ((), (1,) * (n + 1), "2")]
            values = (-1, 2, 0.5, None, (), (1,) * (n + 1), HUGER, *((HUGE,) if n == 2 else ()))
            pool += [("padding", value) for value in values]
        pool += [("stride", value) for value in (0, ones(n, -1), 1.5, "x", (1,) * (n + 1), HUGER)]
        pool += [("ceil_mode", value) for value in (1, "yes", None)]
        if name.startswith("max"):
            values = (0, ones(n, -1), (1,) * (n + 1), 2.0, None, (), 6, HUGER)
            pool += [("dilation", value) for value in values]
        if name.startswith("avg"):
            pool += [("count_include_pad", value) for value in (1, None)]
            if n > 1:
                pool += [("divisor_override", value) for value in (0, 1.5, "2", True, HUGER)]
        if powers and n == 1:  # (1.0,) * tensor: the same
            pool.remove(("kernel_size", ones(n, 0)))
        for what, value in pool:
            kernel = () if what == "kernel_size" else (2,)
            bad(name, IMAGES[n], *before, *kernel, says=(what, str(value)), **{what: value})
        shapes = [(6,), (1, 1, 4, *[6] * n), (2, 0, *[6] * n), (2, 4, 0, *[6] * (n - 1)), (0, 0, *[6] * n)]
        for shape in [*shapes, (4, 0, *[6] * (n - 1))]:
            bad(name, t(*shape), *before, 2, says=("input", str(shape)[1:-1].removesuffix(",")))
        if not powers:
            bad(name, IMAGES[n].bool(), 2, says=("input", "bool"))
            for value in (None, [1.0]):
                bad(name, value, 2, says=("input", type(value).__name__))
    for value in ("2", None):
        bad(f"lp_pool{n}d", IMAGES[n], value, 2, says=("norm_type", repr(value)))
    bad(f"lp_pool{n}d", IMAGES[n], 0, 2, says=("norm_type", "0"))
bad("avg_pool3d", IMAGES[3], 7, padding=1, says=("kernel_size", "7"))
bad("lp_pool3d", IMAGES[3], 2, 7, ceil_mode=True, says=("kernel_size", "7"))

# Pooling with windows that share the input
for n in (1, 2, 3):
    for name in (f"adaptive_avg_pool{n}d", f"adaptive_max_pool{n}d"):
        values = [-1, ones(n, -1), (1,) * (n + 1), (), 2.0, ones(n, 2.0), ones(n, "a"), True, HUGER, ones(n, HUGER)]
        if n == 1:
            values += [None, [None], "2"]
        else:
            values += [(2,), "2", [None], (None, *[2.0] * (n - 1))]
        for size in values:
            says = "2.0" if isinstance(size, tuple) and size[:1] == (None,) else str(size)
            bad(name, IMAGES[n], size, says=("output_size", says))
        for shape in ((6,) * (n - 1), (6,) * n, (1, 1, 4, *[6] * n), (2, 4, 0, *[6] * (n - 1))):
            for size in (2, (2,) * n):
                if shape:
                    bad(name, t(*shape), size, says=("input", str(shape)[1:-1].removesuffix(",")))
        bad(name, IMAGES[n].long(), 2, says=("input", "int64"))

# Pooling with windows at random distances
for n in (2, 3):
    name = f"fractional_max_pool{n}d"
    drawn = t(2, 4, n).abs() / 9
    for what, value in (
        *(("kernel_size", value) for value in (7, (), (1,) * (n + 1), "2", 2.0, None, HUGER, ones(n, HUGER))),
        *(("output_size", value) for value in (-1, 7, (1,) * (n + 1), "2", 2.0, HUGER, ones(n, -1))),
        *(("output_ratio", value) for value in ((math.inf,) * n, (NAN,) * n)),
    ):
        keywords = {"kernel_size": 2, **({} if what == "output_ratio" else {"output_size": 3}), what: value}
        bad(name, IMAGES[n], says=(what, str(value)), **keywords)
    bad(name, IMAGES[n], 2, says=("output_size", "None"))
    for samples in (t(2, 4), t(2, 4, n + 1), t(2, 3, n), t(1, 4, n), t(2, 4, n, 1), drawn.float(), drawn.bfloat16()):
        bad(name, IMAGES[n], 2, 3, _random_samples=samples, says=("_random_samples", str(tuple(samples.shape))))
    for shape in ((2, 0, *[6] * n), (2, 4, 0, *[6] * (n - 1)), (4, 0, *[6] * (n - 1))):
        bad(name, t(*shape), 2, 1, says=("input", str(shape)[1:-1]))
    bad(name, IMAGES[n].long(), 2, 3, says=("input", "int64"))
    bad(name, IMAGES[n].to(torch.complex128), 2, 3, says=("input", "complex128"))
bad("fractional_max_pool3d", IMAGES[3], 2, 5, says=("output_size", "5"))  # one less than in two dimensions

# Back to places
for n in (1, 2, 3):
    name, values, places = f"max_unpool{n}d", IMAGES[n], PLACES[n]
    for wrong in (places.int(), places.double(), places.bool()):
        bad(name, values, wrong, 2, says=("indices", str(wrong.dtype)))
    bad(name, values, places[:1], 2, says=("indices", str((1, 4, *[6] * n))))
    bad(name, values, places[0], 2, says=("indices", str((4, *[6] * n))))
    for wrong in (places - 1, places + 12**n):
        bad(name, values, wrong, 2, says=("indices", str(int(wrong.min()) if wrong.min() < 0 else "")))
    for size in ([12] * (n + 1), [14] * n, [10] * n, [2, 4, *[14] * n], []):
        bad(name, values, places, 2, output_size=size, says=("output_size", str(size)))
    bad(name, values, places, 2, padding=7, says=("output_size", "must not be negative"))
    for shape in ((2, 0, *[6] * n), (2, 4, 0, *[6] * (n - 1))):
        bad(name, t(*shape), places[:, :0].reshape(shape), 2, says=("input", str(shape)))
bad("max_unpool3d", IMAGES[3], torch.zeros(2, 4, 6, 6, 6, dtype=torch.int64), 2, 0, says=("stride", "(0, 0, 0)"))

# Padding
for keywords, what, says in (
    ({"pad": (1,)}, "pad", "(1,)"),
    ({"pad": (1, 2, 3)}, "pad", "(1, 2, 3)"),
    ({"pad": (1, 1) * 5}, "pad", "1, 1, 1, 1"),
    ({"pad": 1}, "pad", "1"),
    ({"pad": None}, "pad", "None"),
    ({"pad": "ab"}, "pad", "'ab'"),
    ({"pad": (1.0, 1)}, "pad", "(1.0, 1)"),
    ({"pad": (True, 1)}, "pad", "(True, 1)"),
    ({"pad": (HUGER, 1)}, "pad", str(HUGER)),
    ({"pad": (HUGE, 1)}, "size", str(HUGE)[:5]),
    ({"pad": (HUGE, HUGE)}, "size", str(HUGE)),
    ({"pad": (-7, 0)}, "pad", "(-7, 0)"),
    ({"pad": (9, -7)}, "pad", "(9, -7)"),
    ({"pad": (-3, -4)}, "pad", "(-3, -4)"),
    ({"pad": (1, 1), "mode": "mirror"}, "mode", "'mirror'"),
    ({"pad": (1, 1), "mode": None}, "mode", "None"),
    ({"pad": (1, 1), "mode": 3}, "mode", "3"),
    ({"pad": (1, 1), "value": "a"}, "value", "'a'"),
    ({"pad": (1, 1), "value": 2j}, "value", "2j"),
    ({"pad": (1, 1), "value": t(2)}, "value", "tensor"),
    ({"pad": (1, 1), "value": torch.tensor(1.0, requires_grad=True)}, "value", "requires_grad"),
):
    bad("pad", X, says=(what, says), **keywords)
for mode in ("reflect", "replicate", "circular"):
    for keywords, what, says in (
        ({"pad": ()}, "pad", "()"),
        ({"pad": (1, 1)}, "pad", "(1, 1)"),
        ({"pad": (1, 1) * 4}, "pad", "1, 1, 1, 1"),
        ({"pad": (1, 1, 1, 1), "value": 1.0}, "value", "1.0"),
        ({"pad": (-4, -4, -4, -4)}, "pad", "-4, -4"),
        ({"pad": (HUGE, HUGE, 1, 1)}, "pad|size", str(HUGE)),
    ):
        bad("pad", X, mode=mode, says=(what, says), **keywords)
    for shape in ((6,), (1, 1, 1, 6, 6)):
        bad("pad", t(*shape), (1, 1), mode=mode, says=("input", str(shape)))
    for shape in ((2, 4, 0), (0, 6)) if mode != "circular" else ((2, 4, 0),):
        bad("pad", t(*shape), (1, 1), mode=mode, says=("input", str(shape)))
for keywords, what, says in (
    ({"pad": (6, 0, 1, 1), "mode": "reflect"}, "pad", "(6, 0, 1, 1)"),
    ({"pad": (0, 1, 0, 6), "mode": "reflect"}, "pad", "(0, 1, 0, 6)"),
    ({"pad": (7, 0, 1, 1), "mode": "circular"}, "pad", "(7, 0, 1, 1)"),
    ({"pad": (6, -7, 0, 0), "mode": "circular"}, "pad", "(6, -7, 0, 0)"),
):
    bad("pad", X, says=(what, says), **keywords)
bad("pad", X.bool(), (1, 1, 1, 1), mode="reflect", says=("input", "bool"))
bad("pad", X.bool(), (1, 1, 1, 1), mode="replicate", says=("input", "bool"))
bad("pad", None, (1, 1), says=("input", "NoneType"))
bad("pad", [1.0], (1, 1), says=("input", "list"))

# Interpolation
for keywords, what, says in (
    ({}, "size", "None"),
    ({"size": 3, "scale_factor": 2}, "scale_factor", "2"),
    ({"size": 0}, "size", "0"),
    ({"size": -1}, "size", "-1"),
    ({"size": (3, 0)}, "size", "(3, 0)"),
    ({"size": (3,)}, "size", "(3,)"),
    ({"size": (3, 3, 3)}, "size", "(3, 3, 3)"),
    ({"size": 3.0}, "size", "3.0"),
    ({"size": (3.0, 3)}, "size", "(3.0, 3)"),
    ({"size": "a"}, "size", "'a'"),
    ({"size": True}, "size", "True"),
    ({"size": [3, None]}, "size", "[3, None]"),
    ({"size": HUGER}, "size", str(HUGER)),
    ({"size": HUGE}, "size", str(HUGE)),
    ({"scale_factor": "a"}, "scale_factor", "'a'"),
    ({"scale_factor": (2, None)}, "scale_factor", "(2, None)"),
    ({"scale_factor": (2,)}, "scale_factor", "(2,)"),
    ({"scale_factor": (2, 2, 2)}, "scale_factor", "(2, 2, 2)"),
    ({"scale_factor": 0}, "scale_factor", "0"),
    ({"scale_factor": -1.0}, "scale_factor", "-1.0"),
    ({"scale_factor": 0.1}, "scale_factor", "0.1"),
    ({"scale_factor": NAN}, "scale_factor", "nan"),
    ({"scale_factor": float("inf")}, "scale_factor", "inf"),
    ({"scale_factor": 1e30}, "scale_factor", "1e+30"),
    ({"scale_factor": NAN, "mode": "area"}, "scale_factor", "nan"),
    ({"scale_factor": float("inf"), "recompute_scale_factor": True}, "scale_factor", "inf"),
    ({"scale_factor": torch.tensor(2.0)}, "scale_factor", "tensor"),
    ({"scale_factor": 2j}, "scale_factor", "2j"),
    ({"size": 3, "align_corners": True}, "align_corners", "True"),
    ({"size": 3, "mode": "area", "align_corners": False}, "align_corners", "False"),
    ({"size": 3, "mode": "bilinear", "align_corners": 1}, "align_corners", "1"),
    ({"size": 3, "mode": "bicubic", "align_corners": "a"}, "align_corners", "'a'"),
    ({"size": 3, "mode": "cubic"}, "mode", "'cubic'"),
    ({"size": 3, "mode": None}, "mode", "None"),
    ({"size": 3, "mode": "linear"}, "mode", "'linear'"),
    ({"size": 3, "mode": "trilinear"}, "mode", "'trilinear'"),
    ({"size": 3, "recompute_scale_factor": True}, "recompute_scale_factor", "3"),
    ({"size": 3, "antialias": True}, "antialias", "'nearest'"),
    ({"size": -1, "mode": "area"}, "size", "-1"),
    ({"size": HUGE, "mode": "area"}, "size|too large", str(HUGE)[:5]),
):
    bad("interpolate", X, says=(what, says), **keywords)
for shape in ((), (6,), (6, 6), (1, 1, 1, 2, 3, 4)):
    bad("interpolate", t(*shape), 3, says=("input", str(shape)))
for mode, shapes in (
    ("nearest", ((2, 0, 6), (2, 3, 0), (2, 0, 6, 6), (2, 3, 0, 6), (2, 0, 3, 3, 3))),
    ("linear", ((2, 0, 6), (2, 3, 0), (6, 6))),
    ("bilinear", ((2, 0, 6, 6), (2, 3, 0, 6), (2, 3, 6), (2, 3, 4, 4, 4))),
    ("bicubic", ((2, 0, 6, 6), (2, 3, 6), (2, 3, 4, 4, 4))),
    ("trilinear", ((2, 0, 3, 3, 3), (2, 3, 6, 6))),
    ("area", ((2, 3, 0), (2, 3, 0, 6), (2, 0, 3, 3, 3))),
):
    for shape in shapes:
        bad("interpolate", t(*shape), 3, mode=mode, says=("input", str(shape)))
bad("interpolate", X.long(), 3, says=("Long", "not implemented"))
bad("interpolate", X.to(torch.complex128), 3, mode="bilinear", says=("Complex", "not implemented"))
for name in ("upsample", "upsample_nearest", "upsample_bilinear"):
    bad(name, X, says=("size", "None"))
    bad(name, X, 0, says=("size", "0"))
    bad(name, X, (1, 2, 3), says=("size", "(1, 2, 3)"))

# Folding
for name, first in (("unfold", (X,)), ("fold", (t(2, 16, 25), 6))):
    for keywords, what, says in (
        ({"kernel_size": 0}, "kernel_size", "0"),
        ({"kernel_size": -1}, "kernel_size", "-1"),
        ({"kernel_size": (2,)}, "kernel_size", "(2,)"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size", "(2, 2, 2)"),
        ({"kernel_size": ()}, "kernel_size", "()"),
        ({"kernel_size": 2.0}, "kernel_size", "2.0"),
        ({"kernel_size": "a"}, "kernel_size", "'a'"),
        ({"kernel_size": None}, "kernel_size", "None"),
        ({"kernel_size": True}, "kernel_size", "True"),
        ({"kernel_size": 7}, "kernel_size", "7"),
        ({"kernel_size": HUGER}, "kernel_size", str(HUGER)),
        ({"kernel_size": 2, "stride": 0}, "stride", "0"),
        ({"kernel_size": 2, "stride": (1, -1)}, "stride", "(1, -1)"),
        ({"kernel_size": 2, "stride": None}, "stride", "None"),
        ({"kernel_size": 2, "stride": [1]}, "stride", "[1]"),
        ({"kernel_size": 2, "stride": 1.5}, "stride", "1.5"),
        ({"kernel_size": 2, "padding": -1}, "padding", "-1"),
        ({"kernel_size": 2, "padding": 0.5}, "padding", "0.5"),
        ({"kernel_size": 2, "padding": (1, 1, 1)}, "padding", "(1, 1, 1)"),
        ({"kernel_size": 2, "dilation": 0}, "dilation", "0"),
        ({"kernel_size": 2, "dilation": 6}, "dilation", "6"),
        ({"kernel_size": 2, "dilation": "a"}, "dilation", "'a'"),
    ):
        bad(name, *first, says=(what, says), **keywords)
for shape in ((2, 0, 6, 6), (2, 4, 0, 6), (0, 6, 6), (1, 1, 4, 6, 6), (6, 6), (6,)):
    bad("unfold", t(*shape), 2, says=("input", str(shape)))
for shape in ((16,), (2, 0, 25), (2, 16, 0), (0, 25), (2, 15, 25), (2, 16, 24), (1, 2, 16, 25)):
    bad("fold", t(*shape), 6, 2, says=("input", str(shape)))
for size, says in (
    ((6,), "(6,)"),
    ((6, 6, 6), "(6, 6, 6)"),
    ((7, 6), "(7, 6)"),
    ((0, 6), "(0, 6)"),
    (-6, "-6"),
    (6.0, "6.0"),
    ("a", "'a'"),
    (None, "None"),
    (True, "True"),
    (HUGER, str(HUGER)),
):
    bad("fold", t(2, 16, 25), size, 2, says=("output_size", says))
for name, arguments in (("unfold", (2,)), ("fold", (6, 2))):
    bad(name, (X if name == "unfold" else t(2, 16, 25)).long(), *arguments, says=("im", "Long"))
    bad(name, None, *arguments, says=("input", "NoneType"))
    bad(name, [1.0], *arguments, says=("input", "list"))

# Shuffling
for shuffle, factor in (("pixel_shuffle", "upscale_factor"), ("pixel_unshuffle", "downscale_factor")):
    bad(shuffle, t(2, 3), 2, says=("input", "(2, 3)"))
    bad(shuffle, X, 0, says=(factor, "0"))
    bad(shuffle, X, -1, says=(factor, "-1"))
    bad(shuffle, X, 2.0, says=(factor, "2.0"))
    bad(shuffle, X, "two", says=(factor, "'two'"))
    bad(shuffle, t(2, 7, 3, 3), 2, says=("input", "(2, 7, 3, 3)", "2"))
    bad(shuffle, [1.0], 2, says=("input", "list"))
bad("pixel_shuffle", X, 2**40, says=("upscale_factor", str(2**40)))
bad("pixel_unshuffle", X, 2**40, says=("downscale_factor", str(2**40)))
bad("channel_shuffle", t(2, 4), 2, says=("input", "(2, 4)"))
bad("channel_shuffle", X, 0, says=("groups", "0"))
bad("channel_shuffle", X, -2, says=("groups", "-2"))
bad("channel_shuffle", X, 3, says=("groups", "3"))
bad("channel_shuffle", X, 2.0, says=("groups", "2.0"))
bad("channel_shuffle", None, 2, says=("input", "NoneType"))

# Activations
IN_PLACE = ("relu_", "leaky_relu_", "rrelu_", "elu_", "celu_", "selu_", "hardtanh_")
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "rrelu", "elu", "celu", "selu", "hardtanh", "hardshrink", "softshrink"),
    *("hardsigmoid", "hardswish", "logsigmoid", "softplus", "gelu", "silu", "mish"),
)
for name in (*ACTIVATIONS, *IN_PLACE):
    for value in (None, [1.0], 1.0):
        bad(name, value, says=("input", type(value).__name__))
    if name not in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_"):
        bad(name, X.long(), says="Long|int64")
    if name not in ("gelu", "silu"):
        bad(name, X.to(torch.complex128), says="complex|ComplexDouble")
for name in ("elu", "celu"):
    for suffix in ("", "_"):
        bad(name + suffix, X, alpha="a", says=("alpha", "'a'"))
        bad(name + suffix, X, None, says=("alpha", "None"))
bad("celu", X, 0, says=("alpha", "0"))
bad("celu_", X, 0.0, says=("alpha", "0.0"))
for suffix in ("", "_"):
    bad("rrelu" + suffix, X, 0.5, 0.2, says=("lower", "0.5", "0.2"))
    bad("rrelu" + suffix, X, 0.5, 0.2, True, says=("lower", "0.5", "0.2"))
    bad("rrelu" + suffix, X, NAN, says=("lower", "nan"))
    bad("rrelu" + suffix, X, upper=float("inf"), training=True, says=("upper", "inf"))
    bad("rrelu" + suffix, X, "a", says=("lower", "'a'"))
    bad("rrelu" + suffix, X, upper=None, says=("upper", "None"))
    bad("rrelu" + suffix, X, training=1, says=("training", "1"))
    bad("threshold" + suffix, None, 0, 0, says=("input", "NoneType"))
    bad("threshold" + suffix, X, "a", 0, says=("threshold", "'a'"))
    bad("threshold" + suffix, X, 0, None, says=("value", "None"))
    bad("threshold" + suffix, X > 0, 0, 0, says="Bool")
    bad("threshold" + suffix, X.to(torch.complex128), 0, 0, says="ComplexDouble")
bad("rrelu", X.half(), training=True, says="Half")
for key in ("min_val", "max_val"):
    bad("hardtanh", X, **{key: "a"}, says=(key, "'a'"))
    bad("hardtanh_", X, **{key: None}, says=(key, "None"))
bad("hardtanh", X, 1, -1, says=("min_val", "1", "-1"))
bad("hardtanh", X > 0, says="Bool")
bad("relu6", X > 0, says="Bool")
bad("hardtanh", X.to(torch.uint8), says="unsigned")
for name in ("hardshrink", "softshrink"):
    bad(name, X, "a", says=("lambd", "'a'"))
    bad(name, X, lambd=None, says=("lambd", "None"))
bad("softshrink", X, -1.0, says=("lambd", "-1"))
bad("softshrink", X, NAN, says=("lambd", "nan"))
bad("softshrink", X.half(), 1e5, says=("lambd", "100000"))
for name in ("softsign", "tanhshrink"):
    bad(name, X > 0, says="abs|Subtraction")
bad("glu", t(), says=("input", "()"))
bad("glu", t(3, 5), says=("input", "(3, 5)"))
bad("glu", t(3, 4), 0, says=("input", "(3, 4)"))
for dim in (2, -3, HUGE):
    bad("glu", t(2, 4), dim, says=("dim", str(dim)))
for dim in (1.0, "a", None):
    bad("glu", t(2, 4), dim, says=("dim", repr(dim)))
bad("glu", t(2, 4).long(), says="Long")
bad("glu", t(2, 4).to(torch.complex128), says="ComplexDouble")
bad("prelu", None, t(1), says=("input", "NoneType"))
bad("prelu", X, None, says=("weight", "NoneType"))
bad("prelu", X, 0.5, says=("weight", "float"))
bad("prelu", X, t(3), says=("weight", "(3,)", "(2, 4, 6, 6)"))
bad("prelu", X, t(1, 4), says=("weight", "(1, 4)"))
bad("prelu", X, t(0), says=("weight", "(0,)"))
bad("prelu", t(4), t(4), says=("weight", "(4,)"))
bad("prelu", t(), t(2), says=("weight", "(2,)"))
bad("prelu", X, t(4).float(), says=("weight", "float32", "float64"))
bad("prelu", X.long(), t(1), says=("weight", "float64", "int64"))
bad("prelu", X.long(), t(4).long(), says=("input", "int64"))
bad("prelu", X.to(torch.complex128), t(4).to(torch.complex128), says=("input", "complex128"))
bad("leaky_relu", X, negative_slope="a", says=("negative_slope", "'a'"))
bad("leaky_relu", X, negative_slope=None, says=("negative_slope", "None"))
bad("leaky_relu", X, negative_slope=t(1), says=("negative_slope", "tensor"))
bad("softplus", X, beta="a", says=("beta", "'a'"))
bad("softplus", X, threshold=None, says=("threshold", "None"))
bad("gelu", X, approximate="fast", says=("approximate", "'fast'"))
bad("gelu", X, approximate=None, says=("approximate", "None"))
bad("gelu", X, approximate=1, says=("approximate", "1"))
bad("softmin", None, dim=0, says=("input", "NoneType"))
bad("softmin", X > 0, dim=1, dtype=torch.float64, says=("input", "bool"))
for name in ("softmax", "softmin", "log_softmax"):
    for keywords, says in (
        ({"dim": 4}, "4"),
        ({"dim": -5}, "-5"),
        ({"dim": HUGE}, str(HUGE)),
        ({"dim": HUGER}, str(HUGER)),
        ({"dim": 1.0}, "1.0"),
        ({"dim": "a"}, "'a'"),
        ({"dim": (1,)}, "(1,)"),
        ({"dim": True}, "True"),
        ({"dim": 1, "dtype": "float"}, "'float'"),
        ({"dim": 1, "dtype": 3}, "3"),
    ):
        bad(name, X, says=(list(keywords)[-1], says), **keywords)
    bad(name, t(), dim=1, says=("dim", "1"))
    bad(name, X.long(), dim=1, says=("softmax", "Long"))

# Batch normalisation
M, V = t(4), t(4).abs()
for keywords, what, says in (
    ({"weight": t(3)}, "weight", "(3,)"),
    ({"bias": t(5)}, "bias", "(5,)"),
    ({"weight": t(4).float()}, "weight", "float32"),
    ({"weight": [1.0]}, "weight", "list"),
    ({"eps": -1.0}, "eps", "-1.0"),
    ({"eps": -1.0, "training": True}, "eps", "-1.0"),
    ({"eps": 0.0, "training": True}, "eps", "0.0"),
    ({"eps": "a"}, "eps", "'a'"),
    ({"eps": None}, "eps", "None"),
    ({"momentum": "a"}, "momentum", "'a'"),
    ({"momentum": None}, "momentum", "None"),
    ({"training": "a"}, "training", "'a'"),
    ({"training": 1}, "training", "1"),
):
    bad("batch_norm", X, M, V, says=(what, says), **keywords)
bad("batch_norm", X, t(3), V, says=("running_mean", "(3,)"))
bad("batch_norm", X, M, t(5), says=("running_var", "(5,)"))
bad("batch_norm", X, None, V, says=("running_mean", "None"))
bad("batch_norm", X, M, None, says=("running_var", "None"))
bad("batch_norm", X, None, V, training=True, says=("running_mean", "None"))
bad("batch_norm", X, M, None, training=True, says=("running_var", "None"))
bad("batch_norm", X, M.float(), V.float(), training=True, says=("running_mean", "float32"))
bad("batch_norm", X.float(), M, V, training=True, says=("running_mean", "float64"))
bad("batch_norm", X.bfloat16(), M, V, training=True, says=("running_mean", "float64"))
bad("batch_norm", X, M.clone().requires_grad_(), V, says=("running_mean", "requires_grad"))
bad("batch_norm", X, M, V.clone().requires_grad_(), training=True, says=("running_var", "requires_grad"))
bad("batch_norm", t(4), M, V, says=("input", "(4,)"))
bad("batch_norm", t(), M, V, says=("input", "()"))
bad("batch_norm", t(1, 4), None, None, training=True, says=("input", "1, 4"))
bad("batch_norm", t(1, 4, 1, 1), M, V, training=True, says=("input", "1, 4, 1, 1"))
bad("batch_norm", X.long(), M, V, says=("input", "int64"))
bad("batch_norm", X.to(torch.complex128), M, V, says=("input", "complex128"))
bad("batch_norm", None, M, V, says=("input", "NoneType"))
bad("batch_norm", X, [1.0], V, says=("running_mean", "list"))

# Layer and group normalisation
for value in ((5,), (), (6, 5), (-1,), (2, 4, 6, 6, 1), (1, 2, 4, 6, 6)):
    bad("layer_norm", X, value, says=("normalized_shape", str(value)))
for value in (6, 6.0, (6.0,), None, (True,), "6", [None]):
    bad("layer_norm", X, value, says=("normalized_shape", str(value).strip("()[],")))
bad("layer_norm", t(), (4,), says=("normalized_shape", "()"))
for value in (3, 5, 0, -1, HUGE, 2.0, None, True, "2", HUGER):
    bad("group_norm", X, value, says=("num_groups", str(value)))
bad("group_norm", t(4), 2, says=("input", "(4,)"))
bad("group_norm", t(1, 4), 4, says=("input", "(1, 4)"))
bad("group_norm", t(1, 4, 1, 1), 4, says=("input", "(1, 4, 1, 1)"))
for name, extra, size in (("layer_norm", (6,), 6), ("group_norm", 2, 4)):
    for place, what in enumerate(("weight", "bias")):
        for value in (t(3), t(size, 1), t(), t(0)):
            bad(name, X, extra, *[None] * place, value, says=(what, str(tuple(value.shape))))
        bad(name, X, extra, *[None] * place, [1.0], says=(what, "list"))
        bad(name, X, extra, *[None] * place, t(size).float(), says=(what, "float32"))
        bad(name, X.float(), extra, *[None] * place, t(size), says=(what, "float64"))
        bad(name, X.bfloat16(), extra, *[None] * place, t(size), says=(what, "float64"))
    bad(name, X.bfloat16(), extra, t(size).float(), t(size).bfloat16(), says=("bias", "bfloat16"))
    bad(name, X.bfloat16(), extra, t(size).bfloat16(), t(size).float(), says=("weight", "bfloat16"))
    bad(name, X.long(), extra, says=("input", "int64"))
    bad(name, X.to(torch.complex128), extra, says=("input", "complex128"))
    for value in ("a", None):
        bad(name, X, extra, eps=value, says=("eps", repr(value)))
bad("layer_norm", None, (6,), says=("input", "NoneType"))

# Instance normalisation
for keywords, what, says in (
    ({"weight": t(3)}, "weight", "(3,)"),
    ({"bias": t(5)}, "bias", "(5,)"),
    ({"weight": t(4, 1)}, "weight", "(4, 1)"),
    ({"weight": t(4).float()}, "weight", "float32"),
    ({"weight": [1.0]}, "weight", "list"),
    ({"running_mean": t(3), "running_var": V}, "running_mean", "(3,)"),
    ({"running_mean": M, "running_var": t(3), "use_input_stats": False}, "running_var", "(3,)"),
    ({"running_mean": M}, "running_var", "None"),
    ({"running_var": V}, "running_mean", "None"),
    ({"running_var": V, "use_input_stats": False}, "running_mean", "None"),
    ({"running_mean": M, "use_input_stats": False}, "running_var", "None"),
    ({"running_mean": M.clone().requires_grad_(), "running_var": V}, "running_mean", "requires_grad"),
    ({"eps": "a"}, "eps", "'a'"),
    ({"momentum": None}, "momentum", "None"),
    ({"use_input_stats": 1}, "use_input_stats", "1"),
):
    bad("instance_norm", X, says=(what, says), **keywords)
for shape in ((4,), (2, 4), (2, 4, 1, 1)):
    bad("instance_norm", t(*shape), says=("input", str(shape)))
bad("instance_norm", t(4), M, V, use_input_stats=False, says=("input", "(4,)"))
bad("instance_norm", X.long(), says=("input", "int64"))
bad("instance_norm", X.to(torch.complex128), says=("input", "complex128"))

# Root mean square
for value in ((5,), (), (6, 5), (-1,), (1, 2, 4, 6, 6)):
    bad("rms_norm", X, value, says=("normalized_shape", str(value)))
for value in (6, 6.0, (6.0,), None, (True,), "6", [None]):
    bad("rms_norm", X, value, says=("normalized_shape", str(value).strip("()[],")))
for value in (t(3), t(6, 1), t(), t(0)):
    bad("rms_norm", X, (6,), value, says=("weight", str(tuple(value.shape))))
bad("rms_norm", X, (6,), [1.0], says=("weight", "list"))
bad("rms_norm", X, (6,), None, "a", says=("eps", "'a'"))
bad("rms_norm", X.long(), (6,), says=("input", "int64"))
bad("rms_norm", None, (6,), says=("input", "NoneType"))

# Local response normalisation
for value in (0, -1, 2.0, None, True, "2"):
    bad("local_response_norm", t(2, 4, 6), value, says=("size", str(value)))
for what, value in (("alpha", "a"), ("beta", None), ("k", "a")):
    bad("local_response_norm", X, 2, **{what: value}, says=(what, repr(value)))
for shape in ((), (4,), (2, 4)):
    bad("local_response_norm", t(*shape), 2, says=("input", str(shape)))
bad("local_response_norm", X.to(torch.complex128), 2, says=("input", "complex128"))

# Division by a norm
for value in (4, -5, HUGE):
    bad("normalize", X, dim=value, says=("dim", str(value)))
for value in (1.0, "a", (True,), (1.0,), True):
    bad("normalize", X, dim=value, says=("dim", repr(value).strip("(),")))
bad("normalize", X, dim=(1, 1), says=("dim", "(1, 1)"))
bad("normalize", X, dim=(1, -3), says=("dim", "(1, -3)"))
bad("normalize", X, [2.0], says=("p", "[2.0]"))
bad("normalize", X, eps="a", says=("eps", "'a'"))
bad("normalize", X.long(), says=("input", "int64"))
bad("normalize", t(2, 0), math.inf, says=("dim", "inf"))

# Dropout
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
for keywords, says in (
    ({"p": -0.1}, "-0.1"),
    ({"p": 1.1}, "1.1"),
    ({"p": 2}, "2"),
    ({"p": NAN}, "nan"),
    ({"p": "a"}, "'a'"),
    ({"p": None}, "None"),
    ({"p": -0.1, "training": False}, "-0.1"),
    ({"training": "a"}, "'a'"),
    ({"training": None}, "None"),
):
    for name in DROPOUTS:
        x = IMAGES[1] if name == "dropout1d" else X
        bad(name, x, says=(list(keywords)[-1] if "p" not in keywords else "p", says), **keywords)
for name in DROPOUTS:
    x = IMAGES[1] if name == "dropout1d" else X
    bad(name, x.long(), training=True, says=("input", "int64"))
    bad(name, x.bool(), training=True, says=("input", "bool"))
    if name in ("dropout", "alpha_dropout", "feature_alpha_dropout"):
        bad(name, None, says=("input", "NoneType"))
        bad(name, [1.0], training=False, says=("input", "list"))
for name in ("dropout1d", "dropout2d", "feature_alpha_dropout"):
    bad(name, t(6), training=True, says=("input", "(6,)"))
bad("dropout1d", X, training=False, says=("input", "(2, 4, 6, 6)"))

# Losses
Q, T = t(4, 3), classes(4)
for name in ("nll_loss", "cross_entropy"):
    bad(name, Q, T, reduction="avg", says=("reduction", "'avg'"))
    bad(name, Q, T, reduction=None, says=("reduction", "None"))
    bad(name, Q, T.double(), says=("target", "float64"))
    bad(name, Q, T.bool(), says=("target", "bool"))
    bad(name, Q, T.int(), says=("target", "int32"))
    bad(name, Q, T.short(), says=("target", "int16"))
    bad(name, Q, T[:3], says=("target", "(3,)"))
    bad(name, Q, T.view(2, 2), says=("target", "(2, 2)"))
    bad(name, Q, T.view(4, 1), says=("target", "(4, 1)"))
    bad(name, Q, T + 1, says=("[Tt]arget", "3"))
    bad(name, Q, T - 1, says=("[Tt]arget", "-1"))
    bad(name, Q, torch.tensor([0, 2**40, 0, 0]), says=("[Tt]arget", str(2**40)))
    bad(name, Q, torch.tensor([0, -(2**63), 0, 0]), says=("[Tt]arget", str(-(2**63))))
    bad(name, t(4, 3, 2), torch.full((4, 2), 5), says=("[Tt]arget", "5"))
    bad(name, t(4, 3, 2, 2), torch.full((4, 2, 2), 5), says=("[Tt]arget", "5"))
    bad(name, t(4, 0), T, says=("[Tt]arget", "0"))
    bad(name, t(3), torch.tensor(3), says=("[Tt]arget", "3"))
    bad(name, t(3), torch.tensor([0, 1]), says=("target", "(2,)"))
    bad(name, t(4, 3, 2), T, says=("target", "(4,)"))
    bad(name, t(4, 3, 2, 2), classes(4, 2, 3), says=("target", "(4, 2, 3)"))
    bad(name, t(4, 3, 2, 2, 2), classes(3, 2, 2, 2), says=("target", "(3, 2, 2, 2)"))
    bad(name, t(), torch.tensor(0), says=("input", "()"))
    bad(name, Q, T, weight=t(4), says=("weight", "(4,)"))
    bad(name, Q, T, weight=t(3, 1), says=("weight", "(3, 1)"))
    bad(name, Q, T, weight=t(3).float(), says=("weight", "float32"))
    bad(name, Q, T, weight=[1.0], says=("weight", "list"))
    bad(name, Q, T, ignore_index=1.0, says=("ignore_index", "1.0"))
    bad(name, Q, T, ignore_index="a", says=("ignore_index", "'a'"))
    bad(name, Q, T, ignore_index=None, says=("ignore_index", "None"))
    bad(name, Q, T, ignore_index=HUGER, says=("ignore_index", str(HUGER)))
    bad(name, None, T, says=("input", "NoneType"))
    bad(name, Q, None, says=("target", "NoneType"))
    bad(name, Q, [0, 1, 2, 1], says=("target", "list"))
    bad(name, Q.long(), T, says=(name if name == "nll_loss" else "softmax|input", "Long|int64"))
    bad(name, Q.to(torch.complex128), T, says=("input|softmax", "complex128|ComplexDouble"))
P = torch.softmax(t(4, 3), 1)
bad("cross_entropy", Q, P[:3], says=("target", "(3, 3)"))
bad("cross_entropy", Q, t(4, 4), says=("target", "(4, 4)"))
bad("cross_entropy", t(4, 3, 2), P, says=("target", "(4, 3)"))
bad("cross_entropy", Q, P, ignore_index=1, says=("ignore_index", "1"))
bad("cross_entropy", Q, P, weight=t(4), says=("weight", "(4,)"))
bad("cross_entropy", Q, P, label_smoothing=2.0, says=("label_smoothing", "2.0"))
bad("cross_entropy", Q, P.to(torch.complex128), says=("target", "(4, 3)"))
bad("cross_entropy", Q, T, label_smoothing=1.5, says=("label_smoothing", "1.5"))
bad("cross_entropy", Q, T, label_smoothing="a", says=("label_smoothing", "'a'"))
bad("cross_entropy", Q, T, label_smoothing=None, says=("label_smoothing", "None"))
bad("mse_loss", Q, Q, reduction="avg", says=("reduction", "'avg'"))
bad("mse_loss", Q, Q, reduction=None, says=("reduction", "None"))
bad("mse_loss", Q, t(4, 4), says=("4", "3"))
bad("mse_loss", Q, Q, weight=t(3), says=("weight", "(3,)"))
bad("mse_loss", Q.long(), Q.long(), says=("input", "int64"))
bad("mse_loss", Q.bool(), Q.bool(), says=("input", "bool"))
# More rows stand in test_parity_pointwise_loss.py, test_parity_distance.py and test_ctc_loss.py.
for name in (
    *("l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("poisson_nll_loss", "soft_margin_loss", "hinge_embedding_loss", "multilabel_soft_margin_loss"),
):
    bad(name, Q, Q, reduction="avg", says=("reduction", "'avg'"))
    bad(name, P, t(4, 4), says=("4", "3"))
bad("gaussian_nll_loss", Q, Q, -P, says=("var", "-0"))
bad("margin_ranking_loss", Q, Q, Q[0], says=("target", "(3,)"))
bad("multi_margin_loss", Q, T + 1, says=("target", "3"))
bad("multilabel_margin_loss", Q, T.view(4, 1), says=("target", "(4, 1)"))
bad("cosine_embedding_loss", Q, Q, Q, says=("target", "(4, 3)"))
bad("triplet_margin_loss", Q, Q, Q, margin=-1.0, says=("margin", "-1.0"))
bad("triplet_margin_with_distance_loss", Q, Q, Q, margin=-1.0, says=("margin", "-1.0"))
bad("ctc_loss", Q.view(4, 1, 3), T[:1], (5,), (1,), says=("input_lengths", "5"))
bad("linear_cross_entropy", Q, t(5, 4), T, says=("linear_weight", "(5, 4)"))
bad("linear_cross_entropy", Q, t(5), T, says=("linear_weight", "(5,)"))
bad("linear_cross_entropy", t(2, 4, 3), t(5, 3), T, says=("input", "(2, 4, 3)"))
bad("linear_cross_entropy", Q, t(5, 3), T, linear_bias=t(4), says=("linear_bias", "(4,)"))
bad("linear_cross_entropy", Q, t(5, 3), T + 5, says=("[Tt]arget", "5"))
bad("linear_cross_entropy", Q, t(5, 3), t(4, 5), ignore_index=0, says=("ignore_index", "0"))
bad("linear_cross_entropy", Q, t(5, 3), T, weight=t(4), says=("weight", "(4,)"))
bad("linear_cross_entropy", Q, t(5, 3), T, label_smoothing=2.0, says=("label_smoothing", "2.0"))
bad("linear_cross_entropy", Q, t(5, 3), T, reduction="avg", says=("reduction", "'avg'"))
bad("pairwise_distance", Q, t(4, 4), says=("x2", "(4, 4)"))
bad("cosine_similarity", Q, Q, 2, says=("dim", "2"))
bad("pdist", t(3), says=("input", "(3,)"))

# Sampling
PICTURE, GRID, THETA = t(2, 3, 4, 5), t(2, 6, 7, 2), t(2, 2, 3)
VOLUME, POINTS = t(2, 3, 4, 5, 6), t(2, 6, 7, 8, 3)
CORNERS = {"align_corners": False}
bad("grid_sample", PICTURE, GRID, "cubic", says=("mode", "cubic"))
bad("grid_sample", PICTURE, GRID, 0, says=("mode", "0"))
bad("grid_sample", PICTURE, GRID, padding_mode="wrap", says=("padding_mode", "wrap"))
bad("grid_sample", PICTURE, GRID, padding_mode=None, says=("padding_mode", "None"))
for value in (1, 0.0, "x", t(1)):
    bad("grid_sample", PICTURE, GRID, align_corners=value, says=("align_corners", repr(value)))
    bad("affine_grid", THETA, (2, 1, 3, 4), align_corners=value, says=("align_corners", repr(value)))
for value in (None, 1.0, [1.0]):
    bad("grid_sample", value, GRID, **CORNERS, says=("input", type(value).__name__))
    bad("grid_sample", PICTURE, value, **CORNERS, says=("grid", type(value).__name__))
for shape in ((), (3,), (2, 3), (2, 3, 4), (3, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 7)):
    bad("grid_sample", t(*shape), GRID, **CORNERS, says=("input", str(shape)))
for shape in ((), (2,), (2, 6, 2), (2, 6, 7, 3), (3, 6, 7, 2), (2, 6, 7, 8, 2)):
    bad("grid_sample", PICTURE, t(*shape), **CORNERS, says=("grid", str(shape)))
bad("grid_sample", VOLUME, POINTS, "bicubic", **CORNERS, says=("mode", "bicubic"))
for image, points in ((PICTURE, GRID), (VOLUME, POINTS)):
    for dtype in (torch.int64, torch.bool):
        bad("grid_sample", image.to(dtype), points, **CORNERS, says=("input", str(dtype)))
    for dtype in (torch.float32, torch.int64, torch.complex128):
        bad("grid_sample", image, points.to(dtype), **CORNERS, says=("grid", str(dtype)))
    bad("grid_sample", image.float(), points, **CORNERS, says=("grid", "float64"))
bad("grid_sample", PICTURE.to("meta"), GRID, **CORNERS, says=("grid", "cpu", "meta"))
bad("grid_sample", PICTURE.to_sparse(), GRID, **CORNERS, says=("input", "sparse"))
for size in ((2, 1, 3), (2, 1, 3, 4, 5, 6), ()):
    bad("affine_grid", THETA, size, **CORNERS, says=("size", str(size)))
for size in ((2, 1, 0, 4), (2, 0, 3, 4), (0, 1, 3, 4), (2, 1, -3, 4), (2, 1, 3, 4, 5)):
    bad("affine_grid", THETA, size, **CORNERS, says=("size", str(size)))
for size in ((2, 1, 1, 0), (2, 1, 1, -1)):
    bad("affine_grid", THETA, size, align_corners=True, says=("size", str(size)))
for size in (4, None, (2, 1, 3.0, 4), ("a", 1, 3, 4), (2.5, 1, 3, 4), torch.tensor([2, 1, 3, 4]), (2, 1, HUGER, 4)):
    bad("affine_grid", THETA, size, **CORNERS, says=("size", str(size)))
for shape in ((), (3,), (2, 3), (2, 3, 4), (2, 3, 3)):
    bad("affine_grid", t(*shape), (2, 1, 3, 4), **CORNERS, says=("theta", str(shape)))
bad("affine_grid", THETA, (3, 1, 3, 4), **CORNERS, says=("theta", "(2, 2, 3)", "3"))
for dtype in (torch.int64, torch.complex64):
    bad("affine_grid", THETA.to(dtype), (2, 1, 3, 4), **CORNERS, says=("theta", str(dtype)))

ONE, TABLE = torch.tensor([1]), t(3, 2)
for index in (torch.tensor([7]), torch.tensor([-1])):
    bad("embedding", index, TABLE, says="index")
bad("embedding", torch.tensor([1.0]), TABLE, says="indices")
bad("embedding", ONE, t(3), says=("weight", "(3,)"))
for index in (3, -4):
    bad("embedding", ONE, TABLE, padding_idx=index, says=("padding_idx", str(index)))
    bad("embedding_bag", ONE.view(1, 1), TABLE, padding_idx=index, says=("padding_idx", str(index)))
bad("embedding_bag", ONE, TABLE, says=("offsets", "None"))
bad("embedding_bag", ONE.view(1, 1), TABLE, torch.tensor([0]), says=("offsets", "Tensor"))
bad("embedding_bag", ONE, TABLE, torch.tensor([[0]]), says=("offsets", "(1, 1)"))
for offsets in ([1], [0, 9]):
    bad("embedding_bag", ONE, TABLE, torch.tensor(offsets), says="offsets")
bad("embedding_bag", torch.tensor([9]), TABLE, torch.tensor([0]), says=("idx", "9"))
bad("embedding_bag", ONE.view(1, 1, 1), TABLE, says=("input", "(1, 1, 1)"))
bad("embedding_bag", ONE.view(1, 1), t(3), says=("weight", "(3,)"))
bad("embedding_bag", ONE.view(1, 1), TABLE, mode="median", says=("mode", "median"))
bad("embedding_bag", ONE.view(1, 1), TABLE, mode="max", sparse=True, says=("sparse", "True"))
bad("embedding_bag", ONE.view(1, 1), TABLE, mode="max", scale_grad_by_freq=True, says=("scale_grad_by_freq", "True"))
bad("embedding_bag", ONE.view(1, 1), TABLE, per_sample_weights=t(1, 1), says=("per_sample_weights", "mean"))
bad("embedding_bag", ONE.view(1, 1), TABLE, per_sample_weights=t(2), says=("per_sample_weights", "(2,)"))


# Attention
HEADS = t(2, 4, 3, 5)
for place, word in enumerate(("query", "key", "value")):
    for value in (None, [1.0], t(5)):
        given = [HEADS, HEADS, HEADS]
        given[place] = value
        said = "(5,)" if isinstance(value, Tensor) else type(value).__name__
        bad("scaled_dot_product_attention", *given, says=(word, said))
for given, keywords, says in (
    ((HEADS, HEADS.float(), HEADS), {}, ("key", "float32")),
    ((HEADS, HEADS, HEADS.float()), {}, ("value", "float32")),
    ((HEADS, HEADS[..., :4], HEADS), {}, ("query and key", "(2, 4, 3, 4)")),
    ((HEADS, HEADS[:, :3], HEADS), {}, ("key", "(2, 3, 3, 5)")),
    ((HEADS[0], HEADS[0], HEADS[0, :, :2]), {}, ("key and value", "(4, 2, 5)")),
    ((HEADS, HEADS[:, :3], HEADS[:, :3]), {"enable_gqa": True}, ("heads", "(2, 3, 3, 5)")),
    ((HEADS[0, 0],) * 3, {"enable_gqa": True}, ("enable_gqa", "(3, 5)")),
    ((HEADS, HEADS, HEADS, HEADS), {}, ("attn_mask", "(2, 4, 3, 5)")),
    ((HEADS[0], HEADS[0], HEADS[0], t(2, 4, 3, 3)), {}, ("attn_mask", "(2, 4, 3, 3)")),
    ((HEADS, HEADS, HEADS, t(3, 3).long()), {}, ("attn_mask", "int64")),
    ((HEADS, HEADS, HEADS, "mask"), {}, ("attn_mask", "str")),
    ((HEADS, HEADS, HEADS, None, 1.5), {}, ("dropout_p", "1.5")),
    ((HEADS, HEADS, HEADS, None, "a"), {}, ("dropout_p", "'a'")),
    ((HEADS, HEADS, HEADS), {"is_causal": 1}, ("is_causal", "1")),
    ((HEADS, HEADS, HEADS), {"scale": "a"}, ("scale", "'a'")),
    ((HEADS, HEADS, HEADS), {"enable_gqa": 0}, ("enable_gqa", "0")),
    ((HEADS.long(),) * 3, {}, ("query", "int64")),
    ((HEADS + 0j,) * 3, {}, ("query", "complex128")),
):
    bad("scaled_dot_product_attention", *given, **keywords, says=says)
WORDS = t(3, 2, 4)
PROJECTIONS = (t(12, 4), t(12), None, None, False, 0.0, t(4, 4), t(4))
for given, parameters, keywords, says in (
    ((WORDS[None], WORDS, WORDS, 4, 2), PROJECTIONS, {}, "4D|4-D"),
    ((WORDS, WORDS[0], WORDS[0], 4, 2), PROJECTIONS, {}, "2-D"),
    ((WORDS[:, 0], WORDS, WORDS, 4, 2), PROJECTIONS, {}, "3-D"),
    ((WORDS, WORDS[:, :1], WORDS[:, :1], 4, 2), PROJECTIONS, {}, "(3, 1, 4)"),
    ((WORDS[..., :3], WORDS, WORDS, 4, 2), PROJECTIONS, {}, "(3, 2, 3)"),
    ((WORDS, WORDS, WORDS[:2], 4, 2), PROJECTIONS, {}, ("key and value", "(2, 2, 4)")),
    ((WORDS, WORDS, WORDS, 4, 3), PROJECTIONS, {}, ("num_heads", "3")),
    ((WORDS, WORDS, WORDS, 4, 2), (None, *PROJECTIONS[1:]), {}, ("in_proj_weight", "None")),
    ((WORDS, WORDS, WORDS, 4, 2), (*PROJECTIONS[:2], t(1, 1, 4), *PROJECTIONS[3:]), {}, ("bias_k", "bias_v")),
    *(
        ((WORDS, WORDS, WORDS, 4, 2), PROJECTIONS, keywords, says)
        for keywords, says in (
            ({"attn_mask": t(2, 3)}, ("attn_mask", "(2, 3)")),
            ({"attn_mask": t(5, 3, 3)}, ("attn_mask", "(5, 3, 3)")),
            ({"attn_mask": t(3)}, ("attn_mask", "1-D")),
            ({"attn_mask": t(3, 3).long()}, ("attn_mask", "bool and float")),
            ({"key_padding_mask": t(2, 4)}, ("key_padding_mask", "(2, 4)")),
            ({"key_padding_mask": t(2)}, ("key_padding_mask", "1-D")),
            ({"is_causal": True}, ("is_causal", "None")),
            ({"static_k": t(5, 3, 2)}, ("static_k", "(5, 3, 2)")),
            ({"static_v": t(4, 3, 3)}, ("static_v", "(4, 3, 3)")),
            ({"use_separate_proj_weight": True}, ("q_proj_weight", "None")),
        )
    ),
):
    bad("multi_head_attention_forward", *given, *parameters, **keywords, says=says)


@pytest.mark.parametrize("row", ROWS, ids=[str(row) for row in ROWS])
def test_function_refuses_as_the_built_in(row: Bad) -> None:
    expected = caught(lambda: getattr(builtin, row.name)(*fresh(row.arguments), **row.keywords))
    assert expected is not None, "the built-in takes it"
    error = caught(lambda: getattr(F, row.name)(*fresh(row.arguments), **row.keywords))
    assert error is not None, f"nothing raised; the built-in raises {expected!r}"
    assert type(error) is type(expected), f"{error!r}; the built-in raises {expected!r}"
    for text in row.says:
        pattern = text if "|" in text or "[" in text[:1] and "]" in text[:5] and len(text) > 5 else re.escape(text)
        assert re.search(pattern, str(error)), f"{text!r} is not in the message {str(error)!r}"


def test_every_function_has_rows() -> None:
    functions = {n for n, v in vars(F).items() if callable(v) and getattr(v, "__module__", "").startswith(F.__name__)}
    functions = {n for n in functions if not n.startswith("_")}
    # Three take no arguments but the input, and are among the deliberate differences below; cdist is torch's.
    assert functions - {row.name for row in ROWS} == {"sigmoid", "tanh", "scaled_tanh", "cdist"}


# --------------------------------------------------------------------------------------------------
# Modules

SINGLE = {n: image.float() for n, image in IMAGES.items()}
SEQUENCE = t(3, 2, 4, dtype=torch.float32)
MODULES: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = [
    # constructors
    ("Bilinear", (0, 2, 3), {}, ()),
    ("ChannelShuffle", (3,), {}, (t(2, 4, 6, 6),)),
    ("PixelShuffle", (3,), {}, (t(2, 4, 6, 6),)),
    ("PixelUnshuffle", (4,), {}, (t(2, 4, 6, 6),)),
    ("Dropout", (1.5,), {}, ()),
    ("Dropout", (-0.5,), {}, ()),
    # calls
    ("Linear", (3, 4), {}, (t(2, 5, dtype=torch.float32),)),
    ("Linear", (3, 4), {}, (t(2, 3),)),
    ("LazyLinear", (4,), {}, (t(),)),
    ("Bilinear", (3, 4, 5), {}, (t(2, 3, dtype=torch.float32), t(3, 4, dtype=torch.float32))),
    *((f"{kind}Pad1d", (1, *more), {}, (t(),)) for kind, more in (("Zero", ()), ("Constant", (2.0,)))),
    *((f"{kind}Pad2d", (-4, *more), {}, (X,)) for kind, more in (("Zero", ()), ("Constant", (2.0,)))),
    *((f"{kind}Pad3d", (1, *more), {}, (t(6, 6),)) for kind, more in (("Zero", ()), ("Constant", (2.0,)))),
    *((f"{kind}Pad1d", (7,), {}, (t(2, 3, 6),)) for kind in ("Reflection", "Circular")),
    *((f"{kind}Pad2d", (7,), {}, (X,)) for kind in ("Reflection", "Circular")),
    *((f"{kind}Pad3d", (7,), {}, (t(1, 2, 4, 6, 6),)) for kind in ("Reflection", "Circular")),
    *((f"{kind}Pad{n}d", (1,), {}, (t(6),)) for kind in ("Reflection", "Replication", "Circular") for n in (1, 2, 3)),
    ("Upsample", (), {}, (X,)),
    ("Upsample", (3,), {"mode": "linear"}, (X,)),
    ("Upsample", (3,), {"align_corners": True}, (X,)),
    ("UpsamplingNearest2d", (0,), {}, (X,)),
    ("UpsamplingBilinear2d", (3,), {}, (t(2, 3, 6),)),
    ("Unfold", (7,), {}, (X,)),
    ("Unfold", (2,), {}, (t(6, 6),)),
    ("Fold", (6, 2), {}, (t(2, 16, 24),)),
    ("BatchNorm1d", (4,), {}, (X.float(),)),
    ("BatchNorm1d", (4,), {}, (t(4, dtype=torch.float32),)),
    ("BatchNorm1d", (4,), {}, (t(1, 4, dtype=torch.float32),)),
    ("BatchNorm1d", (4,), {"eps": 0.0}, (t(2, 4, dtype=torch.float32),)),
    ("BatchNorm2d", (4,), {}, (t(2, 4, dtype=torch.float32),)),
    ("BatchNorm2d", (3,), {}, (X.float(),)),
    ("BatchNorm2d", (4,), {}, (X.float().long(),)),
    ("BatchNorm3d", (4,), {}, (X.float(),)),
    ("LayerNorm", (5,), {}, (X.float(),)),
    ("LayerNorm", ((4, 6),), {}, (X.float(),)),
    ("LayerNorm", (6,), {}, (X,)),
    ("GroupNorm", (3, 4), {}, (X.float(),)),
    ("GroupNorm", (3, 6), {}, (X.float(),)),
    ("GroupNorm", (2, 4), {}, (X,)),
    *((f"{lazy}InstanceNorm{n}d", () if lazy else (4,), {}, (t(4),)) for n in (1, 2, 3) for lazy in ("", "Lazy")),
    *((f"LazyBatchNorm{n}d", (), {}, (t(4, dtype=torch.float32),)) for n in (1, 2, 3)),
    ("InstanceNorm2d", (4,), {}, (t(2, 4, 1, 1),)),
    ("InstanceNorm2d", (3,), {"affine": True}, (X.float(),)),
    ("RMSNorm", (5,), {}, (X.float(),)),
    ("RMSNorm", ((4, 6),), {}, (X.float(),)),
    ("LocalResponseNorm", (0,), {}, (X,)),
    ("LocalResponseNorm", (2,), {}, (t(2, 4),)),
    ("CrossMapLRN2d", (2,), {}, (t(2, 4, 3),)),
    ("SyncBatchNorm", (4,), {}, (t(4, dtype=torch.float32),)),
    ("SyncBatchNorm", (4,), {}, (t(1, 4, dtype=torch.float32),)),
    ("SyncBatchNorm", (4,), {}, (t(2, 0, dtype=torch.float32),)),
    ("Softmax", (7,), {}, (X,)),
    ("LogSoftmax", (-5,), {}, (X,)),
    ("GELU", ("fast",), {}, (X,)),
    ("GLU", (4,), {}, (X,)),
    ("Softmin", (7,), {}, (X,)),
    ("Softmax2d", (), {}, (t(2, 4),)),
    ("PReLU", (3,), {}, (X.float(),)),
    ("PReLU", (), {}, (X,)),
    ("RReLU", (0.5, 0.2), {}, (X,)),
    ("Hardtanh", (1, -1), {}, ()),
    ("Hardtanh", ("a", "b"), {}, (X,)),
    ("Threshold", ("a", 0), {}, (X,)),
    *((name, (), {}, (None,)) for name in ("ReLU6", "SELU", "Hardsigmoid", "Hardswish", "LogSigmoid", "Mish")),
    *((name, ("a",), {}, (X,)) for name in ("ELU", "CELU", "Hardshrink", "Softshrink")),
    *((name, (), {}, (X > 0,)) for name in ("Softsign", "Tanhshrink")),
    *(
        (name, (1.5,), {}, ())
        for name in ("Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
    ),
    ("Dropout1d", (), {}, (X,)),
    ("ReLU", (), {}, (None,)),
    ("LeakyReLU", ("a",), {}, (X,)),
    ("SiLU", (), {}, ([1.0],)),
    ("Softplus", ("a",), {}, (X,)),
    ("Sigmoid", (), {}, (None,)),
    ("Tanh", (), {}, (None,)),
    ("Dropout", (), {}, (None,)),
    ("MultiheadAttention", (4, 3), {}, ()),
    ("MultiheadAttention", (4, 2), {}, (SEQUENCE, SEQUENCE, SEQUENCE[:, :1])),
    ("MultiheadAttention", (4, 2), {}, (SEQUENCE[..., :3],) * 3),
    ("MultiheadAttention", (4, 2), {"kdim": 3}, (SEQUENCE,) * 3),
    ("MultiheadAttention", (4, 2), {}, (SEQUENCE[None],) * 3),
    ("TransformerEncoderLayer", (4, 3), {}, ()),
    ("TransformerEncoderLayer", (4, 2, 5), {"activation": "tanh"}, ()),
    ("TransformerEncoderLayer", (4, 2, 5), {}, (SEQUENCE[..., :3],)),
    ("TransformerDecoderLayer", (4, 3), {}, ()),
    ("TransformerDecoderLayer", (4, 2, 5), {}, (SEQUENCE, SEQUENCE[:, :1])),
    (
        "TransformerEncoder",
        (torch.nn.TransformerEncoderLayer(4, 2, 5), 0),
        {"enable_nested_tensor": False},
        (SEQUENCE,),
    ),
    ("TransformerDecoder", (torch.nn.TransformerDecoderLayer(4, 2, 5), 0), {}, (SEQUENCE, SEQUENCE)),
    ("Transformer", (4, 3), {}, ()),
    ("Transformer", (4, 2, 1, 1, 5, 0.1, "relu", None, None, 1e-5, True), {}, (SEQUENCE, SEQUENCE[:2])),
    ("CrossEntropyLoss", (), {}, (Q, T + 1)),
    ("CrossEntropyLoss", (), {"reduction": "avg"}, (Q, T)),
    ("CrossEntropyLoss", (), {"label_smoothing": 1.5}, (Q, T)),
    ("CrossEntropyLoss", (t(4),), {}, (Q, T)),
    ("NLLLoss", (), {}, (Q, T[:3])),
    ("NLLLoss", (), {"reduction": "avg"}, (Q, T)),
    ("NLLLoss", (t(4),), {}, (Q, T)),
    ("MSELoss", (), {"reduction": "avg"}, (Q, Q)),
    ("MSELoss", (), {}, (Q, t(4, 4))),
    *(
        (f"{name}Loss", (), {"reduction": "avg"}, (P, P))
        for name in ("L1", "SmoothL1", "Huber", "KLDiv", "PoissonNLL", "BCE", "BCEWithLogits", "SoftMargin")
    ),
    *((f"{name}Loss", (), {"reduction": "avg"}, (P, P)) for name in ("HingeEmbedding", "MultiLabelSoftMargin")),
    ("GaussianNLLLoss", (), {}, (Q, Q, -P)),
    ("MarginRankingLoss", (), {}, (Q, Q, T)),
    ("MultiMarginLoss", (), {"p": 3}, (Q, T)),
    ("MultiMarginLoss", (), {}, (Q, T + 1)),
    ("MultiLabelMarginLoss", (), {}, (Q, T)),
    ("CosineEmbeddingLoss", (), {}, (Q, Q, Q)),
    ("TripletMarginLoss", (), {"margin": -1.0}, (Q, Q, Q)),
    ("TripletMarginWithDistanceLoss", (), {"margin": -1.0}, (Q, Q, Q)),
    ("CTCLoss", (), {"blank": 3}, (Q.view(4, 1, 3), T[:1], (4,), (1,))),
    ("LinearCrossEntropyLoss", (3, 5), {}, (Q.float(), T + 5)),
    ("LinearCrossEntropyLoss", (3, 5), {"label_smoothing": 2.0}, ()),
    ("AdaptiveLogSoftmaxWithLoss", (3, 5, [2]), {}, (Q.float(), T + 5)),
    ("AdaptiveLogSoftmaxWithLoss", (3, 5, [2]), {}, (Q.float(), T[:3])),
    ("AdaptiveLogSoftmaxWithLoss", (3, 5, [7]), {}, ()),
    ("PairwiseDistance", (), {}, (Q, t(4, 4))),
    ("CosineSimilarity", (2,), {}, (Q, Q)),
    ("Embedding", (3, 2), {}, (torch.tensor([7]),)),
    ("Embedding", (3, 2), {"padding_idx": 3}, ()),
    ("EmbeddingBag", (3, 2), {}, (ONE,)),
    ("EmbeddingBag", (3, 2), {"mode": "median"}, (ONE.view(1, 1),)),
]
F32 = {"dtype": torch.float32}
for name in ("RNN", "LSTM", "GRU"):
    for x in (t(2, 3, 4, 3, **F32), t(2, 3, 7, **F32), t(0, 2, 3, **F32), t(2, 2, 3)):
        MODULES.append((name, (3, 4), {}, (x,)))
for name in ("RNN", "GRU"):
    for x, h in (((2, 2, 3), (1, 4)), ((2, 3), (1, 2, 4)), ((2, 2, 3), (1, 3, 4))):
        MODULES.append((name, (3, 4), {}, (t(*x, **F32), t(*h, **F32))))
MODULES += [
    ("LSTM", (3, 4), {}, (t(2, 2, 3, **F32), (t(1, 2, 4, **F32), t(1, 4, **F32)))),
    ("LSTM", (3, 4), {}, (t(2, 2, 3, **F32), (t(1, 2, 4, **F32), t(1, 2, 5, **F32)))),
    ("RNNCell", (3, 4), {}, (t(2, 2, 3, **F32),)),
    ("RNNCell", (3, 4), {}, (t(2, 7, **F32),)),
    ("GRUCell", (3, 4), {}, (t(2, 3, **F32), t(3, 4, **F32))),
    ("GRUCell", (3, 4), {}, (t(2, 3, **F32), t(2, 5, **F32))),
    ("GRUCell", (3, 4), {}, (t(2, 3, **F32), t(1, 2, 4, **F32))),
    ("LSTMCell", (3, 4), {}, (t(2, 3, **F32), (t(2, 4, **F32), t(2, 3, **F32)))),
    ("LSTMCell", (3, 4), {}, (t(3, **F32), (t(2, 4, **F32), t(2, 4, **F32)))),
]
for n, x in SINGLE.items():
    for lazy in ("", "Lazy"):
        for name in (f"{lazy}Conv{n}d", f"{lazy}ConvTranspose{n}d"):
            made = (6, 3) if lazy else (4, 6, 3)
            bad_padding = {"padding_mode": "mirror"} if "Transpose" not in name else {"padding_mode": "circular"}
            for keywords in ({"groups": 0}, bad_padding, *(({"groups": 3},) if not lazy else ())):
                MODULES.append((name, made, keywords, ()))
            if "Transpose" not in name:
                MODULES.append((name, made, {"padding": "sane"}, ()))
                MODULES.append((name, made, {"padding": "same", "stride": 2}, ()))
                MODULES.append((name, made, {"padding": 7, "padding_mode": "reflect"}, (x,)))
                MODULES.append((name, made, {}, (x[..., :2],)))
            else:
                MODULES.append((name, made, {"output_padding": 1}, (x,)))
                MODULES.append((name, made, {"stride": 2}, (x, [99] * n)))
                MODULES.append((name, made, {"stride": 2}, (x, [13] * (n + 3))))
            MODULES.append((name, made, {"stride": 0}, (x,)))
            for shape in ((4,), (2, 4, *[6] * (n + 1)), (2, 3, *[6] * n) if not lazy else (6,)):
                MODULES.append((name, made, {}, (t(*shape, dtype=torch.float32),)))
    MODULES += [
        (f"MaxPool{n}d", (0,), {}, (x,)),
        (f"MaxPool{n}d", (2,), {"padding": 2}, (x,)),
        (f"MaxPool{n}d", (2,), {"dilation": 0}, (x,)),
        (f"MaxPool{n}d", (7,), {}, (x,)),
        (f"MaxUnpool{n}d", (2,), {}, (x, PLACES[n].int())),
        (f"MaxUnpool{n}d", (2,), {}, (x, PLACES[n], [20] * n)),
        (f"MaxUnpool{n}d", (2,), {}, (x, PLACES[n] - 1)),
        (f"AvgPool{n}d", (2,), {"padding": 2}, (x,)),
        (f"AvgPool{n}d", (7,), {}, (x,)),
        (f"AvgPool{n}d", (2,), {}, (t(6),)),
        (f"AdaptiveAvgPool{n}d", (-1,), {}, (x,)),
        (f"AdaptiveAvgPool{n}d", ((2,) * (n + 1),), {}, (x,)),
        (f"AdaptiveAvgPool{n}d", (None,), {}, (x,)),
        (f"AdaptiveMaxPool{n}d", (-1,), {}, (x,)),
        (f"AdaptiveMaxPool{n}d", ((2,) * (n + 1),), {}, (x,)),
        (f"AdaptiveMaxPool{n}d", (None,), {}, (x,)),
        (f"LPPool{n}d", (0, 2), {}, (x,)),
        (f"LPPool{n}d", ("a", 2), {}, (x,)),
        (f"LPPool{n}d", (2, 7), {}, (x,)),
    ]
    if n > 1:
        MODULES += [
            (f"AvgPool{n}d", (2,), {"divisor_override": 0}, (x,)),
            (f"FractionalMaxPool{n}d", (2,), {}, ()),
            (f"FractionalMaxPool{n}d", (2,), {"output_size": 3, "output_ratio": 0.5}, ()),
            (f"FractionalMaxPool{n}d", (2,), {"output_ratio": 1.5}, ()),
            (f"FractionalMaxPool{n}d", (2,), {"output_size": 6}, (x,)),
            (f"FractionalMaxPool{n}d", (2,), {"output_size": 3, "_random_samples": t(2, 4, n)}, (x,)),
        ]


@pytest.mark.parametrize(
    "row", MODULES, ids=[f"{n}{a}{list(k.items())}-{len(c)}-{i}" for i, (n, a, k, c) in enumerate(MODULES)]
)
def test_module_refuses_as_torchs(row: tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]) -> None:
    name, arguments, keywords, call = row

    def run(place: Any) -> None:
        module = getattr(place, name)(*arguments, **keywords)
        if call:
            module(*fresh(call))

    error, expected = caught(lambda: run(nn)), caught(lambda: run(torch.nn))
    assert expected is not None, "torch.nn takes it"
    assert type(error) is type(expected), f"{error!r}; torch.nn raises {expected!r}"


def test_every_module_has_rows() -> None:
    assert set(nn.explicit_layers()) - {row[0] for row in MODULES} == {"ScaledTanh"}


# --------------------------------------------------------------------------------------------------
# Deliberate differences: each is a fact about both sides, so that neither changes unnoticed


@dataclass(frozen=True)
class Example:
    """What we do and what the built-in does: an exception type, or None for a result."""

    call: Bad
    ours: type[BaseException] | None
    theirs: type[BaseException] | None
    reason: Difference


def differs(
    name: str,
    *arguments: Any,
    ours: type[BaseException] | None,
    theirs: type[BaseException] | None,
    reason: Difference,
    **keywords: Any,
) -> Example:
    return Example(Bad(name, arguments, keywords, ()), ours, theirs, reason)


COMPLEX = {n: image.to(torch.complex128) for n, image in IMAGES.items()}
MORE_DROPOUTS = Difference("a mask drops complex numbers too")
ADDED = Difference("a bias that fits the output is added")
WRAPPED = Difference(
    "what is left after cutting off is wrapped around at most once; the built-in reads memory that nobody wrote"
)
HALF_ANTIALIAS = Difference("computed in float32 and rounded once, as everywhere")
OVERFLOWS = Difference("the built-in's sizes overflow without a word")
EXAMPLES = [
    *(
        differs(name, value, ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR, **keywords)
        for name, keywords in (
            *((name, {}) for name in ("sigmoid", "tanh", "softsign", "tanhshrink", "glu")),
            *((name, {}) for name in ("dropout1d", "dropout2d", "dropout3d")),
            *((name, {"dim": 0}) for name in ("softmax", "log_softmax")),
        )
        for value in (None, [1.0])
    ),
    *(
        differs(name, value, *rest, ours=TypeError, theirs=AttributeError, reason=TYPES)
        for n in (1, 2, 3)
        for name, *rest in (
            *((f"adaptive_{kind}_pool{n}d", 2) for kind in ("avg", "max") if n > 1),
            (f"lp_pool{n}d", 2, 2),
            (f"max_unpool{n}d", PLACES[n], 2),
        )
        for value in (None, [1.0])
    ),
    differs("affine_grid", None, (2, 1, 3, 4), ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR),
    differs("interpolate", None, 3, ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR),
    differs(
        *("interpolate", X.bfloat16(), 3),
        mode="bilinear",
        antialias=True,
        ours=None,
        theirs=NotImplementedError,
        reason=HALF_ANTIALIAS,
    ),
    differs("pad", t(2, 3, 5), (4, -2), mode="circular", ours=RuntimeError, theirs=None, reason=WRAPPED),
    differs("unfold", X, 2, padding=HUGE, ours=RuntimeError, theirs=None, reason=OVERFLOWS),
    differs("unfold", X, 2, dilation=HUGE, ours=RuntimeError, theirs=None, reason=OVERFLOWS),
    differs("fold", t(2, 16, 25), 6, 2, padding=HUGE, ours=RuntimeError, theirs=None, reason=OVERFLOWS),
    differs("mse_loss", Q, None, ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR),
    differs("mse_loss", Q, Q, weight=[1.0], ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR),
    *(
        differs(f"{name}{n}d", COMPLEX[n], 2, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES)
        for name in ("avg_pool", "adaptive_avg_pool")
        for n in (1, 2, 3)
    ),
    differs("avg_pool3d", IMAGES[3].bfloat16(), 2, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES),
    differs("lp_pool3d", IMAGES[3].bfloat16(), 2, 2, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES),
    differs("max_pool1d", IMAGES[1].long(), 2, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES),
    *(
        differs(f"max_unpool{n}d", x, PLACES[n], 2, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES)
        for n in (1, 2, 3)
        for x in (COMPLEX[n], IMAGES[n].long())
    ),
    differs("mse_loss", Q.to(torch.complex128), Q, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES),
    differs(
        "grid_sample", PICTURE.to(torch.complex128), GRID, ours=None, theirs=NotImplementedError, reason=MORE_DTYPES
    ),
    *(
        differs(name, x, training=True, ours=None, theirs=NotImplementedError, reason=MORE_DROPOUTS)
        for name in DROPOUTS
        for x in (COMPLEX[1] if name == "dropout1d" else X.to(torch.complex128),)
    ),
    differs(
        *("rrelu_", X, 0.1, float("inf")),
        ours=RuntimeError,
        theirs=None,
        reason=Difference("a slope is finite, which the built-in checks where it is not in place"),
    ),
    differs("max_pool2d", X, 2, HUGE, ours=None, theirs=RuntimeError, reason=WIDE),
    differs("avg_pool2d", X, 2, HUGE, ours=None, theirs=RuntimeError, reason=WIDE),
    differs("avg_pool2d", X, 2**40, padding=2**39, ours=None, theirs=RuntimeError, reason=WIDE),
    differs("linear", t(2, 3), t(3), t(2), ours=None, theirs=RuntimeError, reason=ADDED),
    *(
        differs(
            f"conv{n}d",
            t(2, 4, 0, *[6] * (n - 1)),
            t(4, 4, *[1] * n),
            padding=1,
            ours=None,
            theirs=RuntimeError,
            reason=EMPTY_IMAGES,
        )
        for n in (1, 2, 3)
    ),
    *(
        differs(name, IMAGES[n][:0], KERNELS[n], ours=RuntimeError, theirs=None, reason=EMPTY_BATCH, **keywords)
        for n in (1, 2, 3)
        for name, keywords in (
            ("conv1d", {"dilation": 0}),
            (f"conv_transpose{n}d", {"output_padding": 1}),
            (f"conv_transpose{n}d", {"padding": 4}),
        )
        if n == int(name[-2])
    ),
    *(
        differs(name, x, w, b, ours=RuntimeError, theirs=theirs, reason=MIXED_DTYPES)
        for n in (1, 2, 3)
        for name, x, w, b, theirs in (
            (f"conv{n}d", IMAGES[n][:0], KERNELS[n].float(), None, None),
            (f"conv_transpose{n}d", IMAGES[n].byte(), KERNELS[n], None, NotImplementedError),
            (f"conv_transpose{n}d", IMAGES[n], KERNELS[n], t(4).float(), None),
        )
        if n < 3 or theirs is not None or not len(x)
    ),
    *(
        differs(name, *arguments, ours=TypeError, theirs=theirs, reason=TYPES, **keywords)
        for n in (2, 3)
        for name, arguments, keywords, theirs in (
            (f"adaptive_avg_pool{n}d", (IMAGES[n], "valid"), {}, ValueError),
            (f"adaptive_max_pool{n}d", (IMAGES[n], set(range(1, n + 1))), {}, None),
            (f"lp_pool{n}d", (IMAGES[n], 2, "2"), {}, ValueError),
            (f"fractional_max_pool{n}d", (IMAGES[n], 2), {"output_ratio": ("a",) * n}, ValueError),
        )
    ),
    *(
        differs(f"lp_pool{n}d", IMAGES[n], 2, (1,) * (n + 1), ours=RuntimeError, theirs=ValueError, reason=LENGTHS)
        for n in (2, 3)
    ),
    *(
        differs(f"max_unpool{n}d", IMAGES[n], PLACES[n], 2, (), ours=RuntimeError, theirs=IndexError, reason=LENGTHS)
        for n in (1, 2, 3)
    ),
    differs("max_unpool2d", X, PLACES[2] % 5, 2, True, (1, 1), ours=TypeError, theirs=None, reason=TYPES),
    differs("max_unpool2d", X, PLACES[2], 2, (2, 2, 2), ours=RuntimeError, theirs=None, reason=LENGTHS),
    *(
        differs(name, IMAGES[n], 2, output_ratio=ratios, ours=ValueError, theirs=theirs, reason=RATIOS)
        for name, n, ratios, theirs in (
            ("fractional_max_pool2d", 2, (0.5,), IndexError),
            ("fractional_max_pool3d", 3, (0.5, 0.5), IndexError),
            ("fractional_max_pool3d", 3, (0.5, 0.5, 0.5, 0.5), None),
        )
    ),
    *(
        differs(name, *arguments, ours=None, theirs=theirs, reason=ONE_SIZE, **keywords)
        for n in (2, 3)
        for name, arguments, keywords, theirs in (
            (f"lp_pool{n}d", (IMAGES[n], 2, [2]), {}, ValueError),
            (f"fractional_max_pool{n}d", (IMAGES[n], [2], [3]), {}, RuntimeError),
            (f"max_unpool{n}d", (IMAGES[n], PLACES[n], 2, [2]), {}, IndexError),
            (f"adaptive_avg_pool{n}d", (IMAGES[n], np.int64(2)), {}, TypeError),
        )
    ),
    differs("lp_pool1d", IMAGES[1], 2, (2,), ours=None, theirs=TypeError, reason=ONE_SIZE),
    differs("fractional_max_pool2d", X, 2, output_ratio=0.5, ours=None, theirs=TypeError, reason=ONE_SIZE),
    *(
        differs(f"max_unpool{n}d", IMAGES[n], PLACES[n], HUGER, ours=ValueError, theirs=TypeError, reason=OVERFLOW)
        for n in (1, 2, 3)
    ),
    *(
        differs(f"max_unpool{n}d", t(2), PLACES[n], 2, ours=RuntimeError, theirs=theirs, reason=RANK)
        for n, theirs in ((2, IndexError), (3, IndexError))
    ),
    *(
        differs(f"max_unpool{n}d", IMAGES[n], PLACES[n], 2, padding=6, ours=RuntimeError, theirs=None, reason=NO_PLACES)
        for n in (1, 2, 3)
    ),
    *(
        differs(f"adaptive_avg_pool{n}d", x, size, ours=NotImplementedError, theirs=theirs, reason=INTEGERS)
        for n in (1, 2, 3)
        for x, size, theirs in ((IMAGES[n][:0].long(), 2, None), (IMAGES[n].bool(), 1, RuntimeError))
        if n < 3 or theirs is not None
    ),
    *(
        differs(f"lp_pool{n}d", IMAGES[n].long(), 1, 2, ours=NotImplementedError, theirs=None, reason=INTEGERS)
        for n in (1, 2, 3)
    ),
    *(
        differs(f"adaptive_avg_pool{n}d", x, 1, ours=RuntimeError, theirs=None, reason=ONE_WINDOW)
        for n in (2, 3)
        for x in (t(2, 4, 0, *[6] * (n - 1)), t(1, 2, 4, *[6] * n))
    ),
    differs(
        *("cross_entropy", Q, T),
        label_smoothing=-0.1,
        ours=RuntimeError,
        theirs=None,
        reason=Difference("the built-in ignores a negative smoothing without a word"),
    ),
    *(
        differs(name, [1.0], *more, ours=TypeError, theirs=AttributeError, reason=NOT_A_TENSOR)
        for name, *more in (("instance_norm",), ("local_response_norm", 2), ("normalize",))
    ),
    differs(
        *("instance_norm", t(0, 4, 6), None, None, t(4)),
        ours=None,
        theirs=IndexError,
        reason=EMPTY_BATCH,
    ),
    differs("normalize", X, "a", ours=TypeError, theirs=RuntimeError, reason=TYPES),
    differs(
        *("rms_norm", X, (6,), t(6).to(torch.complex128)),
        ours=RuntimeError,
        theirs=None,
        reason=Difference("the built-in drops the imaginary part of the result"),
    ),
    differs(
        *("batch_norm", X, M, V, t(4, 1)),
        ours=RuntimeError,
        theirs=None,
        reason=Difference("a weight per channel is a vector"),
    ),
]


@pytest.mark.parametrize("row", EXAMPLES, ids=[str(row.call) for row in EXAMPLES])
def test_deliberate_difference(row: Example) -> None:
    call = row.call
    for place, wanted in ((F, row.ours), (builtin, row.theirs)):
        error = caught(lambda place=place: getattr(place, call.name)(*fresh(call.arguments), **call.keywords))
        assert (None if error is None else type(error)) is wanted, f"{place.__name__}: {error!r}; {row.reason}"
    if row.reason in differences.DIFFERENCES and re.search("[123]d$", call.name):
        given = inspect.signature(getattr(F, call.name)).bind(*call.arguments, **call.keywords).arguments
        assert row.reason in differences.differences(call.name, given)


def test_every_difference_has_an_example() -> None:
    # Fractional windows without elements: the built-in may write out of bounds.
    assert set(differences.DIFFERENCES) - {row.reason for row in EXAMPLES} == {differences.NO_ELEMENTS}
    assert type(caught(lambda: F.fractional_max_pool2d(X, 0, 3))) is differences.NO_ELEMENTS.ours


def test_zero_channels_have_the_shape_of_the_formula() -> None:
    """The built-in returns as many channels as the input has, none, whatever the weight says."""
    x, weight, bias = t(2, 0, 6, 6), t(4, 0, 3, 3), t(4)
    assert builtin.conv2d(x, weight, bias).shape == (2, 0, 4, 4)
    assert torch.equal(F.conv2d(x, weight, bias), bias.view(1, 4, 1, 1).expand(2, 4, 4, 4))


# --------------------------------------------------------------------------------------------------
# Warnings


@pytest.mark.parametrize(
    ("name", "arguments", "keywords", "message"),
    [
        ("softmax", (Q,), {}, "dim"),
        ("softmin", (Q,), {}, "dim"),
        ("log_softmax", (Q,), {}, "dim"),
        ("dropout2d", (t(2, 3, 4),), {"training": False}, "dropout2d"),
        ("dropout2d", (t(2, 3),), {"training": False}, "dropout2d"),
        ("dropout3d", (t(2, 3, 4),), {"training": False}, "dropout3d"),
        ("mse_loss", (Q, t(3)), {}, "different"),
        ("nll_loss", (Q, T), {"size_average": False}, "reduction"),
        ("cross_entropy", (Q, T), {"reduce": False}, "reduction"),
        ("mse_loss", (Q, Q), {"size_average": False}, "reduction"),
        ("grid_sample", (PICTURE, GRID), {}, "align_corners"),
        ("affine_grid", (THETA, (2, 1, 3, 4)), {}, "align_corners"),
        ("affine_grid", (THETA, (2, 1, 1, 4)), {"align_corners": True}, "size"),
    ],
)
def test_warns_where_the_built_in_does(name: str, arguments: tuple, keywords: dict, message: str) -> None:
    results, places = [], []
    for place in (F, builtin):
        with pytest.warns(UserWarning, match=message if place is F else "") as record:
            results.append(getattr(place, name)(*arguments, **keywords))
        assert len(record) == 1
        places.append("nn" in Path(record[0].filename).parts)  # the caller's line, or its own
    assert places[0] == places[1]
    torch.testing.assert_close(results[0], results[1])


# --------------------------------------------------------------------------------------------------
# Hostile sizes and the bare operators. Each call runs in a child with 8 GiB of address space beside what
# it has loaded, and 20 seconds; a crash or a hang is charged to the call that was running.

K = torch.ops.torchbp
WINNER = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
POOL = ([2, 2], [2, 2], [0, 0], [1, 1])
CONV = ([1, 1], [0, 0], [1, 1], 1)
IMAGE, KERNEL, GRAD = t(1, 2, 6, 6), t(3, 2, 3, 3), t(1, 3, 4, 4)


def many(like: list[int], place: int, value: int) -> list[int]:
    return [value if i == place else v for i, v in enumerate(like)]


def hostile() -> dict[str, tuple[Callable[[], Any], bool]]:
    """Return calls by name, and whether each must raise (the others may return)."""
    rows: dict[str, tuple[Callable[[], Any], bool]] = {}

    def add(label: str, call: Callable[[], Any], must_raise: bool = True) -> None:
        assert label not in rows, label
        rows[label] = (call, must_raise)

    # Functions
    for power in (31, 40, 61, 62):
        for name in ("padding", "dilation"):
            value = 2**power
            add(f"conv2d {name} 2**{power}", lambda name=name, value=value: F.conv2d(X, W, **{name: value}))
        add(f"adaptive_avg_pool2d 2**{power}", lambda power=power: F.adaptive_avg_pool2d(X, 2**power))
        add(f"adaptive_avg_pool2d (2**{power}, 1)", lambda power=power: F.adaptive_avg_pool2d(X, (2**power, 1)))
        add(f"max_pool2d dilation 2**{power}", lambda power=power: F.max_pool2d(X, 2, dilation=2**power))
        for name in ("max_pool2d", "avg_pool2d"):
            pool = getattr(F, name)
            add(f"{name} kernel 2**{power}", lambda pool=pool, power=power: pool(X, 2**power))
            add(
                f"{name} kernel 2**{power}, half padded",
                lambda pool=pool, power=power: pool(X, 2**power, padding=2 ** (power - 1)),
                False,
            )
            add(
                f"{name} stride 2**{power}, ceil",
                lambda pool=pool, power=power: pool(X, 2, 2**power, ceil_mode=True),
                False,
            )
        for name in ("padding", "dilation", "stride", "output_padding"):
            value = 2**power
            keywords = {name: value} if name != "output_padding" else {name: value, "dilation": value + 1}
            add(f"conv_transpose2d {name} 2**{power}", lambda k=keywords: F.conv_transpose2d(X, W, **k))
        for name in ("max_pool1d", "avg_pool1d", "lp_pool1d"):
            pool, before = getattr(F, name), (2,) if name == "lp_pool1d" else ()
            add(f"{name} kernel 2**{power}", lambda pool=pool, b=before, v=2**power: pool(IMAGES[1], *b, v))
        for name in ("adaptive_max_pool2d", "adaptive_max_pool3d"):
            pool, x = getattr(F, name), IMAGES[int(name[-2])]
            add(f"{name} 2**{power}", lambda pool=pool, x=x, v=2**power: pool(x, v))
        for name in ("kernel_size", "output_size"):
            keywords = {"kernel_size": 2, "output_size": 2, name: 2**power}
            add(f"fractional_max_pool2d {name} 2**{power}", lambda k=keywords: F.fractional_max_pool2d(X, **k))
        for name in ("kernel_size", "stride", "padding"):
            keywords = {"kernel_size": 2, name: 2**power}
            add(f"max_unpool2d {name} 2**{power}", lambda k=keywords: F.max_unpool2d(X, PLACES[2], **k), False)
    add("adaptive_avg_pool2d (2**20, 2**20)", lambda: F.adaptive_avg_pool2d(X, 2**20))
    add("conv2d padding 2**20", lambda: F.conv2d(X, W, padding=2**20))

    # Winners that cannot be
    for name, first in (("max_pool_scatter", (t(1, 2, 3, 3),)), ("max_pool_gather", (IMAGE,))):
        op, sizes = getattr(K, name), ([6, 6],) if name == "max_pool_scatter" else ()
        for dtype in (torch.int8, torch.int32, torch.int64, torch.float32, torch.bool):
            add(f"{name} winner {dtype}", lambda op=op, a=first, s=sizes, d=dtype: op(*a, WINNER.to(d), *s, *POOL))
        for shape in ((1, 2, 3), (1, 2, 3, 3, 3), (2, 2, 3, 3), (1, 3, 3, 3), (1, 2, 9, 9), (1, 2, 0, 3)):
            wrong = torch.zeros(shape, dtype=torch.uint8)
            add(f"{name} winner {shape}", lambda op=op, a=first, s=sizes, w=wrong: op(*a, w, *s, *POOL))
        wild = torch.full_like(WINNER, 255)
        add(f"{name} winners 255", lambda op=op, a=first, s=sizes, w=wild: op(*a, w, *s, *POOL), False)
        wide = torch.full((1, 2, 1, 1), -(2**31), dtype=torch.int32)
        big = (t(1, 2, 1, 1),) if name == "max_pool_scatter" else (t(1, 2, 20, 20),)
        geometry = ([20, 20], [20, 20], [0, 0], [1, 1])
        size = ([20, 20],) if name == "max_pool_scatter" else ()
        for value in (-(2**31), -1, 400, 2**31 - 1):
            filled = torch.full_like(wide, value)
            add(f"{name} winner {value}", lambda op=op, a=big, s=size, w=filled, g=geometry: op(*a, w, *s, *g), False)
        for place, what in enumerate(("kernel_size", "stride", "padding", "dilation")):
            for value in (-1, -(2**62), 2**62):
                lists = list(POOL)
                lists[place] = [value, value]
                add(
                    f"{name} {what} {value}",
                    lambda op=op, a=first, s=sizes, g=tuple(lists): op(*a, WINNER, *s, *g),
                    what == "stride" and value < 0,
                )
            lists = list(POOL)
            lists[place] = [1]
            add(f"{name} one {what}", lambda op=op, a=first, s=sizes, g=tuple(lists): op(*a, WINNER, *s, *g))
    for size in ([6], [6, 6, 6], [-1, 6], [0, 6], [2**40, 2**40], [2**62, 6]):
        add(
            f"max_pool_scatter input_size {size}",
            lambda size=size: K.max_pool_scatter(t(1, 2, 3, 3), WINNER, size, *POOL),
        )
    add("max_pool_scatter gradient (1, 2, 2, 2)", lambda: K.max_pool_scatter(t(1, 2, 2, 2), WINNER, [6, 6], *POOL))

    # Windows that sizes alone or samples place
    samples = torch.full((1, 2, 2), 0.5)
    chosen = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    irregular: dict[str, Callable[..., Any]] = {
        "irregular_max_pool": lambda samples, kernel: K.irregular_max_pool(IMAGE, samples, [2, 2], kernel),
        "irregular_max_pool_gather": lambda samples, kernel: K.irregular_max_pool_gather(
            IMAGE, chosen, samples, kernel
        ),
        "irregular_max_pool_scatter": lambda samples, kernel: K.irregular_max_pool_scatter(
            t(1, 2, 2, 2), chosen, samples, [6, 6], kernel
        ),
    }
    for name, call in irregular.items():
        for value in (-1.0, 1.5, 2.0**62, -(2.0**70), math.inf, math.nan):
            wrong = torch.full_like(samples, value)
            add(f"{name} samples of {value}", lambda call=call, wrong=wrong: call(wrong, [3, 3]), False)
        for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
            add(f"{name} samples {dtype}", lambda call=call, dtype=dtype: call(samples.to(dtype), [3, 3]))
        for shape in ((2, 2), (1, 2), (1, 2, 2, 1), (1, 2, 1), (1, 2, 3), (2, 2, 2), (1, 3, 2), (1, 2, 0)):
            wrong = torch.zeros(shape)
            add(f"{name} samples {shape}", lambda call=call, wrong=wrong: call(wrong, [3, 3]))
        for kernel in ([3], [3, 3, 3], [0, 3], [-1, 3], [2, 3], [2**62, 2**62]):
            add(f"{name} kernel_size {kernel}", lambda call=call, kernel=kernel: call(None, kernel))
        for kernel in ([3], [3, 3, 3], [0, 3], [-1, 3], [7, 3], [2**62, 2**62]):
            add(f"{name} kernel_size {kernel}, samples", lambda call=call, kernel=kernel: call(samples, kernel))
    for output in ([2], [2, 2, 2], [-1, 5], [2**62, 2], [2**40, 2**40]):
        for place in (None, samples):
            add(
                f"irregular_max_pool output_size {output}, {'adaptive' if place is None else 'samples'}",
                lambda output=output, place=place: K.irregular_max_pool(IMAGE, place, output, [3, 3]),
            )
    for name, first, sizes in (
        ("irregular_max_pool_gather", (IMAGE,), ()),
        ("irregular_max_pool_scatter", (t(1, 2, 2, 2),), ([6, 6],)),
    ):
        op = getattr(K, name)
        for dtype in (torch.int8, torch.int32, torch.int64, torch.float32, torch.bool):
            wrong = chosen.to(dtype)
            add(f"{name} winner {dtype}", lambda op=op, a=first, s=sizes, w=wrong: op(*a, w, None, *s, [3, 3]))
        for shape in ((1, 2, 2), (1, 2, 2, 2, 2), (2, 2, 2, 2), (1, 3, 2, 2), (1, 2, 1, 2)):
            wrong = torch.zeros(shape, dtype=torch.uint8)
            add(f"{name} winner {shape}", lambda op=op, a=first, s=sizes, w=wrong: op(*a, w, None, *s, [3, 3]))
        wild = torch.full_like(chosen, 255)
        add(f"{name} winners 255", lambda op=op, a=first, s=sizes, w=wild: op(*a, w, None, *s, [3, 3]), False)
    for size in ([6], [6, 6, 6], [-1, 6], [7, 6], [2**62, 6], [2**40, 2**40]):
        add(
            f"irregular_max_pool_scatter input_size {size}",
            lambda size=size: K.irregular_max_pool_scatter(t(1, 2, 2, 2), chosen, None, size, [3, 3]),
        )

    # Places that cannot be
    places = torch.arange(9).expand(1, 2, 9).reshape(1, 2, 3, 3)
    for size in ([6], [6, 6, 6], [-1, 6], [0, 6], [2, 4], [2**62, 6], [2**40, 2**40], [2**62, 2**62]):
        add(f"max_unpool output_size {size}", lambda size=size: K.max_unpool(t(1, 2, 3, 3), places, size))
    for value in (-1, 36, 2**40, -(2**63), 2**63 - 1):
        wrong = places.clone()
        wrong[0, 1, 2, 2] = value
        add(f"max_unpool place {value}", lambda wrong=wrong: K.max_unpool(t(1, 2, 3, 3), wrong, [6, 6]))
        add(f"max_unpool_adjoint place {value}", lambda wrong=wrong: K.max_unpool_adjoint(IMAGE, wrong))
    for dtype in (torch.int32, torch.float64, torch.bool):
        add(f"max_unpool places {dtype}", lambda dtype=dtype: K.max_unpool(t(1, 2, 3, 3), places.to(dtype), [6, 6]))
        add(f"max_unpool_adjoint places {dtype}", lambda dtype=dtype: K.max_unpool_adjoint(IMAGE, places.to(dtype)))
    for shape in ((3, 3), (1, 2, 3), (1, 2, 3, 3, 1), (2, 2, 3, 3), (1, 3, 3, 3)):
        wrong = torch.zeros(shape, dtype=torch.int64)
        add(f"max_unpool places {shape}", lambda wrong=wrong: K.max_unpool(t(1, 2, 3, 3), wrong, [6, 6]))
        add(f"max_unpool_adjoint places {shape}", lambda wrong=wrong: K.max_unpool_adjoint(IMAGE, wrong))

    # The forward operators
    for place, what in enumerate(("kernel_size", "stride", "padding", "dilation")):
        for value in (-1, -(2**62)) + ((0,) if what != "padding" else ()):
            lists = list(POOL)
            lists[place] = [2, value] if what == "kernel_size" else [1, value]
            add(f"max_pool {what} {value}", lambda g=tuple(lists): K.max_pool(IMAGE, *g, False))
        for values in ([], [1], [1, 1, 1]):
            lists = list(POOL)
            lists[place] = values
            add(f"max_pool {what} {values}", lambda g=tuple(lists): K.max_pool(IMAGE, *g, False))
    for shape in ((6,), (6, 6), (1, 1, 2, 2, 2, 2)):
        add(f"max_pool input {shape}", lambda shape=shape: K.max_pool(t(*shape), *POOL, False))
        add(f"adaptive_average_pool input {shape}", lambda shape=shape: K.adaptive_average_pool(t(*shape), [2, 2]))
    add("average_pool divisor 0", lambda: K.average_pool(IMAGE, [2, 2], [2, 2], [0, 0], False, True, 0))
    add("average_pool padding 2", lambda: K.average_pool(IMAGE, [2, 2], [2, 2], [2, 0], False, True, None))
    for size in ([6], [-6, 6], [2**62, 6], [2**40, 2**40], [4, 4]):
        add(
            f"average_pool_adjoint input_size {size}",
            lambda size=size: K.average_pool_adjoint(t(1, 2, 3, 3), size, [2, 2], [2, 2], [0, 0], False, True, None),
        )
    add(
        "average_pool_adjoint stride and input_size 2**40",
        lambda: K.average_pool_adjoint(
            t(1, 2, 1, 1), [2**40, 2**40], [2, 2], [2**40, 2**40], [0, 0], False, True, None
        ),
    )
    for size in ([], [2], [2, 2, 2], [-1, 2], [2**62, 2**62]):
        add(f"adaptive_average_pool {size}", lambda size=size: K.adaptive_average_pool(IMAGE, size))
    for size in ([6], [0, 6], [-1, 6], [2**62, 2**62], [2**40, 2**40]):
        add(
            f"adaptive_average_pool_adjoint {size}",
            lambda size=size: K.adaptive_average_pool_adjoint(t(1, 2, 3, 3), size),
        )

    # Convolution's three products
    products: dict[str, Callable[..., Any]] = {
        "convolution": lambda *g: K.convolution(IMAGE, KERNEL, None, *g),
        "convolution_input": lambda *g: K.convolution_input(GRAD, KERNEL, None, [6, 6], *g),
        "convolution_weight": lambda *g: K.convolution_weight(IMAGE, GRAD, [3, 3], *g),
    }
    for name, product in products.items():
        for place, what in enumerate(("stride", "padding", "dilation", "groups")):
            values: tuple[Any, ...] = (
                (-1, -(2**62), 2**62)
                if what == "groups"
                else ([-1, 1], [1], [1, 1, 1], [], [-(2**62), 1], [2**62, 2**62])
            )
            if what == "padding":  # or two values a dimension: before the input, and after it
                values += ([-1, 0, 0, 0], [0, 0, 0, -7], [0, 0, -(2**62), 0], [0, 0, 2**62, 2**62], [2**62] * 4)
                values += ([0, 0, 0, 0, 0], [0, 0, 0, -4], [0, 2**40, 0, -(2**40)])
            for value in (*values, 0 if what == "groups" else [0, 0]):
                if (what, value) == ("padding", [0, 0]):
                    continue
                lists = list(CONV)
                lists[place] = value
                may = (name, what, value) == ("convolution", "stride", [2**62, 2**62])
                add(f"{name} {what} {value}", lambda product=product, g=tuple(lists): product(*g), not may)
        add(f"{name} groups 2", lambda product=product: product(*CONV[:3], 2))
    add("convolution input 2-d", lambda: K.convolution(t(6, 6), KERNEL, None, *CONV))
    add(
        "convolution input 6-d",
        lambda: K.convolution(t(1, 2, 2, 2, 2, 2), t(3, 2, 1, 1, 1, 1), None, [1] * 4, [0] * 4, [1] * 4, 1),
    )
    add("convolution weight 3-d", lambda: K.convolution(IMAGE, t(3, 2, 3), None, *CONV))
    add("convolution weight float32", lambda: K.convolution(IMAGE, KERNEL.float(), None, *CONV))
    add("convolution bias (2,)", lambda: K.convolution(IMAGE, KERNEL, t(2), *CONV))
    add("convolution bias float32", lambda: K.convolution(IMAGE, KERNEL, t(3).float(), *CONV))
    add("convolution empty kernel", lambda: K.convolution(IMAGE, t(3, 2, 0, 3), None, *CONV))
    add("convolution weight on meta", lambda: K.convolution(IMAGE, KERNEL.to("meta"), None, *CONV), False)
    add("convolution_input channels", lambda: K.convolution_input(t(1, 2, 4, 4), KERNEL, None, [6, 6], *CONV))
    add("convolution_input gradient size", lambda: K.convolution_input(t(1, 3, 5, 4), KERNEL, None, [6, 6], *CONV))
    add("convolution_input weight float32", lambda: K.convolution_input(GRAD, KERNEL.float(), None, [6, 6], *CONV))
    for size in ([6], [6, 6, 6], [-6, 6], [2**62, 2**62], [2**40, 6]):
        call = partial(K.convolution_input, GRAD, KERNEL, None, size, *CONV)
        add(f"convolution_input input_size {size}", call)
    add(
        "convolution_input stride and input_size 2**40",
        lambda: K.convolution_input(t(1, 3, 1, 1), KERNEL, None, [2**40, 2**40], [2**40, 2**40], [0, 0], [1, 1], 1),
    )
    add("convolution_weight batch", lambda: K.convolution_weight(IMAGE, t(2, 3, 4, 4), [3, 3], *CONV))
    add("convolution_weight gradient size", lambda: K.convolution_weight(IMAGE, t(1, 3, 5, 4), [3, 3], *CONV))
    add("convolution_weight float32", lambda: K.convolution_weight(IMAGE, GRAD.float(), [3, 3], *CONV))
    for size in ([3], [3, 3, 3], [-3, 3], [0, 3], [2**62, 3], [2**40, 2**40]):
        add(f"convolution_weight kernel_size {size}", lambda size=size: K.convolution_weight(IMAGE, GRAD, size, *CONV))
    add(
        "convolution_weight kernel_size and padding 2**40",
        lambda: K.convolution_weight(IMAGE, t(1, 3, 7, 7), [2**40, 2**40], [1, 1], [2**39, 2**39], [1, 1], 1),
    )
    add(
        "convolution_weight kernel_size and padding 2**33 in one dimension",
        lambda: K.convolution_weight(IMAGE, t(1, 3, 7, 6), [2**33, 1], [1, 1], [2**32, 0], [1, 1], 1),
    )

    # Separable maps
    for power in (31, 40, 61, 62):
        value = 2**power
        for mode in ("reflect", "replicate", "circular"):
            for sign in (1, -1):
                sides = [sign * value, 0, 1, sign * value]
                add(f"pad {mode} {sign} 2**{power}", lambda s=sides, m=mode: K.pad(IMAGE, s, m))
                add(f"pad_adjoint {mode} {sign} 2**{power}", lambda s=sides, m=mode: K.pad_adjoint(IMAGE, [6, 6], s, m))
        cut = [-value, 0, 0, 0]
        add(
            f"pad_adjoint of cutting off 2**{power}",
            lambda c=cut, v=value: K.pad_adjoint(IMAGE, [6, v + 6], c, "reflect"),
        )
        add(f"F.pad 2**{power}", lambda v=value: F.pad(X, (v, v, v, v)))
        for mode in ("nearest", "linear", "cubic"):
            options = (mode, False, False, [])
            add(f"interpolate {mode} 2**{power}", lambda v=value, o=options: K.interpolate(IMAGE, [v, v], *o))
            add(
                f"interpolate_adjoint {mode} 2**{power}",
                lambda v=value, o=options: K.interpolate_adjoint(IMAGE, [v, v], *o),
            )
            add(
                f"interpolate_adjoint {mode} of an expanded gradient of 2**{power}",
                lambda v=value, o=options: K.interpolate_adjoint(t(1, 1, 1, 6).expand(1, 1, v, 6), [6, 6], *o),
            )
        for place, what in enumerate(("kernel_size", "stride", "padding", "dilation")):
            lists = [[2, 2], [1, 1], [0, 0], [1, 1]]
            lists[place] = [value, value]
            may = what == "stride"
            add(f"unfold {what} 2**{power}", lambda g=tuple(lists): K.unfold(IMAGE, *g), not may)
            add(f"fold {what} 2**{power}", lambda g=tuple(lists): K.fold(t(1, 8, 25), [6, 6], *g))
        window = ([2, 2], [value, value], [0, 0], [1, 1])
        add(f"fold output_size 2**{power}", lambda v=value, w=window: K.fold(t(1, 8, 1), [v, v], *w))
        window = ([value // 2, 2], [1, 1], [value // 2, 0], [1, 1])
        add(f"unfold kernel_size and padding 2**{power - 1}", lambda w=window: K.unfold(IMAGE, *w))
    for values in ([], [1], [1, 1, 1], [1] * 6):
        add(f"pad {values}", lambda v=values: K.pad(IMAGE, v, "reflect"))
        add(f"pad_adjoint {values}", lambda v=values: K.pad_adjoint(IMAGE, [4, 4], v, "reflect"))
    for size in ([], [6], [6, 6, 6], [-1, 6], [5, 6]):
        add(f"pad_adjoint input_size {size}", lambda s=size: K.pad_adjoint(t(1, 2, 8, 8), s, [1, 1, 1, 1], "reflect"))
        add(f"fold output_size {size}", lambda s=size: K.fold(t(1, 8, 25), s, [2, 2], [1, 1], [0, 0], [1, 1]))
    add("pad mode", lambda: K.pad(IMAGE, [1, 1, 1, 1], "mirror"))
    add("pad_adjoint mode", lambda: K.pad_adjoint(IMAGE, [4, 4], [1, 1, 1, 1], "constant"))
    add("pad reflect an empty image", lambda: K.pad(t(1, 2, 0, 6), [0, 0, 0, 0], "reflect"))
    add("pad circular an empty image", lambda: K.pad(t(1, 2, 0, 6), [0, 0, 1, 1], "circular"))
    for size in ([], [3], [3, 3, 3], [0, 3], [-3, 3]):
        add(f"interpolate output_size {size}", lambda s=size: K.interpolate(IMAGE, s, "nearest", False, False, []))
        add(
            f"interpolate_adjoint input_size {size}",
            lambda s=size: K.interpolate_adjoint(IMAGE, s, "nearest", False, False, []),
        )
    for mode, corners, antialias in (
        ("bilinear", False, False),
        ("nearest", True, False),
        ("nearest-exact", False, True),
        ("lanczos", False, False),
    ):
        add(
            f"interpolate {mode} {corners} {antialias}",
            lambda o=(mode, corners, antialias): K.interpolate(IMAGE, [3, 3], *o, []),
        )
    add("interpolate cubic in 1 dimension", lambda: K.interpolate(t(1, 2, 6), [3], "cubic", False, False, []))
    add("interpolate linear, one scale", lambda: K.interpolate(IMAGE, [3, 3], "linear", False, False, [2.0]))
    for scale in (NAN, -1.0, 1e-300, 1e300, float("inf")):
        for mode in ("nearest", "nearest-exact", "linear", "cubic"):
            scales = [scale, scale]
            add(
                f"interpolate {mode} scales {scale}",
                lambda m=mode, s=scales: K.interpolate(IMAGE, [9, 3], m, False, False, s),
                False,
            )
        for mode in ("linear", "cubic", "lanczos"):
            scales = [scale, scale]
            add(
                f"interpolate antialias {mode} scales {scale}",
                lambda m=mode, s=scales: K.interpolate(IMAGE, [9, 3], m, False, True, s),
                False,
            )
    for shape in ((8, 25), (1, 7, 25), (1, 8, 24), (1, 1, 8, 25)):
        add(f"fold input {shape}", lambda s=shape: K.fold(t(*s), [6, 6], [2, 2], [1, 1], [0, 0], [1, 1]))
    add("unfold input 2-d", lambda: K.unfold(t(6, 6), [2, 2], [1, 1], [0, 0], [1, 1]))

    # Batch normalisation
    add("batch_norm input 1-d", lambda: K.batch_norm(t(6), None, None, 1e-5))
    add("batch_norm weight (3,)", lambda: K.batch_norm(IMAGE, t(3), None, 1e-5))
    add("batch_norm bias (2, 1)", lambda: K.batch_norm(IMAGE, None, t(2, 1), 1e-5))
    add(
        "batch_norm_gradients shapes",
        lambda: K.batch_norm_gradients(t(1, 2, 6, 5), IMAGE, None, t(2), t(2).abs(), 1e-5, True),
    )
    add(
        "batch_norm_gradients mean (3,)",
        lambda: K.batch_norm_gradients(IMAGE, IMAGE, None, t(3), t(2).abs(), 1e-5, True),
    )
    add(
        "batch_norm_gradients variance (1,)",
        lambda: K.batch_norm_gradients(IMAGE, IMAGE, None, t(2), t(1).abs(), 1e-5, True),
    )
    add(
        "batch_norm_gradients float32",
        lambda: K.batch_norm_gradients(IMAGE.float(), IMAGE, None, t(2), t(2).abs(), 1e-5, True),
    )
    add(
        "batch_norm_gradients weight (3,)",
        lambda: K.batch_norm_gradients(IMAGE, IMAGE, t(3), t(2), t(2).abs(), 1e-5, True),
    )
    add("channel_affine mean (3,)", lambda: K.channel_affine(IMAGE, None, None, t(3), t(2).abs(), 1e-5))
    add(
        "channel_affine_gradients input float32",
        lambda: K.channel_affine_gradients(IMAGE, IMAGE.float(), None, t(2), t(2).abs(), 1e-5, True),
    )
    n = IMAGE.numel() // 2
    for sizes in ([1, 2, 1], [1, 1, 2, n + 1], [-1, -1, 2, n], [2**31, 2**31, 4, 1]):
        add(f"group_norm sizes {sizes}", lambda sizes=sizes: K.group_norm(IMAGE, sizes, None, None, 1e-5))
    add("group_norm weight (3,)", lambda: K.group_norm(IMAGE, [1, 2, 1, n], t(3), None, 1e-5))
    add(
        "group_norm channels-last sizes",
        lambda: K.group_norm(IMAGE.contiguous(memory_format=torch.channels_last), [2, 1, 1, n], None, None, 1e-5),
    )
    for sizes in ([n], [2, n + 1], [-2, -n], [2**62, 4]):
        add(f"rms_norm sizes {sizes}", lambda sizes=sizes: K.rms_norm(IMAGE, sizes, None, 1e-5))
    add("rms_norm weight (3,)", lambda: K.rms_norm(IMAGE, [2, n], t(3), 1e-5))
    for given in ((IMAGE[..., :-1], t(2)), (IMAGE, t(3)), (IMAGE.float(), t(2))):
        add(
            f"rms_norm_gradients {given[0].dtype} {[*given[0].shape]} {[*given[1].shape]}",
            lambda given=given: K.rms_norm_gradients(given[0], IMAGE, [2, n], None, given[1].abs(), 1e-5, True, True),
        )
    add(
        "group_norm_gradients mean (1, 1)",
        lambda: K.group_norm_gradients(IMAGE, IMAGE, [1, 2, 1, n], None, t(1, 1), t(1, 2).abs(), 1e-5, True, True),
    )
    add(
        "group_norm_gradients shapes",
        lambda: K.group_norm_gradients(
            IMAGE[..., :-1], IMAGE, [1, 2, 1, n], None, t(1, 2), t(1, 2).abs(), 1e-5, True, True
        ),
    )
    return rows


def run_hostile(start: int) -> None:
    """Run the calls from one on; print a line before and after each."""
    import resource

    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (loaded + 8 * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(2)
    for label, (call, _) in list(hostile().items())[start:]:
        print(json.dumps([label, "started", ""]), flush=True)
        signal.alarm(20)
        error = caught(call)
        signal.alarm(0)
        kind = "returned" if error is None else type(error).__name__
        print(json.dumps([label, kind, str(error)[:500]]), flush=True)


@pytest.fixture(scope="module")
def hostile_results() -> dict[str, tuple[str, str]]:
    results: dict[str, tuple[str, str]] = {}
    total = len(hostile())
    while len(results) < total:
        done = subprocess.run([sys.executable, __file__, str(len(results))], capture_output=True, text=True)
        before = len(results)
        for line in done.stdout.splitlines():
            label, kind, message = json.loads(line)
            results[label] = (kind, message)
        if done.returncode != 0:
            last = list(results)[-1] if results else ""
            if len(results) == before or results[last][0] != "started":
                raise AssertionError(f"the child failed between calls, after {last!r}:\n{done.stderr[-2000:]}")
            name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
            results[last] = ("died", name)
    return results


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space by way of /proc")
@pytest.mark.parametrize("label", hostile())
def test_hostile_call_raises(label: str, hostile_results: dict[str, tuple[str, str]]) -> None:
    kind, message = hostile_results[label]
    if hostile()[label][1]:
        assert kind in ("RuntimeError", "NotImplementedError"), f"{kind}: {message}"
    else:
        assert kind in ("returned", "RuntimeError", "ValueError"), f"{kind}: {message}"


if __name__ == "__main__":
    run_hostile(int(sys.argv[1]))
