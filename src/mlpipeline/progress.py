"""How a step says how far it is: lines on standard output, for people and backends alike.

A step knows nothing of who started it: in a pod the lines are its log, under the local backend they
move a progress bar. This is the whole protocol:

- A line of progress is the word `progress` and then pairs `KEY=VALUE`, all with one space between,
  ended by a line feed, encoded as standard output is, and flushed: logfmt, after its first word.
- `done` and `total` are always there: decimal digits, units of work since the step began and in
  all. The unit is the step's own (images, training steps, protocols).
- Other pairs are facts to show beside them. `ready=NAME` has a meaning of its own: the server NAME
  answers from now on.
- A key is a Python identifier. A value has no space (each one becomes `_`) and may hold `=`: a pair
  is split at its first one. A float has four significant digits.
- Any other line on standard output is not progress: a step's own result, or what a library prints.
  Logs go to standard error (`mlpipeline.logs`).

https://brandur.org/logfmt
"""

from __future__ import annotations

_MARK = "progress"


def report(done: int, total: int, **facts: object) -> None:
    """Print a line of progress.

    Args:
        done: Units of work that are done.
        total: Units of work in all.
        **facts: What is shown beside them.

    Example:
        >>> report(128, 235, epoch="1/8", loss=0.53121, doing="reading the data")
        progress done=128 total=235 epoch=1/8 loss=0.5312 doing=reading_the_data
    """
    pairs = {"done": done, "total": total} | facts
    line = " ".join([_MARK, *(f"{key}={_compact(value)}" for key, value in pairs.items())])
    print(line, flush=True)  # noqa: T201  # standard output is the protocol's channel


def parse(line: str) -> dict[str, str] | None:
    """Read a line of a step's standard output.

    Args:
        line: The line, with or without its end.

    Returns:
        The pairs of a line of progress, `done` and `total` among them; None for any other line.

    Example:
        >>> parse("progress done=1 total=1 ready=replica-0")
        {'done': '1', 'total': '1', 'ready': 'replica-0'}
        >>> parse("Epoch 1/8")
    """
    mark, _, pairs = line.partition(" ")
    if mark != _MARK:
        return None
    values = dict(pair.split("=", 1) for pair in pairs.split() if "=" in pair)
    is_progress = all(values.get(key, "").isdecimal() for key in ("done", "total"))
    return values if is_progress else None


def _compact(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace(" ", "_")
