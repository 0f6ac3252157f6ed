"""Runs of the past, made up in a moment: with their artifacts, and as old as they say."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Folder, Workspace
from mlpipeline.store.schemas.run import Machine, Run, TaskRecord
from support import stored_documents as documents
from support.registered import NAME

_DAY = 24 * 60 * 60.0
_FIRST = time.time() - 100 * _DAY


def age(path: Path, day: int) -> None:
    """Have everything at a path be of a day."""
    moment = _FIRST + day * _DAY
    for each in (path, *path.rglob("*")):
        os.utime(each, (moment, moment))


def publish(folder: Folder, day: int, **content: Any) -> Path:
    with artifacts.publish(folder.path) as draft:
        for name, document in content.items():
            artifacts.write_json(draft / f"{name}.json", document)
    age(folder.path, day)
    return folder.path


def add_run(
    workspace: Workspace, day: int, *, dataset: str = "", promote: bool = True, **changes: Any
) -> str:
    """Have there been a run on a day, with a version of its own; return the version."""
    version, candidate = f"{NAME}-{day}", f"cnn-{day}"
    dataset = dataset or f"ingest-{day}"
    publish(workspace.dataset(dataset), day, dataset={"name": "made up"})
    publish(workspace.candidate(candidate), day, metrics={})
    decision = documents.decision({"cnn": candidate}, version=version, dataset=dataset)
    publish(workspace.selection(version), day, decision=decision.content())
    card = documents.model_card(version=version, candidate_key=candidate, dataset_key=dataset)
    publish(workspace.model(NAME, version), day, model=card.content())
    keys = {"ingest": dataset, "train": candidate, "select": version, "gate": ""}
    content: dict[str, Any] = {
        "run": f"run-{day}",
        "started": datetime.fromtimestamp(_FIRST + day * _DAY, UTC).isoformat(),
        "config_file": "default.yaml",
        "config": {"name": NAME, "candidates": {}},
        "machine": Machine(),
        "state": "succeeded",
        "seconds": 60.0,
        "tasks": tuple(
            TaskRecord(name=step, step=step, key=key, state="succeeded", seconds=1.0)
            for step, key in keys.items()
        ),
    }
    folder = workspace.run(f"run-{day}")
    Run(**content | changes).save(folder.record)
    artifacts.write_text(folder.log("train-cnn"), "epoch 1\n")
    age(folder.path, day)
    if promote:
        registry.promote(workspace, NAME, version, run=folder.run)
    return version


def there(workspace: Workspace) -> set[str]:
    """All that has a name of its own, below the workspace."""
    places = [workspace.root / name for name in ("datasets", "candidates", "selections", "runs")]
    places.append(workspace.root / "models" / NAME)
    return {
        path.relative_to(workspace.root).as_posix()
        for place in places
        for path in place.glob("[!.]*")
        if path.is_dir()
    }


def made_by(*days: int) -> set[str]:
    """What runs of these days have made."""
    made = ("datasets/ingest", "candidates/cnn", f"selections/{NAME}", f"models/{NAME}/{NAME}")
    return {f"{name}-{day}" for name in (*made, "runs/run") for day in days}
