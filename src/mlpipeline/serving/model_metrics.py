"""Metrics of a model, beside KServe's of requests: what it says, and what it is asked.

A request pays for a copy of its images and no more, a microsecond: a thread adds up all batches of
a quarter of a second together, with NumPy. Names and units are as Prometheus has them:
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from mlpipeline.learning.data import statistics
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel

_log = logging.getLogger(__name__)

_SECONDS = 0.25
_HELD_BYTES = 16 << 20  # of images that are not added up yet

_PREFIX = "mlpipeline_"
_ABOUT = {
    "model": "What is served, and by what.",
    "predictions": "Images by the class that was predicted.",
    "prediction_confidence_ratio": "Probability of the class that was predicted.",
    "image_mean_ratio": "Mean of an image's pixels: 0 is black, 1 white.",
    "image_contrast_ratio": "Standard deviation of an image's pixels, 0.5 at most.",
    "blank_images": "Images that are all of one colour.",
    "batch_images": "Images that went through the model at once.",
    "queue_seconds": "How long a request, or a piece of a large one, waited for its batch.",
    "queue_requests": "Requests, or pieces of large ones, that wait for a batch.",
}

_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_MEAN = tuple(tenth / 10 for tenth in range(1, 11))
_CONTRAST = tuple(twentieth / 20 for twentieth in range(1, 11))  # half is the most there is
_QUEUE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Batch(NamedTuple):
    images: Images
    probabilities: Probabilities
    waited: Sequence[float]


class ModelMetrics:
    """Counts what a model is asked and says; Prometheus' client collects it."""

    def __init__(
        self,
        name: str,
        model: PublishedModel,
        *,
        max_batch: int,
        queue_length: Callable[[], int],
    ) -> None:
        """Begin with nothing counted.

        Args:
            name: What the model is called in URLs.
            model: The version that predicts.
            max_batch: The most images that go through it at once.
            queue_length: Returns how many requests wait.
        """
        self._about = {"model": name, "version": model.version}
        self._model = model
        self._queue_length = queue_length
        self._by_class = np.zeros(len(model.classes), np.int64)
        self._blank = 0
        self._confidence = _Histogram(_CONFIDENCE)
        self._mean = _Histogram(_MEAN)
        self._contrast = _Histogram(_CONTRAST)
        self._images = _Histogram([2.0**power for power in range((max_batch - 1).bit_length() + 1)])
        self._waited = _Histogram(_QUEUE_SECONDS)
        self._batches: list[_Batch] = []  # not added up yet
        self._held = 0  # bytes of their images
        self._new = threading.Lock()  # of these two, held for a moment only
        self._adding = threading.Lock()  # of all figures
        threading.Thread(target=self._add_up_for_ever, name="model-metrics", daemon=True).start()

    def observe(
        self, images: Images, probabilities: Probabilities, waited: Sequence[float]
    ) -> None:
        """Count a batch, soon.

        Args:
            images: The images.
            probabilities: What the model says of them.
            waited: How many seconds each of its requests waited.
        """
        batch = _Batch(images.copy(), probabilities, waited)
        with self._new:
            self._batches.append(batch)
            self._held += batch.images.nbytes
        if self._held > _HELD_BYTES:  # images come faster than the thread gets its turn
            self.add_up()

    def add_up(self) -> None:
        """Add the batches to the figures that were observed since the last time."""
        with self._adding:
            with self._new:
                batches, self._batches, self._held = self._batches, [], 0
            if batches:
                self._add(batches)

    def collect(self) -> list[Metric]:
        """Return all metrics: Prometheus' client calls it.

        See https://prometheus.github.io/client_python/collector/custom/.
        """
        self.add_up()
        with self._adding:
            return [
                self._info(),
                self._predictions(),
                self._single(CounterMetricFamily, "blank_images", self._blank),
                self._confidence.family("prediction_confidence_ratio", self._about),
                self._mean.family("image_mean_ratio", self._about),
                self._contrast.family("image_contrast_ratio", self._about),
                self._images.family("batch_images", self._about),
                self._waited.family("queue_seconds", self._about),
                self._single(GaugeMetricFamily, "queue_requests", self._queue_length()),
            ]

    def _info(self) -> Metric:
        about = self._about | {"engine": self._model.engine, "precision": self._model.variant}
        return InfoMetricFamily(*_named("model"), about)

    def _predictions(self) -> Metric:
        labels = [*self._about, "class"]
        family = CounterMetricFamily(*_named("predictions"), labels=labels)
        counts = self._by_class.tolist()
        for label, count in zip(self._model.classes, counts, strict=True):
            family.add_metric([*self._about.values(), label], count)
        return family

    def _single(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        value: int,
    ) -> Metric:
        family = kind(*_named(name), labels=list(self._about))
        family.add_metric(list(self._about.values()), value)
        return family

    def _add(self, batches: Sequence[_Batch]) -> None:
        probabilities = np.concatenate([batch.probabilities for batch in batches])
        found = np.bincount(probabilities.argmax(axis=1), minlength=len(self._by_class))
        self._by_class += found
        self._confidence.add(np.minimum(probabilities.max(axis=1), 1))  # float32 may be above it
        self._images.add([len(batch.images) for batch in batches])
        self._waited.add([seconds for batch in batches for seconds in batch.waited])
        pixels = statistics.measure(np.concatenate([batch.images for batch in batches]))
        self._mean.add(pixels.mean)
        self._contrast.add(pixels.contrast)
        self._blank += int(pixels.is_blank.sum())

    def _add_up_for_ever(self) -> None:
        while True:
            time.sleep(_SECONDS)
            try:
                self.add_up()
            except Exception:  # the next ones are others
                _log.exception("some batches are not in the metrics of the model")


class _Histogram:
    """Counts of values by upper bound, added to by the array."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)  # the last one is of what is above
        self._sum = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        values = np.asarray(values, np.float64)
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(np.nansum(values))

    def family(self, name: str, labels: dict[str, str]) -> Metric:
        family = HistogramMetricFamily(*_named(name), labels=list(labels))
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        buckets = list(zip(bounds, np.cumsum(self._counts).tolist(), strict=True))
        family.add_metric(list(labels.values()), buckets, self._sum)
        return family


def _named(name: str) -> tuple[str, str]:
    """Return a metric's whole name, and what it says."""
    return f"{_PREFIX}{name}", _ABOUT[name]
