"""The record of a training run while it goes on: figures of every epoch, also for TensorBoard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from mlpipeline import artifacts


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch, over all workers."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    """Since training began, over all attempts."""
    cpu_seconds: float
    """Processor time of all workers since training began, over all attempts."""


class History:
    """The epochs of a run so far, kept in a file beside its checkpoints.

    Args:
        folder: Where the chief writes `history.json` and `tensorboard/`.
        write: Whether this process is the chief.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.epochs: list[Epoch] = []
        self._file = folder / "history.json"
        logs = str(folder / "tensorboard")
        self._log = (
            tf.summary.create_file_writer(logs) if write else tf.summary.create_noop_writer()
        )
        self._write = write

    def resume(self, step: int) -> None:
        """Read the epochs that had ended at a step that a checkpoint was taken at."""
        if step:
            saved = [Epoch(**values) for values in artifacts.read_json(self._file)]
            self.epochs = [epoch for epoch in saved if epoch.step <= step]

    def append(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        with self._log.as_default(step=epoch.step):
            for name, value in asdict(epoch).items():
                if name not in ("epoch", "step"):
                    tf.summary.scalar(name, value)
        self._log.flush()

    def save(self) -> None:
        if self._write:
            artifacts.write_json(self._file, [asdict(epoch) for epoch in self.epochs])
