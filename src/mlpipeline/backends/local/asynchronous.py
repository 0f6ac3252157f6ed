"""The local backend's asynchronous mode: a good candidate is served while others are trained.

    ingest ──► train × candidates ──┬──► select among those so far ──► serve ──► verify
                                    └──◄── after each training ◄──┘

A better one takes its place by a rolling update: its replicas answer beside those that there are,
on the same ports, before these end. What is served in the end is what a synchronous run selects.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from mlpipeline.backends.local import replicas
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.backends.local.processes import together
from mlpipeline.plan import pipeline, succession
from mlpipeline.plan.config import Config
from mlpipeline.store.layout import Workspace


class AsynchronousBackend(LocalBackend):
    """Runs the pipeline; what is served follows the best candidate that is trained so far."""

    async def run(self) -> None:
        """Run every task that has to be run; serve, verify and make current each best so far.

        Raises:
            PipelineError: A task failed for good; what was finished before is kept.
        """
        tasks = pipeline.plan(self.config)
        await self._memoized(tasks["ingest"], self._run_process)
        more = asyncio.Queue[bool]()  # after each training: whether others are still to come
        async with (
            _Service(self.config, self.workspace, self.record.folder / "logs") as service,
            together() as group,
        ):
            group.create_task(self._follow(more, service))
            await self._train_candidates(tasks, on_trained=lambda: more.put_nowait(True))
            more.put_nowait(False)

    async def _follow(self, more: asyncio.Queue[bool], service: _Service) -> None:
        """Publish the best so far after each training; several that ended meanwhile are one."""
        are_to_come = True
        while are_to_come:
            are_to_come = await more.get()
            while not more.empty():
                are_to_come = more.get_nowait()
            await self._publish_best(service, last=not are_to_come)

    async def _publish_best(self, service: _Service, *, last: bool) -> None:
        found = succession.judge(self.config, self.workspace, service.version, last=last)
        self.display.say(f"  {found.reason}")
        if found.replaces:
            among = ",".join(found.among)
            tasks = pipeline.plan(self.config.among(among))
            version, option = tasks["select"].key, ("--among", among)
            await self._memoized(tasks["select"], lambda task: self._run_process(task, *option))
            await self._timed(tasks["serve"], lambda _: service.roll(version))
            self._is_served(version)
            await self._timed(tasks["verify"], lambda task: self._verify(task, *option))
        elif last:  # the decision of all of them, for the report
            select = pipeline.plan_of_finished(self.config, self.workspace)["select"]
            await self._memoized(select, self._run_process)
        service.check()


class _Service:
    """Replicas of one version at a time, behind ports that are held from the first to the last."""

    def __init__(self, config: Config, workspace: Workspace, logs: Path) -> None:
        self.version = ""
        self._config, self._workspace, self._logs = config, workspace, logs
        self._ports, self._replicas = AsyncExitStack(), AsyncExitStack()
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ports.enter_context(replicas.reserved(self._config.serving))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._ports, self._replicas:  # which end first
            pass

    async def roll(self, version: str) -> None:
        """Start a version's replicas; once all of them answer, end those of the version before.

        Raises:
            ProcessError: One did not become ready in time; the version before goes on.
        """
        newer = AsyncExitStack()
        running = replicas.started(self._config, self._workspace, version, logs=self._logs)
        self._ended = await newer.enter_async_context(running)
        older, self._replicas, self.version = self._replicas, newer, version
        await older.aclose()

    def check(self) -> None:
        """Raise the error of a replica that has ended by itself."""
        if self._ended and self._ended.done():
            self._ended.result()
