"""Feedback: corrected labels that come as events are kept, and joined with the next run's data.

feedback/events/<model>/<id>.json   what was posted; written once, by rename, whoever else writes
feedback/snapshots/<digest>.json    all corrections of a model when a run began: what ingest reads
"""

from __future__ import annotations

from datetime import UTC

from mlpipeline.events import schema
from mlpipeline.learning.data import corrections
from mlpipeline.learning.data.corrections import Correction
from mlpipeline.plan.config import Config
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace


def add(workspace: Workspace, event: schema.Feedback) -> bool:
    """Keep an event's corrections; return whether they are new."""
    file = workspace.feedback.event(event.model, event.id)
    if file.exists():
        return False
    artifacts.write_json(file, event.model_dump(mode="json"))
    return True


def joined(config: Config, workspace: Workspace) -> Config:
    """Return the configuration of a run that is about to begin: with the feedback until now.

    Nothing changes where there is none, or where the configuration names a snapshot itself.

    Raises:
        EventError: What is kept is damaged.
    """
    posted = [
        event
        for file in workspace.feedback.events(config.name)
        if isinstance(event := schema.read(file), schema.Feedback)
    ]
    if not posted or config.data.feedback is not None:
        return config
    found = [
        Correction(event.time.astimezone(UTC).isoformat(), event.id, one.image, one.label)
        for event in posted
        for one in event.corrections
    ]
    snapshot = corrections.save_snapshot(found, workspace.feedback)
    data = config.data.model_copy(update={"feedback": snapshot})
    return config.model_copy(update={"data": data})
