"""A published model, verified and ready to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlpipeline import engines
from mlpipeline.image_files.kind import ImageKind, UnreadableImageError
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.store import artifacts
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.selection import Examples, ModelCard

PLATFORMS: dict[engines.Kind, str] = {
    "litert": "litert_tflite",
    "tensorflow": "tensorflow_savedmodel",
}
"""What the Open Inference Protocol calls what computes: `PROJECT_FORMAT`."""


@dataclass(frozen=True)
class PublishedModel:
    """A version of a model, ready to predict.

    Attributes:
        version: Name of the version.
        digest: SHA-256 of its manifest, and so of all that was published.
        classes: Names of the classes, in the order of the probabilities.
        input_shape: The shape of one image.
        preparation: How pictures become its images; None where files have no such channels.
        engine: What computes it.
        variant: As what, such as `float32` or `int8-full`.
        examples: Test images to try it with; None in older versions.
    """

    version: str
    digest: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    _function: Callable[[Images], Probabilities]
    preparation: ImageKind | None = None
    engine: engines.Kind = "litert"
    variant: str = "float32"
    examples: Examples | None = None

    @property
    def platform(self) -> str:
        """What computes it, as the Open Inference Protocol calls that."""
        return PLATFORMS[self.engine]

    def predict(self, images: Images) -> Probabilities:
        """Map images to probabilities; any number of threads may call it at a time.

        Args:
            images: uint8 (N, *input_shape).

        Returns:
            float32 (N, classes).
        """
        return self._function(images)


def load(folder: Path, *, is_alone: bool = False) -> PublishedModel:
    """Load a published version, and make it predict once.

    Args:
        folder: Where it is published.
        is_alone: Whether this process does nothing else, see `engines.load`.

    Raises:
        ArtifactError: It is missing or damaged.
        ServingError: It is whole, but it does not map uint8 images to a probability per class.
    """
    artifacts.verify(folder)
    registered = ModelFolder(folder)
    card = ModelCard.load(registered.card)
    engine = engines.load(registered, card.engine, is_alone=is_alone)
    shape, classes = engine.input_shape, card.classes
    model = PublishedModel(
        card.version,
        artifacts.digest(folder),
        classes,
        shape,
        engine.predict,
        card.preparation or _preparation_of_older(shape),
        card.engine,
        card.variant,
        Examples.load(registered.examples) if registered.examples.exists() else None,
    )
    got = model.predict(np.zeros((2, *shape), np.uint8))
    if got.shape != (2, len(classes)) or got.dtype != np.float32 or not np.isfinite(got).all():
        raise engines.unfit(folder, f"an output {got.dtype} {got.shape} for 2 images")
    return model


def _preparation_of_older(shape: tuple[int, ...]) -> ImageKind | None:
    """What was done with files before cards said it, where they have as many channels."""
    try:
        known = ImageKind.of_shape(shape)
    except UnreadableImageError:
        return None
    return replace(known, dark_ground=known.channels == 1)
