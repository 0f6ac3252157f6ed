"""Registered versions of a model, made up in a moment, with all that a rollback looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlpipeline.store import artifacts
from mlpipeline.store.layout import MANIFEST, Workspace
from support.stored_documents import decision, model_card

NAME = "shirts"
_DATASET = "ingest-1"


def register(root: Path, version: str, *, name: str = NAME, **card: Any) -> Path:
    """Publish a version, its selection and its data set; return the version's folder.

    Args:
        root: The workspace.
        version: The version.
        name: What the model is called.
        card: What the model's card says otherwise.
    """
    workspace = Workspace(root)
    with artifacts.publish(workspace.dataset(_DATASET).path) as draft:
        (draft / "dataset.json").write_text('{"name": "made up"}')
    with artifacts.publish(workspace.selection(version).path) as draft:
        made = decision({"cnn": "cnn-1"}, name=name, version=version, dataset=_DATASET)
        made.save(draft / "decision.json")
    folder = workspace.model(name, version).path
    with artifacts.publish(folder) as draft:
        model_card(name=name, version=version, **card).save(draft / "model.json")
    return folder


def damage(folder: Path) -> None:
    """Change a file of an artifact."""
    next(file for file in folder.iterdir() if file.name != MANIFEST).write_text("{}")
