"""A published model as KServe serves it: what a replica answers with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from prometheus_client.registry import Collector

from mlpipeline import processors
from mlpipeline.learning.data.images import rows_in_a_batch
from mlpipeline.serving import messages
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.batching import Batcher
from mlpipeline.serving.http_replica import TIMING
from mlpipeline.serving.images_model import ImagesModel
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.model_metrics import ModelMetrics
from mlpipeline.serving.trial import Trial
from mlpipeline.serving.trial_metrics import TrialMetrics


class BatchObserver(Collector, Protocol):
    """What sees each batch, and has metrics of its own."""

    def observe(
        self, images: Images, probabilities: Probabilities, waited: Sequence[float], /
    ) -> None:
        """See a batch: an observer as `batching.Observer` says."""


class Predictor(ImagesModel):
    """Serves one `PublishedModel` under a name: KServe's predictor."""

    def __init__(
        self, name: str, model: PublishedModel, *, max_batch: int = 64, metrics: bool = True
    ) -> None:
        """Make a predictor that is ready.

        Args:
            name: What the model is called in URLs.
            model: What predicts.
            max_batch: The most images that go through the model at once; of large ones fewer.
            metrics: Whether to count what it says, for `/metrics`.
        """
        super().__init__(name)
        self._model = model
        threads = processors.count()
        rows = rows_in_a_batch(model.input_shape, max_batch)
        self._batcher = Batcher(model.predict, max_batch=rows, threads=threads)
        self._batcher.measure(np.zeros((1, *model.input_shape), np.uint8))
        self._collectors: list[Collector] = []
        self.trial: Trial | None = None
        """What it tries another version on requests by, if it does."""
        if metrics:
            length = self._batcher.queue_length
            self.add_observer(ModelMetrics(name, model, max_batch=rows, queue_length=length))
            self._collectors.append(TrialMetrics(name, lambda: self.trial))
        self.ready = True

    def add_observer(self, observer: BatchObserver) -> None:
        """Show somebody each batch from now on, and tell at `/metrics` what they collect."""
        self._batcher.add_observer(observer.observe)
        self._collectors.append(observer)

    @property
    def collectors(self) -> Sequence[Collector]:
        """What `/metrics` tells of this model besides the times of its requests."""
        return self._collectors

    def metadata(self) -> dict[str, Any]:
        """Return a new dict of the model's metadata."""
        return messages.metadata(
            self.name,
            version=self._model.version,
            digest=self._model.digest,
            classes=self._model.classes,
            shape=self._model.input_shape,
            platform=self._model.platform,
        )

    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one image."""
        return self._model.input_shape

    async def classify(
        self, images: Images, response_headers: dict[str, str] | None, *, asked: str | None
    ) -> tuple[Probabilities, str]:
        """Compute the probabilities of images, in batches with those of other requests.

        Args:
            images: uint8 (N, *input_shape).
            response_headers: They get how long it took, or who has answered, where it was another
                version.
            asked: The version that the request is for: no other one is tried on it.

        Returns:
            The probabilities, float32 (N, classes), and the version of the model.
        """
        if self.trial and not asked:
            return await self.trial.answer(images, response_headers)
        began = time.monotonic()
        probabilities = await self.compute(images)
        if response_headers is not None:
            milliseconds = (time.monotonic() - began) * 1000
            response_headers[TIMING] = f"compute;dur={milliseconds:.3f}"
        return probabilities, self.version

    async def compute(self, images: Images) -> Probabilities:
        """Compute the probabilities of images by this version, whatever is tried.

        Args:
            images: uint8 (N, *input_shape).
        """
        return await self._batcher.run(images)

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return len(self._model.classes)

    @property
    def version(self) -> str:
        """The version that it serves."""
        return self._model.version
