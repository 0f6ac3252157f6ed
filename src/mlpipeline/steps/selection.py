"""Step `select`: choose a candidate on the validation split, test it once, register its model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.model import export
from mlpipeline.plan.decision import choose
from mlpipeline.store import artifacts
from mlpipeline.store.layout import (
    CandidateFolder,
    DatasetFolder,
    ModelFolder,
    SelectionFolder,
)
from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.selection import (
    ComparedCandidate,
    Decision,
    ModelCard,
    TestFigures,
)

_log = logging.getLogger(__name__)

_MISTAKES_KEPT = 40


def select(
    name: str, candidates: Mapping[str, Path], *, dataset: Path, output: Path, model: Path
) -> None:
    """Choose, test and register.

    Args:
        name: What the model is called.
        candidates: The published candidates, by name.
        dataset: The published data set that they were trained on.
        output: Where to publish the selection.
        model: Where to publish the model; the folder's name is its version.
    """
    folders = {name: CandidateFolder(path) for name, path in candidates.items()}
    for folder in folders.values():
        artifacts.verify(folder.path)
    metrics = {name: Metrics.load(folder.metrics) for name, folder in folders.items()}
    choice = choose(metrics)
    _log.info("selected %s: %s", choice.chosen, choice.reason)
    chosen = folders[choice.chosen]

    images, labels = tfrecords.read_split(dataset, "test")
    signature = export.load(chosen.saved_model)
    probabilities = export.predict(signature, images)
    test = _measure(probabilities, labels)
    progress.report(1, 1, test_accuracy=test.accuracy)

    card = DatasetCard.load(DatasetFolder(dataset).card)
    with artifacts.publish(output) as draft:
        selection = SelectionFolder(draft)
        np.save(selection.test_probabilities, probabilities)
        np.save(selection.test_labels, labels)
        _save_mistakes(selection.mistakes, images, labels, probabilities)
        Decision(
            chosen=choice.chosen,
            reason=choice.reason,
            rule=choice.rule,
            ranking=choice.ranking,
            rejected=choice.rejected,
            name=name,
            version=model.name,
            candidates={
                candidate: ComparedCandidate(key=folders[candidate].path.name, **dict(figures))
                for candidate, figures in metrics.items()
            },
            dataset=dataset.name,
            test=test,
        ).save(selection.decision)
    with artifacts.publish(model) as draft:
        registered = ModelFolder(draft)
        shutil.copytree(chosen.saved_model, registered.saved_model)
        artifacts.write_json(registered.example, {"instances": images[:1].tolist()})
        accuracy = metrics[choice.chosen].validation_accuracy
        assert accuracy is not None, "a candidate that can be chosen has it"
        ModelCard(
            name=name,
            version=model.name,
            classes=card.classes,
            candidate=choice.chosen,
            candidate_key=chosen.path.name,
            dataset_key=dataset.name,
            synthetic_data=card.synthetic,
            validation_accuracy=accuracy,
            test_accuracy=test.accuracy,
            preparation=card.preparation,
        ).save(registered.card)


def _measure(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> TestFigures:
    hits = int((probabilities.argmax(axis=1) == labels).sum())
    return TestFigures(images=len(labels), hits=hits, accuracy=hits / len(labels))


def _save_mistakes(
    file: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
) -> None:
    """Keep the images that the model is most wrong about: wrong, and surest of it."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1))][:_MISTAKES_KEPT]
    np.savez(
        file,
        index=surest,
        images=images[surest],
        labels=labels[surest],
        predicted=predicted[surest],
        probability=probabilities[surest].max(axis=1),
    )
