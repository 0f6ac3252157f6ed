"""What a data set of labelled images is, and what is checked before it is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import SourceError


@dataclass(frozen=True)
class Split:
    """Labelled images. The arrays may be memory-mapped files larger than memory.

    Attributes:
        images: uint8 `[N, height, width]` or `[N, height, width, channels]`.
        labels: int64 `[N]`, each an index into the data set's classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A data set with its two given splits; validation images are cut from `train` later.

    Attributes:
        source: Where the images really came from, for the data set's card.
        synthetic: Whether they were made up; every artifact made from them says so.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    source: str
    synthetic: bool = False


def canonical_order(split: Split) -> NDArray[np.int64]:
    """Return the order of the images by the digest of their content: int64 `[N]`.

    Sources hold the same images in different orders (TFDS shuffles what it writes). In this order
    they are all the same, and any run of consecutive images is a fair sample.
    """
    return np.argsort(_row_digests(split), kind="stable").astype(np.int64)


def content_digest(split: Split) -> str:
    """Return a SHA-256 over shape, images and labels that does not depend on their order."""
    digest = hashlib.sha256(repr(split.images.shape).encode())
    digest.update(np.sort(_row_digests(split)).tobytes())
    return digest.hexdigest()


def check(dataset: Dataset) -> None:
    """Raise `SourceError` where shapes, types or labels are not what `Split` promises."""
    if len(set(dataset.classes)) != len(dataset.classes) or len(dataset.classes) < 2:
        raise _unusable(
            dataset, f"its classes are {dataset.classes}", "two or more different names"
        )
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        _check_split(dataset, name, split)
    shapes = dataset.train.images.shape[1:], dataset.test.images.shape[1:]
    if shapes[0] != shapes[1]:
        raise _unusable(
            dataset, f"images are {shapes[0]} in train and {shapes[1]} in test", "one shape"
        )


def _check_split(dataset: Dataset, name: str, split: Split) -> None:
    images, labels = split.images, split.labels
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise _unusable(
            dataset,
            f"{name} images are {images.dtype} {list(images.shape)}",
            "uint8 [N, height, width] or [N, height, width, channels], none of them 0",
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise _unusable(
            dataset,
            f"{name} labels are {labels.dtype} {list(labels.shape)}",
            f"int64 [{len(images)}], one for each image",
        )
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise _unusable(
            dataset,
            f"{name} labels lie between {labels.min()} and {labels.max()}",
            f"0 to {len(dataset.classes) - 1}, as there are {len(dataset.classes)} classes",
        )


def _unusable(dataset: Dataset, got: str, expected: str) -> SourceError:
    return SourceError(
        f"data set `{dataset.name}` from {dataset.source}: {got}",
        expected=expected,
        remedy="mend the function that loads it",
    )


def _row_digests(split: Split) -> NDArray[np.void]:
    """SHA-256 of each image and its label: `[N]` of 32 bytes each; reads one image at a time."""
    labels = split.labels.astype("<i8")
    digests = (
        hashlib.sha256(image.tobytes() + label.tobytes()).digest()
        for image, label in zip(split.images, labels, strict=True)
    )
    return np.fromiter(digests, dtype="V32", count=len(labels))
