"""Timing that is fair on a shared machine: everything in turn, medians, ratios within a turn."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

Row = dict[str, str | float | int]


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: dict[str, Callable[[], None]], repeats: int, row: float = 0.0
) -> dict[str, list[float]]:
    """Times of each call, taken in turn so that all see the same machine; one warm-up each.

    Args:
        calls: by name.
        repeats: turns.
        row: seconds. A call that needs less is made several times in a row in each turn, after one
            that does not count, since the one before it may have emptied the caches.
    """
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = min(50, int(row / seconds(call)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for turn in range(repeats):
        random.Random(turn).shuffle(order)  # so that none always follows the same other
        for name in order:
            call = calls[name]
            if counts[name]:
                call()
            count = max(1, counts[name])
            times[name].append(sum(seconds(call) for _ in range(count)) / count)
    return times


def medians(times: dict[str, list[float]]) -> Row:
    """Median of each call in columns `name_s`."""
    return {f"{name}_s": round(statistics.median(t), 4) for name, t in times.items()}


def median_ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the repetitions of time[above] / time[below]."""
    pairs = zip(times[above], times[below], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 2)


def milliseconds(call: Callable[[], object], repeats: int, untimed: int = 2) -> float:
    """Median time of a call that waits for the device, after some to warm up and compile."""
    times = [seconds(call) for _ in range(untimed + repeats)]
    return 1e3 * statistics.median(times[untimed:])
