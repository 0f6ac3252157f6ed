"""What computes: a stored model as a function of an array of images.

    model.tflite  ──► litert         a small interpreter, ready at once
    saved_model/  ──► saved_model    TensorFlow, for what LiteRT cannot do, or if it is asked for

Selection measures a model by the engine that is to serve it, so that what is served is exactly what
was selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mlpipeline import processors
from mlpipeline.errors import ServingError
from mlpipeline.store.layout import ModelFolder

Kind = Literal["litert", "tensorflow"]


class Engine(Protocol):
    """A model that is ready to compute."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image."""

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map images to probabilities; any number of threads may call it at a time.

        Args:
            images: uint8 (N, *input_shape).

        Returns:
            float32 (N, classes).
        """


def load(model: ModelFolder, kind: Kind, *, is_alone: bool = False) -> Engine:
    """Load a registered version of a model.

    Args:
        model: Where it is published.
        kind: Which engine it is to be served by, as its card says.
        is_alone: Whether this process does nothing else with TensorFlow: then each call may be kept
            to one processor, see `saved_model.use_available_processors`.

    Raises:
        ServingError: It is damaged, or no such model.
    """
    # Each is a library that a process with the other one does without.
    if kind == "litert":
        from mlpipeline.engines import litert

        return litert.LiteRt(model.tflite)
    from mlpipeline.engines import saved_model

    if is_alone:
        saved_model.use_available_processors()
    return saved_model.SavedModel(model.saved_model)


def predict_batches(
    engine: Engine, batches: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Compute batch after batch, on all processors: an engine's call keeps to one.

    Args:
        engine: What computes.
        batches: Images, uint8 (N, *input_shape), and their labels, (N,).

    Yields:
        Probabilities, float32 (N, classes), and the labels.
    """
    callers = processors.count()
    with ThreadPoolExecutor(callers) as threads:
        for images, labels in batches:
            parts = threads.map(engine.predict, np.array_split(images, callers))
            yield np.concatenate(list(parts)), labels


def unfit(path: Any, got: str) -> ServingError:
    """Return the error of a file that is a model, but none that maps images to probabilities.

    Args:
        path: Where the model is.
        got: What it has instead.
    """
    return ServingError(
        f"{path} has {got}",
        expected="a signature `serving_default` that maps uint8 `images` (N, ...) to float32 "
        "`probabilities` (N, classes)",
        remedy="export the model with the training step's exporter and publish it again",
    )
