"""How many processors this process may use."""

from __future__ import annotations

import loky


def count() -> int:
    """Return how many processors this process really has: its affinity, bounded by its cgroup."""
    count: int = loky.cpu_count()
    return count
