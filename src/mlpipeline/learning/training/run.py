"""A training run, whichever strategy carries it out: its job, who trains, and what comes of it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.model.export import ExportableModel
from mlpipeline.plan.config import Candidate, Training
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.candidate import Epoch
from mlpipeline.store.schemas.dataset import DatasetCard

FIRST_CALL_SECONDS = 60
"""What the first call may take longer than the others: it traces the loop and makes the kernels."""


@dataclass(frozen=True)
class Job:
    """What all processes of a run are told.

    Attributes:
        candidate: What to train and how.
        settings: How to carry it out.
        seed: Random seed for the initial weights, the order of the data and the augmentation.
        dataset: Folder of a published data set, on storage that all processes share.
        work: Folder for checkpoints and logs, shared likewise, that outlives the processes.
    """

    candidate: Candidate
    settings: Training
    seed: int
    dataset: Path
    work: Path


@dataclass(frozen=True)
class TrainingData:
    """What a process that trains knows of its data set from the beginning.

    Attributes:
        card: What the data set is, and its files.
        validation: The validation split, of which each process that evaluates takes its share.
    """

    card: DatasetCard
    validation: StoredSplit

    @classmethod
    def load(cls, folder: Path) -> TrainingData:
        """Read the card of a published data set.

        Raises:
            ArtifactError: It is missing, altered, or of a newer version.
        """
        card = DatasetCard.load(DatasetFolder(folder).card)
        return cls(card, StoredSplit(folder, "validation"))


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    exportable: ExportableModel
    """The model with the weights of the last epoch that ended, or their moving averages."""
    parameters: int
    """Number of the model's weights, those that are not trained included."""
    epochs: list[Epoch]
    """The figures of all epochs that ended, over all attempts."""
    diverged_at: int | None = None
    """The step at which loss or weights were no longer finite; None for a sound run."""
    sent_bytes_per_step: float | None = None
    """What each worker sent at a step, in bytes: the gradients, and what is summed between steps,
    spread over these. None where nothing was left to train, because the last step had been saved,
    and where the strategy does not count it."""


class Interrupted(Exception):  # noqa: N818  # it is no error
    """The run was asked to stop, and has; the newest checkpoint is what the next attempt resumes.

    Every process that trains ends at the same step.
    """


class Trainer(Protocol):
    """One process that trains a candidate together with others.

    To make one does not wait for anybody: a class method `connect` of each implementation finds the
    others first.
    """

    def run(self) -> Outcome:
        """Train from the newest checkpoint to the end.

        Raises:
            PeerLostError: Another process died, froze or never came; starting all again resumes.
            Interrupted: A process got SIGTERM.
            TrainingError: Training cannot go on.
        """
        ...

    def finish(self) -> None:
        """Wait, after the result is published, until the others can do without this process."""
        ...


class Attempt:
    """This process's attempt at a run: since when it goes on, and whether it was asked to stop.

    Attributes:
        stop_requested: Whether SIGTERM has come.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.stop_requested = False

    def seconds(self) -> float:
        """Return how long it has gone on, in seconds."""
        return time.monotonic() - self._began

    def stop_on_sigterm(self) -> None:
        """Note SIGTERM from now on.

        Call it when the strategy is made: TensorFlow then installs a handler of its own, which
        would replace an earlier one.
        """
        signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, *_: object) -> None:
        self.stop_requested = True
