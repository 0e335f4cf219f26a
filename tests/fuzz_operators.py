"""Drives every operator and every layer with random arguments, right and wrong ones.

It looks for what memory errors do: a crash, a sanitizer's report (``make sanitize`` runs it on an instrumented build),
and results that change where uninitialised memory is filled or the number of threads changes. Arguments come from
the samples of test_operators.py and from the layers' cases, which are changed at random; what is refused with an
exception is refused rightly.

    python tests/fuzz_operators.py [--examples 40] [--seed 0] [--only NAME] [--require-sanitizer]
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from test_operators import SAMPLES, O
from torch import Tensor

import torchbp
from torchbp import _extension, ops, testing
from torchbp.ops.registry import KERNEL_DTYPES, read_schemas

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WRONG_DTYPES = (torch.int64, torch.uint8, torch.bool, torch.int32, torch.complex128)
REFUSALS = (
    AttributeError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    ZeroDivisionError,
    AssertionError,
)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LARGEST = 1 << 18  # elements of a tensor; more only makes it slow


# --------------------------------------------------------------------------------------------------
# Changes


def rearranged(draw: random.Random, x: Tensor) -> Tensor:
    """Return the same values in other strides."""
    kind = draw.choice(("as is", "contiguous", "channels last", "every other", "permuted", "offset", "expanded"))
    if kind == "contiguous":
        return x.contiguous()
    if kind == "channels last" and x.dim() in FORMATS:
        return x.contiguous(memory_format=FORMATS[x.dim()])
    if kind == "every other":
        return torch.stack([x, x], -1)[..., 0]
    if kind == "permuted":
        order = draw.sample(range(x.dim()), x.dim())
        inverse = sorted(range(x.dim()), key=order.__getitem__)
        return x.permute(order).contiguous().permute(inverse)
    if kind == "offset":
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape) if x.numel() else x
    if kind == "expanded" and x.dim():
        axis = draw.randrange(x.dim())
        return x.select(axis, 0).unsqueeze(axis).expand(x.shape) if x.shape[axis] else x
    return x


def resized(draw: random.Random, x: Tensor) -> Tensor:
    """Return ``x`` with another size along one axis, 0 and 1 among them, repeated or cut."""
    if not x.dim():
        return x
    axis = draw.randrange(x.dim())
    size = draw.choice((0, 1, 2, 3, 5, 8, 9, 17, 33, 70))
    if not x.shape[axis] or x.numel() // x.shape[axis] * size > LARGEST:
        return x
    return x.index_select(axis, torch.arange(size) % x.shape[axis])


def stray(draw: random.Random, x: Tensor) -> Tensor:
    """Return ``x`` with one value that is not finite, or, of integers, out of any range."""
    if not x.numel() or x.dtype is torch.bool or x.is_complex():
        return x
    x = x.clone()
    odd = (math.nan, math.inf, -math.inf) if x.is_floating_point() else (-1, 127, 2**31, -(2**63), 2**63 - 1)
    with torch.no_grad():
        value = draw.choice(odd)
        if not x.is_floating_point():
            value = max(min(value, torch.iinfo(x.dtype).max), torch.iinfo(x.dtype).min)
        x.view(-1)[draw.randrange(x.numel())] = value if x.is_contiguous() else x.flatten()[0]
    return x


def changed_tensor(draw: random.Random, x: Tensor) -> Any:
    kind = draw.choice(("size", "size", "stray", "dtype", "rank", "none"))
    if kind == "size":
        return resized(draw, x)
    if kind == "stray":
        return stray(draw, x.contiguous())
    if kind == "dtype":
        return x.to(draw.choice((*DTYPES, *WRONG_DTYPES)))
    if kind == "rank":
        return x.unsqueeze(0) if draw.random() < 0.5 or not x.dim() else x.select(0, 0) if x.shape[0] else x
    return None


def changed_number(draw: random.Random, value: int) -> int:
    near = (value - 1, value + 1, value * 2, 0, 1, 2, 3, 5)
    far = (-1, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1)
    return draw.choice(near if draw.random() < 0.85 else far)


def changed(draw: random.Random, value: Any) -> Any:
    """Return something else in the place of one argument."""
    if isinstance(value, Tensor):
        return changed_tensor(draw, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return changed_number(draw, value)
    if isinstance(value, float):
        return draw.choice((0.0, 1e-5, -1.0, 1.5, 0.3, math.nan, math.inf, 1e300))
    if isinstance(value, (list, tuple)):
        listed = list(value)
        if not listed or draw.random() < 0.1:
            return draw.choice(([], [1], [*listed, 1], listed[:-1]))
        at = draw.randrange(len(listed))
        listed[at] = changed(draw, listed[at])
        return listed
    if isinstance(value, str):
        return draw.choice(("reflect", "replicate", "circular", "nearest", "linear", "cubic", "lanczos", "", "odd"))
    return draw.choice((None, 1, torch.ones(4, dtype=torch.float64)))


def variant(draw: random.Random, call: tuple) -> tuple:
    """Return ``call`` with one dtype, other strides, and up to three changed arguments."""
    dtype = draw.choice(DTYPES)
    arguments = [
        rearranged(draw, v.to(dtype) if v.is_floating_point() else v) if isinstance(v, Tensor) else v for v in call
    ]
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        at = draw.randrange(len(arguments))
        arguments[at] = changed(draw, arguments[at])
    return tuple(arguments)


# --------------------------------------------------------------------------------------------------
# Calls


@contextmanager
def setting(threads: int, filled: bool) -> Iterator[None]:
    """Run with so many threads, uninitialised memory filled or not."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(filled, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def outcome(call: Callable[[], Any]) -> tuple[Tensor, ...] | str:
    """Return the results, or the name of the exception."""
    try:
        found = call()
    except REFUSALS as error:
        return type(error).__name__
    return found if isinstance(found, tuple) else (found,)


def same(a: tuple[Tensor, ...] | str, b: tuple[Tensor, ...] | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return all(
        x.shape == y.shape
        and x.dtype == y.dtype
        and torch.equal(x.nan_to_num(7), y.nan_to_num(7))
        and torch.equal(x.isnan(), y.isnan())
        for x, y in zip(a, b, strict=True)
    )


def shown(call: tuple) -> str:
    def short(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"{str(value.dtype)[6:]}{list(value.shape)} strides {list(value.stride())}"
        return repr(value)

    return ", ".join(map(short, call))


def drive_operator(name: str, call: tuple) -> bool:
    """Call an operator on one and on three threads; return whether it took the arguments."""
    operator = getattr(O, name)
    with torch.no_grad():
        with setting(1, filled=True):
            one = outcome(lambda: operator(*call))
        with setting(3, filled=False):
            three = outcome(lambda: operator(*call))
    # The kernels' promise; what the composite formulas do is PyTorch's.
    kernels = torchbp.kernels_loaded() and all(
        v.dtype in KERNEL_DTYPES or not v.is_floating_point() for v in call if isinstance(v, Tensor)
    )
    if kernels and not same(one, three):
        raise AssertionError(f"{name}({shown(call)}): not the same on 1 thread, with memory filled, and on 3")
    return not isinstance(one, str)


def forced(draw: random.Random, name: str) -> Any:
    """Return a block in which a convolution runs some algorithm that is not the table's."""
    algorithms = ops.convolution_algorithms()
    if not algorithms or not name.startswith("convolution"):
        return nullcontext()
    return ops.force_convolution_algorithm(draw.choice(algorithms))


def drive_layer(draw: random.Random, case: testing.LayerCase) -> bool:
    """Run a layer forward and backward on changed inputs; return whether it took them."""
    dtype = draw.choice(DTYPES)
    inputs = []
    for x in case.subject.fresh(dtype, grad=()):
        y = x
        if draw.random() < 0.5:
            y = draw.choice((resized, stray))(draw, y.contiguous())
        y = rearranged(draw, y)
        inputs.append(y.detach().requires_grad_(y.is_floating_point()))

    def step() -> tuple[Tensor, ...]:
        output = case.subject.function(*inputs)
        wanted = [x for x in inputs if x.requires_grad]
        if not output.requires_grad or not wanted:
            return (output,)
        cotangent = rearranged(draw, torch.ones_like(output))
        gradients = torch.autograd.grad(output, wanted, cotangent, allow_unused=True)
        return (output.detach(), *(g for g in gradients if g is not None))

    with setting(draw.choice((1, 2, 3)), filled=draw.random() < 0.5):
        return not isinstance(outcome(step), str)


def drive(examples: int, seed: int, only: str) -> Counter[str]:
    """Run ``examples`` variants of every operator and a quarter as many of every layer; return the calls taken.

    Raises:
        AssertionError: a result depends on uninitialised memory or on the number of threads, or some operator was
            never called with arguments that it takes.
    """
    taken: Counter[str] = Counter()
    calls: dict[str, list[tuple]] = {}
    for name, _, call in SAMPLES:
        calls.setdefault(name, []).append(call)
    for name, samples in calls.items():
        if only not in name:
            continue
        draw = random.Random(f"{seed} {name}")
        for i in range(max(examples, len(samples))):
            sample = samples[i % len(samples)]
            taken[f"torchbp::{name}"] += drive_operator(name, sample if i < len(samples) else variant(draw, sample))
            with forced(draw, name):
                taken[f"torchbp::{name}"] += drive_operator(name, variant(draw, sample))
    for case in testing.layer_cases():
        if only not in case.name:
            continue
        draw = random.Random(f"{seed} {case.name}")
        for _ in range(max(1, examples // 4)):
            taken[case.layer] += drive_layer(draw, case)
    never = [name for name in read_schemas() if only in name and not taken[f"torchbp::{name}"]]
    if never:
        raise AssertionError(f"never called with arguments that they take: {', '.join(never)}")
    return taken


def main() -> None:
    """Read the options, drive, and print how many calls were taken."""
    parser = argparse.ArgumentParser(description="Random arguments for every operator and layer.")
    parser.add_argument("--examples", type=int, default=40, help="variants of each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only operators and cases with this in their name")
    parser.add_argument("--require-sanitizer", action="store_true", help="fail on a build without AddressSanitizer")
    options = parser.parse_args()
    if options.require_sanitizer and not (torchbp.kernels_loaded() and _extension.extension.sanitized):
        sys.exit(f"{torchbp.__file__} was not built with TORCHBP_SANITIZE=1")
    faulthandler.enable()
    warnings.simplefilter("ignore")
    taken = drive(options.examples, options.seed, options.only)
    used = torchbp.kernels_status()["instruction_set"] or "composite"
    print(f"{used}: {len(taken)} operators and layers, {sum(taken.values())} calls taken")


if __name__ == "__main__":
    sys.exit(main())
