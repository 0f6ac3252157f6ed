"""Corrected labels, and how they are joined with the training images.

A correction names its image by the SHA-256 of the raw pixels, not by its place: sources hold the
same images in different orders. It changes training and validation labels, which are cut from the
same images. The test split stays as the source has it: what is measured must not depend on who
corrected what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

from mlpipeline.learning.data.images import Dataset, Split, slices
from mlpipeline.store.schemas.dataset import AppliedFeedback
from mlpipeline.store.schemas.feedback import Correction


def corrected(
    dataset: Dataset, corrections: Sequence[Correction], *, snapshot: str
) -> tuple[Dataset, AppliedFeedback]:
    """Return the data set with corrected training labels, and what became of the corrections.

    Args:
        dataset: The data set as its source has it.
        corrections: What to join with it, in any order.
        snapshot: Name of the snapshot that they are of, for the data set's card.
    """
    indices = {label: index for index, label in enumerate(dataset.classes)}
    rows = _rows_of(dataset.train, {correction.image for correction in corrections})
    latest: dict[str, str] = {}
    overruled, ignored = 0, []
    for correction in sorted(corrections):
        image, label = correction.image, correction.label
        if image not in rows:
            ignored.append(f"{correction.event}: no training image is {image[:12]}…")
        elif label not in indices:
            ignored.append(f"{correction.event}: no class is called {label!r}")
        else:
            overruled += image in latest
            latest[image] = label
    labels = dataset.train.labels.copy()
    for image, label in latest.items():
        labels[rows[image]] = indices[label]
    changed = int((labels != dataset.train.labels).sum())
    joined = replace(dataset, train=Split(dataset.train.images, labels))
    return joined, AppliedFeedback(
        snapshot=snapshot, corrections=changed, overruled=overruled, ignored=tuple(ignored)
    )


def _rows_of(split: Split, wanted: Collection[str]) -> dict[str, list[int]]:
    """Return the rows of some images, by their digests: an image may be there twice."""
    rows: dict[str, list[int]] = {}
    for start, images in slices(split.images):
        for row, image in enumerate(images, start):
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            if digest in wanted:
                rows.setdefault(digest, []).append(row)
    return rows
