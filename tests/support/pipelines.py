"""A workspace with its configuration, and the command line run on it in real processes.

Each command carries a mark in its environment, which whatever it starts inherits. So a test can see
all of its processes, however deep, and none is left when the test is over.
"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlpipeline import progress
from mlpipeline.backends.local.processes import free_ports
from mlpipeline.environment import ends_with_us
from mlpipeline.learning.training.cluster_spec import to_environment
from mlpipeline.plan import config, pipeline
from mlpipeline.store import artifacts

_COMMAND_LINE = ("-m", "mlpipeline")
# In place of it, and with a function and the number of a call: killed when it comes to that call.
KILLED_AT = str(Path(__file__).with_name("kill_at.py"))
BEFORE_PUBLISHING = (KILLED_AT, "mlpipeline.steps.training:_publish", "1")
_MARK = "MLPIPELINE_TEST_MARK"
# Far more than anything here takes: a limit for what hangs.
_LIMIT_SECONDS = 400


def configuration(candidates: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Small made-up data, tiny candidates that take seconds, ports of their own."""
    http, grpc = free_ports(2)
    return {
        "name": "toy",
        "data": {"dataset": "synthetic", "validation": 500, "shards": 4},
        "recipe": {"batch_size": 100, "precision": "float32"},
        "candidates": dict(candidates),
        "training": {"workers": 2, "peer_timeout_seconds": 120},
        "serving": {"replicas": 2, "port": http, "grpc_port": grpc},
    } | sections


@dataclass(frozen=True)
class Member:
    """A process that a command started, or that one of those did."""

    pid: int
    arguments: list[str]
    environment: dict[str, str]


@dataclass
class Command:
    """A command line under way, and what it said."""

    process: subprocess.Popen[bytes]
    mark: str
    files: tuple[Path, Path]

    @property
    def output(self) -> str:
        return self.files[0].read_text()

    @property
    def errors(self) -> str:
        return self.files[1].read_text()

    def wait(self, seconds: float = _LIMIT_SECONDS) -> int:
        """Return its exit status; negative for a signal."""
        return self.process.wait(seconds)

    def members(self) -> list[Member]:
        """All processes that descend from it, without itself."""
        return [m for m in _marked(self.mark) if m.pid != self.process.pid]

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self.process.kill()
        self.process.wait()
        while left := _marked(self.mark):
            for member in left:
                _kill(member.pid)
            time.sleep(0.01)


@dataclass
class Pipeline:
    """A folder with a configuration and a workspace.

    Attributes:
        folder: Holds all of it, also the modules that the configuration names as its own.
        content: The configuration; every command writes and reads it anew.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def copy(self, folder: Path) -> Pipeline:
        """An independent copy, with ports of its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        content = copy.deepcopy(self.content)
        content["serving"] |= dict(zip(("port", "grpc_port"), free_ports(2), strict=True))
        return Pipeline(folder, content)

    @contextmanager
    def started(
        self,
        *arguments: str,
        program: Sequence[str] = _COMMAND_LINE,
        environment: Mapping[str, str] | None = None,
        cpu: int | None = None,
    ) -> Iterator[Command]:
        """Start `python PROGRAM ARGUMENTS`, the command line; it is over when the body is."""
        with self.started_program(
            [*program, *arguments, *self._options()], environment=environment, cpu=cpu
        ) as command:
            yield command

    @contextmanager
    def started_program(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cpu: int | None = None,
    ) -> Iterator[Command]:
        """Start Python with any arguments; it is over when the body is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = uuid.uuid4().hex
        files = (self.folder / f"{mark}.out", self.folder / f"{mark}.err")
        tests = str(Path(__file__).parents[1])
        places = [str(self.folder), tests, os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, places))
        variables = {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", _MARK: mark}
        variables["MLFLOW_TRACKING_URI"] = ""  # nothing is sent, except where a test asks for it
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = subprocess.Popen(
                [*ends_with_us(), sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | variables | dict(environment or {}),
                start_new_session=True,
            )
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        command = Command(process, mark, files)
        try:
            yield command
        finally:
            command.kill()

    def call(self, *arguments: str, seconds: float = _LIMIT_SECONDS) -> Command:
        """Run `python -m mlpipeline ARGUMENTS` to its end."""
        with self.started(*arguments) as command:
            command.wait(seconds)
        return command

    @contextmanager
    def workers(
        self,
        candidate: str,
        count: int = 2,
        *,
        chief: Sequence[str] = _COMMAND_LINE,
        clusters: Sequence[Sequence[str]] = (),
    ) -> Iterator[list[Command]]:
        """Start the workers of a candidate, each on a processor, as a backend does.

        Args:
            chief: What Python runs as the first of them, in place of the command line.
            clusters: The addresses of all as each one knows them, where they do not know the same.
        """
        clusters = clusters or [addresses(count)] * count
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    self.started(
                        *("step", "train", "--candidate", candidate),
                        program=program,
                        environment=to_environment(clusters[index], index),
                        cpu=processor(index),
                    )
                )
                for index, program in enumerate([chief, *[_COMMAND_LINE] * (count - 1)])
            ]

    def plan(self) -> dict[str, pipeline.Task]:
        """The tasks; only for configurations without modules of their own."""
        return pipeline.plan(config.parse(self.content, origin="test"))

    def published(self, task: str, index: int = 0) -> Path:
        """Where a task publishes."""
        return self.workspace / self.plan()[task].publishes[index]

    def checkpoint(self, key: str) -> str:
        """The newest checkpoint of a candidate's unfinished training; empty for none."""
        file = self.workspace / "candidates" / f".{key}.work" / "checkpoints" / "checkpoint"
        return file.read_text() if file.exists() else ""

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, in their order."""
        files = (self.workspace / "runs").glob("*/run.json")
        records = [artifacts.read_json(file) for file in files]
        return sorted(records, key=lambda record: str(record["run"]))

    def last_run(self) -> dict[str, Any]:
        """The record of the newest run."""
        return self.runs()[-1]

    def decision(self) -> dict[str, Any]:
        """What the newest run selected, and why."""
        key = keys(self.last_run())["select"]
        decision: dict[str, Any] = artifacts.read_json(
            self.workspace / "selections" / key / "decision.json"
        )
        return decision

    def current(self) -> str:
        """The version that is served."""
        models = self.workspace / "models" / str(self.content["name"])
        return (models / "current").read_text().strip()

    def leftovers(self) -> list[Path]:
        """What half-written artifacts would leave."""
        return [*self.workspace.rglob("*.draft"), *self.workspace.rglob("*.damaged")]

    def write_config(self) -> Path:
        """Write the configuration as the commands read it."""
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(self.content))
        return file

    def _options(self) -> list[str]:
        return ["--config", str(self.write_config()), "--workspace", str(self.workspace)]


def states(record: Mapping[str, Any]) -> dict[str, str]:
    """What became of each task of a run."""
    return {task["name"]: task["state"] for task in record["tasks"]}


def keys(record: Mapping[str, Any]) -> dict[str, str]:
    """The cache key of each task of a run that has one."""
    return {task["name"]: task["key"] for task in record["tasks"] if task["key"]}


def progress_of(text: str) -> list[int]:
    """How far a step said that it was, each time."""
    return [int(values["done"]) for line in text.splitlines() if (values := progress.parse(line))]


def addresses(workers: int) -> list[str]:
    """Where the workers of a cluster on this machine are to listen."""
    return [f"127.0.0.1:{port}" for port in free_ports(workers)]


def processor(index: int) -> int:
    """The one that a worker is kept to."""
    available = sorted(os.sched_getaffinity(0))
    return available[index % len(available)]


def wait_until(
    condition: Callable[[], object], command: Command, seconds: float = _LIMIT_SECONDS
) -> None:
    """Wait for something that must happen while the command is under way."""
    end = time.monotonic() + seconds
    while not condition():
        status = command.process.poll()
        assert status is None, f"ended with {status}:\n{command.output}\n{command.errors}"
        assert time.monotonic() < end, f"not within {seconds} s:\n{command.output}"
        time.sleep(0.02)


def _marked(mark: str) -> list[Member]:
    members = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:  # it may end at any moment
            pairs = (folder / "environ").read_text(errors="replace").split("\0")
            arguments = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        environment = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
        if environment.get(_MARK) == mark:
            members.append(Member(int(folder.name), arguments[:-1], environment))
    return members


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
