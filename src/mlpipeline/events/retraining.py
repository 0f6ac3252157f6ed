"""The event that drift posts: a run once more, as the current version's was, with what is new.

New are corrected labels, and data that changes under its name. Where nothing is, the run reuses all
that it finds and changes nothing; where what it makes is no better, the gate holds it back.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from mlpipeline.errors import EventError
from mlpipeline.events.schema import TrainEvent
from mlpipeline.plan import config
from mlpipeline.plan.config import Config
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run

_LONGEST_ID = 40


def event(workspace: Workspace, name: str, *, hours: int, now: datetime) -> TrainEvent:
    """Return the event that asks for a run of a model whose current version does not fit any more.

    Its id names the period of so many hours that `now` is in. As an event is done once, however
    often it is posted, there is at most one such run in each period.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        hours: How long a period is.
        now: When it is asked for.

    Raises:
        EventError: Which run has published the current version is not known.
        ArtifactError: The history or that run's record is missing or damaged.
    """
    seconds = hours * 3_600
    start = datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
    return TrainEvent(
        kind="train", id=_id(name, start), configuration=_as_published(workspace, name)
    )


def _as_published(workspace: Workspace, name: str) -> Config:
    """Return the configuration of the run that has published the current version.

    Without what that run had found out of its day: a new one finds out again.
    """
    changes = history.changes(workspace, name)
    current = changes[-1].version if changes else ""
    by = [one.by for one in changes if (one.version, one.how) == (current, "published")]
    if not by:
        raise EventError(
            f"which run has published the current version of `{name}` is not known",
            expected="one that a run of this release has published",
            remedy="publish it by a run: `make run`, or in a cluster `make submit`",
        )
    record = workspace.run(by[-1]).record
    settings = config.parse(Run.load(record).config, origin=str(record))
    unpinned = {"files_digest": None}
    data = settings.data.model_copy(update=unpinned | {"feedback": None})
    candidates = {n: each.model_copy(update=unpinned) for n, each in settings.candidates.items()}
    expectations = settings.expectations.model_copy(update={"against": None})
    of_today = {"data": data, "candidates": candidates, "expectations": expectations}
    return settings.model_copy(update=of_today)


def _id(name: str, start: datetime) -> str:
    """Return an id of the model and the period; of a long name it has a digest."""
    made = f"drift-{start:%y%m%d%H}-"
    if len(name) > (room := _LONGEST_ID - len(made)):
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: room - len(digest) - 1].rstrip('-')}-{digest}"
    return made + name
