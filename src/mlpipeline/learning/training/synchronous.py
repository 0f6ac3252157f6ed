"""Synchronous data-parallel training: every worker takes its part of each global batch, the
gradients are summed over all workers, and all of them apply the same update.

A loop of our own under `MultiWorkerMirroredStrategy`, because Keras 3's `fit` does not support it.
The order of the global batches depends on the seed and the step alone, so that a run that was
killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.errors import TrainingError
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.model.export import Predictor
from mlpipeline.learning.training import devices
from mlpipeline.learning.training.checkpoints import Checkpoints
from mlpipeline.learning.training.cluster_spec import ClusterSpec
from mlpipeline.learning.training.history import History
from mlpipeline.learning.training.train_state import TrainState
from mlpipeline.learning.training.worker_group import WorkerGroup
from mlpipeline.plan.config import Candidate, Training
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.candidate import Epoch
from mlpipeline.store.schemas.dataset import DatasetCard

# How long a call of the compiled loop should take: to report, and to stop when asked to, in time.
_CALL_SECONDS = 1.0
_MOST_STEPS_PER_CALL = 500
# The first call also traces the loop and makes the kernels.
FIRST_CALL_SECONDS = 60


class Interrupted(Exception):  # noqa: N818  # it is no error
    """A worker was asked to stop; all have saved and stopped at the same step."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    predictor: Predictor
    parameters: int
    epochs: list[Epoch]
    diverged_at: int | None = None
    """The step at which loss or weights were no longer finite; None for a sound run."""
    sent_bytes_per_step: float | None = None
    """By each worker: the gradients, and what is summed between steps, spread over these. None
    where nothing was left to train, because the last step had been saved."""


class Trainer:
    """One worker's part in training a candidate.

    Args:
        candidate: What to train and how.
        settings: How to carry it out.
        seed: Of the initial weights, the data's order and the augmentation.
        dataset: Folder of a published data set.
        work: Folder for checkpoints and logs, shared by all workers, that outlives this process.
        cluster: This worker's place.
    """

    def __init__(
        self,
        candidate: Candidate,
        settings: Training,
        *,
        seed: int,
        dataset: Path,
        work: Path,
        cluster: ClusterSpec,
    ) -> None:
        self._started = time.monotonic()
        self._candidate, self._settings, self._seed = candidate, settings, seed
        self._dataset, self._work = dataset, work
        self._stop = False

        devices.configure()  # before TensorFlow does anything else, and so is the strategy
        print(f"computing on {devices.name()}", flush=True)
        keras.utils.set_random_seed(seed)
        self.workers = WorkerGroup(
            cluster,
            settings.peer_timeout_seconds,
            communication=settings.communication,
            pack_bytes=settings.pack_bytes,
        )
        # Only now: TensorFlow installs a handler of its own when it makes the strategy.
        signal.signal(signal.SIGTERM, self._request_stop)

        self._card = DatasetCard.load(DatasetFolder(dataset).card)
        self._validation = tfrecords.read_split(dataset, "validation")
        self._state = TrainState(candidate, self._card, self.workers.strategy, self.total_steps)
        self._checkpoints = Checkpoints(
            work / "checkpoints",
            model=self._state.model,
            optimizer=self._state.optimizer,
            step=self._state.step,
            write=self.workers.is_chief,
        )
        self._history = History(work, write=self.workers.is_chief)
        self._gradient_bytes = sum(
            v.value.dtype.size * v.value.shape.num_elements()
            for v in self._state.model.trainable_variables
        )
        self._steps_taken = 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run. An epoch may end within a batch, so that no image is left out."""
        return self._end_of(self._candidate.epochs)

    def run(self) -> Outcome:
        """Train from the newest checkpoint to the end.

        Raises:
            PeerLostError: Another worker died, froze or never came; starting all again resumes.
            Interrupted: A worker got SIGTERM; the state is saved.
            TrainingError: The workers do not agree on where they are.
        """
        start = step = self._restore()
        run_steps = self._compile(iter(self._batches(start)))
        totals = np.zeros(3)  # of the epoch so far: loss, hits, images
        pace = 1
        while step < self.total_steps:
            began, epoch = time.monotonic(), len(self._history.epochs) + 1
            end, checkpoint = self._end_of(epoch), self._checkpoint_after(step)
            count = min(pace, end - step, checkpoint - step)
            with self.workers.waiting(FIRST_CALL_SECONDS if step == start else 0):
                sums = run_steps(tf.constant(count)).numpy()
            elapsed = time.monotonic() - began
            *figures, stops, elapsed = self.workers.sum([*sums, self._stop, elapsed])
            # From the sum, so that it is the same on all workers: they must take the same steps.
            pace = _steps_in_a_call(count, elapsed / self.workers.size)
            totals += figures
            step += count
            self._steps_taken += count
            self.workers.account(count * self._gradient_bytes)
            if not np.isfinite(totals[0]) or (step == end and not self._state.has_finite_weights()):
                return self._outcome(diverged_at=step)
            self._report(step, epoch, totals, figures[2] / (time.monotonic() - began))
            if step == end:
                self._finish_epoch(step, totals)
                totals = np.zeros(3)
            if step in (end, checkpoint) or stops:
                self._save()
            if stops:
                raise Interrupted(f"stopped at step {step} of {self.total_steps}; all is saved")
        if not self.workers.agree(self._state.model.trainable_variables):
            raise TrainingError(
                "the workers end with different weights",
                expected="bit-identical weights, because every update is the same on all of them",
                remedy="check that all workers run the same image and see the same storage",
            )
        return self._outcome()

    def _compile(self, batches: Any) -> Callable[[Any], Any]:
        """Return the compiled loop: so many steps, then the sums of loss, hits and images."""
        state, workers = self._state, self.workers

        def train_step(images: Any, labels: Any) -> Any:
            draw = self._seed + workers.size * state.step + workers.index
            return state.learn(images, labels, draw)

        @tf.function  # type: ignore[untyped-decorator]
        def run_steps(count: Any) -> Any:
            sums = tf.zeros(3)
            for _ in tf.range(count):
                sums += workers.run(train_step, args=next(batches))
            return sums

        return run_steps  # type: ignore[no-any-return]

    def _batches(self, start: int) -> Any:
        shards = self._card.shards["train"]
        return tfrecords.training_batches(
            self._dataset,
            shards=tfrecords.shards_of(self.workers.index, self.workers.size, shards),
            rows_per_shard=self._candidate.batch_size // len(shards),
            seed=self._seed,
            skip_steps=start,
            cache=self._settings.cache,
            cache_folder=self._work / f"cache-{self.workers.index}",
        )

    def _finish_epoch(self, step: int, totals: NDArray[np.float64]) -> None:
        # Batch normalisation's statistics: each worker keeps those of the images that it saw.
        self.workers.average(self._state.model.non_trainable_weights)
        self._state.update_predictor()
        own = slice(self.workers.index, None, self.workers.size)
        figures = self._state.evaluate(self._validation[0][own], self._validation[1][own])
        *validation, cpu = self.workers.sum([*figures, time.process_time()])
        self._history.finish_epoch(
            step,
            training=totals,
            validation=validation,
            learning_rate=self._state.learning_rate(),
            seconds=time.monotonic() - self._started,
            cpu_seconds=cpu,
        )

    def _restore(self) -> int:
        step = self._checkpoints.restore()
        steps = set(self.workers.gather(step))
        if len(steps) > 1:
            raise TrainingError(
                f"the workers restored different checkpoints: of steps {sorted(steps)}",
                expected="one step on all workers",
                remedy=f"give all workers the same storage at {self._work}",
            )
        self._history.resume(step)
        if step:
            print(f"resuming at step {step} of {self.total_steps}", flush=True)
            # At the last step there is nothing left to do but to publish.
            self._state.update_predictor()
        return step

    def _save(self) -> None:
        # So that a resumed run goes on from what an undisturbed one has too.
        self.workers.average(self._state.model.non_trainable_weights)
        self._history.save()
        self._checkpoints.save()

    def _report(self, step: int, epoch: int, totals: NDArray[np.float64], rate: float) -> None:
        if self.workers.is_chief:
            progress.report(
                step,
                self.total_steps,
                epoch=f"{epoch}/{self._candidate.epochs}",
                loss=totals[0] / totals[2],
                accuracy=totals[1] / totals[2],
                images_per_second=round(rate),
            )

    def _outcome(self, diverged_at: int | None = None) -> Outcome:
        sent = self.workers.sent_bytes / self._steps_taken if self._steps_taken else None
        return Outcome(
            self._state.predictor,
            self._state.model.count_params(),
            self._history.epochs,
            diverged_at,
            sent,
        )

    def _end_of(self, epoch: int) -> int:
        return math.ceil(epoch * self._card.counts["train"] / self._candidate.batch_size)

    def _checkpoint_after(self, step: int) -> int:
        interval = self._settings.checkpoint_steps
        return (step // interval + 1) * interval

    def _request_stop(self, *_: object) -> None:
        self._stop = True


def _steps_in_a_call(count: int, seconds: float) -> int:
    """How many steps the next call should take, if the last one took `seconds` for `count`."""
    return min(max(1, round(count * _CALL_SECONDS / seconds)), _MOST_STEPS_PER_CALL)
