"""What images are like, in three figures each: for metrics of a served model, and for drift."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline.image_files.kind import BLANK

_VALUES = 1 << 20  # held as float64 at a time
_LARGEST = np.iinfo(np.uint8).max


class PixelStatistics(NamedTuple):
    """What some images are like.

    Attributes:
        mean: The mean of each image's values, 0 to 1: float64 `[N]`.
        contrast: Their standard deviation, 0 to 0.5: float64 `[N]`.
        is_blank: Whether it is all of one colour: bool `[N]`.
    """

    mean: NDArray[np.float64]
    contrast: NDArray[np.float64]
    is_blank: NDArray[np.bool_]


def measure(images: NDArray[np.uint8]) -> PixelStatistics:
    """Return what images are like.

    Args:
        images: uint8 `[N, H, W]` or `[N, H, W, C]`; one at least.
    """
    flat = images.reshape(len(images), -1)
    sums, squares = np.zeros(len(flat)), np.zeros(len(flat))
    columns = max(1, _VALUES // len(flat))
    for start in range(0, flat.shape[1], columns):
        part = flat[:, start : start + columns].astype(np.float64)
        sums += part.sum(axis=1)
        squares += np.einsum("ij,ij->i", part, part)
    mean = sums / flat.shape[1]
    variance = np.maximum(squares / flat.shape[1] - mean**2, 0)
    return PixelStatistics(mean / _LARGEST, np.sqrt(variance) / _LARGEST, _is_blank(images, flat))


def _is_blank(images: NDArray[np.uint8], flat: NDArray[np.uint8]) -> NDArray[np.bool_]:
    channels = images.shape[3] if images.ndim == 4 else 1
    each = [flat[:, channel::channels] for channel in range(channels)]
    ranges = [one.max(axis=1) - one.min(axis=1) for one in each]
    blank: NDArray[np.bool_] = np.max(ranges, axis=0) <= BLANK
    return blank
