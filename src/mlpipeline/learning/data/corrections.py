"""Corrected labels, and how they are joined with the training images.

A correction names its image by the SHA-256 of the raw pixels, not by its place: sources hold the
same images in different orders. It changes training and validation labels, which are cut from the
same images. The test split stays as the source has it: what is measured must not depend on who
corrected what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from mlpipeline.errors import DamagedArtifactError
from mlpipeline.learning.data.images import Dataset, Split
from mlpipeline.store import artifacts
from mlpipeline.store.cards import Feedback
from mlpipeline.store.layout import FeedbackFolder


@dataclass(frozen=True, order=True)
class Correction:
    """One image's label, as somebody saw it. They sort by time: the latest of an image holds.

    Attributes:
        time: When it was made, ISO 8601 in UTC.
        event: The id of the event that brought it.
        image: SHA-256 of the image's raw pixels, hexadecimal.
        label: The name of a class.
    """

    time: str
    event: str
    image: str
    label: str


def save_snapshot(corrections: Sequence[Correction], folder: FeedbackFolder) -> str:
    """Write corrections under the digest of their content; return it."""
    content = [asdict(correction) for correction in sorted(corrections)]
    digest = _digest(content)
    if not (file := folder.snapshot(digest)).exists():
        artifacts.write_json(file, content)
    return digest


def load_snapshot(folder: FeedbackFolder, digest: str) -> tuple[Correction, ...]:
    """Read the corrections of a snapshot, the earliest first.

    Raises:
        MissingArtifactError: There is no such snapshot.
        DamagedArtifactError: It is not what was written.
    """
    file = folder.snapshot(digest)
    content = artifacts.read_json(file)
    if _digest(content) != digest:
        raise DamagedArtifactError(
            f"{file} is damaged: its content has the digest {_digest(content)}",
            expected=f"{digest}, as in its name",
            remedy="remove it; the next run writes the corrections anew",
        )
    return tuple(Correction(**correction) for correction in content)


def corrected(
    dataset: Dataset, corrections: Sequence[Correction], *, snapshot: str
) -> tuple[Dataset, Feedback]:
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
    return joined, Feedback(snapshot, changed, overruled, tuple(ignored))


def _rows_of(split: Split, wanted: Collection[str]) -> dict[str, list[int]]:
    """Return the rows of some images, by their digests: an image may be there twice."""
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(split.images):
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest in wanted:
            rows.setdefault(digest, []).append(row)
    return rows


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
