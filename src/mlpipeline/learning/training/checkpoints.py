"""Checkpoints of a training run: everything that a resumed run needs to end as if undisturbed.

Weights, the optimizer's moments, the state of dropout's generators and the number of the step; the
data needs nothing, because its order is a function of the step. The chief alone writes, to storage
that all workers read, and keeps two: one that it was writing when it was killed, or that a loss of
power truncated, is passed over.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlpipeline.store import artifacts

_log = logging.getLogger(__name__)

_MOST_CHECKPOINTS = 2
_STATE = "checkpoint"  # where TensorFlow writes the names of those that it keeps
# What reading one that is truncated, altered or incomplete ends in: its reader translates some of
# TensorFlow's errors into Python's.
_DAMAGE = (tf.errors.OpError, LookupError, ValueError, RuntimeError)


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: Where they are, on storage that all workers share.
        model: The model, built in the strategy's scope.
        optimizer: The optimizer, built for the model's variables.
        step: Number of steps taken, an int64 variable.
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
        self._folder = folder
        self._step = step
        self._manager = None
        if write:
            state = folder / _STATE
            if state.exists() and not state.stat().st_size:
                state.unlink()  # a loss of power emptied it, and TensorFlow would refuse the folder
            self._manager = tf.train.CheckpointManager(
                self._checkpoint, str(folder), _MOST_CHECKPOINTS
            )

    def restore(self) -> int:
        """Load the newest sound checkpoint, if there is one; return the step it was taken at."""
        for path in self._newest_first():
            if _is_readable(path):
                self._checkpoint.restore(path).assert_existing_objects_matched()
                break
            _log.warning("%s is damaged: taking the checkpoint before it", path)
        return int(self._step.numpy())

    def save(self) -> None:
        """Write a checkpoint of the present step, if this process is the chief."""
        if self._manager is None:
            return
        path = Path(self._manager.save(checkpoint_number=int(self._step.numpy())))
        written = self._folder.glob(f"{path.name}.*")
        for place in (*written, self._folder / _STATE, self._folder):
            artifacts.sync(place)

    def _newest_first(self) -> list[str]:
        # By the files that are there: the one that names the newest may itself be damaged.
        indices = self._folder.glob("ckpt-*.index")
        by_step = {int(file.stem.removeprefix("ckpt-")): file for file in indices}
        return [str(by_step[step].with_suffix("")) for step in sorted(by_step, reverse=True)]


def _is_readable(path: str) -> bool:
    """Whether every value can be read: each has a checksum."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _DAMAGE:
        return False
    return True
