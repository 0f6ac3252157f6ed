"""Data sets by name: built-in ones, those of a source, and a user's own.

A source needs no code (`mlpipeline.learning.data.sources`). A data set of your own is a function
without arguments that returns a `mlpipeline.learning.data.Dataset`; the configuration names it as
`package.module:function`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.data import own, sources
from mlpipeline.learning.data.fashion_mnist import fashion_mnist
from mlpipeline.learning.data.images import Dataset, Split, check
from mlpipeline.learning.plugins import resolve
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import parse


def load(
    reference: str, source: str = "auto", data: Data | None = None, scratch: Path | None = None
) -> Dataset:
    """Return the data set that `reference` names, checked.

    Args:
        reference: `fashion_mnist`, `synthetic`, a source such as `folder:PATH`, or
            `package.module:function` of your own.
        source: Where to get Fashion-MNIST from; other data sets have one source, `auto`.
        data: How the images of a source are prepared.
        scratch: A folder with room for these; by default the one for temporary files.

    Raises:
        ConfigurationError: There is no such data set, or not from that source.
        SourceError: It cannot be had, or is not what a `Dataset` should be.
    """
    if source != "auto" and reference != "fashion_mnist":
        raise ConfigurationError(
            f"data.source is `{source}` for data set `{reference}`",
            expected="`auto`: only fashion_mnist has several sources",
            remedy="leave data.source out",
        )
    if named := parse(reference):
        place = scratch or Path(tempfile.gettempdir())
        dataset = sources.load(named, data or Data(dataset=reference), place)
    elif reference == "fashion_mnist":
        dataset = fashion_mnist(source)
    else:
        dataset = own.call(resolve(reference, BUILTIN, kind="data set"), reference)
    check(dataset)
    return dataset


def synthetic() -> Dataset:
    """Return small made-up data that a model can learn in seconds, always the same.

    5 000 images of 28x28 in 10 classes: a coarse pattern for each class, moved about, under noise.
    """
    random = np.random.default_rng(0)
    patterns = np.kron(random.integers(0, 2, (10, 7, 7)), np.ones((4, 4), int)) * 160

    def make(count: int) -> Split:
        labels = np.arange(count) % len(patterns)
        images = patterns[labels] + random.integers(0, 96, (count, 28, 28))
        shifts = random.integers(-3, 4, (count, 2))
        moved = [np.roll(image, shift, (0, 1)) for image, shift in zip(images, shifts, strict=True)]
        return Split(np.stack(moved).astype(np.uint8), labels.astype(np.int64))

    classes = tuple(f"pattern {number}" for number in range(len(patterns)))
    return Dataset("synthetic", classes, make(4_000), make(1_000), "made up", synthetic=True)


BUILTIN: dict[str, Callable[..., Any]] = {"fashion_mnist": fashion_mnist, "synthetic": synthetic}
