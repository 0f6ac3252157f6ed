"""What a data set of labelled images is, and what is checked before it is used.

Images may lie in a memory-mapped file that is larger than memory: they are read a slice at a time.
Of each image only what orders the images is held, its label, its digest and its place: about 100
bytes.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import SourceError
from mlpipeline.store.schemas.dataset import Unreadable

SLICE_BYTES = 32 << 20
"""How much of the images is held at a time."""

_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Split:
    """Labelled images. The arrays may be memory-mapped files larger than memory.

    Import it from `mlpipeline.learning.data`.

    Attributes:
        images: uint8 `[N, height, width]` or `[N, height, width, channels]`.
        labels: int64 `[N]`, each an index into the data set's classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Names(NamedTuple):
    """What people call the images of each split, such as their files' paths; empty for nothing."""

    train: Sequence[str]
    test: Sequence[str]


@dataclass(frozen=True)
class Dataset:
    """A data set with its two given splits; validation images are cut from `train` later.

    Import it from `mlpipeline.learning.data`.

    Attributes:
        name: What the data set is called.
        classes: Names of the classes, two or more, in the order of their labels.
        train: What is trained on, and what validation images are cut from.
        test: What the chosen model is tested on, once.
        source: Where the images really came from, for the data set's card.
        synthetic: Whether they were made up; every artifact made from them says so.
        unreadable: What was left out because it could not be read, if anything.
        names: What people call the images, for messages; None for nothing.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    source: str
    synthetic: bool = False
    unreadable: Unreadable | None = None
    names: Names | None = None


def rows_in_a_slice(shape: Sequence[int]) -> int:
    """Return how many images of a shape `SLICE_BYTES` hold; one at least."""
    return max(1, SLICE_BYTES // math.prod(shape))


def rows_in_a_batch(shape: Sequence[int], most: int = 500) -> int:
    """Return how many images a model is given at a time.

    `most`, and of large ones so many that they have 4 MB: this bounds what their activations take,
    which are some hundred times that.
    """
    return min(most, max(1, _BATCH_BYTES // math.prod(shape)))


def slices(images: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield all images, a slice of `SLICE_BYTES` at a time, each with the number of its first one.

    Of a memory-mapped file no more than that counts as this process's memory.
    """
    held = rows_in_a_slice(images.shape[1:])
    for start in range(0, len(images), held):
        yield start, images[start : start + held]
        release(images)


def take(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return `images[rows]` as a copy in memory, in the order of `rows`.

    Args:
        images: uint8 `[N, ...]`, in memory or a memory-mapped file.
        rows: Which of them, int64 `[M]`.

    A memory-mapped file is read from front to back, whatever that order is, so that its pages come
    in once each, and no more of it than `SLICE_BYTES` is held beside the copy.
    """
    taken = np.empty((len(rows), *images.shape[1:]), images.dtype)
    ascending = np.argsort(rows)
    number_of_slice = rows[ascending] // rows_in_a_slice(images.shape[1:])
    for places in np.split(ascending, np.flatnonzero(np.diff(number_of_slice)) + 1):
        taken[places] = images[rows[places]]
        release(images)
    return taken


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
    """See that shapes, types and labels are what `Split` promises.

    Raises:
        SourceError: They are not.
    """
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
        remedy="mend the data, or the function that loads it",
    )


def _row_digests(split: Split) -> NDArray[np.void]:
    """Return the SHA-256 of each image with its label: `[N]` of 32 bytes each."""
    labels = split.labels.astype("<i8")

    def digests() -> Iterator[bytes]:
        for start, images in slices(split.images):
            for image, label in zip(images, labels[start : start + len(images)], strict=True):
                yield hashlib.sha256(image.tobytes() + label.tobytes()).digest()

    return np.fromiter(digests(), dtype="V32", count=len(labels))


def release(images: NDArray[Any]) -> None:
    """Release the pages that were read of a file, which would count as this process's memory."""
    # Only where nothing can have been written to them: of a private mapping it would be lost.
    if isinstance(images, np.memmap) and images.mode == "r":
        images._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
