"""Asynchronous data-parallel training: parameter servers hold the weights; every worker reads them,
computes the gradient of a batch of its own, and has them updated, without waiting for the others.

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

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlpipeline import progress
from mlpipeline.errors import PeerLostError, TrainingError
from mlpipeline.learning.data import tfrecords
from mlpipeline.learning.training import devices
from mlpipeline.learning.training.checkpoints import Checkpoints
from mlpipeline.learning.training.cluster_spec import ParameterServerSpec
from mlpipeline.learning.training.history import History
from mlpipeline.learning.training.synchronous import FIRST_CALL_SECONDS, Interrupted, Outcome
from mlpipeline.learning.training.train_state import TrainState
from mlpipeline.learning.training.worker_group import waiting_for
from mlpipeline.plan.config import Candidate, Training
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, Shard

_POLL_SECONDS = 0.1
_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Piece:
    """The rows of one shard in one epoch: what a worker is given at a time."""

    shard: Shard
    epoch: int
    """From 0 on."""
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


class ChiefTrainer:
    """The chief's part in training a candidate; the others call `serve`.

    Args:
        candidate: What to train and how; every update is of `batch_size` images.
        settings: How to carry it out.
        seed: Of the initial weights, the data's order and the augmentation.
        dataset: Folder of a published data set, on storage that the workers share.
        work: Folder for checkpoints and logs, on storage that the parameter servers share.
        cluster: All processes.
    """

    def __init__(
        self,
        candidate: Candidate,
        settings: Training,
        *,
        seed: int,
        dataset: Path,
        work: Path,
        cluster: ParameterServerSpec,
    ) -> None:
        self._started = time.monotonic()
        self._candidate, self._settings, self._seed = candidate, settings, seed
        self._dataset = dataset
        self._stop = False
        self._peers = ", ".join([*cluster.parameter_servers, *cluster.workers])
        self._allowance = FIRST_CALL_SECONDS  # until the first step: it is being compiled
        self._reported = (time.monotonic(), 0)  # when, and at which step

        devices.configure()
        keras.utils.set_random_seed(seed)
        print(
            f"waiting at most {settings.peer_timeout_seconds} s for all of {self._peers}",
            flush=True,
        )
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster.addresses()),
            task_type="chief",
            task_id=0,
            rpc_layer="grpc",
        )
        with self._waiting():
            strategy = tf.distribute.ParameterServerStrategy(resolver)
            self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        # Only now: TensorFlow installs a handler of its own when it makes the strategy.
        signal.signal(signal.SIGTERM, self._request_stop)

        self._card = DatasetCard.load(DatasetFolder(dataset).card)
        self._validation = tfrecords.read_split(dataset, "validation")
        self._pieces = schedule(
            self._card.shards["train"],
            epochs=candidate.epochs,
            batch_size=candidate.batch_size,
            seed=seed,
        )
        with self._waiting(FIRST_CALL_SECONDS):
            self._state = TrainState(candidate, self._card, strategy, self.total_steps)
            with strategy.scope():
                # Of the epoch so far: loss, hits, images.
                self._sums = tf.Variable(tf.zeros(3, tf.float64), trainable=False)
        self._train_piece = self._compile(strategy)
        self._checkpoints = Checkpoints(
            work / "checkpoints",
            model=self._state.model,
            optimizer=self._state.optimizer,
            step=self._state.step,
            write=True,
        )
        self._history = History(work, write=True)

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, if no piece has to be done again."""
        return self._pieces[-1].end

    def run(self) -> Outcome:
        """Have the workers train from the newest checkpoint to the end.

        Raises:
            PeerLostError: A parameter server died, or no worker is left; starting again resumes.
            Interrupted: The chief got SIGTERM; what is newer than the last checkpoint is lost.
        """
        with self._waiting():
            step = self._checkpoints.restore()
        self._history.resume(step)
        self._reported = (time.monotonic(), step)
        if step:
            print(f"resuming at step {step} of {self.total_steps}", flush=True)
            with self._waiting():  # at the last step there is nothing left to do but to publish
                self._state.update_predictor()
        ahead = [piece for piece in self._pieces if piece.begin >= step]
        while ahead:
            pieces = until_checkpoint(ahead, self._settings.checkpoint_steps)
            ahead = ahead[len(pieces) :]
            is_finite = self._have_done(pieces)
            step = pieces[-1].end
            with self._waiting():
                self._state.step.assign(step)  # a piece that was done again has been counted twice
                is_finite = is_finite and self._state.has_finite_weights()
            if not is_finite:
                return self._outcome(diverged_at=step)
            if not ahead or ahead[0].epoch > pieces[-1].epoch:
                self._finish_epoch(step)
            with self._waiting():
                self._history.save()
                self._checkpoints.save()
        return self._outcome()

    def _have_done(self, pieces: Sequence[Piece]) -> bool:
        """Hand out pieces and wait until all are done; return whether the loss is finite."""
        for piece in pieces:
            shard = piece.shard
            values = (shard.count, shard.index, piece.epoch, piece.begin)
            self._coordinator.schedule(
                self._train_piece,
                args=(
                    tf.constant(str(self._dataset / shard.name)),
                    *(tf.constant(value, tf.int64) for value in values),
                ),
            )
        step, moved = pieces[0].begin, time.monotonic()
        while not self._are_done():
            if self._stop:
                raise Interrupted(f"stopped; the newest checkpoint is of step {pieces[0].begin}")
            time.sleep(_POLL_SECONDS)
            before, (step, sums) = step, self._figures()
            now = time.monotonic()
            if step != before:
                moved, self._allowance = now, 0
            elif now - moved > self._settings.peer_timeout_seconds + self._allowance:
                raise PeerLostError(
                    f"no worker of {self._peers} took a step for {now - moved:.0f} s",
                    expected="that one at least goes on",
                    remedy="start again what has ended: it resumes from the newest checkpoint",
                )
            if not np.isfinite(sums[0]):
                return False
            self._report(min(step, pieces[-1].end), pieces[-1].epoch + 1, sums)
        return bool(np.isfinite(self._figures()[1][0]))

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
        shape, rows, seed = self._card.shape, self._candidate.batch_size, self._seed

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
            self._state.update_predictor()
            sums, rate = self._sums.numpy(), self._state.learning_rate()
            self._sums.assign(tf.zeros(3, tf.float64))
        self._history.finish_epoch(
            step,
            training=sums,
            validation=self._state.evaluate(*self._validation),
            learning_rate=rate,
            seconds=time.monotonic() - self._started,
        )

    def _report(self, step: int, epoch: int, sums: Any) -> None:
        now, (then, before) = time.monotonic(), self._reported
        if now - then < _REPORT_SECONDS or not sums[2]:
            return
        self._reported = (now, step)
        progress.report(
            step,
            self.total_steps,
            epoch=f"{epoch}/{self._candidate.epochs}",
            loss=float(sums[0] / sums[2]),
            accuracy=float(sums[1] / sums[2]),
            images_per_second=round((step - before) * self._candidate.batch_size / (now - then)),
        )

    def _outcome(self, diverged_at: int | None = None) -> Outcome:
        parameters = self._state.model.count_params()
        return Outcome(self._state.predictor, parameters, self._history.epochs, diverged_at)

    def _waiting(self, extra_seconds: int = 0) -> Any:
        return waiting_for(self._peers, self._settings.peer_timeout_seconds + extra_seconds)

    def _request_stop(self, *_: object) -> None:
        self._stop = True


def serve(cluster: ParameterServerSpec, *, result: Path, seconds: int) -> None:
    """Be a worker or a parameter server, until the chief has published its result.

    The chief may go and come back meanwhile: its successor finds this process as it is.

    Args:
        cluster: All processes, and which one this is.
        result: What the chief publishes last, on storage that both see.
        seconds: How long to wait for it.

    Raises:
        TrainingError: It was not there in time.
        ConfigurationError: There is a GPU, and TensorFlow cannot use it.
    """
    # Parameter servers and workers wait for each other inside of operations, so that there must be
    # a thread for each that may ask.
    waits = cluster.size + len(cluster.parameter_servers) + 1
    devices.usable_gpus()  # the server takes them, and would say nothing if it could not
    server = tf.distribute.Server(
        tf.train.ClusterSpec(cluster.addresses()),
        job_name=cluster.role,
        task_index=cluster.index,
        protocol="grpc",
        config=tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=devices.available_cpus(),
            inter_op_parallelism_threads=waits,
        ),
    )
    print(f"{cluster.role} {cluster.index} at {server.target} waits for the chief", flush=True)
    end = time.monotonic() + seconds
    while not result.exists():
        if time.monotonic() > end:
            raise TrainingError(
                f"the chief has not published {result} in {seconds} s",
                expected="that it does before training.deadline_seconds",
                remedy="read the chief's log",
            )
        time.sleep(_REPORT_SECONDS)
