"""`metrics.json` and `history.json`: how a candidate was trained and how good it became."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from mlpipeline.store.schemas.document import Document, Part


class TrainingFigures(Part):
    """How a candidate was trained and how good it became.

    Attributes:
        candidate: Its name in the configuration.
        status: Whether it was trained to the end, or its loss or weights were no longer finite.
        diverged_at_step: The step after which that was seen; None for one that was trained.
        validation_accuracy: The share of hits on the validation split after the last epoch, 0 to 1;
            None for one that diverged.
        validation_loss: The mean loss on the validation split after the last epoch; None for one
            that diverged.
        parameters: The number of trainable and other weights.
        workers: How many processes trained it together.
        communication: How they exchanged gradients, as configured.
        chief_device: What the chief computed on.
        sent_bytes_per_step: Bytes that each worker sent at a step to sum the gradients; None where
            there was one worker.
        seconds: Time of the training itself, over all attempts; None where no epoch ended.
        cpu_seconds: Processor time of all workers; None where it is not known.
        recipe: The candidate's section of the configuration, with defaults.
    """

    candidate: str = ""
    status: Literal["trained", "diverged"]
    diverged_at_step: int | None = None
    validation_accuracy: float | None
    validation_loss: float | None
    parameters: int
    workers: int | None = None
    communication: str = ""
    chief_device: str = ""
    sent_bytes_per_step: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The figures that a person looks for first, in one line."""
        if self.validation_accuracy is None or self.validation_loss is None:
            return f"diverged at step {self.diverged_at_step}"
        time = "" if self.seconds is None else f", trained in {self.seconds:.0f} s"
        return (
            f"validation accuracy {self.validation_accuracy:.2%}, loss {self.validation_loss:.4g}, "
            f"{self.parameters:,} parameters{time}"
        )


class Metrics(TrainingFigures, Document):
    """The content of `metrics.json`: a candidate's figures, as `TrainingFigures` describes them."""

    CALLED: ClassVar[str] = "candidate's metrics"


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch, over all workers.

    Attributes:
        epoch: Its number, from 1.
        step: The step that it ended at, counted from the beginning of the run.
        loss: The mean loss over the training images, as they were augmented, with label smoothing,
            while the weights changed; None where it was not finite, which JSON cannot say.
        accuracy: The share of hits on the training images, as they were augmented, 0 to 1.
        validation_loss: The mean loss of the exported model over the validation split, without
            label smoothing; None where it was not finite.
        validation_accuracy: The share of hits on the validation split, 0 to 1.
        learning_rate: The learning rate at the step after its last.
        seconds: Wall-clock time since training began, over all attempts.
        cpu_seconds: Processor time of all workers since training began, over all attempts; None
            where the one of an earlier attempt is not known.
    """

    epoch: int
    step: int
    loss: float | None
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float
    learning_rate: float
    seconds: float
    cpu_seconds: float | None


class TrainingProgress(Document):
    """The content of `progress.json`, which the chief writes anew every few seconds.

    Attributes:
        step: How many steps are done.
        steps: How many there will be.
        epoch: The epoch that goes on, from 1.
        loss: The mean loss of this epoch so far, over the training images.
        accuracy: The share of hits on them, 0 to 1.
        images_per_second: How many images all workers together take in a second.
        step_seconds: How long a step takes.
    """

    CALLED: ClassVar[str] = "training's progress"

    step: int
    steps: int
    epoch: int
    loss: float
    accuracy: float
    images_per_second: float
    step_seconds: float


class TrainingHistory(Document):
    """The content of `history.json`.

    Attributes:
        epochs: The figures of each epoch, in order.
    """

    CALLED: ClassVar[str] = "training's history"

    epochs: tuple[Epoch, ...]

    @classmethod
    def _upgrade(cls, content: Any, version: int) -> Any:
        return {"epochs": content} if version == 0 and isinstance(content, list) else content
