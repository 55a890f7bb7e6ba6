"""Times calls beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["measure"]

_LEAST, _LONG = 3e-3, 0.5  # seconds of a turn, and of a call that is not worth repeating


def measure(
    calls: Mapping[str, Callable[[], Any]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of one call of each, taken turn by turn so that a noisy neighbour disturbs all.

    Args:
        calls: By name.
        turns: How many.
        clock: The time.

    Returns:
        Seconds by name.
    """
    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        call()  # what is made at the first call is not counted
        once = _timed(call, 1, clock)
        counts[name], times[name] = max(1, round(_LEAST / max(once, 1e-7))), [once] if once > _LONG else []
    slow = [name for name, found in times.items() if found]
    for _ in range(turns):
        for name in [name for name in calls if name not in slow]:
            times[name].append(_timed(calls[name], counts[name], clock))
    return {name: statistics.median(found) for name, found in times.items()}


def _timed(call: Callable[[], Any], count: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count
