"""A data set that may be larger than memory: large grey images in files, of five textures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from mlpipeline.learning.data import Dataset, Split

FOLDER = Path(__file__).with_name("scans")
SIZE, CLASSES = 224, 5


def mapped() -> Dataset:
    """The images stay in their files, and are read as they are needed."""
    return _dataset("r")


def loaded() -> Dataset:
    """The images are read into memory."""
    return _dataset(None)


def write(folder: Path, count: int, of_test: int) -> None:
    """Write the files into a folder."""
    folder.mkdir()
    random = np.random.default_rng(0)
    textures = random.integers(0, 200, (CLASSES, SIZE, SIZE), np.uint8)
    for split, images in (("train", count), ("test", of_test)):
        labels = np.arange(images) % CLASSES
        np.save(folder / f"{split}_labels.npy", labels)
        file = np.lib.format.open_memmap(
            folder / f"{split}_images.npy", "w+", np.uint8, (images, SIZE, SIZE)
        )
        for start in range(0, images, 500):
            own = textures[labels[start : start + 500]]
            brightness = random.integers(0, 56, (len(own), 1, 1), np.uint8)
            file[start : start + 500] = own + brightness


def _dataset(mode: Literal["r"] | None) -> Dataset:
    def split(name: str) -> Split:
        images = np.load(FOLDER / f"{name}_images.npy", mmap_mode=mode)
        return Split(images, np.load(FOLDER / f"{name}_labels.npy"))

    classes = tuple(f"texture {number}" for number in range(CLASSES))
    return Dataset("scans", classes, split("train"), split("test"), "drawn by scans.py")
