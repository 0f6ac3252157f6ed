"""`decision.json`, `model.json`, `examples.json`: the chosen candidate, and the model it became."""

from __future__ import annotations

import base64
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mlpipeline.image_files.kind import ImageKind
from mlpipeline.store.schemas.candidate import TrainingFigures
from mlpipeline.store.schemas.document import Document, Part


class ComparedCandidate(TrainingFigures):
    """A candidate that was compared: its figures, and where it is published.

    Attributes:
        key: Its key: it is published in `candidates/KEY`.
    """

    key: str


class TestFigures(Part):
    """What the chosen candidate achieved on the test split.

    Attributes:
        images: The number of images.
        hits: How many of them it recognized.
        accuracy: The share of hits, 0 to 1.
    """

    __test__: ClassVar[bool] = False  # pytest takes classes that are called so for tests

    images: int
    hits: int
    accuracy: float


class Variant(Part):
    """A model as LiteRT could serve it, measured where it was selected, on one processor.

    Attributes:
        name: `float32`, `int8-dynamic` or `int8-full`.
        bytes: The size of its file; None, as the figures below, where it could not be made.
        milliseconds: What one image takes.
        batch_milliseconds: What 64 images in one request take.
        validation_accuracy: The share of hits on the validation split, 0 to 1.
        agreement: The share of its images that it says the same class of as `float32`, 0 to 1.
        refused: Why it is not served; empty for one that could be.
    """

    name: str
    bytes: int | None = None
    milliseconds: float | None = None
    batch_milliseconds: float | None = None
    validation_accuracy: float | None = None
    agreement: float | None = None
    refused: str = ""


class ServedVariant(Part):
    """What the chosen candidate is served as.

    Attributes:
        engine: What computes it: `litert`; or `tensorflow`, where LiteRT cannot or is not to.
        variant: Which variant it is.
        precision: What was asked for by `serving.precision`.
        reason: Why it is this one.
        variants: All that were made or tried; none where TensorFlow was asked for.
    """

    engine: Literal["litert", "tensorflow"]
    variant: str
    precision: str
    reason: str
    variants: tuple[Variant, ...] = ()


class Decision(Document):
    """The content of `decision.json`.

    Attributes:
        chosen: The name of the chosen candidate.
        reason: Why it was chosen.
        rule: The rule that was applied.
        ranking: The candidates that could be chosen, best first.
        rejected: The candidates that could not, each with the reason.
        name: What the model is called.
        version: The version that the chosen candidate was registered as.
        candidates: All that were compared, by name.
        dataset: The key of the data set: it is published in `datasets/KEY`.
        test: What the chosen one achieved on the test split, as it is served.
        served: What it is served as; None in decisions of earlier releases.
    """

    CALLED: ClassVar[str] = "selection's decision"

    chosen: str
    reason: str
    rule: str
    ranking: tuple[str, ...]
    rejected: dict[str, str]
    name: str
    version: str
    candidates: dict[str, ComparedCandidate]
    dataset: str
    test: TestFigures
    served: ServedVariant | None = None


class ModelCard(Document):
    """The content of `model.json`: a registered version of a model.

    Attributes:
        name: What the model is called.
        version: This version.
        classes: The names of the classes, in the order of the probabilities.
        candidate: The name of the candidate that it is.
        candidate_key: The candidate's key: it is published in `candidates/KEY`.
        dataset_key: The key of the data set that it was trained on.
        synthetic_data: Whether that was made up.
        validation_accuracy: The share of hits on the validation split, 0 to 1.
        test_accuracy: The share of hits on the test split, 0 to 1.
        preparation: How pictures become images for the model, as in its data set's card.
        engine: What it is served by: `litert` its `model.tflite`, `tensorflow` its `saved_model/`.
        variant: Which variant `model.tflite` is.
        engine_reason: Why it is served so.
    """

    CALLED: ClassVar[str] = "model's card"

    name: str
    version: str
    classes: tuple[str, ...]
    candidate: str
    candidate_key: str
    dataset_key: str
    synthetic_data: bool
    validation_accuracy: float
    test_accuracy: float
    preparation: ImageKind | None = None
    engine: Literal["litert", "tensorflow"] = "tensorflow"
    variant: str = "float32"
    engine_reason: str = ""


class Examples(Document):
    """The content of `examples.json`: test images to try a model with, for its page.

    Attributes:
        labels: The class of each, as a place among the model's classes.
        images: Their raw pixels, one image after the other, in base64.
    """

    CALLED: ClassVar[str] = "model's examples"

    labels: tuple[int, ...]
    images: str

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Self:
        """Return images as examples.

        Args:
            images: uint8 `[N, H, W]` or `[N, H, W, C]`.
            labels: int64 `[N]`.
        """
        content = base64.b64encode(images.tobytes()).decode()
        return cls(labels=tuple(labels.tolist()), images=content)
