"""Whether what the current model is asked is still like what it was validated by."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlpipeline import loading
from mlpipeline.errors import DamagedArtifactError, PipelineError, ServingError
from mlpipeline.events import feedback
from mlpipeline.store import artifacts, registry, requests
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.look import LoggedVersion, Look, Looked, LookFigure, Spread
from mlpipeline.store.schemas.selection import ModelCard

if TYPE_CHECKING:
    from rich.table import Table

    from mlpipeline.learning.data.drift import Sample
    from mlpipeline.serving.model import PublishedModel

_HOUR_SECONDS = 3_600
_PARTS = (0.25, 0.5, 0.75)
_log = logging.getLogger(__name__)


def table(look: Look) -> Table:
    """Return what was found as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "measure", "value", "by chance", ""):
        table.add_column(heading)
    for each in look.figures:
        said = "drift" if each.is_drift else ""
        table.add_row(each.what, each.measure, f"{each.value:.3f}", each.by_chance, said)
    return table


def compare(
    workspace: Workspace, name: str, *, images: int, hours: float | None, false_alarms: float
) -> Look:
    """Compare the newest requests of a model's current version with its validation split.

    What was found is kept for `mlpipeline site`, which could not find it again: that takes a
    model's engine and seconds, and the log may be closed to whoever writes the page.

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
    now = time.time()
    since = 0.0 if hours is None else now - hours * _HOUR_SECONDS
    log = workspace.requests(name)
    labels = feedback.labels(workspace, name)
    asked = _asked(requests.read(log / version), images, since, labels)
    if len(asked.seconds) < drift.LEAST:
        raise ServingError(
            f"{len(asked.seconds)} images of requests in {log / version}",
            expected=f"a log of {drift.LEAST} at least",
            remedy="set serving.log.share in the configuration, serve the model by it, wait; "
            "another version has a log of its own",
        )
    reference, model = validation(workspace, name, version)
    card = ModelCard.load(workspace.model(name, version).card)
    sample = drift.Sample.joined(asked.parts)
    found = drift.compare(
        reference,
        sample,
        classes=len(model.classes),
        false_alarms=false_alarms,
        corrected=drift.Corrected(asked.labelled, asked.wrong, 1 - card.validation_accuracy),
    )
    look = Look(
        model=name,
        version=version,
        time=_moment(now),
        first=_moment(min(asked.seconds)),
        last=_moment(max(asked.seconds)),
        classes=model.classes,
        asked=_looked(sample, model.classes),
        validation=_looked(reference, model.classes),
        false_alarms=false_alarms,
        figures=tuple(LookFigure(**each._asdict()) for each in found),
        logged=tuple(_logged(log, version, since)),
    )
    _keep(look, workspace.look(name))
    return look


def compare_all(
    workspace: Workspace, *, images: int, hours: float | None, false_alarms: float
) -> dict[str, Look]:
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


def _looked(sample: Sample, classes: Sequence[str]) -> Looked:
    spreads = {
        "confidence": sample.confidence,
        "mean of pixels": sample.mean,
        "contrast of pixels": sample.contrast,
    }
    return Looked(
        images=len(sample.predicted),
        predicted=np.bincount(sample.predicted, minlength=len(classes)).tolist(),
        spreads={
            what: Spread(**dict(zip(Spread.model_fields, np.quantile(values, _PARTS), strict=True)))
            for what, values in spreads.items()
        },
    )


def _logged(log: Path, current: str, since: float) -> Iterator[LoggedVersion]:
    """Yield what a model's log has of its versions, the current one first."""
    folders = sorted(folder for folder in log.glob("[!.]*") if folder.is_dir())
    for folder in sorted(folders, key=lambda folder: folder.name != current):
        answered = []
        try:
            for seconds in requests.seconds(folder):
                answered.append(seconds[seconds >= since])
                if not len(answered[-1]):
                    break
        except DamagedArtifactError as error:  # of a version, perhaps, that nobody looks at
            _log.warning("what is older is not counted: %s", error)
        if len(times := np.concatenate([np.empty(0), *answered])):
            first, last = _moment(times.min()), _moment(times.max())
            yield LoggedVersion(version=folder.name, images=len(times), first=first, last=last)


def _keep(look: Look, file: Path) -> None:
    """Write down what was found, where one may: in `make inside` a look is only for who looks."""
    try:
        look.save(file)
    except OSError as error:
        _log.warning("what was found is not kept for `mlpipeline site`: %s", error)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
