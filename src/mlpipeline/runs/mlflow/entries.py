"""A run and its tasks as MLflow has them, made from the record and from what they published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, Metric

from mlpipeline.errors import ArtifactError
from mlpipeline.plan.pipeline import INGEST, SELECT, SERVE, TRAIN
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

RUN_TAG = "mlpipeline.run"
STATUS = {
    "reused": "FINISHED",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}

Record = Mapping[str, Any]
"""The content of a `run.json`, or of one of its tasks."""


@dataclass(frozen=True)
class Entry:
    """One run as MLflow has it; times are milliseconds since 1970."""

    name: str
    status: str
    began: int
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    dataset: Dataset | None = None


def of_run(workspace: Workspace, run: Record) -> Entry:
    """Return a run of the pipeline, with the figures of the candidate that it chose."""
    ended = milliseconds(run["started"], run["seconds"])
    config = run["config"]
    settings = {k: v for k, v in config.items() if k != "candidates"}
    figures = {"duration_s": run["seconds"]} | _chosen(workspace, run)
    return Entry(
        name=run["run"],
        status=STATUS[run["state"]],
        began=milliseconds(run["started"]),
        ended=ended,
        tags=_tags(run, run["config_file"]) | _troubles(run),
        params=_params({"candidates": ", ".join(config["candidates"])} | settings),
        metrics=[Metric(n, value, ended, 0) for n, value in figures.items() if value is not None],
        dataset=next((d for t in run["tasks"] if (d := _dataset(workspace, t))), None),
    )


def of_task(workspace: Workspace, run: Record, task: Record) -> Entry:
    """Return a task of a run."""
    started = task.get("started") or run["started"]
    began, ended = milliseconds(started), milliseconds(started, task["seconds"])
    retries = task.get("retries", ())
    tags = {
        "step": task["step"],
        "state": task["state"],
        "key": task["key"],
        "code": task.get("code", ""),
        "where": task.get("where") or run["machine"].get("host", ""),
    }
    return Entry(
        name=task["name"],
        status=STATUS[task["state"]],
        began=began,
        ended=ended,
        tags=_tags(run, f"mlpipeline {task['step']}")
        | {k: v for k, v in tags.items() if v}
        | _troubles(task),
        params=_params(_parameters(run["config"], task)),
        metrics=[
            Metric("duration_s", task["seconds"], ended, 0),
            Metric("retries", len(retries), ended, 0),
            *_metrics(workspace, task, began),
        ],
        dataset=_dataset(workspace, task),
    )


def _tags(run: Record, made_by: str) -> dict[str, str]:
    """What a run and its tasks both have: whose they are, the versions of code and libraries."""
    machine = run["machine"]
    versions = {"python": machine["python"]} | machine["packages"]
    tags = {f"version.{library}": str(version) for library, version in versions.items()}
    tags |= {RUN_TAG: run["run"], "mlflow.source.name": made_by}
    kind, _, revision = run.get("source", "").partition(" ")
    if kind == "commit":
        tags["mlflow.source.git.commit"] = revision
    elif kind:
        tags[kind] = revision
    return tags


def _troubles(of: Record) -> dict[str, str]:
    """What went wrong in a run or a task, as the description that its page begins with."""
    texts = [f"Attempt {n} failed:\n{why}" for n, why in enumerate(of.get("retries", ()), 1)]
    if of["error"]:
        texts.append(f"Failed after {of['seconds']:.0f} s:\n{of['error']}")
    note = "\n\n".join(f"```\n{text}\n```" for text in texts)
    return {"mlflow.note.content": note, "error": of["error"] or ""} if note else {}


def _metrics(workspace: Workspace, task: Record, began: int) -> list[Metric]:
    """The figures of a training by epoch, and those of a selection."""
    if task["step"] == TRAIN.name:
        published = workspace.candidate(task["key"])
        epochs = read(published.history) or read(published.work.history) or ()  # of one that failed
        size = (read(published.metrics) or {}).get("parameters")
        return [
            Metric(
                _NAMES.get(name, name), value, began + int(epoch["seconds"] * 1000), epoch["epoch"]
            )
            for epoch in epochs
            for name, value in epoch.items()
            # A loss that is not finite is null in JSON, and no metric.
            if name not in ("epoch", "step") and value is not None
        ] + ([Metric("parameters", size, began, 0)] if size else [])
    if task["step"] == SELECT.name:
        decision = read(workspace.selection(task["key"]).decision)
        return [Metric("test_accuracy", decision["test"]["accuracy"], began, 0)] if decision else []
    return []


_NAMES = {"seconds": "training_s", "cpu_seconds": "training_cpu_s"}  # with their unit


def _parameters(config: Record, task: Record) -> Record:
    """The settings that a task read."""
    if task["step"] == TRAIN.name:
        workers = config.get("training", {}).get("workers")
        recipe: Record = config["candidates"][task["candidate"]]
        return {"seed": config.get("seed"), "workers": workers, **recipe}
    section = {INGEST.name: "data", SERVE.name: "serving"}.get(task["step"], "")
    settings: Record = config.get(section, {})
    return settings


def _chosen(workspace: Workspace, run: Record) -> dict[str, float]:
    """The figures of the candidate that a run has chosen."""
    for task in reversed(run["tasks"]):
        if task["step"] == SELECT.name:
            decision = read(workspace.selection(task["key"]).decision)
            if decision:
                chosen = decision["candidates"].get(decision["chosen"], {})
                figures = {"test_accuracy": decision["test"]["accuracy"]}
                names = ("validation_accuracy", "validation_loss", "parameters")
                return figures | {name: chosen[name] for name in names if chosen.get(name)}
    return {}


def _dataset(workspace: Workspace, task: Record) -> Dataset | None:
    card = task["step"] == INGEST.name and read(workspace.dataset(task["key"]).card)
    if not card:
        return None
    # MLflow has room for 36 characters of the digest; the source has all of them.
    source = json.dumps({name: card[name] for name in ("source", "digest")})
    return Dataset(card["name"], card["digest"][:36], "mlpipeline", source)


def _params(values: Record, prefix: str = "") -> dict[str, str]:
    """Nested settings as `training.workers`; empty ones say nothing."""
    params: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            params |= _params(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            params[f"{prefix}{name}"] = str(value)
    return params


def read(file: Path) -> Any:
    """A file of an artifact; None if it is gone or damaged: the rest is sent all the same."""
    try:
        return artifacts.read_json(file)
    except ArtifactError:
        return None


def milliseconds(began: str, seconds: float = 0.0) -> int:
    """Return a moment of a record, or one so many seconds later, as MLflow's time."""
    return int((datetime.fromisoformat(began).timestamp() + seconds) * 1000)
