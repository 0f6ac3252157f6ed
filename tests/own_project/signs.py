"""A data set of one's own: small colour images of bars, in four directions."""

from __future__ import annotations

import numpy as np

from mlpipeline.learning.data import Dataset, Split

HEIGHT, WIDTH = 16, 12


def signs() -> Dataset:
    """Bars on a dark ground, of any colour and brightness, at any place."""
    random = np.random.default_rng(0)
    classes = ("horizontal", "vertical", "falling", "rising")
    return Dataset("signs", classes, _make(random, 1_200), _make(random, 400), "drawn by signs.py")


def bands() -> Dataset:
    """The same as a satellite might see them: in seven channels."""
    random = np.random.default_rng(0)
    given = signs()

    def seen(split: Split) -> Split:
        shares = random.dirichlet(np.ones(3), 7)
        return Split((split.images @ shares.T).astype(np.uint8), split.labels)

    return Dataset("bands", given.classes, seen(given.train), seen(given.test), given.source)


def _make(random: np.random.Generator, count: int) -> Split:
    labels = np.arange(count) % 4
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    along = np.stack([rows, columns, rows - columns, rows + columns])[labels]
    middle = random.integers([6, 4, 0, 12], [10, 8, 5, 17], (count // 4, 4)).reshape(count)
    bars = np.abs(along - middle[:, None, None]) <= 1
    colours = random.integers(100, 256, (count, 3))
    noise = random.integers(0, 40, (count, HEIGHT, WIDTH, 3))
    images = np.where(bars[..., None], colours[:, None, None], noise)
    return Split(images.astype(np.uint8), labels.astype(np.int64))
