"""Equal images that should not be: in two classes, or both trained on and tested on.

Equal means equal pixels, after the images were prepared. They are reported, not removed: which of
two labels is right, only a person can say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data.images import Dataset, Names, slices
from mlpipeline.store.schemas.dataset import Duplicates

_SHOWN = 10


@dataclass(frozen=True)
class Groups:
    """Images in groups of equal ones.

    Attributes:
        order: All rows, those of a group one after the other; int64 `[N]`. The order of the groups
            depends on their pixels alone.
        starts: Where in `order` each group begins; int64 `[G]`.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, digests: NDArray[np.void]) -> Groups:
        """Group rows by the digests of their pixels, `[N]` of 32 bytes each."""
        order = np.argsort(digests, kind="stable").astype(np.int64)
        ordered = digests[order]
        is_new = np.ones(len(ordered), bool)
        is_new[1:] = ordered[1:] != ordered[:-1]
        return cls(order, np.flatnonzero(is_new).astype(np.int64))

    def least(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the least value in each group, of a value for each row: int64 `[G]`."""
        return np.minimum.reduceat(values[self.order], self.starts)

    def greatest(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the greatest value in each group, of a value for each row: int64 `[G]`."""
        return np.maximum.reduceat(values[self.order], self.starts)

    def rows(self, group: int) -> NDArray[np.int64]:
        """Return the rows of a group: int64 `[M]`."""
        return self.order[self.starts[group] :][: self.sizes[group]]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The group that each row is in: int64 `[N]`."""
        numbers = np.empty_like(self.order)
        numbers[self.order] = np.repeat(np.arange(len(self.starts)), self.sizes)
        return numbers

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each group has: int64 `[G]`."""
        return np.diff(self.starts, append=len(self.order))


def pixel_digests(images: NDArray[np.uint8]) -> NDArray[np.void]:
    """Return the SHA-256 of each image's pixels: `[N]` of 32 bytes each.

    Args:
        images: uint8 `[N, ...]`, in memory or in a memory-mapped file, of which a slice is read
            at a time.
    """

    def digests() -> Iterator[bytes]:
        for _, held in slices(images):
            for image in held:
                yield hashlib.sha256(image.tobytes()).digest()

    return np.fromiter(digests(), dtype="V32", count=len(images))


def find(dataset: Dataset, groups: Groups) -> Duplicates | None:
    """Return which images are in two classes, or in both splits; None where none is.

    Args:
        dataset: The data set.
        groups: Which of its images are equal, those of `train` before those of `test`.
    """
    counts = [len(split.labels) for split in (dataset.train, dataset.test)]
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    is_test = np.repeat(np.arange(2), counts)
    in_two_classes = np.flatnonzero(groups.least(labels) != groups.greatest(labels))
    in_both = np.flatnonzero(groups.least(is_test) != groups.greatest(is_test))
    if not len(in_two_classes) and not len(in_both):
        return None

    def describe(group: int) -> str:
        return " = ".join(_name(dataset, int(row), labels) for row in groups.rows(group)[:4])

    return Duplicates(
        in_two_classes=len(in_two_classes),
        in_train_and_test=len(in_both),
        first_in_two_classes=tuple(describe(group) for group in in_two_classes[:_SHOWN]),
        first_in_train_and_test=tuple(describe(group) for group in in_both[:_SHOWN]),
    )


def _name(dataset: Dataset, row: int, labels: NDArray[np.int64]) -> str:
    given = dataset.names or Names((), ())
    in_train = len(dataset.train.labels)
    split, names, index = ("train", given.train, row)
    if row >= in_train:
        split, names, index = "test", given.test, row - in_train
    name = names[index] if names else f"number {index}"
    return f"{name} ({split}, {dataset.classes[labels[row]]})"
