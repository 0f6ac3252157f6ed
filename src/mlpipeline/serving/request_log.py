"""A log of requests: a sample of what a model is asked and says, for drift and for labelling.

A request pays for a copy of its sampled images and no more: a thread of its own makes shards of
them. Where that does not keep up, or the disk does not, images are dropped, and the drops counted:
no answer waits for the log.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prometheus_client.metrics_core import CounterMetricFamily, Metric

from mlpipeline.plan.config import RequestLogging
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.model import PublishedModel
from mlpipeline.store import requests

_log = logging.getLogger(__name__)

_SHARD_IMAGES = 1_000
_SHARD_BYTES = 8 << 20  # of images
_SHARD_SECONDS = 60.0  # a killed replica loses what it was asked in so many seconds
_HELD_BYTES = 32 << 20  # of images that are not written yet
_BURST_SECONDS = 60  # of an hour's allowance, so many may be spent at once
_HOUR_SECONDS = 3_600

REASONS = ("rate", "queue", "write")
"""Why sampled images are not logged: too many in this hour, too many that wait, no place."""


class _Sample(NamedTuple):
    seconds: float
    images: Images
    probabilities: Probabilities


class RequestLog:
    """Writes a sample of what a version is asked; Prometheus' client collects how much of it."""

    def __init__(
        self, folder: Path, name: str, model: PublishedModel, settings: RequestLogging
    ) -> None:
        """Begin to write.

        Args:
            folder: The folder of the model's log: of all of its versions.
            name: What the model is called.
            model: The version that answers.
            settings: How much to write.
        """
        self._folder = folder
        self._name = name
        self._model = model
        self._settings = settings
        self._random = np.random.default_rng()
        self._lock = threading.Lock()  # of what follows, held for a moment only
        self._burst = max(1.0, settings.images_per_hour * _BURST_SECONDS / _HOUR_SECONDS)
        self._allowed, self._since = self._burst, time.monotonic()
        self._held = 0
        self._logged = 0
        self._dropped = Counter(dict.fromkeys(REASONS, 0))
        self._samples: queue.SimpleQueue[_Sample | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._write_for_ever, name="request-log", daemon=True
        )
        self._thread.start()

    def observe(self, images: Images, probabilities: Probabilities, _: Sequence[float]) -> None:
        """Take a sample of a batch.

        Args:
            images: The images.
            probabilities: What the model says of them.
        """
        rows = np.flatnonzero(self._random.random(len(images)) < self._settings.share)
        if not len(rows):
            return
        with self._lock:
            wanted = rows[: self._allowance(len(rows))]
            self._dropped["rate"] += len(rows) - len(wanted)
            room = (_HELD_BYTES - self._held) // images[0].nbytes
            taken = wanted[: max(0, room)]
            self._dropped["queue"] += len(wanted) - len(taken)
            self._held += len(taken) * images[0].nbytes
        if len(taken):
            self._samples.put(_Sample(time.time(), images[taken], probabilities[taken]))

    def close(self) -> None:
        """Write what was sampled, then end the thread."""
        self._samples.put(None)
        self._thread.join()

    def collect(self) -> list[Metric]:
        """Return how many images were logged, and how many sampled ones were not, and why.

        Prometheus' client calls it.
        """
        about = {"model": self._name, "version": self._model.version}
        logged = CounterMetricFamily(
            "mlpipeline_logged_images", "Images in the log of requests.", labels=list(about)
        )
        logged.add_metric(list(about.values()), self._logged)
        dropped = CounterMetricFamily(
            "mlpipeline_log_dropped_images",
            "Images that were sampled for the log of requests, and are not in it.",
            labels=[*about, "reason"],
        )
        for reason in REASONS:
            dropped.add_metric([*about.values(), reason], self._dropped[reason])
        return [logged, dropped]

    def _allowance(self, wanted: int) -> int:
        """Return how many of some images are allowed now, and count them."""
        now = time.monotonic()
        per_second = self._settings.images_per_hour / _HOUR_SECONDS
        self._allowed = min(self._burst, self._allowed + (now - self._since) * per_second)
        self._since = now
        allowed = min(wanted, int(self._allowed))
        self._allowed -= allowed
        return allowed

    def _write_for_ever(self) -> None:
        is_over = False
        while not is_over:
            samples, is_over = self._next_samples()
            if samples:
                self._write(samples)

    def _next_samples(self) -> tuple[list[_Sample], bool]:
        """Wait until there is enough for a shard, or some for long enough.

        Returns:
            The samples, and whether they are the last ones.
        """
        first = self._samples.get()
        if first is None:
            return [], True
        samples, end = [first], time.monotonic() + _SHARD_SECONDS
        images, size = len(first.images), first.images.nbytes
        with contextlib.suppress(queue.Empty):
            while images < _SHARD_IMAGES and size < _SHARD_BYTES:
                sample = self._samples.get(timeout=max(0.0, end - time.monotonic()))
                if sample is None:
                    return samples, True
                samples.append(sample)
                images += len(sample.images)
                size += sample.images.nbytes
        return samples, False

    def _write(self, samples: Sequence[_Sample]) -> None:
        count = sum(len(sample.images) for sample in samples)
        try:
            requests.make_private(self._folder.parent)
            requests.write(self._folder / self._model.version, self._shard_of(samples))
            requests.keep_within(self._folder, self._settings.bytes)
        except Exception as error:  # a full disk, most of all; the next shard may find room
            _log.warning("%d images of requests are not logged: %s", count, error)
            with self._lock:
                self._dropped["write"] += count
        else:
            self._logged += count
        with self._lock:
            self._held -= sum(sample.images.nbytes for sample in samples)

    def _shard_of(self, samples: Sequence[_Sample]) -> requests.Shard:
        images = np.concatenate([sample.images for sample in samples])
        times = np.repeat(
            [sample.seconds for sample in samples], [len(sample.images) for sample in samples]
        )
        return requests.Shard(
            self._model.version,
            self._model.classes,
            times,
            images,
            np.concatenate([sample.probabilities for sample in samples]),
            requests.keys(images),
        )
