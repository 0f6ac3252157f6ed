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
from mlpipeline.image_files import UNREADABLE
from mlpipeline.plan.batch import Batch
from mlpipeline.serving import files
from mlpipeline.serving.model import PublishedModel, load
from mlpipeline.store import artifacts
from mlpipeline.store.layout import PredictionsFolder
from mlpipeline.store.schemas.prediction import PredictionSummary

_BATCH = 500  # bounds the memory, however many files there are

Line = dict[str, Any]


def predict(batch: Batch, output: Path) -> PredictionSummary:
    """Publish the predictions of a batch at `output`; return their summary.

    Raises:
        ArtifactError: The model is damaged.
        ServingError: A file is no longer what it was when the batch was planned.
    """
    model = load(batch.published)
    names = list(batch.files)
    unreadable = 0
    with artifacts.publish(output) as draft:
        with PredictionsFolder(draft).table.open("w", encoding="utf-8", newline="") as stream:
            columns = ["file", "image", "class", *model.classes, "error", "note"]
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            for start in range(0, len(names), _BATCH):
                progress.report(start, len(names))
                lines = _predict(model, batch, names[start : start + _BATCH])
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
            line |= dict(zip(model.classes, probabilities.tolist(), strict=True))
    return lines


def _content(batch: Batch, name: str) -> bytes:
    """What is in a file; the key stands for what was in it when the batch was planned."""
    file = batch.folder / name
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != batch.files[name]:
        raise ServingError(
            f"{file} has changed meanwhile",
            expected="a folder that stays as it is while it is predicted",
            remedy="ask again when it is complete",
        )
    return content
