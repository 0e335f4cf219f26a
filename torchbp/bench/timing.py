"""Times of several ways to do the same, taken in turn."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

Calls = Mapping[str, Callable[[], object]]

MIN_ROUNDS, MAX_ROUNDS = 5, 100
_SECONDS_PER_CALL = 0.03  # the time that rounds are added for, until MAX_ROUNDS
_SLOW_ROUND = 1.0  # seconds; a slower round is repeated only
_SLOW_ROUNDS = 3
_SHORT_CALL = 2e-3


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles of ``rounds`` rounds."""

    median: float
    low: float
    high: float
    rounds: int


def in_turn(calls: Calls, rounds: int | None = None) -> dict[str, Timing]:
    """Time ``calls`` in turn, A B C A B C ..., each round starting with another one.

    Without ``rounds`` their number follows from the slowest call: five, more for calls below 6 ms,
    three where a round takes more than a second. A call below 2 ms is made once untimed before it is timed, so that it
    finds its operands in the cache as in a network, where the layer before has just written them.
    """
    for call in calls.values():
        call()
    first = {name: seconds(call) for name, call in calls.items()}
    if rounds is None:
        rounds = _enough_rounds(first)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            for name in _order(list(calls), index):
                if first[name] < _SHORT_CALL:
                    calls[name]()
                taken[name].append(seconds(calls[name]))
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


def _enough_rounds(first: Mapping[str, float]) -> int:
    if sum(first.values()) > _SLOW_ROUND:
        return _SLOW_ROUNDS
    wanted = math.ceil(_SECONDS_PER_CALL / max(max(first.values()), 1e-9))
    return min(max(wanted, MIN_ROUNDS), MAX_ROUNDS)


def _order(names: list[str], index: int) -> list[str]:
    """``names`` from another start each round, backwards every other: nobody keeps the same predecessor."""
    start = index % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if index % 2 else order
