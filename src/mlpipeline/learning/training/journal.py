"""The book-keeping of a run, the same for every strategy: checkpoints, epochs, progress."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.learning.training.checkpoints import Checkpoints
from mlpipeline.learning.training.history import History
from mlpipeline.learning.training.run import Attempt, Job, Outcome
from mlpipeline.learning.training.train_state import TrainState
from mlpipeline.store.layout import CandidateFolder
from mlpipeline.store.schemas.candidate import TrainingProgress

_log = logging.getLogger(__name__)

# A training is watched every quarter of a minute; its folder may be on storage over a network.
_PROGRESS_SECONDS = 5.0


class Journal:
    """What is kept of a run in its working folder while it goes on, and what it ends with.

    Args:
        job: The run.
        state: The weights and moments that checkpoints hold.
        attempt: This process's attempt at the run.
        total_steps: Number of steps of the whole run.
        write: Whether this process is the chief, which alone writes and reports.
    """

    def __init__(
        self, job: Job, *, state: TrainState, attempt: Attempt, total_steps: int, write: bool
    ) -> None:
        self._job, self._state, self._attempt = job, state, attempt
        self._total_steps, self._write = total_steps, write
        self._checkpoints = Checkpoints(
            CandidateFolder(job.work).checkpoints,
            model=state.model,
            optimizer=state.optimizer,
            step=state.step,
            write=write,
        )
        self._history = History(job.work, write=write)
        self._written = -math.inf  # when progress was written last

    @property
    def current_epoch(self) -> int:
        """Number of the epoch that is going on, from 1 on."""
        return len(self._history.epochs) + 1

    @property
    def is_last_epoch(self) -> bool:
        """Whether no other epoch follows the one that is going on."""
        return self.current_epoch == self._job.candidate.epochs

    def restore(self) -> int:
        """Load the newest sound checkpoint, if there is one; return the step it was taken at."""
        return self._checkpoints.restore()

    def resume(self, step: int) -> None:
        """Take up the epochs that had ended when the checkpoint of `step` was taken."""
        self._history.resume(step)
        if step:
            _log.info("resuming at step %d of %d", step, self._total_steps)

    def report(
        self, step: int, epoch: int, sums: Sequence[float] | NDArray[np.float64], rate: float
    ) -> None:
        """Print the progress, if this process is the chief; now and then write it down.

        Args:
            step: Number of steps taken.
            epoch: Number of the epoch that they are of, from 1 on.
            sums: Loss, hits and images of the epoch so far, float64 `[3]`.
            rate: Images per second.
        """
        if not self._write:
            return
        loss, accuracy = float(sums[0] / sums[2]), float(sums[1] / sums[2])
        progress.report(
            step,
            self._total_steps,
            epoch=f"{epoch}/{self._job.candidate.epochs}",
            loss=loss,
            accuracy=accuracy,
            images_per_second=round(rate),
        )
        if time.monotonic() - self._written < _PROGRESS_SECONDS or not rate:
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so
            TrainingProgress(
                step=step,
                steps=self._total_steps,
                epoch=epoch,
                loss=loss,
                accuracy=accuracy,
                images_per_second=rate,
                step_seconds=self._job.candidate.batch_size / rate,
            ).save(CandidateFolder(self._job.work).progress)

    def finish_epoch(
        self,
        step: int,
        *,
        training: Sequence[float] | NDArray[np.float64],
        validation: Sequence[float],
        learning_rate: float,
        cpu_seconds: float | None = None,
    ) -> None:
        """Add the figures of the epoch that ends at a step; the arguments are `History`'s."""
        self._history.finish_epoch(
            step,
            training=training,
            validation=validation,
            learning_rate=learning_rate,
            seconds=self._attempt.seconds(),
            cpu_seconds=cpu_seconds,
        )

    def save(self) -> None:
        """Write history and checkpoint, if this process is the chief."""
        # In this order: a checkpoint without its epochs could not be resumed.
        self._history.save()
        self._checkpoints.save()

    def outcome(
        self, *, diverged_at: int | None = None, sent_bytes_per_step: float | None = None
    ) -> Outcome:
        """Return what the run ends with; the arguments are those of `Outcome`."""
        return Outcome(
            self._state.exportable,
            self._state.model.count_params(),
            self._history.epochs,
            diverged_at,
            sent_bytes_per_step,
        )
