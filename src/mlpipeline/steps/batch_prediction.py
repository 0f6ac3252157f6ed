"""Batch prediction: what a published model says of every file in a folder.

predictions.csv has a line for each file: its path, the SHA-256 of its pixels (the name of an image
in feedback), the class, and the probability of each class; or why it could not be read; and a note
where somebody should look at it, such as that it is blank.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mlpipeline import progress
from mlpipeline.errors import ServingError
from mlpipeline.image_files import UNREADABLE, content_of
from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.plan.batch import Batch
from mlpipeline.serving import files
from mlpipeline.serving.model import PublishedModel, load
from mlpipeline.store import artifacts
from mlpipeline.store.layout import PredictionsFolder
from mlpipeline.store.schemas.prediction import PredictionSummary

Line = dict[str, Any]

_COLUMNS = ("file", "image", "class", "error", "note")


def predict(batch: Batch, output: Path) -> PredictionSummary:
    """Publish the predictions of a batch at `output`; return their summary.

    Raises:
        ArtifactError: The model is damaged.
        ServingError: A file is no longer what it was when the batch was planned.
    """
    model = load(batch.published)
    names = sorted((*batch.files, *batch.links))
    unreadable = 0
    with artifacts.publish(output) as draft:
        with PredictionsFolder(draft).table.open("w", encoding="utf-8", newline="") as stream:
            columns = [*_COLUMNS[:3], *map(_column_of, model.classes), *_COLUMNS[3:]]
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            rows = rows_in_a_batch(model.input_shape)  # bounds the memory, however many files
            for start in range(0, len(names), rows):
                progress.report(start, len(names))
                lines = _predict(model, batch, names[start : start + rows])
                writer.writerows(lines)
                unreadable += sum("error" in line for line in lines)
        summary = PredictionSummary(
            model=batch.model, version=model.version, files=len(names), unreadable=unreadable
        )
        summary.save(PredictionsFolder(draft).summary)
    progress.report(len(names), len(names))
    return summary


def _predict(model: PublishedModel, batch: Batch, names: list[str]) -> list[Line]:
    """The lines of some files, in their order."""
    lines: list[Line] = []
    images, readable = [], []
    for name in names:
        line: Line = {"file": name}
        lines.append(line)
        if name in batch.links:
            line["error"] = "it is a link, which is not followed"
            continue
        try:
            image = files.read(_content(batch, name), model)
        except UNREADABLE as error:
            line["error"] = str(error)
            continue
        line["note"] = "; ".join(image.notes)
        line["image"] = hashlib.sha256(image.as_in_the_file.tobytes()).hexdigest()
        images.append(image.pixels)
        readable.append(line)
    if images:
        for line, probabilities in zip(readable, model.predict(np.stack(images)), strict=True):
            line["class"] = model.classes[probabilities.argmax()]
            line |= dict(zip(map(_column_of, model.classes), probabilities.tolist(), strict=True))
    return lines


def _column_of(label: str) -> str:
    """The column of a class's probabilities: its name, unless another column is called so."""
    return f"probability of {label}" if label in _COLUMNS else label


def _content(batch: Batch, name: str) -> bytes:
    """What is in a file; the key stands for what was in it when the batch was planned."""
    file = batch.folder / name
    content = content_of(file) if file.is_file() and not file.is_symlink() else b""
    if hashlib.sha256(content).hexdigest() != batch.files[name]:
        raise ServingError(
            f"{file} has changed meanwhile",
            expected="a folder that stays as it is while it is predicted",
            remedy="ask again when it is complete",
        )
    return content
