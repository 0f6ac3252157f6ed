"""What a run left behind, read from its artifacts: the facts that the report shows.

A run may have failed anywhere, and the report is written all the same. So whatever is not there is
None or empty here, and whatever ought to be there but cannot be used is named in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import ArtifactError
from mlpipeline.plan.pipeline import INGEST, SELECT, STEPS, TRAIN
from mlpipeline.store import artifacts
from mlpipeline.store.cards import DatasetCard
from mlpipeline.store.layout import Workspace

_FOLDERS = {step.name: step.folder for step in STEPS if step.folder}
_PUBLISHED = ("succeeded", "reused")

Task = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A configured candidate and what became of it."""

    name: str
    place: int
    """Among the candidates: gives it its colour in the figures."""
    recipe: Mapping[str, Any]
    task: Task
    chosen: bool
    verdict: str
    """Why it was chosen or not, in a few words."""
    distinction: str
    """What tells it from the other candidates of its model, such as the trials of a search."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Answers:
    """The chosen model's answers on the test split."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


@dataclass(frozen=True)
class Mistake:
    """An image that the model is wrong about."""

    image: NDArray[np.uint8]
    index: int
    """Its place in the test split."""
    label: str
    predicted: str
    probability: float
    """Of the predicted class."""
    probability_of_label: float | None


@dataclass(frozen=True)
class Evidence:
    """All that the report shows beside what `run.json` itself says."""

    card: DatasetCard | None
    candidates: Sequence[Candidate]
    decision: Mapping[str, Any] | None
    answers: Answers | None
    mistakes: Sequence[Mistake]
    class_names: Sequence[str]
    synthetic: bool
    failures: Sequence[Task]
    left_out: Sequence[str]

    @property
    def chosen(self) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.chosen), None)


def collect(workspace: Workspace, run: Mapping[str, Any]) -> Evidence:
    """Read what the tasks of a run published.

    Args:
        workspace: The folder that holds all artifacts.
        run: The content of `run.json`.
    """
    tasks: Sequence[Task] = run["tasks"]
    shelf = _Shelf(workspace)
    ingest = next((task for task in tasks if task["step"] == INGEST.name), None)
    # An asynchronous run selects several times, the last time among all candidates.
    select = next((task for task in reversed(tasks) if task["step"] == SELECT.name), None)
    card = shelf.read(ingest, "", DatasetCard.load)
    decision = shelf.read(select, "decision.json", artifacts.read_json)
    answers = _answers(shelf, select) if decision else None
    names = _class_names(card, answers)
    return Evidence(
        card=card,
        candidates=_candidates(shelf, run, decision),
        decision=decision,
        answers=answers,
        mistakes=_mistakes(shelf, select, names, answers) if decision else (),
        class_names=names,
        synthetic=_is_synthetic(card, run["config"]),
        failures=[task for task in tasks if task["state"] == "failed"],
        left_out=shelf.left_out,
    )


class _Shelf:
    """Reads files of published artifacts, and keeps a list of those that could not be read."""

    def __init__(self, workspace: Workspace) -> None:
        self.left_out: list[str] = []
        self._workspace = workspace
        self._checked: dict[Path, bool] = {}

    def read(self, task: Task | None, name: str, reader: Callable[[Path], T]) -> T | None:
        if task is None or task["state"] not in _PUBLISHED or not task["key"]:
            return None
        folder = self._workspace.artifact(f"{_FOLDERS[task['step']]}/{task['key']}").path
        if not self._is_whole(folder):
            return None
        try:
            return reader(folder / name)
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
    shelf: _Shelf, run: Mapping[str, Any], decision: Mapping[str, Any] | None
) -> list[Candidate]:
    recipes = run["config"]["candidates"]
    distinctions = distinguish(recipes)
    trainings = {task["candidate"]: task for task in run["tasks"] if task["step"] == TRAIN.name}
    return [
        Candidate(
            name=name,
            place=place,
            recipe=recipe,
            task=task,
            chosen=decision is not None and decision["chosen"] == name,
            verdict=verdict(name, task["state"], decision),
            distinction=distinctions[name],
            metrics=shelf.read(task, "metrics.json", artifacts.read_json) or {},
            history=shelf.read(task, "history.json", artifacts.read_json) or (),
        )
        # In the configuration's order: tasks are recorded as they end, which differs between runs.
        for place, (name, recipe) in enumerate(recipes.items())
        if (task := trainings.get(name))
    ]


def distinguish(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say of each candidate which values it has of what the candidates of its model differ in."""
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


def verdict(name: str, state: str, decision: Mapping[str, Any] | None) -> str:
    """Say in a few words what became of a candidate whose training task ended in `state`."""
    if state not in _PUBLISHED:
        return {"failed": "training failed", "skipped": "not trained"}.get(state, "")
    if decision is None:
        return ""
    if name in decision["ranking"]:
        place = decision["ranking"].index(name) + 1
        return "chosen" if place == 1 else f"place {place} of {len(decision['ranking'])}"
    return str(decision["rejected"].get(name, ""))


def _answers(shelf: _Shelf, select: Task | None) -> Answers | None:
    probabilities = shelf.read(select, "test_probabilities.npy", np.load)
    labels = shelf.read(select, "test_labels.npy", np.load)
    if probabilities is None or labels is None or not len(labels):
        return None
    return Answers(probabilities, labels)


def _mistakes(
    shelf: _Shelf, select: Task | None, names: Sequence[str], answers: Answers | None
) -> list[Mistake]:
    stored = shelf.read(select, "mistakes.npz", _load_arrays)
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
                float(answers.probabilities[index, stored["labels"][i]]) if answers else None
            ),
        )
        for i, index in enumerate(stored["index"])
    ]


def _load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file) as stored:
        return dict(stored)


def _class_names(card: DatasetCard | None, answers: Answers | None) -> list[str]:
    if card:
        return list(card.classes)
    return [f"class {i}" for i in range(answers.probabilities.shape[1] if answers else 0)]


def _is_synthetic(card: DatasetCard | None, config: Mapping[str, Any]) -> bool:
    if card:
        return card.synthetic
    # Without the card, too much of a warning is better than none.
    return "synthetic" in str(config.get("data", {}))
