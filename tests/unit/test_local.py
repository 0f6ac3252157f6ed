"""The local backend's training of several candidates at once, with trainings that only wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.backends.local import backend as local
from mlpipeline.backends.local import processes
from mlpipeline.backends.local import training as training_processes
from mlpipeline.backends.local.backend import Execution, LocalBackend
from mlpipeline.backends.local.display import Display
from mlpipeline.backends.local.policies import Synchronous
from mlpipeline.backends.local.service import Service
from mlpipeline.backends.local.walker import Ended, walk
from mlpipeline.errors import ProcessError, TrainingError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.pipeline import Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store.layout import Workspace

NAMES = ("a", "b", "c", "d", "e")


class TrainingsOnly(Synchronous):
    """The plan as far as the trainings."""

    def graph(self, ended: Ended) -> dict[str, Task]:
        tasks = super().graph(ended)
        return {n: t for n, t in tasks.items() if t.step in (pipeline.INGEST, pipeline.TRAIN)}


class Rehearsal:
    """A run whose trainings end when another has begun, or when nothing else can begin."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        broken: Collection[str] = (),
        **training: Any,
    ) -> None:
        raw = {"name": "toy", "candidates": {name: {"model": "cnn"} for name in NAMES}}
        settings = config.parse(raw | {"training": training}, origin="")
        workspace, file = Workspace(folder), folder / "config.yaml"
        self.record = RunRecord.begin(settings, file, workspace)
        display = Display(pipeline.plan(settings), Console(quiet=True))
        self.backend = LocalBackend(settings, file, workspace, self.record, display)
        self.running: set[str] = set()
        self.most: set[str] = set()
        self.order: list[str] = []
        self.shares: list[tuple[str, list[int]]] = []
        self.broken = broken
        monkeypatch.setattr(processes, "run", self._run_process)
        monkeypatch.setattr(local, "TrainingProcesses", partial(Training, self))

    async def _run_process(self, command: list[str], **_: Any) -> None:
        assert command[3:5] == ["step", "ingest"]

    async def train_one(self, name: str, cpus: list[int]) -> None:
        self.running.add(name)
        self.order.append(name)
        self.shares.append((name, cpus))
        if len(self.running) > len(self.most):
            self.most = set(self.running)
        for _ in range(20):  # whatever else can begin does
            await asyncio.sleep(0)
        self.running.discard(name)
        if name in self.broken:
            raise ProcessError("it broke", expected="", remedy="")

    def train(self) -> set[str | None]:
        """Train all candidates; return those that failed."""
        settings = self.backend.config
        service = Service(settings, self.backend.workspace, self.record.folder.path)
        execution = Execution(self.backend, service)
        asyncio.run(walk(TrainingsOnly(settings), execution.carry_out))
        return {task.candidate for task in self.record.tasks if task.state == "failed"}


class Training:
    """Stands for the processes of one training."""

    def __init__(self, rehearsal: Rehearsal, name: str, *_: Any, **options: Any) -> None:
        self._rehearsal, self._name, self._cpus = rehearsal, name, options["cpus"]

    async def run(self) -> None:
        await self._rehearsal.train_one(self._name.removeprefix("train-"), self._cpus)


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Rehearsal]:
    return partial(Rehearsal, monkeypatch, tmp_path)


@pytest.mark.parametrize("parallel", [1, 2, 5, 9])
def test_no_more_are_trained_at_once_than_configured(
    rehearsal: Callable[..., Rehearsal], parallel: int
) -> None:
    backend = rehearsal(parallel=parallel)
    assert backend.train() == set()
    assert len(backend.most) == min(parallel, len(NAMES))
    assert backend.order == list(NAMES), "in the order of the configuration"
    assert {task.state for task in backend.record.tasks} == {"succeeded"}


def test_those_that_are_trained_at_once_have_different_processors(
    rehearsal: Callable[..., Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "own_processors", lambda: [0, 1, 2, 3, 4])
    backend = rehearsal(parallel=2)
    backend.train()
    given = {tuple(cpus) for _, cpus in backend.shares}
    assert given == {(0, 2, 4), (1, 3)}


@pytest.mark.parametrize(
    ("cpus", "parts", "shares"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([3, 5, 7], 2, [[3, 7], [5]]),
        ([0, 1], 3, [[0, 1]] * 3),
        ([], 2, [[], []]),
    ],
)
def test_processors_are_dealt_out_and_all_are_shared_where_there_are_too_few(
    cpus: list[int], parts: int, shares: list[list[int]]
) -> None:
    assert training_processes.shares(cpus, parts) == shares


def test_one_that_fails_gives_its_place_to_the_next(rehearsal: Callable[..., Rehearsal]) -> None:
    backend = rehearsal(broken={"a", "c"}, parallel=1)
    assert backend.train() == {"a", "c"}
    assert backend.order == list(NAMES)


def test_the_error_of_a_run_without_any_candidate_is_no_group_of_errors(
    rehearsal: Callable[..., Rehearsal],
) -> None:
    backend = rehearsal(broken=NAMES, parallel=2)
    with pytest.raises(TrainingError, match="every candidate failed"):
        backend.train()


def test_an_error_of_another_kind_ends_the_others_and_is_raised_by_itself(
    rehearsal: Callable[..., Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = rehearsal(parallel=2)

    async def train_one(name: str, cpus: list[int]) -> None:
        if name == "b":
            raise OSError(28, "No space left on device")
        backend.order.append(name)
        await asyncio.sleep(100)

    monkeypatch.setattr(backend, "train_one", train_one)
    with pytest.raises(OSError, match="No space left"):
        backend.train()
    assert not {"d", "e"} & set(backend.order), "nothing was begun after that"
