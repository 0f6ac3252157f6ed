"""The local backend's training of several candidates at once, with trainings that only wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from types import MappingProxyType
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
from mlpipeline.errors import ExpectationError, ProcessError, TrainingError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.pipeline import Task
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Workspace
from support.stored_documents import dataset_card

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
        expectations: Mapping[str, Any] = MappingProxyType({}),
        **training: Any,
    ) -> None:
        raw: dict[str, Any] = {
            "name": "toy",
            "candidates": {name: {"model": "cnn"} for name in NAMES},
            "expectations": expectations,
        }
        settings = config.parse(raw | {"training": training}, origin="")
        workspace, file = Workspace(folder), folder / "config.yaml"
        self.record = RunRecord.begin(settings, file, workspace)
        self.shown = StringIO()
        display = Display(pipeline.plan(settings), Console(file=self.shown, width=300))
        self.backend = LocalBackend(settings, file, workspace, self.record, display)
        self.card = dataset_card()
        self.ingested = 0
        self.running: set[str] = set()
        self.most: set[str] = set()
        self.order: list[str] = []
        self.shares: list[tuple[str, list[int]]] = []
        self.broken = broken
        monkeypatch.setattr(processes, "run", self._run_process)
        monkeypatch.setattr(local, "TrainingProcesses", partial(Training, self))

    async def _run_process(self, command: list[str], **_: Any) -> None:
        assert command[3:5] == ["step", "ingest"]
        self.ingested += 1
        key = pipeline.plan(self.backend.config)["ingest"].key
        with artifacts.publish(self.backend.workspace.dataset(key).path) as draft:
            self.card.save(DatasetFolder(draft).card)

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


# --- what is expected of the data ---------------------------------------------------------------

UNEQUAL = {"train": (960, 40), "validation": (50, 50), "test": (100, 100)}
SAID = "balance: images of train that are of class bright: 40 of 1,000"


def test_what_is_not_as_expected_is_in_ingestions_line_whether_it_is_reused_or_not(
    rehearsal: Callable[..., Rehearsal],
) -> None:
    for state in ("succeeded", "reused"):
        backend = rehearsal()
        backend.card = dataset_card(per_class=UNEQUAL)
        backend.train()
        (line,) = (line for line in backend.shown.getvalue().splitlines() if SAID in line)
        assert line.split()[1:3] == ["ingest", state]
        assert line.endswith(SAID)


def test_data_that_is_reused_fails_a_run_that_expects_more_of_it(
    rehearsal: Callable[..., Rehearsal],
) -> None:
    first = rehearsal()
    first.card = dataset_card(per_class=UNEQUAL)
    first.train()
    strict = rehearsal(expectations={"fail": ["balance"]})
    with pytest.raises(ExpectationError, match=SAID):
        strict.train()
    assert [(task.name, task.state) for task in strict.record.tasks] == [("ingest", "failed")]
    assert SAID in str(strict.record.tasks[0].error)
    assert (strict.ingested, strict.order) == (0, [])
