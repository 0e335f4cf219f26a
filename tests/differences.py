"""Where torchbp does otherwise than the built-in on purpose: why, for which calls, and what is true then.

test_errors.py shows an example of each on both sides; test_arguments.py judges random calls by them.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Given = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A reason, the calls of convolutions and pools that it covers, and what ours does then.

    Either ``ours`` raises that, or the built-in, called with the arguments that ``instead`` makes, is right; about
    the values only if ``values``.
    """

    reason: str
    covers: Callable[[str, Given], bool] = lambda name, given: False
    ours: type[Exception] | None = None
    instead: Callable[[str, Given], Given] | None = None
    values: bool = True

    def __str__(self) -> str:
        return self.reason


def dimensions(name: str) -> int:
    return int(name[-2])


def in_python(name: str) -> bool:
    """Tell whether the built-in is Python code that computes with its arguments before it hands them on."""
    return (
        name.startswith(("lp_", "max_unpool", "fractional", "adaptive"))
        and name[-2:] != "1d"
        or name
        in (
            "lp_pool1d",
            "max_unpool1d",
        )
    )


def is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def fits(value: Any) -> bool:
    return is_int(value) and -(2**63) <= value < 2**63


def each(value: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(test(v) for v in value)


def wrong_type(name: str, given: Given) -> bool:
    """Tell whether some argument is of a type that ours refuses."""
    for key, value in given.items():
        if key in ("input", "indices"):
            right = isinstance(value, Tensor)
        elif key == "_random_samples":
            right = value is None or isinstance(value, Tensor)
        elif key == "norm_type":
            right = is_number(value)
        elif key == "output_ratio":
            right = value is None or is_number(value) or each(value, is_number) or given.get("output_size") is not None
        elif key == "ceil_mode":
            right = isinstance(value, bool)
        elif key == "return_indices":
            right = True
        elif key == "output_size" and name.startswith("adaptive"):
            right = is_int(value) or each(value, lambda v: v is None or fits(v))
        elif key == "output_size" and name.startswith("max_unpool"):
            right = value is None or each(value, fits)
        else:
            right = is_int(value) or each(value, fits) or value is None and key in ("stride", "output_size")
        if not right:
            return True
    return False


def no_tensor(given: Given) -> bool:
    """Tell whether the input, the weight or the indices are something else."""
    return not all(isinstance(given[key], Tensor) for key in ("input", "weight", "indices") if key in given)


def overflow(name: str, given: Given) -> bool:
    return any(is_int(value) and not fits(value) for value in given.values())


def wrong_length(name: str, given: Given) -> bool:
    """Tell whether a list of sizes has neither one value nor one per dimension."""
    keys = {"lp": ("kernel_size",), "max": ("kernel_size", "stride", "padding")}.get(name.split("_")[0], ())
    lists = (given[key] for key in keys if isinstance(given.get(key), list | tuple))
    return any(len(values) not in (1, dimensions(name)) for values in lists)


def wrong_ratios(name: str, given: Given) -> bool:
    ratios = given.get("output_ratio")
    return given.get("output_size") is None and isinstance(ratios, list | tuple) and len(ratios) != dimensions(name)


def plain(value: Any) -> Any:
    """Return ints for NumPy's."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return int(value) if isinstance(value, np.integer) else value


def one_size(name: str, value: Any) -> Any:
    """Return an int, or a number, per dimension from one or from a list of one."""
    if is_number(value):
        return (value,) * dimensions(name)
    return value * dimensions(name) if isinstance(value, tuple) and len(value) == 1 else value


def spelled_out(name: str, given: Given) -> Given:
    new = {key: plain(value) for key, value in given.items()}
    if not name.startswith("adaptive"):
        sizes = ("kernel_size", "stride", "padding", "output_size", "output_ratio")
        new |= {key: one_size(name, new[key]) for key in sizes if key in new}
    if name == "lp_pool1d":
        (new["kernel_size"],) = new["kernel_size"]
    return new


def cast(given: Given, dtype: torch.dtype) -> Given:
    """Return the arguments with all tensors but indices in one dtype."""

    def one(value: Tensor) -> Tensor:
        return (value.real if value.is_complex() and not dtype.is_complex else value).to(dtype)

    return {k: one(v) if isinstance(v, Tensor) and k != "indices" else v for k, v in given.items()}


def dtypes(given: Given) -> set[torch.dtype]:
    return {v.dtype for k, v in given.items() if isinstance(v, Tensor) and k != "indices"}


def more_dtypes(name: str, given: Given) -> bool:
    """Tell whether ours computes with dtypes that the built-in has no loop for."""
    complex_too = {torch.complex64, torch.complex128}
    found = dtypes(given)
    if len(found) != 1:
        return False
    if "avg_pool" in name and found <= complex_too:
        return True
    if name in ("avg_pool3d", "lp_pool3d") and found <= {torch.bfloat16, torch.float16}:
        return True
    if name == "max_pool1d" and found <= {torch.uint8, torch.int64}:
        return True
    return name.startswith("max_unpool") and found <= {torch.uint8, torch.int64, torch.bool, *complex_too}


def to_one_window(name: str, given: Given) -> bool:
    """Tell whether the built-in takes a mean, of no numbers or over more dimensions than there may be."""
    x, sizes, n = given["input"], given.get("output_size"), dimensions(name)
    if not name.startswith("adaptive_avg") or not isinstance(x, Tensor):
        return False
    if x.dim() > n and isinstance(sizes, list | tuple) and len(sizes) == n:  # None keeps a size
        sizes = max(size if wanted is None else wanted for wanted, size in zip(sizes, x.shape[-n:], strict=True))
    return sizes == 1 and (0 in x.shape[-n:] or x.dim() not in (n + 1, n + 2))


def no_elements(name: str, given: Given) -> bool:
    """Tell whether a fractional window has no element, so that the built-in returns what is not there."""
    kernel = ints(given.get("kernel_size"), dimensions(name)) if name.startswith("fractional") else None
    return kernel is not None and min(kernel) < 1


def wrong_rank(name: str, given: Given) -> bool:
    return name.startswith(("max_unpool", "fractional")) and given["input"].dim() - dimensions(name) not in (1, 2)


def of_integers(name: str, given: Given) -> bool:
    """Tell whether ours refuses integers, and so does the built-in if it comes to compute with them."""
    x, samples, n = given["input"], given.get("_random_samples"), dimensions(name)
    if x.is_floating_point() or x.is_complex() and not name.startswith("fractional"):
        return False
    channels_too = not name.startswith("adaptive_avg") or n == 3 and x.dim() == 5
    if x.dim() not in (n + 1, n + 2) or 0 in x.shape[-n - channels_too :]:  # refused for that, by both
        return False
    if name.startswith("conv"):
        refused = x.dtype == torch.bool or "transpose" in name or max(ints(given.get("dilation"), n) or (1,)) > 1
        return refused and x.dtype != torch.int64 and len(dtypes(given)) == 1
    if name.startswith("fractional"):
        return samples is None or samples.dtype == x.dtype
    return name.startswith(("adaptive_avg", "lp_pool"))


def mixed_dtypes(name: str, given: Given) -> bool:
    return name.startswith("conv") and len(dtypes(given)) > 1


def ints(value: Any, n: int) -> tuple[int, ...] | None:
    """Return an int for each of n dimensions, or None if the value does not say so."""
    if fits(value):
        return (int(value),) * n
    if not each(value, fits) or len(value) not in (1, n):
        return None
    return tuple(map(int, value)) * (n // len(value))


def geometry(name: str, given: Given, **defaults: Any) -> list[tuple[int, ...]] | None:
    """Return for each dimension the input's size and the values of some arguments, or None if they do not fit."""
    x, n = given["input"], dimensions(name)
    if x.dim() not in (n + 1, n + 2):
        return None
    values = [ints(default if given.get(key) is None else given[key], n) for key, default in defaults.items()]
    return None if None in values else list(zip(x.shape[-n:], *values, strict=True))


def empty_batch(name: str, given: Given) -> bool:
    """Tell whether ours refuses a geometry that the built-in does not look at for want of images."""
    weight, lists = given.get("weight"), geometry(name, given, stride=1, dilation=1, padding=0, output_padding=0)
    if weight is None or lists is None or given["input"].shape[0] or weight.dim() != dimensions(name) + 2:
        return False
    if any(d == 0 for _, _, d, _, _ in lists):
        return True
    return "transpose" in name and any(
        i == 0 or 0 <= e and 0 <= p and s > 0 < d and (e >= max(s, d) or (i - 1) * s - 2 * p + d * (k - 1) + e + 1 == 0)
        for k, (i, s, d, p, e) in zip(weight.shape[2:], lists, strict=True)
    )


def empty_images(name: str, given: Given) -> bool:
    return name in ("conv1d", "conv2d", "conv3d") and 0 in given["input"].shape[-dimensions(name) :]


def padded(name: str, given: Given) -> Given:
    """Return the arguments with the padding done."""
    lists = geometry(name, given, padding=0)
    if lists is None or any(p < 0 for _, p in lists):
        return given
    sides = [p for _, p in reversed(lists) for _ in range(2)]
    return {**given, "input": torch.nn.functional.pad(given["input"], sides), "padding": 0}


def no_places(name: str, given: Given) -> bool:
    """Tell whether values are to go to places in planes that have none."""
    if not name.startswith("max_unpool") or not given["input"].numel():
        return False
    default, n, size = given["kernel_size"], dimensions(name), given.get("output_size")
    lists = geometry(name, given, kernel_size=default, stride=default, padding=0)
    if lists is None or size is not None and len(size) not in (n, n + 2):
        return False
    usual = [(i - 1) * s + k - 2 * p for i, k, s, p in lists]
    sizes = usual if size is None else list(size[-n:])
    possible = all(abs(wanted - u) < s for wanted, u, (_, _, s, _) in zip(sizes, usual, lists, strict=True))
    return min(sizes) == 0 and (size is None or possible)


NOT_A_TENSOR = Difference("the built-in asks the argument for a method before it looks at its type")
WIDE = Difference("our sizes have 64 bits, and one window results; the built-in's have 32")
MORE_DTYPES = Difference(
    "the formula holds for these numbers too, and ours computes it",
    more_dtypes,
    instead=lambda name, given: cast(given, torch.float64),
    values=False,
)
TYPES = Difference(
    "the built-in computes with arguments of wrong types before it checks them, or takes them",
    lambda name, given: no_tensor(given) or in_python(name) and wrong_type(name, given),
    ours=TypeError,
)
LENGTHS = Difference(
    "the built-in looks beyond a list of sizes that is too short, or not at the end of one that is too long",
    lambda name, given: in_python(name) and wrong_length(name, given),
    ours=RuntimeError,
)
RATIOS = Difference(
    "the built-in looks beyond a list of ratios that is too short, or not at the end of one that is too long",
    lambda name, given: name.startswith("fractional") and wrong_ratios(name, given),
    ours=ValueError,
)
ONE_SIZE = Difference(
    "a list of one size stands for all dimensions in every function of ours, and NumPy's ints are ints",
    lambda name, given: in_python(name),
    instead=spelled_out,
)
INTEGERS = Difference(
    "the built-in refuses integers in its loop only, not where there is none, and averages powers in integers",
    of_integers,
    ours=NotImplementedError,
)
RANK = Difference(
    "the built-in computes the size of the output before it looks at the input's rank", wrong_rank, ours=RuntimeError
)
NO_ELEMENTS = Difference(
    "the built-in takes windows without elements, and returns places that are none", no_elements, ours=RuntimeError
)
ONE_WINDOW = Difference(
    "for one window the built-in takes the mean, whatever the input's shape", to_one_window, ours=RuntimeError
)
OVERFLOW = Difference(
    "what no int of 64 bits holds is a wrong value; the built-in computes with it or finds a wrong type",
    lambda name, given: in_python(name) and overflow(name, given),
    ours=ValueError,
)
MIXED_DTYPES = Difference(
    "the built-in finds operands of several dtypes in its loop, if it has one and if it looks",
    mixed_dtypes,
    ours=RuntimeError,
)
EMPTY_BATCH = Difference(
    "of an empty batch the built-in does not check all of a convolution's geometry",
    empty_batch,
    ours=RuntimeError,
)
EMPTY_IMAGES = Difference(
    "padding makes an empty image non-empty; its output is the bias", empty_images, instead=padded, values=False
)
NO_PLACES = Difference(
    "in an empty plane no index is a place; the built-in does not look at them", no_places, ours=RuntimeError
)
DIFFERENCES = (
    TYPES,
    OVERFLOW,
    MIXED_DTYPES,
    EMPTY_BATCH,
    EMPTY_IMAGES,
    NO_PLACES,
    LENGTHS,
    RANK,
    RATIOS,
    INTEGERS,
    NO_ELEMENTS,
    ONE_WINDOW,
    MORE_DTYPES,
    ONE_SIZE,
)


def differences(name: str, given: Given) -> list[Difference]:
    """Return the differences that cover a call; one of types is the only one."""
    if TYPES.covers(name, given):
        return [TYPES]
    return [difference for difference in DIFFERENCES if difference.covers(name, given)]


def several_writers(name: str, given: Given) -> bool:
    """Tell whether indices name one place twice.

    Of several writers to one place one stays, but the built-in gives its gradient to all; test_pooling.py shows it.
    """
    if not name.startswith("max_unpool"):
        return False
    planes = given["indices"].flatten(-dimensions(name)).flatten(0, -2)
    return any(len(plane.unique()) < len(plane) for plane in planes)
