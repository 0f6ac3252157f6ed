"""Checkpoints of a training run: everything that a resumed run needs to end as if undisturbed.

Weights, the optimizer's moments, the state of dropout's generators and the number of the step; the
data needs nothing, because its order is a function of the step. The chief alone writes, to storage
that all workers read; TensorFlow renames the file that names the newest checkpoint last, so a chief
killed while it writes leaves the one before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

_KEPT = 2


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: On storage that all workers share.
        model: Built in the strategy's scope.
        optimizer: Built for the model's variables.
        step: The number of steps taken, an int64 variable.
        write: Whether this process is the chief.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: keras.Model,
        optimizer: keras.Optimizer,
        step: Any,
        write: bool,
    ) -> None:
        # `model.variables` has the states of its random generators, which `model.weights` leaves
        # out: without them the dropout of a resumed run would differ.
        self._checkpoint = tf.train.Checkpoint(
            model=[v.value for v in model.variables],
            optimizer=[v.value for v in optimizer.variables],
            step=step,
        )
        self._folder = str(folder)
        self._manager = tf.train.CheckpointManager(self._checkpoint, self._folder, _KEPT)
        self._step = step
        self._write = write

    def restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the step it was taken at."""
        if newest := tf.train.latest_checkpoint(self._folder):
            self._checkpoint.restore(newest).assert_existing_objects_matched()
        return int(self._step.numpy())

    def save(self) -> None:
        """Write a checkpoint of the present step, if this process is the chief."""
        if self._write:
            self._manager.save(checkpoint_number=int(self._step.numpy()))
