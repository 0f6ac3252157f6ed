"""The record of a run: what every task did, how long it took, and what failed and why.

runs/<run>/  run.json  lineage.jsonl  verification.json  report.html  logs/

`lineage` and `tracking` tell other tools what it says, in words that those know.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mlpipeline.errors import ArtifactError
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import Task
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "kserve", "numpy", "tensorflow-datasets")
_LOCK = ".lock"


@dataclass
class TaskRecord:
    name: str
    step: str
    candidate: str | None
    key: str
    state: Literal["reused", "succeeded", "failed", "skipped"]
    seconds: float
    error: str | None = None
    retries: list[str] = field(default_factory=list)
    """Why earlier attempts failed, where the backend tried again."""
    started: str | None = None
    """When its first attempt began; None for one that was reused or never began."""
    code: str = ""
    """Version of the code that does it; empty where that is not part of any key."""
    where: str | None = None
    """The pod of its last attempt and that pod's node; None where it is the run's own machine."""


@dataclass
class ServedVersion:
    version: str
    candidate: str
    seconds: float
    """From the start of the run until all its replicas answered."""


@dataclass
class RunRecord:
    """Kept in `runs/<run>/run.json`, and written anew whenever a task ends."""

    run: str
    started: str
    config_file: str
    config: dict[str, Any]
    machine: dict[str, Any]
    source: str
    """Where the code came from: a commit, or the image of the pods."""
    folder: Path
    state: Literal["running", "succeeded", "failed", "interrupted"] = "running"
    seconds: float = 0.0
    tasks: list[TaskRecord] = field(default_factory=list)
    served: list[ServedVersion] = field(default_factory=list)
    """What was put into service, in that order: several versions in an asynchronous run."""
    verification: dict[str, Any] | None = None
    error: str | None = None
    retries: dict[str, list[str]] = field(default_factory=dict)
    """By task, until it is added: why its attempts so far failed."""

    @classmethod
    def begin(cls, config: Config, config_file: Path, workspace: Workspace) -> RunRecord:
        now = datetime.now(UTC)
        run = f"{now:%Y%m%d-%H%M%S}-{os.getpid()}"
        return cls(
            run=run,
            started=now.isoformat(timespec="seconds"),
            config_file=config_file.name,
            config=config.model_dump(),
            machine=describe_machine(),
            source=describe_source(),
            folder=workspace.run(run).path,
        )

    def add(
        self,
        task: Task,
        state: Literal["reused", "succeeded", "failed", "skipped"],
        seconds: float,
        error: str | None = None,
    ) -> None:
        began = datetime.now(UTC) - timedelta(seconds=seconds)
        self.tasks.append(
            TaskRecord(
                task.name,
                task.step.name,
                task.candidate,
                task.key,
                state,
                round(seconds, 3),
                error,
                retries=self.retries.pop(task.name, []),
                started=None if state in ("reused", "skipped") else began.isoformat(),
                code=pipeline.code_of(task, Config.model_validate(self.config)),
            )
        )
        self.save()

    def add_served(self, version: str, candidate: str) -> None:
        """Add that all replicas of a version answer from now on."""
        self.served.append(ServedVersion(version, candidate, self._seconds()))
        self.save()

    def retry(self, task: Task, reason: str) -> None:
        """Note that an attempt at a task failed, and that another one follows."""
        self.retries.setdefault(task.name, []).append(reason)

    def save(self) -> None:
        self.seconds = self._seconds()
        artifacts.write_json(self.folder / "run.json", self.as_dict())

    def _seconds(self) -> float:
        began = datetime.fromisoformat(self.started).timestamp()
        return round(time.time() - began, 1)

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        del content["folder"]  # where it is depends on who reads it
        del content["retries"]  # each task has its own
        return content


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which the kernel lets go however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def close_killed(workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Call interrupted what is `running` in its record, but in no process; return the records."""
    for folder in workspace.runs():
        file = folder.record
        try:
            with folder.lock.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                record = artifacts.read_json(file)
                if record["state"] == "running":
                    record |= {"state": "interrupted", "error": "its process was killed"}
                    artifacts.write_json(file, record)
                    yield record
        except OSError:  # it goes on; it was run in a cluster; it is not ours to write
            continue
        except (ArtifactError, LookupError, TypeError):  # damaged: who reads it for more says so
            continue


def describe_machine() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # `tensorflow` or `tensorflow-cpu`: one of them
            continue
    return {
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }


def describe_source() -> str:
    """Return the commit that this code was checked out at; empty where git knows nothing of it."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        # An installed copy may lie in a repository that is not ours.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            check=True,
            capture_output=True,
            timeout=10,
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"commit {described.stdout.strip()}"
