"""The local backend's training of several candidates at once, with trainings that only wait."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.backends.local import backend as local
from mlpipeline.backends.local import training as training_processes
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.backends.local.display import Display
from mlpipeline.errors import ProcessError, TrainingError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.pipeline import Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store.layout import Workspace

NAMES = ("a", "b", "c", "d", "e")


class Rehearsal(LocalBackend):
    """A backend whose trainings end when another has begun, or when nothing else can begin."""

    running: set[str]
    most: set[str]
    order: list[str]
    shares: list[tuple[str, list[int]]]
    broken: Collection[str]

    @classmethod
    def make(cls, folder: Path, broken: Collection[str] = (), **training: Any) -> Rehearsal:
        raw = {"name": "toy", "candidates": {name: {"model": "cnn"} for name in NAMES}}
        settings = config.parse(raw | {"training": training}, origin="")
        file = folder / "config.yaml"
        record = RunRecord.begin(settings, file, Workspace(folder))
        display = Display(pipeline.plan(settings), Console(quiet=True))
        made = cls(settings, file, Workspace(folder), record, display)
        state = {"running": set(), "most": set(), "order": [], "shares": [], "broken": broken}
        made.__dict__.update(state)  # it is frozen
        return made

    async def _train(self, task: Task, *, cpus: list[int]) -> None:
        name = str(task.candidate)
        self.running.add(name)
        self.order.append(name)
        self.shares.append((name, cpus))
        if len(self.running) > len(self.most):
            self.__dict__["most"] = set(self.running)
        for _ in range(20):  # whatever else can begin does
            await asyncio.sleep(0)
        self.running.discard(name)
        if name in self.broken:
            raise ProcessError("it broke", expected="", remedy="")

    def train(self) -> dict[str, Any]:
        return dict(asyncio.run(self._train_candidates(pipeline.plan(self.config))))


@pytest.mark.parametrize("parallel", [1, 2, 5, 9])
def test_no_more_are_trained_at_once_than_configured(tmp_path: Path, parallel: int) -> None:
    backend = Rehearsal.make(tmp_path, parallel=parallel)
    assert backend.train() == {}
    assert len(backend.most) == min(parallel, len(NAMES))
    assert backend.order == list(NAMES), "in the order of the configuration"
    assert {task.state for task in backend.record.tasks} == {"succeeded"}


def test_those_that_are_trained_at_once_have_different_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "available_cpus", lambda: [0, 1, 2, 3, 4])
    backend = Rehearsal.make(tmp_path, parallel=2)
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


def test_one_that_fails_gives_its_place_to_the_next(tmp_path: Path) -> None:
    backend = Rehearsal.make(tmp_path, broken={"a", "c"}, parallel=1)
    assert backend.train().keys() == {"a", "c"}
    assert backend.order == list(NAMES)


def test_the_error_of_a_run_without_any_candidate_is_no_group_of_errors(tmp_path: Path) -> None:
    backend = Rehearsal.make(tmp_path, broken=NAMES, parallel=2)
    with pytest.raises(TrainingError, match="every candidate failed"):
        backend.train()


def test_an_error_of_another_kind_ends_the_others_and_is_raised_by_itself(tmp_path: Path) -> None:
    class Full(Rehearsal):
        async def _train(self, task: Task, *, cpus: list[int]) -> None:
            if task.candidate == "b":
                raise OSError(28, "No space left on device")
            self.order.append(str(task.candidate))
            await asyncio.sleep(100)

    backend = Full.make(tmp_path, parallel=2)
    with pytest.raises(OSError, match="No space left"):
        backend.train()
    assert not {"d", "e"} & set(backend.order), "nothing was begun after that"
