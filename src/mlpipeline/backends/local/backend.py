"""The local backend: every task is a process, or one for each worker or replica.

It starts the commands that a pod would run, gives training workers their `TF_CONFIG`, waits, and
reads what they published. A task whose result is there and undamaged is not run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlpipeline.backends.local import processes
from mlpipeline.backends.local.canary import try_version
from mlpipeline.backends.local.display import Display
from mlpipeline.backends.local.policies import Asynchronous, Synchronous
from mlpipeline.backends.local.service import Service
from mlpipeline.backends.local.training import TrainingProcesses, own_processors, shares
from mlpipeline.backends.local.turns import turn
from mlpipeline.backends.local.walker import walk
from mlpipeline.errors import PipelineError
from mlpipeline.learning.data import expectations
from mlpipeline.learning.data.expectations import Judgement
from mlpipeline.plan import pipeline
from mlpipeline.plan.commands import CHECK_MODELS, canary_arguments, step_arguments
from mlpipeline.plan.config import Config, module_of
from mlpipeline.plan.gate import refusal
from mlpipeline.plan.pipeline import CANARY, GATE, INGEST, SELECT, SERVE, TRAIN, VERIFY, Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import history, signatures
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.gate import GateTable
from mlpipeline.store.schemas.run import Verification
from mlpipeline.store.schemas.selection import ModelCard

_LONGEST_WAIT_SECONDS = 3_600.0


@dataclass(frozen=True)
class LocalBackend:
    """Runs the pipeline of one configuration in one workspace.

    Attributes:
        config: The configuration.
        config_file: Where it was read from: the steps read it again.
        workspace: The folder of all artifacts.
        record: The run's record, kept up to date.
        display: Shows what is going on.
    """

    config: Config
    config_file: Path
    workspace: Workspace
    record: RunRecord
    display: Display

    async def run(self, *, asynchronous: bool = False) -> None:
        """Run every task that has to be run; serve and verify the result; make it current.

        Args:
            asynchronous: Whether a good candidate is served while others are trained.

        Raises:
            PipelineError: A task failed for good; what was finished before is kept.
            GateError: What was selected in the end was held back, and `gate.required` is true.
        """
        logs = self.record.folder.logs
        say, run = self.display.say, self.record.run
        async with Service(self.config, self.workspace, logs, run=run, say=say) as service:
            policy = (
                Asynchronous(self.config, self.workspace, service, self.display.say)
                if asynchronous
                else Synchronous(self.config)
            )
            execution = Execution(self, service, needs_ports_early=asynchronous)
            await walk(policy, execution.carry_out)
        said = self.record.content().judgement  # the last: an early candidate may be too early
        if said and said.verdict == "refused":
            raise refusal(said)


@dataclass(frozen=True)
class Execution:
    """Carries out the tasks of one run, records and shows them.

    Attributes:
        backend: The run.
        service: What serves its model.
        needs_ports_early: Whether it holds the ports once there is data: one that is in use is
            found before the first training.
    """

    backend: LocalBackend
    service: Service
    needs_ports_early: bool = False
    processors: asyncio.Queue[list[int]] = field(default_factory=asyncio.Queue)
    """A share of this machine's processors for each training that may run at once."""

    def __post_init__(self) -> None:
        """Divide this machine's processors among the trainings that may run at once."""
        for share in shares(own_processors(), self.backend.config.training.parallel):
            self.processors.put_nowait(share)

    async def carry_out(self, task: Task, tasks: Mapping[str, Task]) -> None:
        """Do a task, unless its result is there already.

        Args:
            task: The task.
            tasks: All tasks of the graph that it belongs to.

        Raises:
            PipelineError: It failed for good.
        """
        if task.step == TRAIN:
            async with self._share() as cpus:
                await self._memoized(task, partial(self._train, cpus=cpus))
        elif task.step == GATE:
            await self._timed(task, partial(self._judge, version=tasks[SELECT.name].key))
        elif task.step in (CANARY, SERVE, VERIFY) and self._is_held():
            self.backend.record.add(task, "skipped", 0.0)
            self.backend.display.finish(task, "skipped", 0.0)
        elif task.step == CANARY:
            await self._timed(task, partial(self._try, version=tasks[SELECT.name].key))
        elif task.step == SERVE:
            await self._timed(task, lambda _: self.service.roll(tasks[SELECT.name].key))
            self._note_served()
        elif task.step == VERIFY:
            await self._timed(task, self._verify)
        else:
            is_reused = await self._memoized(task, self._run_process)
            if self.needs_ports_early:
                await self.service.hold_ports()
            # Ingestion has looked at them, unless it is reused.
            if task.step == INGEST and is_reused and self._has_new_models(tasks):
                await self._check_models()

    @asynccontextmanager
    async def _share(self) -> AsyncIterator[list[int]]:
        cpus = await self.processors.get()
        try:
            yield cpus
        finally:
            self.processors.put_nowait(cpus)

    async def _memoized(self, task: Task, work: Callable[[Task], Awaitable[object]]) -> bool:
        """Do a task unless its result is there; tell whether it was."""
        if self._is_reused(task):
            return True
        async with self._turn(task):
            if self._is_reused(task):  # by now
                return True
            for published in task.publishes:
                if self.backend.workspace.artifact(published).path.exists():
                    self.backend.display.say(f"{published} is damaged: it is made anew")
            await self._timed(task, work)
        return False

    def _is_reused(self, task: Task) -> bool:
        if not task.is_done(self.backend.workspace):
            return False
        said = [pipeline.compared(task, self.backend.config)]
        if task.step == INGEST:
            said.append(self._as_expected(task).summary)
        self.backend.record.add(task, "reused", 0.0)
        self.backend.display.finish(task, "reused", 0.0, "; ".join(filter(None, said)))
        return True

    def _as_expected(self, task: Task) -> Judgement:
        """What is expected may be more than when the data was ingested: no step looks at it now."""
        try:
            judgement = self._judgement(task)
            judgement.require()
        except PipelineError as error:
            self.backend.record.add(task, "failed", 0.0, str(error))
            self.backend.display.finish(task, "failed", 0.0, error.got)
            raise
        return judgement

    def _judgement(self, task: Task) -> Judgement:
        workspace, asked = self.backend.workspace, self.backend.config.expectations
        return expectations.of(workspace, asked, task.key)

    def _said(self, task: Task) -> str:
        """What a task that has ended well has to say, beside that."""
        if task.step == INGEST:
            return self._judgement(task).summary
        judgements = self.backend.record.judgements
        return judgements[task.name].summary if task.name in judgements else ""

    def _turn(self, task: Task) -> AbstractAsyncContextManager[None]:
        """While another run makes the same, it is waited for, and then reused."""
        settings = self.backend.config.training
        return turn(
            task.name,
            self.backend.workspace.artifact(task.publishes[0]).lease,
            run=self.backend.record.run,
            seconds=max(settings.deadline_seconds, _LONGEST_WAIT_SECONDS),
            say=self.backend.display.say,
        )

    def _has_new_models(self, tasks: Mapping[str, Task]) -> bool:
        """Whether a training that is still to be done calls a function of the user's own."""
        candidates, workspace = self.backend.config.candidates, self.backend.workspace
        return any(
            module_of(candidates[task.candidate].model) and not task.is_done(workspace)
            for task in tasks.values()
            if task.candidate
        )

    async def _check_models(self) -> None:
        config, workspace = self.backend.config_file, self.backend.workspace
        arguments = step_arguments(CHECK_MODELS, config=config, workspace=workspace)
        log = self.backend.record.folder.log(CHECK_MODELS)
        await processes.run(processes.python_m(arguments), log=log)

    async def _timed(self, task: Task, work: Callable[[Task], Awaitable[object]]) -> None:
        record, display = self.backend.record, self.backend.display
        display.start(task)
        started = time.monotonic()
        try:
            await work(task)
        except PipelineError as error:
            seconds = time.monotonic() - started
            record.add(task, "failed", seconds, str(error))
            display.finish(task, "failed", seconds, error.got)
            raise
        seconds = time.monotonic() - started
        said = self._said(task)
        record.add(task, "succeeded", seconds)
        display.finish(task, "succeeded", seconds, said)

    async def _run_process(
        self,
        task: Task,
        *,
        variables: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
        **about: Any,
    ) -> None:
        """Do a task as a process; `about` is what `Task.arguments` takes beside where all is."""
        await processes.run(
            [*self._command(task, **about), *more],
            log=self.backend.record.folder.log(task.name),
            environment=variables,
            on_progress=partial(self.backend.display.advance, task),
        )

    async def _train(self, task: Task, *, cpus: list[int]) -> None:
        await TrainingProcesses(
            task.name,
            self._command(task),
            self.backend.config.training,
            cpus=cpus,
            logs=self.backend.record.folder.logs,
            say=self.backend.display.say,
            on_lost=partial(self.backend.record.retry, task),
            on_progress=partial(self.backend.display.advance, task),
        ).run()

    async def _judge(self, task: Task, *, version: str) -> None:
        record, gate = self.backend.record, self.backend.config.gate
        # Whoever has the ports publishes, so no other run does before this one. A rollback may:
        # then the run has the last word all the same, compared with the version before that.
        if gate.compares:
            await self.service.hold_ports()
        output, forced = record.folder.gate, record.folder.forced
        await self._run_process(
            task,
            variables=signatures.key_to_sign(),
            output=output,
            version=version,
            forced=forced,
            run=record.run,
        )
        record.judge(task, GateTable.load(output))

    async def _try(self, task: Task, *, version: str) -> None:
        config, workspace, record = self.backend.config, self.backend.workspace, self.backend.record
        output = record.folder.rollout

        async def conduct(address: str) -> None:
            told = canary_arguments(address)
            await self._run_process(task, more=told, output=output, version=version, run=record.run)

        table = await try_version(config, workspace, version, conduct=conduct, output=output)
        if table.kept:
            history.hold_back(
                workspace, config.name, version, run=record.run, why=table.reason, by="canary"
            )
        record.judge(task, table)

    def _is_held(self) -> bool:
        """Whether what was selected last is held back."""
        said = self.backend.record.content().judgement
        return said is not None and bool(said.kept)

    async def _verify(self, task: Task) -> None:
        record = self.backend.record
        output = record.folder.verification
        gate = record.content().gate
        forced = record.folder.forced if gate and gate.forced else None
        version = self.service.version
        await self._run_process(task, output=output, version=version, forced=forced, run=record.run)
        record.verification = Verification.load(output)

    def _note_served(self) -> None:
        version = self.service.version
        folder = self.backend.workspace.model(self.backend.config.name, version)
        self.backend.record.add_served(version, ModelCard.load(folder.card).candidate)

    def _command(self, task: Task, **about: Any) -> list[str]:
        config, workspace = self.backend.config_file, self.backend.workspace
        return processes.python_m(task.arguments(config, workspace, **about))
