"""A whole split in memory: for tests, whose data is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data.records import split_batches
from mlpipeline.store.schemas.dataset import SplitName


def read_split(folder: Path, split: SplitName) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, uint8 `[N, *shape]`, and the labels, int64 `[N]`, in their order."""
    images, labels = zip(*split_batches(folder, split, 1_000), strict=True)
    return np.concatenate(images), np.concatenate(labels)
