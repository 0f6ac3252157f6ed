"""Whether what the current model is asked is still like what it was validated by."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from mlpipeline import loading
from mlpipeline.errors import PipelineError, ServingError
from mlpipeline.events import feedback
from mlpipeline.store import artifacts, registry, requests
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.selection import ModelCard

if TYPE_CHECKING:
    from rich.table import Table

    from mlpipeline.learning.data.drift import Difference, Sample
    from mlpipeline.serving.model import PublishedModel

_HOUR_SECONDS = 3_600
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what was found.

    Attributes:
        version: The current version.
        images: How many images of requests.
        first: When the first of them was answered, as Unix has it.
        last: When the last one was.
        reference: How many images of the validation split.
        false_alarms: How often this finds drift where there is none.
        found: The differences.
    """

    version: str
    images: int
    first: float
    last: float
    reference: int
    false_alarms: float
    found: list[Difference]

    @property
    def is_drift(self) -> bool:
        """Whether any of them is drift."""
        return any(each.is_drift for each in self.found)

    @property
    def summary(self) -> list[str]:
        """What was compared, for people: a line each."""
        first, last = (
            datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
            for seconds in (self.first, self.last)
        )
        return [
            f"{self.version}: {self.images:,} images of requests, {first} to {last} UTC,",
            f"against the {self.reference:,} of its validation split",
        ]

    @property
    def verdict(self) -> str:
        """What was found, in a line."""
        odds = f"an alarm where there is none: at most {self.false_alarms:g} of all looks"
        drifted = ", ".join(each.what for each in self.found if each.is_drift)
        return f"drift: {drifted} ({odds})" if drifted else f"no drift ({odds})"

    def table(self) -> Table:
        """Return the differences as a table."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("figure", "measure", "value", "by chance", ""):
            table.add_column(heading)
        for each in self.found:
            chance = f"{each.chance:.4f}" if each.chance >= 0.0001 else "< 0.0001"
            said = "drift" if each.is_drift else ""
            table.add_row(each.what, each.measure, f"{each.value:.3f}", chance, said)
        return table


def compare(
    workspace: Workspace, name: str, *, images: int, hours: float | None, false_alarms: float
) -> Comparison:
    """Compare the newest requests of a model's current version with its validation split.

    Args:
        workspace: The folder of all artifacts.
        name: The model's name.
        images: How many images of requests at most, the newest ones.
        hours: How old they may be; None for any age.
        false_alarms: How often drift may be found where there is none.

    Raises:
        ArtifactError: The model, its data set or the log is missing or damaged.
        ServingError: Too few requests were logged.
    """
    with loading.large_libraries():
        from mlpipeline.learning.data import drift

    version = registry.current(workspace, name)
    since = 0.0 if hours is None else time.time() - hours * _HOUR_SECONDS
    log = workspace.requests(name) / version
    labels = feedback.labels(workspace, name)
    asked = _asked(requests.read(log), images, since, labels)
    if len(asked.seconds) < drift.LEAST:
        raise ServingError(
            f"{len(asked.seconds)} images of requests in {log}",
            expected=f"a log of {drift.LEAST} at least",
            remedy="set serving.log.share in the configuration, serve the model by it, wait; "
            "another version has a log of its own",
        )
    reference, model = validation(workspace, name, version)
    card = ModelCard.load(workspace.model(name, version).card)
    found = drift.compare(
        reference,
        drift.Sample.joined(asked.parts),
        classes=len(model.classes),
        false_alarms=false_alarms,
        corrected=drift.Corrected(asked.labelled, asked.wrong, 1 - card.validation_accuracy),
    )
    first, last = min(asked.seconds), max(asked.seconds)
    count = len(reference.predicted)
    return Comparison(version, len(asked.seconds), first, last, count, false_alarms, found)


def compare_all(
    workspace: Workspace, *, images: int, hours: float | None, false_alarms: float
) -> dict[str, Comparison]:
    """Compare each model that has a current version, by name; say why one is left out.

    Args:
        workspace: The folder of all artifacts.
        images: As of `compare`.
        hours: Likewise.
        false_alarms: Likewise.
    """
    found = {}
    for name in workspace.model_names():
        try:
            found[name] = compare(
                workspace, name, images=images, hours=hours, false_alarms=false_alarms
            )
        except PipelineError as error:  # the other models are looked at all the same
            _log.warning("%s is left out: %s", name, error)
    return found


def validation(workspace: Workspace, name: str, version: str) -> tuple[Sample, PublishedModel]:
    """Return a version's validation split as it is compared, and the version.

    Args:
        workspace: The folder of all artifacts.
        name: The model's name.
        version: The version.

    Raises:
        ArtifactError: The version or its data set is missing or damaged.
    """
    with loading.large_libraries():
        from mlpipeline.learning.data.drift import Sample
        from mlpipeline.learning.data.images import rows_in_a_batch
        from mlpipeline.learning.data.splits import StoredSplit
        from mlpipeline.serving import model as models

    folder = workspace.model(name, version)
    model = models.load(folder.path)
    dataset = workspace.dataset(ModelCard.load(folder.card).dataset_key).path
    artifacts.verify(dataset)
    split = StoredSplit(dataset, "validation")
    parts = [
        Sample.of(images, model.predict(images))
        for images, _ in split.batches(rows_in_a_batch(split.shape))
    ]
    return Sample.joined(parts), model


@dataclass
class _Asked:
    """Images of a log: as they are compared, when each was answered, and what people say of them.

    Attributes:
        parts: The images of each shard.
        seconds: When each was answered.
        labelled: How many of them have a label by now.
        wrong: How many of those were answered by another class.
    """

    parts: list[Sample] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    labelled: int = 0
    wrong: int = 0


def _asked(
    shards: Iterable[requests.Shard], images: int, since: float, labels: Mapping[str, str]
) -> _Asked:
    """Return the newest images of a log."""
    from mlpipeline.learning.data.drift import Sample

    asked = _Asked()
    for shard in shards:
        rows = np.flatnonzero(shard.seconds >= since)[len(asked.seconds) - images :]
        if not len(rows):
            break
        part = Sample.of(shard.images[rows], shard.probabilities[rows])
        asked.parts.append(part)
        asked.seconds += shard.seconds[rows].tolist()
        for image, predicted in zip(shard.sha256[rows].tolist(), part.predicted, strict=True):
            if label := labels.get(image.decode()):
                asked.labelled += 1
                asked.wrong += label != shard.classes[predicted]
        if len(asked.seconds) >= images:
            break
    return asked
