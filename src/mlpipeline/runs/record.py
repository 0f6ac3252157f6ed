"""The record of a run: what every task did, how long it took, and what failed and why.

`runs.lineage` and `runs.mlflow` tell other tools what it says, in words that those know.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from mlpipeline.errors import ArtifactError
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import Task
from mlpipeline.store.layout import RunFolder, Workspace
from mlpipeline.store.schemas.gate import GateTable, Judgement
from mlpipeline.store.schemas.rollout import RolloutTable
from mlpipeline.store.schemas.run import (
    Machine,
    Run,
    RunState,
    ServedVersion,
    TaskRecord,
    TaskState,
    Verification,
)

_PACKAGES = (
    *("tensorflow", "tensorflow-cpu", "keras", "tensorflow-datasets"),
    *("ai-edge-litert", "kserve", "numpy"),
)
# A workflow that does not end is ended after six hours; a record is written after each task.
_LONGEST_TASK_SECONDS = 24 * 60 * 60.0


@dataclass
class RunRecord:
    """The record of a run while it goes on: `run.json`, written anew whenever a task ends.

    Attributes:
        folder: The folder of the run.
        started: When it began, ISO 8601.
        config_file: The name of the file that it was configured by.
        config: The configuration; None where it could not be read.
        machine: Where it is carried out.
        source: Where the code came from: a commit, or the image of the steps.
        state: How it ended.
        seconds: How long it took until the record was written last.
        tasks: What its tasks did, in the order in which they ended.
        served: What was put into service, in that order.
        verification: The figures of the last verification.
        error: Why it failed.
        retries: Why the attempts at tasks so far failed, by task, until it is added.
        judgements: What was said of a version that was to be served, by task, likewise.
    """

    folder: RunFolder
    started: str
    config_file: str
    config: Config | None
    machine: Machine
    source: str
    state: RunState = "running"
    seconds: float = 0.0
    tasks: list[TaskRecord] = field(default_factory=list)
    served: list[ServedVersion] = field(default_factory=list)
    verification: Verification | None = None
    error: str | None = None
    retries: dict[str, list[str]] = field(default_factory=dict)
    judgements: dict[str, Judgement] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.folder.run

    @classmethod
    def begin(cls, config: Config, config_file: Path, workspace: Workspace) -> RunRecord:
        """Return the record of a run that begins now on this machine.

        Args:
            config: The configuration.
            config_file: The file that it was read from.
            workspace: The folder of all artifacts.
        """
        now = datetime.now(UTC)
        return cls(
            folder=_new_folder(workspace, f"{now:%Y%m%d-%H%M%S}-{os.getpid()}"),
            started=now.isoformat(timespec="seconds"),
            config_file=config_file.name,
            config=config,
            machine=describe_machine(),
            source=describe_source(),
        )

    def add(self, task: Task, state: TaskState, seconds: float, error: str | None = None) -> None:
        """Add what a task that has ended did.

        Args:
            task: The task.
            state: How it ended.
            seconds: How long its work took.
            error: Why it failed.
        """
        began = datetime.now(UTC) - timedelta(seconds=seconds)
        judgement = self.judgements.pop(task.name, None)
        self.tasks.append(
            TaskRecord(
                name=task.name,
                step=task.step.name,
                candidate=task.candidate,
                key=task.key,
                state=state,
                seconds=round(seconds, 3),
                error=error,
                retries=tuple(self.retries.pop(task.name, ())),
                started=None if state in ("reused", "skipped") else began.isoformat(),
                code=pipeline.code_of(task, self.config) if self.config else "",
                gate=judgement if isinstance(judgement, GateTable) else None,
                rollout=judgement if isinstance(judgement, RolloutTable) else None,
            )
        )
        self.save()

    def add_served(self, version: str, candidate: str) -> None:
        """Add that all replicas of a version answer from now on.

        Args:
            version: The version.
            candidate: The name of the candidate that it is.
        """
        served = ServedVersion(version=version, candidate=candidate, seconds=self._since_start())
        self.served.append(served)
        self.save()

    def retry(self, task: Task, reason: str) -> None:
        """Note that an attempt at a task failed, and that another one follows.

        Args:
            task: The task.
            reason: Why the attempt failed.
        """
        self.retries.setdefault(task.name, []).append(reason)

    def judge(self, task: Task, table: Judgement) -> None:
        """Note what was said of a version in a task, which is still to be added.

        Args:
            task: The task.
            table: What was measured, and the verdict.
        """
        self.judgements[task.name] = table

    def save(self) -> None:
        """Write the record as it is now."""
        self.seconds = self._since_start()
        self.content().save(self.folder.record)

    def content(self) -> Run:
        """Return what is written."""
        return Run(
            run=self.run,
            started=self.started,
            config_file=self.config_file,
            config=self.config.model_dump(mode="json") if self.config else {"candidates": {}},
            machine=self.machine,
            source=self.source,
            state=self.state,
            seconds=self.seconds,
            tasks=tuple(self.tasks),
            served=tuple(self.served),
            verification=self.verification,
            error=self.error,
        )

    def _since_start(self) -> float:
        began = datetime.fromisoformat(self.started).timestamp()
        return round(time.time() - began, 1)


def _new_folder(workspace: Workspace, name: str) -> RunFolder:
    """Make the folder of a run: containers that begin in one second may well have one pid."""
    folder, number = workspace.run(name), 1
    while True:
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = workspace.run(f"{name}.{number}")
        else:
            return folder


@contextmanager
def under_way(folder: RunFolder) -> Iterator[None]:
    """Hold the lock of a run's folder, which the kernel lets go however this process ends."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.lock):
        yield


def going_on(workspace: Workspace) -> Iterator[str]:
    """Yield the names of the runs that go on, as far as can be told on this machine.

    Of one in a cluster, or on another host that shares this storage, its record alone tells: such a
    run goes on for as long as it says so, and somebody writes it.

    Args:
        workspace: The folder of all artifacts.
    """
    for folder in workspace.runs():
        if folder.lock.exists():
            try:
                with FileLock(folder.lock, blocking=False):
                    pass
            except (Timeout, OSError):
                yield folder.run
                continue
        try:
            run = Run.load(folder.record)
        except ArtifactError:
            continue
        is_ours = folder.lock.exists() and run.machine.host == platform.node()
        if run.state == "running" and not is_ours and _was_written(folder.record):
            yield folder.run


def _was_written(record: Path) -> bool:
    """Whether a record was written no longer ago than any task may take."""
    return time.time() - record.stat().st_mtime < _LONGEST_TASK_SECONDS


def close_killed(workspace: Workspace) -> Iterator[Run]:
    """Call interrupted what is `running` in its record, but in no process.

    Args:
        workspace: The folder of all artifacts.

    Yields:
        The records that were changed.
    """
    for folder in workspace.runs():
        if not folder.lock.exists():  # it was run in a cluster
            continue
        try:
            with FileLock(folder.lock, blocking=False):
                run = Run.load(folder.record)
                if run.state == "running":
                    killed = {"state": "interrupted", "error": "its process was killed"}
                    run = run.model_copy(update=killed)
                    run.save(folder.record)
                    yield run
        except (Timeout, OSError):  # it goes on; it is not ours to write
            continue
        except ArtifactError:  # damaged: who reads it for more says so
            continue


def describe_machine() -> Machine:
    """Return what is known of this machine and of the libraries that results depend on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # `tensorflow` or `tensorflow-cpu`: one of them
            continue
    return Machine(
        host=platform.node(),
        cpus=os.cpu_count(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=versions,
    )


def describe_source() -> str:
    """Return the commit that this code was checked out at; empty where git knows nothing of it."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        # Within a hook of another repository, these name that one.
        elsewhere = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
        # An installed copy may lie in a repository that is not ours.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name],
            check=True,
            capture_output=True,
            env=elsewhere,
            timeout=10,
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"],
            check=True,
            capture_output=True,
            text=True,
            env=elsewhere,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"commit {described.stdout.strip()}"
