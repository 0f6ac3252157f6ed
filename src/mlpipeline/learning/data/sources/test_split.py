"""Cuts a test split from images that come without one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import SourceError
from mlpipeline.learning.data.duplicates import Groups, pixel_digests
from mlpipeline.learning.data.sources.taken import Taken

SHARE = 0.1
DESCRIPTION = "a tenth of each class cut as `test` by data.seed"


def rows_of_test(
    digests: NDArray[np.void], labels: NDArray[np.int64], *, seed: int
) -> NDArray[np.int64]:
    """Choose a share of each class, which depends on the images and the seed, not on their order.

    Equal images come to the same side, and those with several labels to the other one.

    Args:
        digests: The digests of the images' pixels, `[N]` of 32 bytes each.
        labels: Their labels, int64 `[N]`.
        seed: Random seed of the choice.

    Returns:
        The rows that were chosen, ascending: int64 `[M]`.
    """
    groups = Groups.of(digests)
    label_of, other = groups.least(labels), groups.greatest(labels)
    random = np.random.default_rng(seed)

    def chosen() -> Iterator[NDArray[np.int64]]:
        for label in np.unique(labels):
            own = np.flatnonzero((label_of == label) & (other == label))
            count = min(max(1, round(SHARE * len(own))), len(own) - 1)
            for group in random.permutation(own)[: max(count, 0)]:
                yield groups.rows(group)

    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen()]))


def cut(taken: Taken, into: Taken, shape: tuple[int, ...], *, seed: int) -> None:
    """Move a share of each class out of all images.

    Args:
        taken: All images.
        into: Where those that are cut are added.
        shape: The shape of each.
        seed: Random seed of the choice.

    Raises:
        SourceError: No class has two different images.
    """
    split = taken.split(shape)
    rows = rows_of_test(pixel_digests(split.images), split.labels, seed=seed)
    if not len(rows):
        raise SourceError(
            f"no test split can be cut from {len(split.labels):,} images",
            expected="a class with two different images, none of which is in another class, too",
            remedy="add images, or bring a test split",
        )
    taken.move(rows, into, size=math.prod(shape))
