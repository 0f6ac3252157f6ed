"""Feedback: corrected labels that come as events are kept, and joined with the next run's data.

feedback/events/<model>/<id>.json   what was posted; written once, by rename, whoever else writes
feedback/snapshots/<digest>.json    all corrections of a model when a run began: what ingest reads
"""

from __future__ import annotations

from datetime import UTC

from mlpipeline.events import schema
from mlpipeline.plan.config import Config
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.feedback import Correction, Snapshot


def add(workspace: Workspace, event: schema.FeedbackEvent) -> bool:
    """Keep an event's corrections until the next run.

    Args:
        workspace: The folder of all artifacts.
        event: What was posted.

    Returns:
        Whether they are new: the same event may come any number of times.
    """
    file = workspace.feedback.event(event.model, event.id)
    if file.exists():
        return False
    artifacts.write_json(file, event.model_dump(mode="json"))
    return True


def joined(config: Config, workspace: Workspace) -> Config:
    """Return the configuration of a run that is about to begin: with the feedback until now.

    Nothing changes where there is none, or where the configuration names a snapshot itself.

    Args:
        config: A configuration, as its file has it.
        workspace: The folder of all artifacts; a snapshot of all corrections is written into it.

    Returns:
        The configuration, whose `data.feedback` names that snapshot.

    Raises:
        EventError: What is kept is damaged.
    """
    posted = [
        event
        for file in workspace.feedback.events(config.name)
        if isinstance(event := schema.read_posted(file), schema.FeedbackEvent)
    ]
    if not posted or config.data.feedback is not None:
        return config
    known = [
        Correction(event.time.astimezone(UTC).isoformat(), event.id, label.image, label.label)
        for event in posted
        for label in event.corrections
    ]
    snapshot = Snapshot(corrections=tuple(sorted(known))).keep(workspace.feedback)
    data = config.data.model_copy(update={"feedback": snapshot})
    return config.model_copy(update={"data": data})
