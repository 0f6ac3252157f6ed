"""The inbox: a watched folder in which every file is an event, done once, one after the other.

workspace/inbox/  NAME.json (to do; put there by rename)  done/  failed/ (with the reason)  logs/

An event stays where it is until it is done, and what does it is a step that can be done again: so
one that was stopped in its middle, or came while nobody watched, is done at the next start.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from watchfiles import awatch

from mlpipeline.backends.local import processes
from mlpipeline.errors import EventError, PipelineError
from mlpipeline.events import schema
from mlpipeline.plan import commands, config
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

_GRACE_SECONDS = 60  # a run ends all that it has started, and gives that its own time
_LOOK_AGAIN_MS = 2_000  # for file systems that tell of no change, such as most network mounts

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inbox:
    """The events of a workspace."""

    workspace: Workspace

    @property
    def folder(self) -> Path:
        """Where events are dropped."""
        return self.workspace.inbox.path

    async def watch(self) -> None:
        """Do all events, those that are there and those that come, until it is cancelled.

        Raises:
            EventError: Another process watches already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._exclusive_lock():
            _log.info("watching %s; Ctrl-C ends it", self.folder)
            await self.do_all()
            async for _ in awatch(
                self.folder,
                recursive=False,
                yield_on_timeout=True,
                rust_timeout=_LOOK_AGAIN_MS,
            ):
                await self.do_all()

    async def do_all(self) -> None:
        """Do what is there, the oldest first, until there is nothing left."""
        while waiting := self._waiting():
            await self._do(waiting[0])

    def _waiting(self) -> list[Path]:
        ages = {}
        for file in self.workspace.inbox.waiting():
            with contextlib.suppress(FileNotFoundError):  # taken back
                ages[file] = (file.stat().st_mtime_ns, file.name)
        return sorted(ages, key=lambda file: ages[file])

    async def _do(self, file: Path) -> None:
        try:
            event = schema.read_posted(file)
            if self._is_done(event):
                _log.info("%s: done before%s", event.name, self._answer_to(event))
                file.unlink(missing_ok=True)
                return
            _log.info("%s: begun", event.name)
            result = await self._run(event)
        except PipelineError as error:
            _log.error("%s: failed: %s", file.name, error)
            failed = self.workspace.inbox.failed(file)
            how = f"to do it again, the same or mended: mv {shlex.quote(str(failed))} {self.folder}"
            artifacts.write_text(self.workspace.inbox.reason(file), f"{error}\n\n{how}/\n")
            _move(file, failed)
        else:
            for old in (self.workspace.inbox.reason(file), self.workspace.inbox.failed(file)):
                old.unlink(missing_ok=True)  # it had failed under this name before
            _move(file, self.workspace.inbox.done(event.name))
            _log.info("%s: done: %s", event.name, result)

    def _is_done(self, event: schema.Event) -> bool:
        """Whether an event with this id is done.

        Raises:
            EventError: One is, but it was another one.
        """
        before = self.workspace.inbox.done(event.name)
        if not before.exists():
            return False
        if schema.read_posted(before) != event:
            raise EventError(
                f"the id {event.id!r} was that of another {event.kind} event",
                expected=f"an id for each event; {before} has this one",
                remedy="give it another id, and post it again",
            )
        return True

    def _answer_to(self, event: schema.Event) -> str:
        is_answered = isinstance(event, schema.PredictEvent)
        return f": {self.workspace.answer(event.name)}" if is_answered else ""

    async def _run(self, event: schema.Event) -> str:
        """Do an event by the command that does it in a cluster, too; return its result."""
        log = self.workspace.inbox.log(event.name)
        output = deque[str](maxlen=1)  # what a command prints last is its result
        with tempfile.TemporaryDirectory() as folder:
            match event:
                case schema.PredictEvent():
                    arguments = commands.predict_batch_arguments(
                        event.model_dump_json(), workspace=self.workspace
                    )
                case schema.FeedbackEvent():
                    arguments = commands.feedback_arguments(
                        event.model_dump_json(), workspace=self.workspace
                    )
                case schema.TrainEvent():
                    config.write(event.configuration, file := Path(folder, f"{event.name}.yaml"))
                    arguments = commands.run_arguments(config=file, workspace=self.workspace)
            await processes.run(
                processes.python_m(arguments),
                log=log,
                on_output=output.append,
                grace_seconds=_GRACE_SECONDS,
            )
        return next(iter(output), "")

    @contextmanager
    def _exclusive_lock(self) -> Iterator[None]:
        lock = FileLock(self.workspace.inbox.lock)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise EventError(
                f"{self.folder} is watched by another process",
                expected="one that does its events, one after the other",
                remedy="leave it to that one, or stop it",
            ) from None
        try:
            yield
        finally:
            lock.release()


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # taken back
        file.rename(target)
