"""The record of a run: what every task did, how long it took, and what failed and why.

runs/<run>/  run.json  verification.json  report.html  logs/
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mlpipeline import artifacts
from mlpipeline.config import Config
from mlpipeline.pipeline import Task

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "kserve", "numpy", "tensorflow-datasets")


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
    folder: Path
    state: Literal["running", "succeeded", "failed", "interrupted"] = "running"
    seconds: float = 0.0
    tasks: list[TaskRecord] = field(default_factory=list)
    served: list[ServedVersion] = field(default_factory=list)
    """What was put into service, in that order: several versions in an asynchronous run."""
    verification: dict[str, Any] | None = None
    error: str | None = None

    @classmethod
    def begin(cls, config: Config, config_file: Path, workspace: Path) -> RunRecord:
        now = datetime.now(UTC)
        run = f"{now:%Y%m%d-%H%M%S}-{os.getpid()}"
        return cls(
            run=run,
            started=now.isoformat(timespec="seconds"),
            config_file=config_file.name,
            config=config.model_dump(),
            machine=describe_machine(),
            folder=workspace / "runs" / run,
        )

    def add(
        self,
        task: Task,
        state: Literal["reused", "succeeded", "failed", "skipped"],
        seconds: float,
        error: str | None = None,
    ) -> None:
        self.tasks.append(
            TaskRecord(task.name, task.step.name, task.candidate, task.key, state, seconds, error)
        )
        self.save()

    def add_served(self, version: str, candidate: str) -> None:
        """Add that all replicas of a version answer from now on."""
        self.served.append(ServedVersion(version, candidate, self._seconds()))
        self.save()

    def save(self) -> None:
        self.seconds = self._seconds()
        artifacts.write_json(self.folder / "run.json", self.as_dict())

    def _seconds(self) -> float:
        began = datetime.fromisoformat(self.started).timestamp()
        return round(time.time() - began, 1)

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        del content["folder"]  # where it is depends on who reads it
        return content


def describe_machine() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # `tensorflow` or `tensorflow-cpu`: one of them
            continue
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }
