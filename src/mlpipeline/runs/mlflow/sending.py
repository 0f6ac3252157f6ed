"""Has a run's record sent to MLflow at its end, within seconds, whatever becomes of MLflow.

The record in the workspace is the truth; MLflow has a copy, which `runs.mlflow.client` makes. That
is done in a process of its own, beside the report: to import MLflow takes two seconds, and neither
a server that does not answer nor a damaged database may fail a run or hold it up. What could not be
sent is sent at the end of the next run, or by `mlpipeline track`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlpipeline import environment
from mlpipeline.store.layout import Workspace

DEADLINE_SECONDS = 30.0

_log = logging.getLogger(__name__)
_LOGFMT = re.compile(
    r".*\blevel=(?P<level>WARNING|ERROR)\b.*?\bmsg="
    r'(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<plain>\S+))'
)


def embedded(workspace: Workspace) -> str:
    """Return the address of the SQLite file that keeps runs where there is no tracking server.

    Args:
        workspace: The folder of all artifacts.
    """
    return f"sqlite:///{workspace.mlflow_database.resolve()}"


def configured(default: str = "") -> str:
    """Return where `MLFLOW_TRACKING_URI` says that MLflow is; empty where nothing is to be sent.

    Args:
        default: What counts where the variable is not set; one that is set, but empty, counts.
    """
    return os.environ.get("MLFLOW_TRACKING_URI", default)


@contextmanager
def sending(workspace: Workspace, uri: str, seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Send all runs that were not sent yet, while the caller does something else.

    Whatever fails becomes one line of warning.

    Args:
        workspace: The folder of all artifacts.
        uri: The address of MLflow's server or database; empty if there is none.
        seconds: How long it may take after the caller is done.
    """
    if not uri:
        yield
        return
    command = [sys.executable, "-m", "mlpipeline", "track", "--workspace", str(workspace)]
    with subprocess.Popen(
        [*environment.ends_with_us(), *command],
        env=environment.of_children() | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            yield
            _, errors = process.communicate(timeout=seconds)
            problems = _problems(errors.splitlines(), process.returncode)
        except subprocess.TimeoutExpired:
            process.kill()
            problems = [_not_sent(f"it took more than {seconds:.0f} s")]
        except BaseException:
            process.kill()
            raise
    for problem in problems:
        _log.warning("%s", problem)


def _problems(lines: list[str], status: int) -> list[str]:
    """What went wrong, out of what the sending process has written on standard error.

    Its warnings are passed on as they are; an error means that something was not sent.
    """
    problems = []
    for line in lines:
        level, message = _parse(line)
        if level == "warning":
            problems.append(message)
        elif level == "error":
            problems.append(_not_sent(message))
    if status and not problems:  # a bug's traceback ends with what it was
        problems.append(_not_sent(lines[-1] if lines else f"status {status}"))
    return problems


def _parse(line: str) -> tuple[str, str]:
    """The level and the message of a line, as `mlpipeline.logs` writes them; empty for others."""
    if match := _LOGFMT.match(line):
        quoted = match["quoted"]
        message = json.loads(quoted) if quoted else match["plain"]
        return match["level"].lower(), str(message).partition("\n")[0]
    level, separator, message = line.partition(": ")
    return (level, message) if separator and level in ("warning", "error") else ("", "")


def _not_sent(reason: str) -> str:
    return f"not sent to MLflow: {reason}; the next run sends it, or `mlpipeline track`"
