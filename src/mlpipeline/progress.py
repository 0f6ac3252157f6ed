"""How a step says how far it is: logfmt lines on standard output, for people and backends alike.

A step knows nothing of who started it: in a pod the lines are its log, under the local backend they
move a progress bar. https://brandur.org/logfmt
"""

from __future__ import annotations

_MARK = "progress"


def report(done: int, total: int, **facts: object) -> None:
    """Print that `done` of `total` units of work are done; `facts` are shown beside them."""
    pairs = {"done": done, "total": total} | facts
    print(_MARK, *(f"{key}={_compact(value)}" for key, value in pairs.items()), flush=True)


def parse(line: str) -> dict[str, str] | None:
    """Return the values of a line that `report` printed, or None for any other line."""
    mark, _, pairs = line.partition(" ")
    if mark != _MARK:
        return None
    values = dict(pair.split("=", 1) for pair in pairs.split() if "=" in pair)
    is_ours = all(values.get(key, "").isdecimal() for key in ("done", "total"))
    return values if is_ours else None


def _compact(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace(" ", "_")
