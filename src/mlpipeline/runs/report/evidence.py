"""What a run left behind, read from its artifacts: the facts that the report shows.

A run may have failed anywhere, and the report is written all the same. So whatever is not there is
None or empty here, and whatever ought to be there but cannot be used is named in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import ArtifactError
from mlpipeline.learning.data import expectations
from mlpipeline.learning.data.expectations import Judgement
from mlpipeline.plan.config import Expectations
from mlpipeline.plan.pipeline import INGEST, SELECT, TRAIN
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Folder, SelectionFolder, Workspace
from mlpipeline.store.schemas.candidate import Epoch, Metrics, TrainingHistory
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.run import Run, TaskRecord, TaskState
from mlpipeline.store.schemas.selection import Decision

T = TypeVar("T")
F = TypeVar("F", bound=Folder)


@dataclass(frozen=True)
class CandidateOutcome:
    """A configured candidate and what became of it.

    Attributes:
        name: Its name in the configuration.
        place: Its place among the candidates, from 0: gives it its colour in the figures.
        recipe: Its section of the configuration.
        task: The record of its training.
        chosen: Whether it was chosen.
        verdict: Why it was chosen or not, in a few words.
        distinction: What tells it from the other candidates of its model, such as the trials of a
            search.
        metrics: Its figures; None where they could not be read.
        history: Its figures by epoch.
    """

    name: str
    place: int
    recipe: Mapping[str, Any]
    task: TaskRecord
    chosen: bool
    verdict: str
    distinction: str
    metrics: Metrics | None = None
    history: Sequence[Epoch] = ()


@dataclass(frozen=True)
class TestPredictions:
    """The chosen model's predictions for the test split.

    Attributes:
        probabilities: The probability of each class: float32 `[images, classes]`.
        labels: The true classes: int64 `[images]`.
    """

    __test__ = False  # pytest takes classes that are called so for tests

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image: int64 `[images]`."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


@dataclass(frozen=True)
class Mistake:
    """An image that the model is wrong about.

    Attributes:
        image: The image: uint8 `[height, width]` or `[height, width, channels]`.
        index: Its place in the test split.
        label: The name of its true class.
        predicted: The name of the predicted class.
        probability: The probability of the predicted class.
        probability_of_label: The probability of the true class; None where it could not be read.
    """

    image: NDArray[np.uint8]
    index: int
    label: str
    predicted: str
    probability: float
    probability_of_label: float | None


@dataclass(frozen=True)
class Evidence:
    """All that the report shows beside what the run's record itself says.

    Attributes:
        card: The data set's card.
        judgement: Whether the data set is as the run's configuration expects.
        candidates: The candidates that the run came to, in the configuration's order.
        decision: The last selection's decision.
        predictions: The chosen model's predictions for the test split.
        mistakes: The images that it is most wrong about, the surest first.
        class_names: The names of the classes, by label.
        synthetic: Whether the data is made up.
        failures: The tasks that failed.
        left_out: What could not be read, each with the reason.
    """

    card: DatasetCard | None
    judgement: Judgement | None
    candidates: Sequence[CandidateOutcome]
    decision: Decision | None
    predictions: TestPredictions | None
    mistakes: Sequence[Mistake]
    class_names: Sequence[str]
    synthetic: bool
    failures: Sequence[TaskRecord]
    left_out: Sequence[str]

    @property
    def chosen(self) -> CandidateOutcome | None:
        """The candidate that was chosen, if one was."""
        return next((candidate for candidate in self.candidates if candidate.chosen), None)


def collect(workspace: Workspace, run: Run) -> Evidence:
    """Read what the tasks of a run published.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.
    """
    reader = _ArtifactReader()
    ingest = next((task for task in run.tasks if task.step == INGEST.name), None)
    # An asynchronous run selects several times, the last time among all candidates.
    select = next((task for task in reversed(run.tasks) if task.step == SELECT.name), None)
    dataset = _dataset(workspace, ingest) if ingest else None
    selection = workspace.selection(select.key) if select and _is_there(select) else None
    card = reader.read(dataset, lambda folder: DatasetCard.load(folder.card))
    decision = reader.read(selection, lambda folder: Decision.load(folder.decision))
    predictions = _predictions(reader, selection) if decision else None
    names = _class_names(card, predictions)
    return Evidence(
        card=card,
        judgement=reader.read(dataset, lambda folder: _judgement(workspace, run, folder)),
        candidates=_candidates(reader, workspace, run, decision),
        decision=decision,
        predictions=predictions,
        mistakes=_mistakes(reader, selection, names, predictions) if decision else (),
        class_names=names,
        synthetic=_is_synthetic(card, run),
        failures=[task for task in run.tasks if task.state == "failed"],
        left_out=reader.left_out,
    )


def _dataset(workspace: Workspace, ingest: TaskRecord) -> DatasetFolder | None:
    """Where the data set is: one that is not as expected is there, although its task has failed."""
    folder = workspace.dataset(ingest.key)
    is_there = _is_there(ingest) or (bool(ingest.key) and artifacts.is_whole(folder.path))
    return folder if is_there else None


def _judgement(workspace: Workspace, run: Run, folder: DatasetFolder) -> Judgement:
    asked = Expectations.model_validate(run.settings("expectations"))
    return expectations.of(workspace, asked, folder.path.name)


def _is_there(task: TaskRecord) -> bool:
    """Whether what a task publishes ought to be there."""
    return task.has_published and bool(task.key)


class _ArtifactReader:
    """Reads files of published artifacts, and keeps a list of those that could not be read."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._checked: dict[Path, bool] = {}

    def read(self, folder: F | None, reader: Callable[[F], T]) -> T | None:
        """Read something in an artifact.

        Args:
            folder: The artifact's folder; None for one that there is not.
            reader: What reads it.

        Returns:
            What was read; None where it could not be read.
        """
        if folder is None or not self._is_whole(folder.path):
            return None
        try:
            return reader(folder)
        # An artifact of another version of the code is whole, but may not hold what this one reads.
        except (ArtifactError, OSError, ValueError, KeyError) as error:
            self._leave_out(error)
            return None

    def _is_whole(self, folder: Path) -> bool:
        if folder not in self._checked:
            try:
                artifacts.verify(folder)
                self._checked[folder] = True
            except (ArtifactError, OSError) as error:
                self._leave_out(error)
                self._checked[folder] = False
        return self._checked[folder]

    def _leave_out(self, error: Exception) -> None:
        self.left_out.append(error.got if isinstance(error, ArtifactError) else str(error))


def _candidates(
    reader: _ArtifactReader, workspace: Workspace, run: Run, decision: Decision | None
) -> list[CandidateOutcome]:
    distinctions = distinguish(run.candidates)
    trainings = {task.candidate: task for task in run.tasks if task.step == TRAIN.name}
    outcomes = []
    # In the configuration's order: tasks are recorded as they end, which differs between runs.
    for place, (name, recipe) in enumerate(run.candidates.items()):
        if (task := trainings.get(name)) is None:
            continue
        folder = workspace.candidate(task.key) if _is_there(task) else None
        history = reader.read(folder, lambda f: TrainingHistory.load(f.history))
        outcomes.append(
            CandidateOutcome(
                name=name,
                place=place,
                recipe=recipe,
                task=task,
                chosen=decision is not None and decision.chosen == name,
                verdict=verdict(name, task.state, decision),
                distinction=distinctions[name],
                metrics=reader.read(folder, lambda f: Metrics.load(f.metrics)),
                history=history.epochs if history else (),
            )
        )
    return outcomes


def distinguish(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say of each candidate which values it has of what the candidates of its model differ in.

    Args:
        recipes: The candidates' sections of the configuration, by name.
    """
    values = {
        name: {k: v for k, v in recipe.items() if k != "options"} | recipe.get("options", {})
        for name, recipe in recipes.items()
    }
    return {
        name: ", ".join(
            f"{key.replace('_', ' ')} {value}"
            for key, value in own.items()
            if any(o["model"] == own["model"] and o.get(key) != value for o in values.values())
        )
        for name, own in values.items()
    }


def verdict(name: str, state: TaskState, decision: Decision | None) -> str:
    """Say in a few words what became of a candidate.

    Args:
        name: The candidate.
        state: How its training ended.
        decision: The selection's decision; None where there is none.
    """
    if state not in ("succeeded", "reused"):
        return {"failed": "training failed", "skipped": "not trained"}.get(state, "")
    if decision is None:
        return ""
    if name in decision.ranking:
        place = decision.ranking.index(name) + 1
        return "chosen" if place == 1 else f"place {place} of {len(decision.ranking)}"
    return decision.rejected.get(name, "")


def _predictions(
    reader: _ArtifactReader, selection: SelectionFolder | None
) -> TestPredictions | None:
    probabilities = reader.read(selection, lambda folder: np.load(folder.test_probabilities))
    labels = reader.read(selection, lambda folder: np.load(folder.test_labels))
    if probabilities is None or labels is None or not len(labels):
        return None
    return TestPredictions(probabilities, labels)


def _mistakes(
    reader: _ArtifactReader,
    selection: SelectionFolder | None,
    names: Sequence[str],
    predictions: TestPredictions | None,
) -> list[Mistake]:
    stored = reader.read(selection, lambda folder: _load_arrays(folder.mistakes))
    if stored is None:
        return []
    return [
        Mistake(
            image=stored["images"][i],
            index=int(index),
            label=names[stored["labels"][i]],
            predicted=names[stored["predicted"][i]],
            probability=float(stored["probability"][i]),
            probability_of_label=(
                float(predictions.probabilities[index, stored["labels"][i]])
                if predictions
                else None
            ),
        )
        for i, index in enumerate(stored["index"])
    ]


def _load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file) as stored:
        return dict(stored)


def _class_names(card: DatasetCard | None, predictions: TestPredictions | None) -> list[str]:
    if card:
        return list(card.classes)
    return [f"class {i}" for i in range(predictions.probabilities.shape[1] if predictions else 0)]


def _is_synthetic(card: DatasetCard | None, run: Run) -> bool:
    if card:
        return card.synthetic
    # Without the card, too much of a warning is better than none.
    return "synthetic" in str(run.settings("data"))
