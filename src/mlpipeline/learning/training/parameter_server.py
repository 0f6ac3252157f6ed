"""Asynchronous data-parallel training: no worker waits for another.

Parameter servers hold the weights. Every worker reads them, computes the gradient of a batch of its
own, and has them updated.

The chief hands out the work: one shard's rows of one epoch at a time, to whichever worker is free.
So a slow worker delays nobody, and one that dies costs its piece, which another does again.

Guaranteed: each image is used in each epoch, once if no worker dies, and a checkpoint is of a
moment at which no piece was half done. Not guaranteed: any order among the workers' updates, so
that two runs differ, also a resumed one from one that was not disturbed; and after a worker's death
some images of its piece were used twice.

Li et al., Scaling Distributed Machine Learning with the Parameter Server, OSDI 2014.
https://www.tensorflow.org/tutorials/distribute/parameter_server_training
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from mlpipeline import processors
from mlpipeline.errors import PeerLostError, TrainingError
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.training import devices
from mlpipeline.learning.training.cluster_spec import ParameterServerSpec
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
from mlpipeline.learning.training.worker_group import waiting_for
from mlpipeline.store.schemas.dataset import Shard

_POLL_SECONDS = 0.1
_REPORT_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """The rows of one shard in one epoch: what a worker is given at a time."""

    shard: Shard
    epoch: int
    """The epoch's number, from 0 on."""
    begin: int
    """Number of its first step, as if all pieces were done one after the other."""
    end: int


def schedule(shards: Sequence[Shard], *, epochs: int, batch_size: int, seed: int) -> list[Piece]:
    """Return all pieces of a run, in the order in which they are handed out.

    Every epoch has all shards, in an order of its own. The last batch of a piece may be smaller.
    """
    pieces: list[Piece] = []
    step = 0
    for epoch in range(epochs):
        for index in np.random.default_rng([seed, epoch]).permutation(len(shards)):
            begin, step = step, step + math.ceil(shards[index].count / batch_size)
            pieces.append(Piece(shards[index], epoch, begin, step))
    return pieces


def until_checkpoint(pieces: Sequence[Piece], interval: int) -> list[Piece]:
    """Return those of the next pieces that are done before a checkpoint.

    That is due at the end of an epoch, and after as many pieces as have `interval` steps.
    """
    epoch, begin = pieces[0].epoch, pieces[0].begin
    return list(takewhile(lambda p: p.epoch == epoch and p.begin < begin + interval, pieces))


class Chief:
    """The chief's part in training a candidate; the other processes are `Helper`s.

    Args:
        job: What to train; every update is of `batch_size` images.
        cluster: All processes.
        coordinator: TensorFlow's `ClusterCoordinator`, which gives work to the workers.
        data: The data set that `job` names.
        state: The candidate's weights, on the parameter servers.
        sums: Loss, hits and images of the epoch so far, a float64 `[3]` variable beside them.
        attempt: This process's attempt at the run.
    """

    def __init__(
        self,
        job: Job,
        cluster: ParameterServerSpec,
        *,
        coordinator: Any,
        data: TrainingData,
        state: TrainState,
        sums: Any,
        attempt: Attempt,
    ) -> None:
        self._job, self._cluster, self._coordinator = job, cluster, coordinator
        self._data, self._state, self._sums, self._attempt = data, state, sums, attempt
        data.validation.hold_if_small()
        self._pieces = _schedule_of(job, data)
        self._total_steps = self._pieces[-1].end  # if no piece has to be done again
        self._allowance = FIRST_CALL_SECONDS  # until the first step: it is being compiled
        self._reported = (time.monotonic(), 0)  # when, and at which step
        self._train_piece = self._compile(coordinator.strategy)
        self._journal = Journal(
            job, state=state, attempt=attempt, total_steps=self._total_steps, write=True
        )

    @classmethod
    def connect(cls, job: Job, cluster: ParameterServerSpec) -> Self:
        """Find the workers and the parameter servers, and make the model on these.

        Args:
            job: What to train.
            cluster: All processes.

        Raises:
            PeerLostError: One of them did not come in time.
            ConfigurationError: There is a GPU, and TensorFlow cannot use it.
        """
        attempt = Attempt()
        devices.configure()
        keras.utils.set_random_seed(job.seed)
        _log.info(
            "waiting at most %d s for all of %s",
            job.settings.peer_timeout_seconds,
            _peers(cluster),
        )
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster.addresses()),
            task_type="chief",
            task_id=0,
            rpc_layer="grpc",
        )
        with _waiting(job, cluster):
            strategy = tf.distribute.ParameterServerStrategy(resolver)
            coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        attempt.stop_on_sigterm()
        data = TrainingData.load(job.dataset)
        with _waiting(job, cluster, FIRST_CALL_SECONDS):
            total_steps = _schedule_of(job, data)[-1].end
            state = TrainState(job.candidate, data.card, strategy, total_steps)
            with strategy.scope():
                sums = tf.Variable(tf.zeros(3, tf.float64), trainable=False)
        return cls(
            job,
            cluster,
            coordinator=coordinator,
            data=data,
            state=state,
            sums=sums,
            attempt=attempt,
        )

    def run(self) -> Outcome:
        """Have the workers train from the newest checkpoint to the end.

        Raises:
            PeerLostError: A parameter server died, or no worker is left; starting again resumes.
            Interrupted: The chief got SIGTERM; what is newer than the last checkpoint is lost.
        """
        step = self._restore()
        remaining = [piece for piece in self._pieces if piece.begin >= step]
        while remaining:
            pieces = until_checkpoint(remaining, self._job.settings.checkpoint_steps)
            remaining = remaining[len(pieces) :]
            is_finite = self._train(pieces)
            step = pieces[-1].end
            with self._waiting():
                self._state.step.assign(step)  # a piece that was done again has been counted twice
                is_finite = is_finite and self._state.has_finite_weights()
            if not is_finite:
                return self._journal.outcome(diverged_at=step)
            if not remaining or remaining[0].epoch > pieces[-1].epoch:
                self._finish_epoch(step)
            with self._waiting():
                self._journal.save()
        return self._journal.outcome()

    def finish(self) -> None:
        """Return at once: the others see by themselves that the result is published."""

    def _restore(self) -> int:
        with self._waiting():
            step = self._journal.restore()
        self._journal.resume(step)
        self._reported = (time.monotonic(), step)
        if step:
            with self._waiting():  # at the last step there is nothing left to do but to publish
                self._state.update_exportable()
        return step

    def _train(self, pieces: Sequence[Piece]) -> bool:
        """Have pieces trained on, and wait until all are; return whether the loss is finite."""
        for piece in pieces:
            self._hand_out(piece)
        step, moved = pieces[0].begin, time.monotonic()
        while not self._are_done():
            if self._attempt.stop_requested:
                raise Interrupted(f"stopped; the newest checkpoint is of step {pieces[0].begin}")
            time.sleep(_POLL_SECONDS)
            before, (step, sums) = step, self._figures()
            now = time.monotonic()
            if step != before:
                moved, self._allowance = now, 0
            elif now - moved > self._job.settings.peer_timeout_seconds + self._allowance:
                raise PeerLostError(
                    f"no worker of {_peers(self._cluster)} took a step for {now - moved:.0f} s",
                    expected="that one at least goes on",
                    remedy="start again what has ended: it resumes from the newest checkpoint",
                )
            if not np.isfinite(sums[0]):
                return False
            self._report(min(step, pieces[-1].end), pieces[-1].epoch + 1, sums)
        return bool(np.isfinite(self._figures()[1][0]))

    def _hand_out(self, piece: Piece) -> None:
        shard = piece.shard
        values = (shard.count, shard.index, piece.epoch, piece.begin)
        self._coordinator.schedule(
            self._train_piece,
            args=(
                tf.constant(str(self._job.dataset / shard.name)),
                *(tf.constant(value, tf.int64) for value in values),
            ),
        )

    def _are_done(self) -> bool:
        with self._waiting():
            return bool(self._coordinator.done())  # raises what a piece has failed with

    def _figures(self) -> tuple[int, Any]:
        """The number of steps, and the sums of the epoch so far."""
        with self._waiting():
            return int(self._state.step.numpy()), self._sums.numpy()

    def _compile(self, strategy: Any) -> Callable[..., None]:
        """Return what a worker does with a piece."""
        state, sums = self._state, self._sums
        shape, rows, seed = self._data.card.shape, self._job.candidate.batch_size, self._job.seed

        def train_step(images: Any, labels: Any, draw: Any) -> None:
            # The optimizer's own count loses what workers add at the same moment, and the learning
            # rate and Adam's corrections follow from it. The step is added to atomically.
            state.optimizer.iterations.assign(state.step)
            sums.assign_add(tf.cast(state.learn(images, labels, draw), tf.float64))

        @tf.function  # type: ignore[untyped-decorator]
        def train_piece(path: Any, count: Any, index: Any, epoch: Any, begin: Any) -> None:
            batches = iter(
                tfrecords.shard_batches(
                    path, count, index, epoch, shape=shape, rows=rows, seed=seed
                )
            )
            for number in tf.range(tf.cast(tf.math.ceil(count / rows), tf.int64)):
                images, labels = next(batches)
                strategy.run(train_step, args=(images, labels, seed + begin + number))

        return train_piece  # type: ignore[no-any-return]

    def _finish_epoch(self, step: int) -> None:
        with self._waiting():
            self._state.update_exportable()
            sums, rate = self._sums.numpy(), self._state.learning_rate()
            self._sums.assign(tf.zeros(3, tf.float64))
        averaged = self._journal.is_last_epoch
        self._journal.finish_epoch(
            step,
            training=sums,
            validation=self._state.evaluate(self._data.validation, averaged=averaged),
            learning_rate=rate,
        )

    def _report(self, step: int, epoch: int, sums: Any) -> None:
        now, (then, before) = time.monotonic(), self._reported
        if now - then < _REPORT_SECONDS or not sums[2]:
            return
        self._reported = (now, step)
        rate = (step - before) * self._job.candidate.batch_size / (now - then)
        self._journal.report(step, epoch, sums, rate)

    def _waiting(self) -> AbstractContextManager[None]:
        return _waiting(self._job, self._cluster)


class Helper:
    """A worker or a parameter server: it does what the chief asks for.

    The chief may go and come back meanwhile: its successor finds this process as it is.

    Args:
        cluster: All processes, and which one this is.
    """

    def __init__(self, cluster: ParameterServerSpec) -> None:
        self._cluster = cluster

    def serve(self, result: Path, *, seconds: int) -> None:
        """Start TensorFlow's server, and return when the chief has published its result.

        Args:
            result: What the chief publishes last, on storage that both see.
            seconds: How long to wait for it.

        Raises:
            TrainingError: It was not there in time.
            ConfigurationError: There is a GPU, and TensorFlow cannot use it.
        """
        server = self._start()
        _log.info(
            "%s %d at %s waits for the chief",
            self._cluster.role,
            self._cluster.index,
            server.target,
        )
        end = time.monotonic() + seconds
        while not result.exists():
            if time.monotonic() > end:
                raise TrainingError(
                    f"the chief has not published {result} in {seconds} s",
                    expected="that it does before training.deadline_seconds",
                    remedy="read the chief's log",
                )
            time.sleep(_REPORT_SECONDS)

    def _start(self) -> Any:
        cluster = self._cluster
        # Parameter servers and workers wait for each other inside of operations, so that there must
        # be a thread for each that may ask.
        waits = cluster.size + len(cluster.parameter_servers) + 1
        devices.usable_gpus()  # the server takes them, and would say nothing if it could not
        return tf.distribute.Server(
            tf.train.ClusterSpec(cluster.addresses()),
            job_name=cluster.role,
            task_index=cluster.index,
            protocol="grpc",
            config=tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=processors.count(),
                inter_op_parallelism_threads=waits,
            ),
        )


def _schedule_of(job: Job, data: TrainingData) -> list[Piece]:
    return schedule(
        data.card.shards["train"],
        epochs=job.candidate.epochs,
        batch_size=job.candidate.batch_size,
        seed=job.seed,
    )


def _waiting(
    job: Job, cluster: ParameterServerSpec, extra_seconds: int = 0
) -> AbstractContextManager[None]:
    return waiting_for(_peers(cluster), job.settings.peer_timeout_seconds + extra_seconds)


def _peers(cluster: ParameterServerSpec) -> str:
    return ", ".join([*cluster.parameter_servers, *cluster.workers])
