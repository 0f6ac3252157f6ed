"""The processes that train one candidate on this machine: started, and started again when lost.

    all-reduce         worker ◄──► worker                        one is lost: all start again
    parameter server   chief ──► workers ◄──► parameter servers   a worker is lost: it starts again

As in a TFJob with `restartPolicy: ExitCode`, a process is started again after a signal, or a status
of 128 and above, which stands for one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlpipeline.backends.local import processes
from mlpipeline.errors import ProcessError
from mlpipeline.learning.training.cluster_spec import ParameterServerSpec, Role, to_environment
from mlpipeline.plan.config import Training

Work = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class TrainingProcesses:
    """Trains one candidate.

    Attributes:
        name: The task's name, for messages and logs.
        command: What each process runs.
        settings: How many processes, which strategy, how long, how often.
        logs: Folder for a log of each process.
        say: Called with what a person should know.
        on_progress: Called with the values of every progress line.
        on_lost: Called with why an attempt failed, before the next one.
        cpus: Processors, divided among the workers; by default all that this process has.
    """

    name: str
    command: Sequence[str]
    settings: Training
    logs: Path
    say: Callable[[str], None]
    on_progress: Callable[[dict[str, str]], None]
    on_lost: Callable[[str], None] = lambda _: None
    cpus: Sequence[int] = field(default_factory=lambda: own_processors())

    async def run(self) -> None:
        """Train until the candidate is published.

        Raises:
            ProcessError: A process failed for good, or too often, or it took too long.
        """
        settings = self.settings
        by_server = settings.strategy == "parameter_server"
        try:
            async with asyncio.timeout(settings.deadline_seconds):
                await (self._by_parameter_server() if by_server else self._by_all_reduce())
        except TimeoutError as error:
            raise ProcessError(
                f"training was not done after {settings.deadline_seconds} s",
                expected="that its workers end before training.deadline_seconds",
                remedy=f"raise it, or read what it waited for in {self.logs}",
            ) from error

    async def _by_all_reduce(self) -> None:
        """None can go on without the others, and none can come back to them."""

        async def all_workers() -> None:
            count = self.settings.workers
            addresses, cpus = _addresses(count), shares(self.cpus, count)
            async with processes.together() as group:
                for index in range(count):
                    environment = to_environment(addresses, index)
                    group.create_task(self._process(f"worker-{index}", environment, cpus[index]))

        await self._again_when_lost(all_workers, "a worker was lost; all are started again")

    async def _by_parameter_server(self) -> None:
        """A worker comes back to the others; without one of these there is no going on."""
        workers, servers = self.settings.workers, self.settings.parameter_servers

        async def all_processes() -> None:
            chief, *others = _addresses(1 + servers + workers)
            spec = ParameterServerSpec(chief, tuple(others[:servers]), tuple(others[servers:]))
            cpus = shares(self.cpus, workers)  # the others have little to do, and do it anywhere

            def process(role: Role, index: int, cpus: Collection[int] = ()) -> Work:
                return self._process(f"{role}-{index}", spec.environment_of(role, index), cpus)

            async with processes.together() as group:
                group.create_task(process("chief", 0))
                for index in range(servers):
                    group.create_task(process("ps", index))
                for index in range(workers):
                    worker = partial(process, "worker", index, cpus[index])
                    what = f"worker {index} was lost; it alone is started again"
                    group.create_task(self._again_when_lost(worker, what))

        await self._again_when_lost(
            all_processes, "the chief or what it needs was lost; all are started again"
        )

    async def _again_when_lost(self, work: Callable[[], Work], what: str) -> None:
        attempts = self.settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                await work()
                return
            except processes.ExitError as error:
                if not error.can_be_retried or attempt == attempts:
                    raise
                self.on_lost(error.got)
                self.say(f"{self.name}: {what} (attempt {attempt + 1} of {attempts})")

    def _process(self, name: str, environment: Mapping[str, str], cpus: Collection[int]) -> Work:
        return processes.run(
            self.command,
            log=self.logs / f"{self.name}.{name}.log",
            environment=environment,
            cpus=cpus,
            on_progress=self.on_progress,
        )


def _addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in processes.free_ports(count)]


def own_processors() -> list[int]:
    """Return the numbers of this process's processors; none where the system cannot tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def shares(cpus: Sequence[int], parts: int) -> list[list[int]]:
    """Divide processors; where there are too few, every part has them all.

    Args:
        cpus: The processors' numbers.
        parts: How many parts to make.
    """
    return [list(cpus[index::parts] if len(cpus) >= parts else cpus) for index in range(parts)]
