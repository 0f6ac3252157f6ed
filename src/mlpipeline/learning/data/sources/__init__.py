"""Data sets without code: image files, tables, arrays, and TensorFlow Datasets.

Each module finds the images of one form, as a `Collection`: names, labels, and what an image can be
made of. What follows is the same for all: they are prepared one by one into files that are mapped
into memory, and a test split is cut where there is none. No more than some images are held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlpipeline.learning.data.images import Dataset
from mlpipeline.learning.data.sources import folder, idx_files, npz, table, tfds
from mlpipeline.learning.data.sources.collection import Collection
from mlpipeline.learning.data.sources.intake import take_in
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference

_FINDING: dict[str, Callable[[Reference, Data], Collection]] = {
    "tfds": tfds.find,
    "folder": folder.find,
    "csv": table.find,
    "npz": npz.find,
    "idx": idx_files.find,
}


def load(reference: Reference, data: Data, scratch: Path) -> Dataset:
    """Return the data set that a reference names.

    Args:
        reference: Its source.
        data: How its images are to be prepared, and the seed of the split.
        scratch: A folder for the prepared images; they are mapped from there.

    Raises:
        ConfigurationError: Nothing lies there, or the images are of several sizes and none is said.
        SourceError: What lies there is no data set.
    """
    return take_in(_FINDING[reference.scheme](reference, data), data, scratch)
