"""Step `select`: choose a candidate on the validation split, make what is served, test it once."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.engines import Engine, predict_batches
from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.plan.config import Card, EngineChoice, Precision
from mlpipeline.plan.decision import choose
from mlpipeline.steps import model_card, variants
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
    Examples,
    ModelCard,
    TestFigures,
)

_log = logging.getLogger(__name__)

_MISTAKES_KEPT = 40
_EXAMPLES_KEPT = 100
_EXAMPLES_BYTES = 2 << 20  # of pixels: a replica holds them, and a browser loads all of them
_NOTHING_SAID = Card()


def select(
    name: str,
    candidates: Mapping[str, Path],
    *,
    dataset: Path,
    output: Path,
    model: Path,
    engine: EngineChoice = "auto",
    precision: Precision = "float32",
    source: str = "",
    said: Card = _NOTHING_SAID,
) -> None:
    """Choose, make what is served, test that, and register it.

    Args:
        name: What the model is called.
        candidates: The published candidates, by name.
        dataset: The published data set that they were trained on.
        output: Where to publish the selection.
        model: Where to publish the model; the folder's name is its version.
        engine: What `serving.engine` asks for.
        precision: What `serving.precision` asks for.
        source: What `data.dataset` says, for the model's card.
        said: What the configuration says for the model's card.

    Raises:
        SelectionError: No candidate can be chosen, or LiteRT is asked for and cannot serve it.
    """
    folders = {name: CandidateFolder(path) for name, path in candidates.items()}
    for folder in folders.values():
        artifacts.verify(folder.path)
    metrics = {name: Metrics.load(folder.metrics) for name, folder in folders.items()}
    choice = choose(metrics)
    _log.info("selected %s: %s", choice.chosen, choice.reason)
    chosen = folders[choice.chosen]

    with tempfile.TemporaryDirectory() as scratch:
        validation = StoredSplit(dataset, "validation")
        served = variants.make(
            chosen.saved_model, validation, engine, precision, scratch=Path(scratch)
        )
        split = StoredSplit(dataset, "test")
        probabilities, labels = _predict(split, served.engine)
        tflite = served.tflite.read_bytes() if served.tflite else None
    test = _measure(probabilities, labels)
    progress.report(split.count, split.count, test_accuracy=test.accuracy)

    card = DatasetCard.load(DatasetFolder(dataset).card)
    with artifacts.publish(output) as draft:
        selection = SelectionFolder(draft)
        np.save(selection.test_probabilities, probabilities)
        np.save(selection.test_labels, labels)
        _save_mistakes(selection.mistakes, split, labels, probabilities)
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
            served=served.about,
        ).save(selection.decision)
    with artifacts.publish(model) as draft:
        registered = ModelFolder(draft)
        shutil.copytree(chosen.saved_model, registered.saved_model)
        if tflite:
            registered.tflite.write_bytes(tflite)
        first, _ = next(split.batches(1))
        artifacts.write_json(registered.example, {"instances": first.tolist()})
        _save_examples(registered.examples, split, labels)
        accuracy = served.validation_accuracy
        if accuracy is None:  # TensorFlow serves what the candidate was measured by
            accuracy = metrics[choice.chosen].validation_accuracy
        assert accuracy is not None, "a candidate that can be chosen has it"
        about = ModelCard(
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
            engine=served.about.engine,
            variant=served.about.variant,
            engine_reason=served.about.reason,
        )
        about.save(registered.card)
        subject = model_card.Subject(about, card, source, probabilities, labels)
        model_card.write(registered, subject, said)


def _predict(split: StoredSplit, engine: Engine) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a model's probabilities, float32 `[N, classes]`, and the labels, int64 `[N]`."""
    answers, labels = [], []
    done = 0
    batches = split.batches(rows_in_a_batch(split.shape))
    for of_engine, of_images in predict_batches(engine, batches):
        progress.report(done, split.count, doing="testing")
        answers.append(of_engine)
        labels.append(of_images)
        done += len(of_images)
    return np.concatenate(answers), np.concatenate(labels)


def _measure(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> TestFigures:
    hits = int((probabilities.argmax(axis=1) == labels).sum())
    return TestFigures(images=len(labels), hits=hits, accuracy=hits / len(labels))


def _save_mistakes(
    file: Path,
    split: StoredSplit,
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
        images=split.images(surest, rows=rows_in_a_batch(split.shape)),
        labels=labels[surest],
        predicted=predicted[surest],
        probability=probabilities[surest].max(axis=1),
    )


def _save_examples(file: Path, split: StoredSplit, labels: NDArray[np.int64]) -> None:
    """Keep the first image of each class, as far as there is room."""
    rows = rows_in_a_batch(split.shape)
    room = min(_EXAMPLES_KEPT, _EXAMPLES_BYTES // math.prod(split.shape))
    classes, places = np.unique(labels, return_index=True)
    if room:
        Examples.of(split.images(places[:room], rows=rows), classes[:room]).save(file)
