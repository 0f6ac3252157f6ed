"""What the images of each split are like, measured whatever is expected of it.

The figures are recorded in the data set's card and judged apart from this, by
`mlpipeline.learning.data.expectations`: another limit needs no other data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data import statistics
from mlpipeline.learning.data.duplicates import Groups, pixel_digests
from mlpipeline.learning.data.images import Dataset, slices
from mlpipeline.learning.data.statistics import PixelStatistics
from mlpipeline.store.schemas.dataset import SPLITS, SplitName, SplitProfile

BINS = 50
"""Equal parts that means and contrasts are counted in. Cards that have other parts than these
cannot be compared, so another number would need another key in the card."""

_MOST_CONTRAST = 0.5  # half of the pixels are black, half are white


class Looks(NamedTuple):
    """What is kept of each image: those of `train` as it was given, then those of `test`.

    Attributes:
        is_blank: Whether it is all of one colour: bool `[N]`.
        mean: The bin that its mean is in: uint8 `[N]`.
        contrast: The bin that its contrast is in, likewise.
    """

    is_blank: NDArray[np.bool_]
    mean: NDArray[np.uint8]
    contrast: NDArray[np.uint8]

    @classmethod
    def of(cls, pixels: PixelStatistics) -> Looks:
        """Return what is kept of some images."""
        return cls(pixels.is_blank, _bins(pixels.mean), _bins(pixels.contrast / _MOST_CONTRAST))


def read(dataset: Dataset) -> tuple[Groups, Looks]:
    """Read every image once, a slice at a time; return which are equal, and what they are like."""
    digests: list[NDArray[np.void]] = []
    looks: list[Looks] = []
    for split in (dataset.train, dataset.test):
        for _, held in slices(split.images):
            images = np.asarray(held)  # no file any more, of which pages were given back too early
            digests.append(pixel_digests(images))
            looks.append(Looks.of(statistics.measure(images)))
    joined = Looks(*(np.concatenate(each) for each in zip(*looks, strict=True)))
    return Groups.of(np.concatenate(digests)), joined


def measure(
    groups: Groups,
    looks: Looks,
    labels: NDArray[np.int64],
    rows: Mapping[SplitName, NDArray[np.int64]],
) -> dict[SplitName, SplitProfile]:
    """Return what the images of each split are like.

    Args:
        groups: Which of all images are equal.
        looks: What each is like.
        labels: Their labels, int64 `[N]`.
        rows: Which of them each split has; every image is in one.
    """
    split_of = np.empty(len(labels), np.int64)
    for number, name in enumerate(SPLITS):
        split_of[rows[name]] = number
    # How many of each group are in each split: int64 `[G, 3]`.
    cells = groups.numbers * len(SPLITS) + split_of
    copies = np.bincount(cells, minlength=len(groups.starts) * len(SPLITS))
    copies = copies.reshape(-1, len(SPLITS))
    is_earlier = np.cumsum(copies, axis=1) > copies
    has_two_labels = groups.least(labels) != groups.greatest(labels)
    return {
        name: SplitProfile(
            blank=int(looks.is_blank[rows[name]].sum()),
            repeated=int((copies[:, number] - 1).clip(0).sum()),
            leaked=int(copies[is_earlier[:, number], number].sum()),
            contradicted=int(copies[has_two_labels, number].sum()),
            means=_histogram(looks.mean[rows[name]]),
            contrasts=_histogram(looks.contrast[rows[name]]),
        )
        for number, name in enumerate(SPLITS)
    }


def _bins(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the bins of values from 0 to 1, the last of which holds 1 as well."""
    return np.minimum(values * BINS, BINS - 1).astype(np.uint8)


def _histogram(bins: NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(np.bincount(bins, minlength=BINS).tolist())
