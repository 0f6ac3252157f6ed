"""The local backend: every task is a process, or one for each worker or replica.

It starts the commands that a pod would run, gives training workers their `TF_CONFIG`, waits, and
reads what they published. A task whose result is there and whole is not run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlpipeline.backends.local import processes, replicas
from mlpipeline.backends.local.display import Display
from mlpipeline.backends.local.training import TrainingProcesses, available_cpus, shares
from mlpipeline.errors import PipelineError, ProcessError, TrainingError
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace


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
    workspace: Workspace
    record: RunRecord
    display: Display

    async def run(self) -> None:
        """Run every task that has to be run; serve and verify the result; make it current.

        Raises:
            PipelineError: A task failed for good; what was finished before is kept.
        """
        tasks = pipeline.plan(self.config)
        await self._memoized(tasks["ingest"], self._run_process)
        failed = await self._train_candidates(tasks)
        tasks = pipeline.plan(self.config, without=failed)
        await self._memoized(tasks["select"], self._run_process)
        version = tasks["select"].key
        async with AsyncExitStack() as stack:
            logs = self.record.folder / "logs"
            running = replicas.serving(self.config, self.workspace, version, logs=logs)
            await self._timed(tasks["serve"], lambda _: stack.enter_async_context(running))
            self._is_served(version)
            await self._timed(tasks["verify"], self._verify)

    async def _train_candidates(
        self, tasks: Mapping[str, Task], on_trained: Callable[[], None] = lambda: None
    ) -> dict[str, PipelineError]:
        """Train all candidates, some at once; return those that failed: others go on without."""
        failed: dict[str, PipelineError] = {}
        places: asyncio.Queue[list[int]] = asyncio.Queue()  # each with its share of the processors
        for cpus in shares(available_cpus(), self.config.training.parallel):
            places.put_nowait(cpus)

        async def train(name: str) -> None:
            cpus = await places.get()
            try:
                await self._memoized(tasks[f"train-{name}"], partial(self._train, cpus=cpus))
                on_trained()
            except ProcessError as error:
                failed[name] = error
            finally:
                places.put_nowait(cpus)

        async with processes.together() as group:
            for name in self.config.candidates:
                group.create_task(train(name))
        if len(failed) == len(self.config.candidates):
            raise TrainingError(
                "every candidate failed:\n"
                + "\n".join(f"  {name}: {error.got}" for name, error in failed.items()),
                expected="at least one candidate that can be trained",
                remedy="read the messages above",
            )
        return failed

    async def _memoized(self, task: Task, work: Callable[[Task], Awaitable[object]]) -> None:
        if task.is_done(self.workspace):
            self.record.add(task, "reused", 0.0)
            self.display.finish(task, "reused", 0.0)
            return
        for published in task.publishes:
            if self.workspace.artifact(published).path.exists():
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
            [*processes.python_m(task.arguments(self.config_file, self.workspace)), *extra],
            log=self._log(task.name),
            on_progress=lambda values: self.display.advance(task, values),
        )

    def _is_served(self, version: str) -> None:
        model = registry.description(self.workspace, self.config.name, version)
        self.record.add_served(version, model["candidate"])

    async def _verify(self, task: Task, *extra: str) -> None:
        output = self.record.folder / "verification.json"
        await self._run_process(task, "--output", str(output), *extra)
        self.record.verification = artifacts.read_json(output)

    async def _train(self, task: Task, *, cpus: list[int]) -> None:
        await TrainingProcesses(
            task.name,
            processes.python_m(task.arguments(self.config_file, self.workspace)),
            self.config.training,
            cpus=cpus,
            logs=self.record.folder / "logs",
            say=self.display.say,
            on_lost=partial(self.record.retry, task),
            on_progress=lambda values: self.display.advance(task, values),
        ).run()

    def _log(self, name: str) -> Path:
        return self.record.folder / "logs" / f"{name}.log"
