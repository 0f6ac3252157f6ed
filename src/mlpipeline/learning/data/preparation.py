"""How pictures become images of a data set: decided once, when it is ingested.

What is decided is recorded in the card, so that a file that somebody asks about later becomes an
image in the same way.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import ConfigurationError
from mlpipeline.image_files import (
    Fit,
    ImageKind,
    Preparation,
    UnreadableImageError,
    has_dark_ground,
)
from mlpipeline.learning.data.images import Dataset, Split, release, slices
from mlpipeline.plan.config import Data

_LOOKED_AT = 1_000  # images, to learn what grounds they have
_NEARLY_ALL = 0.99


def prepared(dataset: Dataset, data: Data, scratch: Path) -> Dataset:
    """Return the data set with images of the size and with the channels that are configured.

    Args:
        dataset: The data set as its source has it; it is returned as it is where that fits.
        data: The data section of the configuration.
        scratch: A folder on a disk with room for all images: they may not fit into memory. Nothing
            stays in it.

    Raises:
        ConfigurationError: A size, channels or a fit for images that are not grey or RGB.
    """
    given = dataset.train.images.shape[1:]
    if data.size is None and data.channels is None and data.fit is None:
        return dataset
    try:
        as_given = Preparation.of_shape(given, fit=data.fit or "stretch")
    except UnreadableImageError as error:
        raise ConfigurationError(
            f"data.size, data.channels or data.fit for images of shape {list(given)}",
            expected="images with 1 or 3 channels",
            remedy=f"leave them out, and let {data.dataset} make images as they should be",
        ) from error
    wanted = replace(
        as_given, size=data.size or as_given.size, channels=data.channels or as_given.channels
    )
    shape = wanted.shape
    if given[2:] == (1,) and data.channels is None:  # as the data set has it
        shape = (*shape, 1)
    if shape == given:
        return dataset
    return replace(
        dataset,
        train=_prepared(dataset.train, wanted, shape, scratch),
        test=_prepared(dataset.test, wanted, shape, scratch),
    )


def preparation_of(
    images: NDArray[np.uint8], order: NDArray[np.int64], *, fit: Fit | None
) -> ImageKind | None:
    """Return how pictures become images like those of a data set; None where files cannot.

    Args:
        images: The training images as they are ingested: uint8 `[N, H, W]` or `[N, H, W, C]`.
        order: All rows in an order of which any part is a fair sample: int64 `[N]`.
        fit: What becomes of a picture of other proportions, as configured.
    """
    try:
        kind = ImageKind.of_shape(images.shape[1:], fit=fit or "stretch")
    except UnreadableImageError:
        return None
    if kind.channels != 1:  # the negative of a colour is another colour
        return kind
    dark = []
    for row in order[:_LOOKED_AT]:
        dark.append(has_dark_ground(images[row]))
        release(images)
    return replace(kind, dark_ground=bool(np.mean(dark) >= _NEARLY_ALL))


def _prepared(
    split: Split, preparation: Preparation, shape: tuple[int, ...], scratch: Path
) -> Split:
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as file:  # gone as soon as nobody reads it
        for _, images in slices(split.images):
            for image in images:
                file.write(preparation.from_array(image).tobytes())
        file.flush()
        mapped = np.memmap(file, np.uint8, mode="r", shape=(len(split.images), *shape))
    return Split(mapped, split.labels)
