"""Logging: one handler for all that the package and its libraries log, on standard error.

A person at a terminal reads plain lines. Wherever else they go (a pod's log, the file of a process
that the local backend started) they are logfmt, one record a line, with the time, the level, the
step and its candidate, so that they can be filtered: https://brandur.org/logfmt

    time=2026-11-24T09:00:00+0000 level=WARNING msg="no GPU is used" step=train candidate=cnn

What a library says below a warning is chatter, and left out: TensorFlow, absl, KServe, uvicorn and
MLflow log to handlers of their own only where they find none, so this one has to be there before
they are imported. Python's warnings are records of the level WARNING. The environment variable
`MLPIPELINE_LOG_LEVEL` (`debug`, `info`, `warning` or `error`; by default `info`) sets the least
level that is written; processes that this one starts inherit it.

Progress is no log: `mlpipeline.progress` writes it on standard output.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

from logfmter import Logfmter

from mlpipeline.errors import ConfigurationError

LEVEL_VARIABLE = "MLPIPELINE_LOG_LEVEL"

Form = Literal["auto", "text", "logfmt"]
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(
    *,
    step: str | None = None,
    candidate: str | None = None,
    form: Form = "auto",
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send all log records of this process to one handler, in place of the one before.

    Args:
        step: The step that this process does; part of every structured line.
        candidate: The candidate that it does it for, likewise.
        form: `auto` is `text` on a terminal and `logfmt` elsewhere.
        stream: Where lines are written; standard error by default.
        environment: Where `MLPIPELINE_LOG_LEVEL` is looked up.

    Raises:
        ConfigurationError: `MLPIPELINE_LOG_LEVEL` is not the name of a level.

    Example:
        >>> configure(step="train", candidate="cnn", form="text", stream=sys.stdout)
        >>> logging.getLogger("mlpipeline.example").warning("no GPU is used")
        warning: no GPU is used
    """
    level = _level(environment)
    stream = sys.stderr if stream is None else stream
    if form == "auto":
        form = "text" if stream and stream.isatty() else "logfmt"
    # There is no stream where whoever started this process has closed standard error.
    handler = logging.StreamHandler(stream) if stream else logging.NullHandler()
    handler.setFormatter(_TextFormatter() if form == "text" else _structured())
    handler.addFilter(_Context(step=step, candidate=candidate))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("mlpipeline").setLevel(level)
    logging.captureWarnings(True)


def _level(environment: Mapping[str, str]) -> int:
    """Return the least level that is written.

    Raises:
        ConfigurationError: The variable has another value.
    """
    text = environment.get(LEVEL_VARIABLE) or "info"
    try:
        return _LEVELS[text.lower()]
    except KeyError:
        raise ConfigurationError(
            f"{LEVEL_VARIABLE}={text!r} is not a level",
            expected=f"one of {', '.join(_LEVELS)}",
            remedy="set one of them, or unset the variable: the default is info",
        ) from None


def _structured() -> logging.Formatter:
    return Logfmter(
        keys=["time", "level"],
        mapping={"time": "asctime", "level": "levelname"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


class _TextFormatter(logging.Formatter):
    """The message alone; what is worse than information says so first."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno <= logging.INFO:
            return text
        return f"{record.levelname.lower()}: {text}"


class _Context(logging.Filter):
    """Adds to every record what this process does; the formatter writes all that is added."""

    def __init__(self, **facts: str | None) -> None:
        super().__init__()
        self._facts = {name: value for name, value in facts.items() if value}

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self._facts.items():
            setattr(record, name, value)
        return True
