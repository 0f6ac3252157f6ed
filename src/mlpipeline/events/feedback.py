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
    known = _corrections(workspace, config.name)
    if not known or config.data.feedback is not None:
        return config
    snapshot = Snapshot(corrections=tuple(known)).keep(workspace.feedback)
    data = config.data.model_copy(update={"feedback": snapshot})
    return config.model_copy(update={"data": data})


def labels(workspace: Workspace, name: str) -> dict[str, str]:
    """Return the label that each image has by the latest correction, by its SHA-256.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.

    Raises:
        EventError: What is kept is damaged.
    """
    return {one.image: one.label for one in _corrections(workspace, name)}


def _corrections(workspace: Workspace, name: str) -> list[Correction]:
    """Return all corrections of a model, the earliest first."""
    posted = [
        event
        for file in workspace.feedback.events(name)
        if isinstance(event := schema.read_posted(file), schema.FeedbackEvent)
    ]
    return sorted(
        Correction(event.time.astimezone(UTC).isoformat(), event.id, label.image, label.label)
        for event in posted
        for label in event.corrections
    )
