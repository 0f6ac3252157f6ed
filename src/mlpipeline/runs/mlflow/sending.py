"""Has a run's record sent to MLflow at its end, within seconds, whatever becomes of MLflow.

The record in the workspace is the truth; MLflow has a copy, made by `experiments`. That is done in
a process of its own, beside the report: to import MLflow takes two seconds, and neither a server
that does not answer nor a damaged database may fail a run or hold it up. What could not be sent is
sent at the end of the next run, or by `mlpipeline track`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlpipeline.store.layout import Workspace

DEADLINE_SECONDS = 30.0


def embedded(workspace: Workspace) -> str:
    """Where runs are kept if there is no tracking server: a SQLite file in the workspace."""
    return f"sqlite:///{workspace.mlflow_database.resolve()}"


def configured(default: str = "") -> str:
    """Return `MLFLOW_TRACKING_URI`. If it is set, but empty, nothing is sent."""
    return os.environ.get("MLFLOW_TRACKING_URI", default)


@contextmanager
def sending(workspace: Workspace, uri: str, seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Send all runs that were not sent yet, while the caller does something else.

    Whatever fails becomes one line of warning.

    Args:
        workspace: The folder of all artifacts.
        uri: Of MLflow's server or database; empty if there is none.
        seconds: How long it may take after the caller is done.
    """
    if not uri:
        yield
        return
    command = [sys.executable, "-m", "mlpipeline", "track", "--workspace", str(workspace)]
    with subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield
            _, said = process.communicate(timeout=seconds)
            lines = said.splitlines()
            problems = [line for line in lines if line.startswith(("warning", "error"))]
            if process.returncode and not problems:  # a bug's traceback ends with what it was
                problems = [f"error: {lines[-1] if lines else f'status {process.returncode}'}"]
        except subprocess.TimeoutExpired:
            process.kill()
            problems = [f"error: it took more than {seconds:.0f} s"]
        except BaseException:
            process.kill()
            raise
    for line in problems:
        print(_warning(line), file=sys.stderr, flush=True)


def _warning(line: str) -> str:
    kind, _, text = line.partition(": ")
    if kind == "warning":
        return line
    return f"warning: not sent to MLflow: {text}; the next run sends it, or `mlpipeline track`"
