"""Step `gate`: measure a new version and the current one on the same images, and judge.

Both are loaded as a replica loads them, so what is measured is what answers. The current version is
measured anew, because the images may be others than those it was selected by.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlpipeline import progress
from mlpipeline.engines import predict_batches
from mlpipeline.errors import ArtifactError, ServingError
from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.plan import gate as rule
from mlpipeline.plan.config import Gate
from mlpipeline.plan.gate import Current, Figures, Validation
from mlpipeline.serving import model as models
from mlpipeline.serving.model import PublishedModel
from mlpipeline.steps.timing import least_milliseconds
from mlpipeline.store.layout import DatasetFolder, ModelFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.gate import Forced, GateTable
from mlpipeline.store.schemas.selection import ModelCard

_log = logging.getLogger(__name__)


def judge(
    settings: Gate,
    new: Path,
    find_current: Callable[[], ModelFolder | None],
    *,
    dataset: Path,
    forced: Forced | None = None,
) -> GateTable:
    """Say whether a version may be served in place of the current one.

    Args:
        settings: What the gate asks for.
        new: Where the version is published.
        find_current: Returns where the current version is published; None where there is none. It
            may raise an `ArtifactError` or a `ServingError` for one that is damaged or gone.
        dataset: The published data set that the version was selected by.
        forced: Who wants it served whatever is found, if anybody does.

    Raises:
        ArtifactError: The new version is missing or damaged.
        ServingError: It cannot be loaded.
    """
    split = StoredSplit(dataset, "validation")
    card = DatasetCard.load(DatasetFolder(dataset).card)
    validation = Validation(card.classes, card.per_class["validation"])
    challenger = models.load(new)
    current = _current(find_current, challenger, split, compares=settings.compares)
    figures = _measure(ModelFolder(new), challenger, split)
    return rule.judge(settings, challenger.version, figures, validation, current, forced)


def _current(
    find: Callable[[], ModelFolder | None],
    challenger: PublishedModel,
    split: StoredSplit,
    *,
    compares: bool,
) -> Current:
    """What is known of the current version.

    One that cannot be loaded could not be served either, so it holds nothing back.
    """
    version = ""
    try:
        folder = find()
        if folder is None:
            return Current()
        version = folder.version
        if not compares:
            return Current(version)
        model = models.load(folder.path)
        if difference := _difference(model, challenger):
            return Current(version, not_compared=difference, is_other=True)
        return Current(version, _measure(folder, model, split))
    except (ArtifactError, ServingError) as error:
        _log.warning("the current version is compared with nothing: %s", error.got)
        return Current(version, not_compared=f"it cannot be evaluated: {error.got}")


def _difference(current: PublishedModel, new: PublishedModel) -> str:
    """Why answers of two models cannot be compared; empty where they can."""
    if current.input_shape != new.input_shape:
        return (
            f"version {current.version} takes images of {_sides(current)}, "
            f"the new one of {_sides(new)}"
        )
    if current.classes != new.classes:
        gone = ", ".join(sorted({*current.classes} - {*new.classes})) or "none"
        added = ", ".join(sorted({*new.classes} - {*current.classes})) or "none"
        return (
            f"version {current.version} has other classes, or in another order: "
            f"gone: {gone}; new: {added}"
        )
    return ""


def _sides(model: PublishedModel) -> str:
    return " × ".join(str(side) for side in model.input_shape)


def _measure(folder: ModelFolder, model: PublishedModel, split: StoredSplit) -> Figures:
    hits = np.zeros(len(model.classes), np.int64)
    done = 0
    for probabilities, labels in predict_batches(
        model, split.batches(rows_in_a_batch(split.shape))
    ):
        progress.report(done, split.count, doing=f"measuring {model.version}")
        found = labels[probabilities.argmax(axis=1) == labels]
        hits += np.bincount(found, minlength=len(hits))
        done += len(labels)
    progress.report(split.count, split.count)
    return Figures(tuple(hits.tolist()), _milliseconds(model), _bytes(folder))


def _milliseconds(model: PublishedModel) -> float:
    """Return the least time that one image takes; TensorFlow computes in threads of its own."""
    image = np.zeros((1, *model.input_shape), np.uint8)
    return least_milliseconds(lambda: model.predict(image), time.perf_counter)


def _bytes(folder: ModelFolder) -> int:
    """Return the size of what is served."""
    if ModelCard.load(folder.card).engine == "litert":
        return folder.tflite.stat().st_size
    files = (file for file in folder.saved_model.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)
