"""The data set: a function that returns images with their labels."""

import numpy as np
from mlpipeline.learning.data import Dataset, Split
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")


def load() -> Dataset:
    """Bright shapes on a dark, noisy ground: here your own images come in."""
    random = np.random.default_rng(0)
    return Dataset(
        name="my-project",
        classes=CLASSES,
        train=draw(random, 1_500),
        test=draw(random, 300),
        source="drawn by my_project/data.py",
        synthetic=True,  # so every report says that these are no real images
    )


def draw(random: np.random.Generator, count: int) -> Split:
    """Images, uint8 `[count, 24, 24]`, and their labels, int64 `[count]`."""
    labels = np.arange(count) % len(CLASSES)
    images = np.stack([draw_one(random, CLASSES[label]) for label in labels])
    return Split(images, labels.astype(np.int64))


def draw_one(random: np.random.Generator, name: str) -> NDArray[np.uint8]:
    """One image of a class."""
    image = Image.new("L", (24, 24))
    pen = ImageDraw.Draw(image)
    size = int(random.integers(8, 14))
    x, y = (int(number) for number in random.integers(1, 23 - size, 2))
    bright = int(random.integers(150, 256))
    if name == "circle":
        pen.ellipse((x, y, x + size, y + size), fill=bright)
    elif name == "square":
        pen.rectangle((x, y, x + size, y + size), fill=bright)
    else:
        corners = [(x, y + size), (x + size, y + size), (x + size // 2, y)]
        pen.polygon(corners, fill=bright)
    noise = random.integers(0, 60, (24, 24), np.uint8)
    drawn: NDArray[np.uint8] = np.maximum(np.asarray(image), noise)
    return drawn
