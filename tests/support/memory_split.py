"""A split that is no file: images that a test has made, as evaluation reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MemorySplit:
    """Images, uint8 `[N, *shape]`, with their labels, in their order."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> None:
        self.images, self.labels = images, labels
        self.shape, self.count = images.shape[1:], len(images)

    def batches(self, rows: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]]:
        """Yield them, `rows` at a time."""
        for start in range(0, self.count, rows):
            yield self.images[start : start + rows], self.labels[start : start + rows]
