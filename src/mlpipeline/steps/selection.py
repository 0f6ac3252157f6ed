"""Step `select`: choose a candidate on the validation split, test it once, register its model.

selections/<key>/         decision.json  test_probabilities.npy  test_labels.npy  mistakes.npz
models/<name>/<version>/  model.json  request.json  saved_model/
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.model import export
from mlpipeline.plan.decision import choose
from mlpipeline.store import artifacts
from mlpipeline.store.cards import DatasetCard
from mlpipeline.store.layout import CandidateFolder, ModelFolder, SelectionFolder

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
    for folder in candidates.values():
        artifacts.verify(folder)
    metrics = {
        n: artifacts.read_json(CandidateFolder(path).metrics) for n, path in candidates.items()
    }
    decision = choose(metrics)
    print(f"selected {decision.chosen}: {decision.reason}", flush=True)
    chosen = candidates[decision.chosen]

    images, labels = tfrecords.read_split(dataset, "test")
    signature = export.load(CandidateFolder(chosen).saved_model)
    probabilities = export.predict(signature, images)
    test = _measure(probabilities, labels)
    progress.report(1, 1, test_accuracy=test["accuracy"])

    card = DatasetCard.load(dataset)
    with artifacts.publish(output) as draft:
        selection = SelectionFolder(draft)
        np.save(selection.test_probabilities, probabilities)
        np.save(selection.test_labels, labels)
        _save_mistakes(selection.mistakes, images, labels, probabilities)
        artifacts.write_json(
            selection.decision,
            asdict(decision)
            | {
                "name": name,
                "version": model.name,
                "candidates": {n: {"key": candidates[n].name, **m} for n, m in metrics.items()},
                "dataset": dataset.name,
                "test": test,
            },
        )
    with artifacts.publish(model) as draft:
        registered = ModelFolder(draft)
        shutil.copytree(CandidateFolder(chosen).saved_model, registered.saved_model)
        artifacts.write_json(registered.example, {"instances": images[:1].tolist()})
        artifacts.write_json(
            registered.card,
            {
                "name": name,
                "version": model.name,
                "classes": card.classes,
                "candidate": decision.chosen,
                "candidate_key": chosen.name,
                "dataset_key": dataset.name,
                "synthetic_data": card.synthetic,
                "validation_accuracy": metrics[decision.chosen]["validation_accuracy"],
                "test_accuracy": test["accuracy"],
            },
        )


def _measure(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    hits = int((probabilities.argmax(axis=1) == labels).sum())
    return {"images": len(labels), "hits": hits, "accuracy": hits / len(labels)}


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
