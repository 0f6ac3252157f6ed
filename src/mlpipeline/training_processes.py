"""The processes that train one candidate on this machine: started, and started again when lost.

    all-reduce         worker ◄──► worker                        one is lost: all start again
    parameter server   chief ──► workers ◄──► parameter servers   a worker is lost: it starts again

As in a TFJob with `restartPolicy: ExitCode`, a process is started again after a signal, or a status
of 128 and above, which stands for one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlpipeline import processes
from mlpipeline.config import Training
from mlpipeline.errors import ProcessError
from mlpipeline.learning.cluster_spec import ParameterServerSpec, Role, to_environment

Work = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class TrainingProcesses:
    """Trains one candidate.

    Args:
        name: The task's name, for messages and logs.
        command: What each process runs.
        settings: How many processes, which strategy, how long, how often.
        logs: Folder for a log of each process.
        say: Called with what a person should know.
        on_progress: Called with the values of every progress line.
    """

    name: str
    command: Sequence[str]
    settings: Training
    logs: Path
    say: Callable[[str], None]
    on_progress: Callable[[dict[str, str]], None]

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
            addresses, shares = _addresses(count), _shares_of_cpus(count)
            await _together(
                self._process(f"worker-{index}", to_environment(addresses, index), shares[index])
                for index in range(count)
            )

        await self._again_when_lost(all_workers, "a worker was lost; all are started again")

    async def _by_parameter_server(self) -> None:
        """A worker comes back to the others; without one of these there is no going on."""
        workers, servers = self.settings.workers, self.settings.parameter_servers

        async def all_processes() -> None:
            chief, *others = _addresses(1 + servers + workers)
            spec = ParameterServerSpec(chief, tuple(others[:servers]), tuple(others[servers:]))
            shares = _shares_of_cpus(workers)  # the others have little to do, and do it anywhere

            def process(role: Role, index: int, cpus: Collection[int] = ()) -> Work:
                return self._process(f"{role}-{index}", spec.environment_of(role, index), cpus)

            await _together(
                [
                    process("chief", 0),
                    *(process("ps", index) for index in range(servers)),
                    *(
                        self._again_when_lost(
                            partial(process, "worker", index, shares[index]),
                            f"worker {index} was lost; it alone is started again",
                        )
                        for index in range(workers)
                    ),
                ]
            )

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
                self.say(f"{self.name}: {what} (attempt {attempt + 1} of {attempts})")

    def _process(self, name: str, environment: Mapping[str, str], cpus: Collection[int]) -> Work:
        return processes.run(
            self.command,
            log=self.logs / f"{self.name}.{name}.log",
            environment=environment,
            cpus=cpus,
            on_progress=self.on_progress,
        )


async def _together(works: Iterable[Work]) -> None:
    """Do all at once; when one fails, end the others."""
    failures: tuple[Exception, ...] = ()
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* (processes.ExitError, OSError) as errors:  # OSError: no room for a log
        failures = errors.exceptions
    if failures:  # raised here, because Python before 3.11.4 makes a group of it in `except*`
        # A worker that only lost its peer says less than the one that failed by itself.
        raise min(failures, key=lambda e: getattr(e, "can_be_retried", False))


def _addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in processes.free_ports(count)]


def _shares_of_cpus(workers: int) -> list[set[int]]:
    """Divide this process's processors among the workers; empty sets where there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * workers
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < workers:
        return [set()] * workers
    return [set(cpus[index::workers]) for index in range(workers)]
