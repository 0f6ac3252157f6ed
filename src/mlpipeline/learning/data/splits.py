"""A published split as evaluation reads it: in its order, batch by batch, whatever its size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data import records
from mlpipeline.learning.data.images import rows_in_a_slice
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, SplitName

HELD_BYTES = 64 << 20
"""A split that is read again and again is held in memory up to this size, and read anew above."""

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 `[B, *shape]` and their labels int64 `[B]`."""


class StoredSplit:
    """A split, or one worker's share of it, in the order of its files.

    Args:
        folder: The published data set.
        name: Which split.
        worker: Whose share it is, see `records.split_batches`.
        workers: How many share it.

    Attributes:
        shape: The shape of an image, `(H, W)` or `(H, W, C)`.
        count: How many images there are.
    """

    def __init__(self, folder: Path, name: SplitName, *, worker: int = 0, workers: int = 1) -> None:
        card = DatasetCard.load(DatasetFolder(folder).card)
        self._folder, self._name, self._worker, self._workers = folder, name, worker, workers
        self._held: Batch | None = None
        self.shape = tuple(card.shape)
        self.count = len(range(worker, card.counts[name], workers))

    def share(self, worker: int, workers: int) -> StoredSplit:
        """Return one worker's share of a whole split."""
        return StoredSplit(self._folder, self._name, worker=worker, workers=workers)

    def hold_if_small(self) -> None:
        """Read it into memory, if it has at most `HELD_BYTES`: worth it before a second reading.

        Raises:
            DamagedArtifactError: A file is missing, truncated or altered.
        """
        if self.count and self.count * math.prod(self.shape) <= HELD_BYTES:
            parts = list(self.batches(rows_in_a_slice(self.shape)))
            images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            self._held = images, labels

    def batches(self, rows: int) -> Iterator[Batch]:
        """Yield its images and labels, `rows` at a time; the last batch may have fewer.

        Raises:
            DamagedArtifactError: A file is missing, truncated or altered.
        """
        if self._held is None:
            yield from records.split_batches(
                self._folder, self._name, rows, worker=self._worker, workers=self._workers
            )
        else:
            images, labels = self._held
            for start in range(0, len(labels), rows):
                yield images[start : start + rows], labels[start : start + rows]

    def images(self, places: NDArray[np.int64], *, rows: int) -> NDArray[np.uint8]:
        """Return the images at some places, in the order of these: uint8 `[M, *shape]`.

        Args:
            places: Numbers of images, int64 `[M]`, from 0 on.
            rows: How many images to hold at a time beside them.

        Raises:
            DamagedArtifactError: A file is missing, truncated or altered.
        """
        found = np.empty((len(places), *self.shape), np.uint8)
        batches = places.max(initial=-1) // rows + 1  # what comes after the last one is not read
        for number, (images, _) in enumerate(itertools.islice(self.batches(rows), batches)):
            here = np.flatnonzero(places // rows == number)
            found[here] = images[places[here] - number * rows]
        return found
