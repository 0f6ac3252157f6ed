"""What came from what: every task of a run as OpenLineage events, which other tools read, too.

runs/<run>/lineage.jsonl  one event a line

They are made from the run's record, so that both backends leave the same. An artifact is named by
its folder in the workspace; its version is the digest of its manifest, and so of all that it holds.
https://openlineage.io/docs/spec/object-model
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    OutputDataset,
    Run,
    RunEvent,
    RunState,
    set_producer,
)
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_version_dataset,
    error_message_run,
    parent_run,
    source_code_location_job,
    tags_dataset,
    tags_run,
)
from openlineage.client.transport.file import FileConfig, FileTransport

from mlpipeline.errors import ArtifactError
from mlpipeline.plan.pipeline import INGEST, SELECT, SERVE, STEPS, TRAIN, VERIFY
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Folder, SelectionFolder, Workspace

NAMESPACE = "mlpipeline"
_MODULES = {step.name: step.module for step in STEPS}
_ENDS = {
    "reused": RunState.COMPLETE,
    "succeeded": RunState.COMPLETE,
    "failed": RunState.FAIL,
    "interrupted": RunState.ABORT,
}

Record = Mapping[str, Any]
"""The content of a `run.json`, or of one of its tasks."""


def write(workspace: Workspace, run: Record) -> Path:
    """Write the events of a run that has ended, in place of those written before.

    Args:
        workspace: The folder of all artifacts.
        run: The content of its `run.json`.
    """
    set_producer(f"urn:{NAMESPACE}")
    file = workspace.run(str(run["run"])).lineage
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.draft")
    transport = FileTransport(FileConfig(log_file_path=str(draft), append=True))
    try:
        for event in _events(workspace, run):
            transport.emit(event)
        draft.replace(file)
    except RuntimeError as error:  # what it makes of a full disk
        raise OSError(f"cannot write {file}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return file


def _events(workspace: Workspace, run: Record) -> Iterator[RunEvent]:
    job, run_id = Job(NAMESPACE, _name(run)), _uuid(run["run"])
    yield _event(run["started"], RunState.START, Run(run_id), job)
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=run_id),
        job=parent_run.Job(namespace=job.namespace, name=job.name),
    )
    for place, task in enumerate(run["tasks"]):
        if task["state"] in _ENDS:  # not one that never began
            own_id = _uuid(run["run"], str(place), task["name"])
            yield from _events_of(task, own_id, workspace, run, {"parent": parent})
    yield _event(
        _later(run["started"], run["seconds"]),
        _ENDS[run["state"]],
        Run(run_id, _facets({"run": run["run"], "state": run["state"]}, run["error"])),
        job,
    )


def _events_of(
    task: Record, run_id: str, workspace: Workspace, run: Record, facets: dict[str, RunFacet]
) -> Iterator[RunEvent]:
    """The two events of a task; a reused one counts as done in no time."""
    began = task.get("started") or run["started"]
    job = Job(NAMESPACE, f"{_name(run)}.{task['name']}", _code(task, run))
    reads, makes = _data_of(task, workspace, run)
    inputs = [
        InputDataset(NAMESPACE, name, facets=_about(workspace.artifact(name))) for name in reads
    ]
    yield _event(began, RunState.START, Run(run_id, facets), job, inputs)
    tags = {
        "run": run["run"],
        "state": task["state"],
        "seconds": f"{task['seconds']:.1f}",
        "retries": str(len(task.get("retries", ()))),
    }
    yield _event(
        _later(began, task["seconds"]),
        _ENDS[task["state"]],
        Run(run_id, facets | _facets(tags, task["error"])),
        job,
        inputs,
        [OutputDataset(NAMESPACE, name, facets=_about(workspace.artifact(name))) for name in makes],
    )


def _event(
    time: str,
    state: RunState,
    run: Run,
    job: Job,
    inputs: list[InputDataset] | None = None,
    outputs: list[OutputDataset] | None = None,
) -> RunEvent:
    return RunEvent(
        eventTime=time,
        eventType=state,
        run=run,
        job=job,
        inputs=inputs or [],
        outputs=outputs or [],
    )


def _data_of(task: Record, workspace: Workspace, run: Record) -> tuple[list[str], list[str]]:
    """The artifacts that a task reads, and those that it has published, by their folders."""
    step, key = task["step"], task["key"]
    if step == TRAIN.name:
        reads, makes = _published(run, INGEST.name), [f"candidates/{key}"]
    elif step == SELECT.name:
        reads = [*_published(run, INGEST.name), *_compared(workspace.selection(key))]
        makes = [f"selections/{key}", f"models/{_name(run)}/{key}"]
    elif step == SERVE.name:
        reads, makes = _published(run, SELECT.name)[-1:], []
    elif step == VERIFY.name:
        reads, makes = _published(run, SELECT.name)[-1:] + _published(run, INGEST.name), []
    else:
        reads, makes = [], [f"datasets/{key}"] if step == INGEST.name else []
    return reads, makes if task["state"] in ("succeeded", "reused") else []


def _published(run: Record, step: str) -> list[str]:
    folder = {INGEST.name: "datasets", SELECT.name: f"models/{_name(run)}"}[step]
    return [
        f"{folder}/{task['key']}"
        for task in run["tasks"]
        if task["step"] == step and task["state"] in ("succeeded", "reused")
    ]


def _compared(selection: SelectionFolder) -> list[str]:
    """The candidates that a selection chose from; none where it failed."""
    try:
        candidates = artifacts.read_json(selection.decision)["candidates"]
        return [f"candidates/{candidate['key']}" for candidate in candidates.values()]
    except (ArtifactError, KeyError):
        return []


def _code(task: Record, run: Record) -> dict[str, JobFacet]:
    if not task.get("code"):
        return {}
    url = f"urn:{NAMESPACE}:{_MODULES.get(task['step'], task['step'])}"
    facet = source_code_location_job.SourceCodeLocationJobFacet(
        type="content", url=url, version=task["code"], tag=run.get("source")
    )
    return {"sourceCodeLocation": facet}


def _about(folder: Folder) -> dict[str, DatasetFacet]:
    """The digest of an artifact, and where the images of a data set came from."""
    try:
        version = dataset_version_dataset.DatasetVersionDatasetFacet(artifacts.digest(folder.path))
        facets: dict[str, DatasetFacet] = {"version": version}
        if folder.path.parent.name == INGEST.folder:
            card = artifacts.read_json(DatasetFolder(folder.path).card)
            fields = [
                tags_dataset.TagsDatasetFacetFields(key=name, value=str(card[name]))
                for name in ("name", "digest", "source", "feedback")
                if card.get(name)
            ]
            facets["tags"] = tags_dataset.TagsDatasetFacet(tags=fields)
    except ArtifactError:  # gone or damaged since: its name still says what it was
        return {}
    return facets


def _facets(tags: Mapping[str, str], error: str | None) -> dict[str, RunFacet]:
    fields = [tags_run.TagsRunFacetFields(key=k, value=v) for k, v in tags.items()]
    facets: dict[str, RunFacet] = {"tags": tags_run.TagsRunFacet(tags=fields)}
    if error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "python")
    return facets


def _name(run: Record) -> str:
    # A run that failed before it had a configuration has no model.
    return str(run["config"].get("name", "pipeline"))


def _uuid(*names: str) -> str:
    """The same for the same names: what is written again replaces what a consumer has."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((f"urn:{NAMESPACE}:runs", *names))))


def _later(began: str, seconds: float) -> str:
    return (datetime.fromisoformat(began) + timedelta(seconds=seconds)).isoformat()
