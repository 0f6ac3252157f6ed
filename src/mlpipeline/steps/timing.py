"""How long a model takes: the least of many tries, because what is longer others have taken."""

from __future__ import annotations

import time
from collections.abc import Callable

_TRIES, _SECONDS = 200, 0.3


def least_milliseconds(compute: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the least time that something takes, in milliseconds.

    Args:
        compute: What is timed.
        clock: Tells the seconds that count: of this thread's processor, or as they go by where
            other threads compute, too.
    """
    times: list[float] = []
    end = time.monotonic() + _SECONDS
    while not times or (time.monotonic() < end and len(times) < _TRIES):
        start = clock()
        compute()
        times.append(clock() - start)
    return min(times) * 1000
