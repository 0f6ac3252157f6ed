"""A run and its tasks as MLflow has them, made from the record and from what they published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Dataset, Metric

from mlpipeline.errors import ArtifactError
from mlpipeline.plan.pipeline import INGEST, SELECT, SERVE, TRAIN
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import Epoch, Metrics, TrainingHistory
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.document import Document
from mlpipeline.store.schemas.run import Run, TaskRecord
from mlpipeline.store.schemas.selection import Decision

D = TypeVar("D", bound=Document)

_NOT_OF_METRICS = re.compile(r"[^\w\-. ]")  # the name of a class may be anything
_LONGEST = 200  # of the 250 characters that MLflow takes for a name

RUN_TAG = "mlpipeline.run"
STATUS = {
    "reused": "FINISHED",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class Entry:
    """One run as MLflow has it.

    Attributes:
        name: What its page is called.
        status: How it ended, in MLflow's words.
        began: When it began, in milliseconds since 1970.
        ended: When it ended, in milliseconds since 1970.
        tags: What it can be found by.
        params: Its settings.
        metrics: Its figures.
        dataset: The data set that it read or made.
    """

    name: str
    status: str
    began: int
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    dataset: Dataset | None = None


def of_run(workspace: Workspace, run: Run) -> Entry:
    """Return a run of the pipeline, with the figures of the candidate that it chose.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.
    """
    ended = milliseconds(run.started, run.seconds)
    settings = {k: v for k, v in run.config.items() if k != "candidates"}
    figures = {"duration_s": run.seconds} | _figures_of_chosen(workspace, run)
    return Entry(
        name=run.run,
        status=STATUS[run.state],
        began=milliseconds(run.started),
        ended=ended,
        tags=_tags(run, run.config_file) | _outcome(run) | _troubles(run.error, run.seconds, ()),
        params=_params({"candidates": ", ".join(run.candidates)} | settings),
        metrics=[Metric(n, value, ended, 0) for n, value in figures.items()],
        dataset=next((d for task in run.tasks if (d := _dataset(workspace, task))), None),
    )


def of_task(workspace: Workspace, run: Run, task: TaskRecord) -> Entry:
    """Return a task of a run.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.
        task: One of its tasks.
    """
    started = task.started or run.started
    began, ended = milliseconds(started), milliseconds(started, task.seconds)
    tags = {
        "step": task.step,
        "state": task.state,
        "key": task.key,
        "code": task.code,
        "where": task.where or run.machine.host,
    }
    return Entry(
        name=task.name,
        status=STATUS[task.state],
        began=began,
        ended=ended,
        tags=_tags(run, f"mlpipeline {task.step}")
        | {k: v for k, v in tags.items() if v}
        | _served(workspace, task)
        | {f"{task.step}.{name}": text for name, text in task.said.items()}
        | _troubles(task.error, task.seconds, task.retries),
        params=_params(_parameters(run, task)),
        metrics=[
            Metric("duration_s", task.seconds, ended, 0),
            Metric("retries", len(task.retries), ended, 0),
            *_metrics(workspace, task, began),
        ],
        dataset=_dataset(workspace, task),
    )


def _tags(run: Run, made_by: str) -> dict[str, str]:
    """What a run and its tasks both have: whose they are, the versions of code and libraries."""
    versions = {"python": run.machine.python} | run.machine.packages
    tags = {f"version.{library}": version for library, version in versions.items()}
    tags |= {RUN_TAG: run.run, "mlflow.source.name": made_by}
    kind, _, revision = run.source.partition(" ")
    if kind == "commit":
        tags["mlflow.source.git.commit"] = revision
    elif kind:
        tags[kind] = revision
    return tags


def _outcome(run: Run) -> dict[str, str]:
    """How a run ended where its state does not say all: what was current goes on."""
    return {} if run.outcome == run.state else {"outcome": run.outcome}


def _troubles(error: str | None, seconds: float, retries: Sequence[str]) -> dict[str, str]:
    """What went wrong in a run or a task, as the description that its page begins with."""
    texts = [f"Attempt {n} failed:\n{why}" for n, why in enumerate(retries, 1)]
    if error:
        texts.append(f"Failed after {seconds:.0f} s:\n{error}")
    note = "\n\n".join(f"```\n{text}\n```" for text in texts)
    return {"mlflow.note.content": note, "error": error or ""} if note else {}


def _metrics(workspace: Workspace, task: TaskRecord, began: int) -> list[Metric]:
    """The figures of a training by epoch, and those of a selection."""
    if task.step == TRAIN.name:
        published = workspace.candidate(task.key)
        history = _read(TrainingHistory, published.history)
        if history is None:  # a training that failed leaves the epochs that it had come to
            history = _read(TrainingHistory, published.work.history)
        metrics = _read(Metrics, published.metrics)
        by_epoch = [
            metric
            for epoch in (history.epochs if history else ())
            for metric in _metrics_of_epoch(epoch, began)
        ]
        size = [Metric("parameters", metrics.parameters, began, 0)] if metrics else []
        return by_epoch + size
    decision = _decision(workspace, task)
    figures = _figures_of_selection(decision) if decision else _figures_of_judgement(task)
    return [Metric(name, value, began, 0) for name, value in figures.items()]


def _decision(workspace: Workspace, task: TaskRecord) -> Decision | None:
    """What a selection decided; None of any other task."""
    if task.step != SELECT.name:
        return None
    return _read(Decision, workspace.selection(task.key).decision)


def _served(workspace: Workspace, task: TaskRecord) -> dict[str, str]:
    """What a selection decided to serve, and of each other variant why not."""
    decision = _decision(workspace, task)
    if decision is None or decision.served is None:
        return {}
    served = decision.served
    tags = {f"served.{name}": getattr(served, name) for name in ("engine", "variant", "reason")}
    refused = {f"{each.name}.refused": each.refused for each in served.variants if each.refused}
    return tags | refused


def _figures_of_judgement(task: TaskRecord) -> dict[str, float]:
    """Every figure of the gate or a trial: the new version's, the current one's, and the limit."""
    figures: dict[str, float] = {}
    for what, check in task.checks.items():
        name = _NOT_OF_METRICS.sub("_", f"{task.step}.{what}")[:_LONGEST]
        known = {"": check.new, ".current": check.current, ".limit": check.limit}
        figures |= {f"{name}{end}": value for end, value in known.items() if value is not None}
    return figures


def _figures_of_selection(decision: Decision) -> dict[str, float]:
    """The accuracy of what is served, and of each variant what it takes and how good it is."""
    figures = {"test_accuracy": decision.test.accuracy}
    for variant in decision.served.variants if decision.served else ():
        measured = variant.model_dump(exclude={"name", "refused"}, exclude_none=True)
        figures |= {f"{variant.name}.{figure}": value for figure, value in measured.items()}
    return figures


def _metrics_of_epoch(epoch: Epoch, began: int) -> list[Metric]:
    return [
        Metric(_NAMES.get(name, name), value, began + int(epoch.seconds * 1000), epoch.epoch)
        for name, value in asdict(epoch).items()
        # A loss that is not finite is null in JSON, and no metric.
        if name not in ("epoch", "step") and value is not None
    ]


_NAMES = {"seconds": "training_s", "cpu_seconds": "training_cpu_s"}  # with their unit


def _parameters(run: Run, task: TaskRecord) -> Mapping[str, Any]:
    """The settings that a task read."""
    if task.step == TRAIN.name:
        workers = run.settings("training").get("workers")
        recipe = run.candidates[str(task.candidate)]
        return {"seed": run.config.get("seed"), "workers": workers, **recipe}
    section = {INGEST.name: "data", SERVE.name: "serving"}.get(task.step)
    return run.settings(section) if section else {}


def _figures_of_chosen(workspace: Workspace, run: Run) -> dict[str, float]:
    """The figures of the candidate that a run has chosen."""
    for task in reversed(run.tasks):
        if decision := _decision(workspace, task):
            figures: dict[str, float | None] = {"test_accuracy": decision.test.accuracy}
            if chosen := decision.candidates.get(decision.chosen):
                figures["validation_accuracy"] = chosen.validation_accuracy
                figures["validation_loss"] = chosen.validation_loss
                figures["parameters"] = chosen.parameters
            return {name: value for name, value in figures.items() if value is not None}
    return {}


def _dataset(workspace: Workspace, task: TaskRecord) -> Dataset | None:
    if task.step != INGEST.name:
        return None
    card = _read(DatasetCard, workspace.dataset(task.key).card)
    if card is None:
        return None
    # MLflow has room for 36 characters of the digest; the source has all of them.
    source = json.dumps({"source": card.source, "digest": card.digest})
    return Dataset(card.name, card.digest[:36], "mlpipeline", source)


def _params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `training.workers`; empty ones say nothing."""
    params: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            params |= _params(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            params[f"{prefix}{name}"] = str(value)
    return params


def _read(schema: type[D], file: Path) -> D | None:
    """Read a file of an artifact; None if it is gone or damaged: the rest is sent all the same."""
    try:
        return schema.load(file)
    except ArtifactError:
        return None


def milliseconds(moment: str, seconds: float = 0.0) -> int:
    """Return a moment of a record, or one some seconds later, as MLflow's time.

    Args:
        moment: ISO 8601.
        seconds: How many seconds later.

    Returns:
        Milliseconds since 1970.
    """
    return int((datetime.fromisoformat(moment).timestamp() + seconds) * 1000)
