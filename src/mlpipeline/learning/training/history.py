"""The record of a training run while it goes on: figures of every epoch, also for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.store.layout import CandidateFolder
from mlpipeline.store.schemas.candidate import Epoch, TrainingHistory


class History:
    """The epochs of a run so far, kept in a file beside its checkpoints.

    Args:
        folder: Where the chief writes `history.json` and `tensorboard/`.
        write: Whether this process is the chief.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.epochs: list[Epoch] = []
        self._file = CandidateFolder(folder).history
        logs = str(CandidateFolder(folder).tensorboard)
        self._log = (
            tf.summary.create_file_writer(logs) if write else tf.summary.create_noop_writer()
        )
        self._write = write
        self._before: Epoch | None = None  # the last one of an earlier attempt

    def resume(self, step: int) -> None:
        """Read the epochs that had ended when the checkpoint of a step was taken."""
        if step:
            saved = TrainingHistory.load(self._file).epochs
            self.epochs = [epoch for epoch in saved if epoch.step <= step]
            self._before = self.epochs[-1] if self.epochs else None

    def finish_epoch(
        self,
        step: int,
        *,
        training: Sequence[float] | NDArray[np.float64],
        validation: Sequence[float],
        learning_rate: float,
        seconds: float,
        cpu_seconds: float | None = None,
    ) -> None:
        """Add the epoch that ends at a step.

        Args:
            step: The step, counted from the beginning of the run.
            training: Sums of the loss and of the hits, and the number of images.
            validation: The same three of the validation split.
            learning_rate: Learning rate at the next step.
            seconds: Time since this attempt began.
            cpu_seconds: Processor time of all workers in this attempt; None if it is not known.
        """
        before = self._before
        if cpu_seconds is not None and before and before.cpu_seconds:
            cpu_seconds += before.cpu_seconds
        self.append(
            Epoch(
                epoch=len(self.epochs) + 1,
                step=step,
                loss=training[0] / training[2],
                accuracy=training[1] / training[2],
                validation_loss=validation[0] / validation[2],
                validation_accuracy=validation[1] / validation[2],
                learning_rate=learning_rate,
                seconds=seconds + (before.seconds if before else 0.0),
                cpu_seconds=cpu_seconds,
            )
        )

    def append(self, epoch: Epoch) -> None:
        """Add an epoch, and write its figures for TensorBoard."""
        self.epochs.append(epoch)
        with self._log.as_default(step=epoch.step):
            for name, value in asdict(epoch).items():
                if name not in ("epoch", "step") and value is not None:
                    tf.summary.scalar(name, value)
        self._log.flush()

    def save(self) -> None:
        """Write `history.json`, if this process is the chief."""
        if self._write:
            TrainingHistory(epochs=tuple(self.epochs)).save(self._file)
