"""Times of several ways to do the same, taken in turn."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

Calls = Mapping[str, Callable[[], object]]

_SECONDS = 0.02  # rounds are added until a call has been timed for so long, unless the caller says otherwise
_FEWEST, _MOST = 5, 100
_SLOW_CALLS = ((0.1, 2), (1 / 30, 3))  # seconds, and the rounds of a call that takes longer
_SHORT_CALL = 2e-3


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles of ``rounds`` rounds."""

    median: float
    low: float
    high: float
    rounds: int


def in_turn(
    calls: Calls,
    rounds: int | None = None,
    *,
    prepare: Calls | None = None,
    least: float = _SECONDS,
) -> dict[str, Timing]:
    """Time ``calls`` in turn, A B C A B C ..., each round starting with another one.

    Without ``rounds`` each call has as many as take ``least`` seconds, from five to a hundred, and only as many as take
    a tenth of a second, at least two, if it is above 33 ms. A call below 2 ms is made once untimed before it is timed,
    so that it finds its operands in the cache as in a network, where the layer before has just written them.

    What ``prepare`` has under the same name is called before every call, untimed.
    """

    def once(name: str) -> float:
        if prepare is not None:
            prepare[name]()
        return seconds(calls[name])

    first = {name: once(name) for name in calls}
    for name in calls:
        if first[name] < _SLOW_CALLS[0][0]:  # what a first call adds is nothing to a slow one
            first[name] = once(name)
    left = {name: enough_rounds(first[name], least) if rounds is None else rounds for name in calls}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(max(left.values())):
            for name in _order([name for name in calls if len(taken[name]) < left[name]], index):
                if first[name] < _SHORT_CALL:
                    once(name)
                taken[name].append(once(name))
    finally:
        if collecting:
            gc.enable()
    return {name: summary(values) for name, values in taken.items()}


def seconds(call: Callable[[], object]) -> float:
    """Return how long ``call()`` takes, the release of its result included."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summary(values: list[float]) -> Timing:
    """Return median and quartiles of ``values``."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Timing(median(values), low, high, len(values))


def enough_rounds(duration: float, least: float = _SECONDS) -> int:
    """Return how often a call that takes ``duration`` seconds is timed, for ``least`` seconds where that is few."""
    for limit, rounds in _SLOW_CALLS:
        if duration > limit:
            return rounds
    return min(max(math.ceil(least / max(duration, 1e-9)), _FEWEST), _MOST)


def _order(names: list[str], index: int) -> list[str]:
    """``names`` from another start each round, backwards every other: nobody keeps the same predecessor."""
    start = index % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if index % 2 else order
