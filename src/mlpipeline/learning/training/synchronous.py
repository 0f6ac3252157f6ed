"""Synchronous data-parallel training: one update, of a global batch, for all workers.

Every worker takes its part of each global batch, the gradients are summed over all workers
(all-reduce), and all of them apply the same update. The loop is our own, under
`MultiWorkerMirroredStrategy`, because Keras 3's `fit` does not support it. The order of the global
batches depends on the seed and the step alone, so that a run that was killed and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.errors import TrainingError
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.training import devices
from mlpipeline.learning.training.cluster_spec import ClusterSpec
from mlpipeline.learning.training.journal import Journal
from mlpipeline.learning.training.run import (
    FIRST_CALL_SECONDS,
    Attempt,
    Interrupted,
    Job,
    Outcome,
    TrainingData,
)
from mlpipeline.learning.training.train_state import TrainState
from mlpipeline.learning.training.worker_group import WorkerGroup

# How long a call of the compiled loop should take: to report, and to stop when asked to, in time.
_CALL_SECONDS = 1.0
_MOST_STEPS_PER_CALL = 500
# After the last exchange the chief needs a moment to learn that it was the last.
_LAST_EXCHANGE_SECONDS = 1

_log = logging.getLogger(__name__)


class Trainer:
    """One worker's part in training a candidate.

    Args:
        job: What to train.
        workers: The workers, this one among them, connected.
        data: The data set that `job` names.
        state: The candidate's weights, in the scope of the workers' strategy.
        attempt: This process's attempt at the run.
    """

    def __init__(
        self,
        job: Job,
        *,
        workers: WorkerGroup,
        data: TrainingData,
        state: TrainState,
        attempt: Attempt,
    ) -> None:
        self._job, self._data, self._state, self._attempt = job, data, state, attempt
        self._workers = workers
        self._validation = data.validation.share(workers.index, workers.size)
        self._validation.hold_if_small()
        self._total_steps = end_of_epoch(job.candidate.epochs, job, data)
        self._journal = Journal(
            job,
            state=state,
            attempt=attempt,
            total_steps=self._total_steps,
            write=workers.is_chief,
        )
        self._gradient_bytes = sum(
            v.value.dtype.size * v.value.shape.num_elements()
            for v in state.model.trainable_variables
        )
        self._steps_taken = 0

    @classmethod
    def connect(cls, job: Job, cluster: ClusterSpec) -> Self:
        """Find the other workers, and make the model together with them.

        Args:
            job: What to train.
            cluster: The workers, and which one this process is.

        Raises:
            PeerLostError: A worker did not come in time.
            ConfigurationError: The devices that the settings ask for are not there.
        """
        attempt = Attempt()
        devices.configure()  # before TensorFlow does anything else, and so is the strategy
        _log.info("computing on %s", devices.name())
        keras.utils.set_random_seed(job.seed)
        workers = WorkerGroup.connect(
            cluster,
            job.settings.peer_timeout_seconds,
            communication=job.settings.communication,
            pack_bytes=job.settings.pack_bytes,
        )
        attempt.stop_on_sigterm()
        data = TrainingData.load(job.dataset)
        total_steps = end_of_epoch(job.candidate.epochs, job, data)
        state = TrainState(job.candidate, data.card, workers.strategy, total_steps)
        return cls(job, workers=workers, data=data, state=state, attempt=attempt)

    def run(self) -> Outcome:
        """Train from the newest checkpoint to the end.

        Raises:
            PeerLostError: Another worker died or froze; starting all again resumes.
            Interrupted: A worker got SIGTERM; the state is saved.
            TrainingError: The workers do not agree on where they are.
        """
        start = step = self._restore()
        run_steps = self._compile(iter(self._batches(start)))
        totals = np.zeros(3)  # of the epoch so far: loss, hits, images
        pace = 1
        while step < self._total_steps:
            began, epoch = time.monotonic(), self._journal.current_epoch
            end = end_of_epoch(epoch, self._job, self._data)
            checkpoint = self._checkpoint_after(step)
            count = min(pace, end - step, checkpoint - step)
            with self._workers.waiting(FIRST_CALL_SECONDS if step == start else 0):
                sums = run_steps(tf.constant(count)).numpy()
            elapsed = time.monotonic() - began
            shared = [*sums, self._attempt.stop_requested, elapsed]
            *figures, stops, elapsed = self._workers.sum(shared)
            # From the sum, so that it is the same on all workers: they must take the same steps.
            pace = _steps_in_a_call(count, elapsed / self._workers.size)
            totals += figures
            step += count
            self._steps_taken += count
            self._workers.account(count * self._gradient_bytes)
            if not np.isfinite(totals[0]) or (step == end and not self._state.has_finite_weights()):
                return self._outcome(diverged_at=step)
            self._journal.report(step, epoch, totals, figures[2] / (time.monotonic() - began))
            if step == end:
                self._finish_epoch(step, totals)
                totals = np.zeros(3)
            if step in (end, checkpoint) or stops:
                self._save()
            if stops:
                raise Interrupted(f"stopped at step {step} of {self._total_steps}; all is saved")
        self._check_agreement()
        return self._outcome()

    def finish(self) -> None:
        """Wait until all workers have come here: who left earlier would end them in an error."""
        self._workers.gather(1)
        if self._workers.size > 1:
            time.sleep(_LAST_EXCHANGE_SECONDS)

    def _compile(self, batches: Any) -> Callable[[Any], Any]:
        """Return the compiled loop: it takes a number of steps, and returns float32 `[3]`.

        These are the sums of loss, hits and images over all of the worker's steps.
        """
        state, workers = self._state, self._workers

        def train_step(images: Any, labels: Any) -> Any:
            draw = self._job.seed + workers.size * state.step + workers.index
            return state.learn(images, labels, draw)

        @tf.function  # type: ignore[untyped-decorator]
        def run_steps(count: Any) -> Any:
            sums = tf.zeros(3)
            for _ in tf.range(count):
                sums += workers.run(train_step, args=next(batches))
            return sums

        return run_steps  # type: ignore[no-any-return]

    def _batches(self, start: int) -> Any:
        shards = self._data.card.shards["train"]
        return tfrecords.training_batches(
            self._job.dataset,
            shards=tfrecords.shards_of(self._workers.index, self._workers.size, shards),
            rows_per_shard=self._job.candidate.batch_size // len(shards),
            seed=self._job.seed,
            skip_steps=start,
            cache=self._job.settings.cache,
            cache_folder=self._job.work / f"cache-{self._workers.index}",
        )

    def _finish_epoch(self, step: int, totals: NDArray[np.float64]) -> None:
        # Batch normalisation's statistics: each worker keeps those of the images that it saw.
        self._workers.average(self._state.model.non_trainable_weights)
        self._state.update_exportable()
        averaged = self._journal.is_last_epoch
        figures = self._state.evaluate(self._validation, averaged=averaged)
        *validation, cpu = self._workers.sum([*figures, time.process_time()])
        self._journal.finish_epoch(
            step,
            training=totals,
            validation=validation,
            learning_rate=self._state.learning_rate(),
            cpu_seconds=cpu,
        )

    def _restore(self) -> int:
        step = self._journal.restore()
        steps = set(self._workers.gather(step))
        if len(steps) > 1:
            raise TrainingError(
                f"the workers restored different checkpoints: of steps {sorted(steps)}",
                expected="one step on all workers",
                remedy=f"give all workers the same storage at {self._job.work}",
            )
        self._journal.resume(step)
        if step:
            # At the last step there is nothing left to do but to publish.
            self._state.update_exportable()
        return step

    def _check_agreement(self) -> None:
        if not self._workers.agree(self._state.model.trainable_variables):
            raise TrainingError(
                "the workers end with different weights",
                expected="bit-identical weights, because every update is the same on all of them",
                remedy="check that all workers run the same image and see the same storage",
            )

    def _save(self) -> None:
        # So that a resumed run goes on from what an undisturbed one has too.
        self._workers.average(self._state.model.non_trainable_weights)
        self._journal.save()

    def _outcome(self, diverged_at: int | None = None) -> Outcome:
        sent = self._workers.sent_bytes / self._steps_taken if self._steps_taken else None
        return self._journal.outcome(diverged_at=diverged_at, sent_bytes_per_step=sent)

    def _checkpoint_after(self, step: int) -> int:
        interval = self._job.settings.checkpoint_steps
        return (step // interval + 1) * interval


def end_of_epoch(epoch: int, job: Job, data: TrainingData) -> int:
    """Return the step after which so many epochs are done.

    An epoch may end within a batch, so that no image is left out. It has a step of its own, also
    where there are fewer images than a batch has: then it takes some of them twice.
    """
    return max(epoch, math.ceil(epoch * data.card.counts["train"] / job.candidate.batch_size))


def _steps_in_a_call(count: int, seconds: float) -> int:
    """How many steps the next call should take, if the last one took `seconds` for `count`."""
    return min(max(1, round(count * _CALL_SECONDS / seconds)), _MOST_STEPS_PER_CALL)
