"""The local backend: every task is a process, or one for each worker or replica.

It starts the commands that a pod would run, gives training workers their `TF_CONFIG`, waits, and
reads what they published. A task whose result is there and whole is not run again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mlpipeline import artifacts, pipeline, processes, replicas
from mlpipeline.config import Config
from mlpipeline.display import Display
from mlpipeline.errors import PipelineError, ProcessError, TrainingError
from mlpipeline.learning.cluster_spec import to_environment
from mlpipeline.pipeline import Task
from mlpipeline.runs import RunRecord


@dataclass(frozen=True)
class LocalBackend:
    """Runs the pipeline of one configuration in one workspace.

    Args:
        config: The configuration.
        config_file: Where it was read from: the steps read it again.
        workspace: Folder of the artifacts.
        record: The run's record, kept up to date.
        display: Shows what is going on.
    """

    config: Config
    config_file: Path
    workspace: Path
    record: RunRecord
    display: Display

    async def run(self) -> None:
        """Run every task that has to be run; serve and verify the result; make it current.

        Raises:
            PipelineError: A task failed for good; what was finished before is kept.
        """
        tasks = pipeline.plan(self.config)
        await self._memoized(tasks["ingest"], self._run_process)
        failed: dict[str, PipelineError] = {}
        for name in self.config.candidates:
            try:
                await self._memoized(tasks[f"train-{name}"], self._train)
            except ProcessError as error:  # the others go on without it
                failed[name] = error
        if len(failed) == len(self.config.candidates):
            raise TrainingError(
                "every candidate failed:\n"
                + "\n".join(f"  {name}: {error.got}" for name, error in failed.items()),
                expected="at least one candidate that can be trained",
                remedy="read the messages above",
            )
        tasks = pipeline.plan(self.config, without=failed)
        await self._memoized(tasks["select"], self._run_process)
        version = tasks["select"].key
        async with AsyncExitStack() as stack:
            logs = self.record.folder / "logs"
            running = replicas.serving(self.config, self.workspace, version, logs=logs)
            await self._timed(tasks["serve"], lambda _: stack.enter_async_context(running))
            await self._timed(tasks["verify"], self._verify)

    async def _memoized(self, task: Task, work: Callable[[Task], Awaitable[object]]) -> None:
        if task.is_done(self.workspace):
            self.record.add(task, "reused", 0.0)
            self.display.finish(task, "reused", 0.0)
            return
        for published in task.publishes:
            if (self.workspace / published).exists():
                self.display.say(f"{published} is damaged: it is made anew")
        await self._timed(task, work)

    async def _timed(self, task: Task, work: Callable[[Task], Awaitable[object]]) -> None:
        self.display.start(task)
        started = time.monotonic()
        try:
            await work(task)
        except PipelineError as error:
            seconds = time.monotonic() - started
            self.record.add(task, "failed", seconds, str(error))
            self.display.finish(task, "failed", seconds, error.got)
            raise
        seconds = time.monotonic() - started
        self.record.add(task, "succeeded", seconds)
        self.display.finish(task, "succeeded", seconds)

    async def _run_process(self, task: Task, *extra: str) -> None:
        await processes.run(
            [*task.command(self.config_file, self.workspace), *extra],
            log=self._log(task.name),
            on_progress=lambda values: self.display.advance(task, values),
        )

    async def _verify(self, task: Task) -> None:
        output = self.record.folder / "verification.json"
        await self._run_process(task, "--output", str(output))
        self.record.verification = artifacts.read_json(output)

    async def _train(self, task: Task) -> None:
        settings = self.config.training
        try:
            async with asyncio.timeout(settings.deadline_seconds):
                for attempt in range(1, settings.attempts + 1):
                    try:
                        return await self._train_once(task)
                    except processes.ExitError as error:
                        if not error.can_be_retried or attempt == settings.attempts:
                            raise
                        self.record.retry(task, error.got)
                        self.display.say(
                            f"{task.name}: a worker was lost; all are started again "
                            f"(attempt {attempt + 1} of {settings.attempts})"
                        )
        except TimeoutError as error:
            raise ProcessError(
                f"training was not done after {settings.deadline_seconds} s",
                expected="that its workers end before training.deadline_seconds",
                remedy=f"raise it, or read what it waited for in {self._log(task.name).parent}",
            ) from error

    async def _train_once(self, task: Task) -> None:
        """Start all workers; when one of them fails, end the others."""
        count = self.config.training.workers
        addresses = [f"127.0.0.1:{port}" for port in processes.free_ports(count)]
        shares = _shares_of_cpus(count)
        failures: tuple[Exception, ...] = ()
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(count):
                    group.create_task(
                        processes.run(
                            task.command(self.config_file, self.workspace),
                            log=self._log(f"{task.name}.worker-{index}"),
                            environment=to_environment(addresses, index),
                            cpus=shares[index],
                            on_progress=lambda values: self.display.advance(task, values),
                        )
                    )
        except* (processes.ExitError, OSError) as errors:  # OSError: no room for a log
            failures = errors.exceptions
        if failures:  # raised here, because Python before 3.11.4 makes a group of it in `except*`
            # A worker that only lost its peer says less than the one that failed by itself.
            raise min(failures, key=lambda e: getattr(e, "can_be_retried", False))

    def _log(self, name: str) -> Path:
        return self.record.folder / "logs" / f"{name}.log"


def _shares_of_cpus(workers: int) -> list[set[int]]:
    """Divide this process's processors among the workers; empty sets where there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * workers
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < workers:
        return [set()] * workers
    return [set(cpus[index::workers]) for index in range(workers)]
