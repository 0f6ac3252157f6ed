"""Logging: one handler for all that the package and its libraries log, on standard error.

A person at a terminal reads plain lines. Wherever else they go (a pod's log, the file of a process
that the local backend started) they are logfmt, one record a line, with the level, the time, the
step and its candidate, so that they can be filtered: https://brandur.org/logfmt
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

from logfmter import Logfmter

Format = Literal["auto", "text", "logfmt"]


def configure(
    *,
    step: str | None = None,
    candidate: str | None = None,
    form: Format = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send all log records of this process to one handler, in place of the one before.

    Args:
        step: The step that this process does; part of every structured line.
        candidate: The candidate that it does it for, likewise.
        form: `auto` is `text` on a terminal and `logfmt` elsewhere.
        stream: Where lines are written; standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    if form == "auto":
        form = "text" if stream.isatty() else "logfmt"
    handler = logging.StreamHandler(stream)
    named = {"step": step, "candidate": candidate}
    context = {name: value for name, value in named.items() if value}
    handler.setFormatter(
        _TextFormatter()
        if form == "text"
        else Logfmter(
            keys=["time", "level", *context],
            mapping={"time": "asctime", "level": "levelname"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    handler.addFilter(_Context(context))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("mlpipeline").setLevel(logging.INFO)
    logging.captureWarnings(True)


class _TextFormatter(logging.Formatter):
    """The message alone; what is worse than information says so first."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno <= logging.INFO:
            return text
        return f"{record.levelname.lower()}: {text}"


class _Context(logging.Filter):
    """Adds what this process does to every record."""

    def __init__(self, context: dict[str, str]) -> None:
        super().__init__()
        self._context = context

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self._context.items():
            setattr(record, name, value)
        return True
