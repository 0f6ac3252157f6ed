"""What came from what: every task of a run as OpenLineage events, which other tools read, too.

They are made from the run's record, so that both backends leave the same. An artifact is named by
its folder in the workspace; its version is the digest of its manifest, and so of all that it holds.
https://openlineage.io/docs/spec/object-model
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from openlineage.client import event_v2
from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    OutputDataset,
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
from mlpipeline.plan.pipeline import CANDIDATE, DATASET, MODEL, STEPS, Artifact, producer_of
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Folder, SelectionFolder, Workspace
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.run import Run, TaskRecord, later
from mlpipeline.store.schemas.selection import Decision

NAMESPACE = "mlpipeline"
_STEPS = {step.name: step for step in STEPS}
_ENDS = {
    "reused": RunState.COMPLETE,
    "succeeded": RunState.COMPLETE,
    "failed": RunState.FAIL,
    "interrupted": RunState.ABORT,
}


def write(workspace: Workspace, run: Run) -> Path:
    """Write the events of a run that has ended, in place of those written before.

    Args:
        workspace: The folder of all artifacts.
        run: The record of the run.
    """
    set_producer(f"urn:{NAMESPACE}")
    file = workspace.run(run.run).lineage
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


def _events(workspace: Workspace, run: Run) -> Iterator[RunEvent]:
    job, run_id = Job(NAMESPACE, run.name), _uuid(run.run)
    yield _event(run.started, RunState.START, event_v2.Run(run_id), job)
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=run_id),
        job=parent_run.Job(namespace=job.namespace, name=job.name),
    )
    for place, task in enumerate(run.tasks):
        if task.state in _ENDS:  # not one that never began
            own_id = _uuid(run.run, str(place), task.name)
            yield from _events_of(task, own_id, workspace, run, {"parent": parent})
    yield _event(
        run.ended,
        _ENDS[run.state],
        event_v2.Run(run_id, _facets(_ending(run), run.error)),
        job,
    )


def _events_of(
    task: TaskRecord, run_id: str, workspace: Workspace, run: Run, facets: dict[str, RunFacet]
) -> Iterator[RunEvent]:
    """The two events of a task; a reused one counts as done in no time."""
    began = task.started or run.started
    job = Job(NAMESPACE, f"{run.name}.{task.name}", _code(task, run))
    reads, makes = _data_of(task, workspace, run)
    inputs = [
        InputDataset(NAMESPACE, name, facets=_about(workspace.artifact(name))) for name in reads
    ]
    yield _event(began, RunState.START, event_v2.Run(run_id, facets), job, inputs)
    tags = {
        "run": run.run,
        "state": task.state,
        "seconds": f"{task.seconds:.1f}",
        "retries": str(len(task.retries)),
    } | _verdict(task)
    yield _event(
        later(began, task.seconds),
        _ENDS[task.state],
        event_v2.Run(run_id, facets | _facets(tags, task.error)),
        job,
        inputs,
        [OutputDataset(NAMESPACE, name, facets=_about(workspace.artifact(name))) for name in makes],
    )


def _ending(run: Run) -> dict[str, str]:
    """What is known of a run as a whole, with what the gate has kept, if it has."""
    tags = {"run": run.run, "state": run.state}
    return tags if run.outcome == run.state else tags | {"outcome": run.outcome}


def _verdict(task: TaskRecord) -> dict[str, str]:
    """What the gate or a trial has said, and each figure it went by; nothing of other tasks."""
    tags = task.said | {name: check.summary for name, check in task.checks.items()}
    return {f"{task.step}.{name}": value for name, value in tags.items()}


def _event(
    time: str,
    state: RunState,
    run: event_v2.Run,
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


def _data_of(task: TaskRecord, workspace: Workspace, run: Run) -> tuple[list[str], list[str]]:
    """The artifacts that a task reads, and those that it has published, by their folders."""
    step = _STEPS.get(task.step)
    if step is None:  # one of the workflow alone, such as `plan`
        return [], []
    reads = [name for artifact in step.reads for name in _read(artifact, task, workspace, run)]
    if (said := task.judgement) and said.current not in ("", said.version):
        reads.append(str(MODEL.path(said.current, run.name)))
    makes = [str(artifact.path(task.key, run.name)) for artifact in step.publishes]
    return reads, makes if task.has_published else []


def _read(artifact: Artifact, task: TaskRecord, workspace: Workspace, run: Run) -> list[str]:
    """What a task has read of one kind."""
    if artifact == CANDIDATE:
        return _compared(workspace.selection(task.key))
    producer = producer_of(artifact).name
    keys = [each.key for each in run.tasks if each.step == producer and each.has_published]
    # An asynchronous run selects several times, and what it has selected last is served at the end.
    return [str(artifact.path(key, run.name)) for key in keys[-1:]]


def _compared(selection: SelectionFolder) -> list[str]:
    """The candidates that a selection chose from; none where it failed."""
    try:
        candidates = Decision.load(selection.decision).candidates
        return [str(CANDIDATE.path(candidate.key, "")) for candidate in candidates.values()]
    except ArtifactError:
        return []


def _code(task: TaskRecord, run: Run) -> dict[str, JobFacet]:
    if not task.code:
        return {}
    step = _STEPS.get(task.step)
    url = f"urn:{NAMESPACE}:{step.module if step else task.step}"
    facet = source_code_location_job.SourceCodeLocationJobFacet(
        type="content", url=url, version=task.code, tag=run.source or None
    )
    return {"sourceCodeLocation": facet}


def _about(folder: Folder) -> dict[str, DatasetFacet]:
    """The digest of an artifact, and where the images of a data set came from."""
    try:
        version = dataset_version_dataset.DatasetVersionDatasetFacet(artifacts.digest(folder.path))
        facets: dict[str, DatasetFacet] = {"version": version}
        if folder.path.parent.name == DATASET.folder:
            card = DatasetCard.load(DatasetFolder(folder.path).card)
            known = {"name": card.name, "digest": card.digest, "source": card.source}
            if card.feedback:
                known["feedback"] = str(card.feedback.model_dump(mode="json"))
            fields = [
                tags_dataset.TagsDatasetFacetFields(key=name, value=value)
                for name, value in known.items()
                if value
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


def _uuid(*names: str) -> str:
    """The same for the same names: what is written again replaces what a consumer has."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((f"urn:{NAMESPACE}:runs", *names))))
