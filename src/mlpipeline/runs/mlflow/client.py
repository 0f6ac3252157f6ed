"""MLflow's copy of the runs of a workspace, made from their records and artifacts.

    experiment          the model
    └─ run              a run of the pipeline: its configuration, the chosen candidate's figures
       └─ nested run    a task: parameters, metrics by epoch, retries, code, what failed and why
    registered model    the versions that were selected; `current` is the one that is served,
                        `previous` the one that was before it

What is there already is found by the tag `mlpipeline.run`, so that it can be called at any time,
also after it was ended half-way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Param, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlpipeline.errors import ArtifactError, ServingError, TrackingError
from mlpipeline.plan.pipeline import SELECT
from mlpipeline.runs.mlflow import entries
from mlpipeline.runs.mlflow.entries import RUN_TAG, STATUS, Entry
from mlpipeline.store import artifacts, history, registry
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.schemas.run import Run
from mlpipeline.store.schemas.selection import ModelCard

_log = logging.getLogger(__name__)

_SENT, _VERSION = "mlpipeline.sent", "version"
_LOCK_SECONDS = 60.0
_ALIASES = {"current": registry.current, "previous": history.previous}
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # how its page is laid out


def send(workspace: Workspace, uri: str) -> list[str]:
    """Send every run that has ended and was not sent yet; return their names.

    A damaged record is left out with a warning.

    Args:
        workspace: The folder of all artifacts.
        uri: The address of MLflow's server or database.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    sent: list[str] = []
    try:
        with _exclusive_lock(workspace):
            _create_file(uri)
            client = MlflowClient(uri, registry_uri=uri)
            sent_before, records = _sent_runs(client), _records(workspace)
            for run in records:
                if run.run not in sent_before and _send(client, workspace, run):
                    sent.append(run.run)
            _register(client, workspace, records)
    # OSError: also what `requests` raises.
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(
            f"MLflow: {str(error).splitlines()[0]}",
            expected="a tracking server that answers, or a database that can be written",
            remedy="check MLFLOW_TRACKING_URI and the server, then `mlpipeline track`",
        ) from error
    return sent


@contextmanager
def _exclusive_lock(workspace: Workspace) -> Iterator[None]:
    """Let one process at a time send: two would send the same run, or meet in SQLite."""
    workspace.mlflow_lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.mlflow_lock, timeout=_LOCK_SECONDS, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError("another process is sending, and does not end") from None
    try:
        yield
    finally:
        lock.release()


def _create_file(uri: str) -> None:
    """Make a SQLite file whole or not at all: MLflow cannot mend one that is half made."""
    scheme, _, name = uri.partition(":///")
    file = Path(name)
    if scheme == "sqlite" and not file.exists():
        draft = file.with_name(f".{file.name}.draft")
        draft.unlink(missing_ok=True)  # of a process that was killed: nobody else holds the lock
        MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
        draft.rename(file)


def _records(workspace: Workspace) -> list[Run]:
    """The records of all runs that have ended, oldest first."""
    records = []
    for folder in workspace.runs():
        if not folder.record.exists():
            continue
        try:
            run = Run.load(folder.record)
        except ArtifactError as error:
            _log.warning("a damaged record is left out: %s", error.got)
            continue
        if run.state in STATUS:
            records.append(run)
    return sorted(records, key=lambda run: entries.milliseconds(run.started))


def _sent_runs(client: MlflowClient) -> set[str]:
    """The runs that were sent to the end, also those that somebody has deleted in MLflow."""
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    sent: set[str] = set()
    page: str | None = None
    while True:
        runs = client.search_runs(
            experiments,
            f"tags.`{_SENT}` = 'true'",
            run_view_type=ViewType.ALL,
            max_results=1000,
            page_token=page,
        )
        sent |= {run.data.tags[RUN_TAG] for run in runs}
        page = runs.token
        if not page:
            return sent


# --- runs -------------------------------------------------------------------------------------


def _send(client: MlflowClient, workspace: Workspace, run: Run) -> bool:
    """Send one run; return False if somebody has deleted its experiment in MLflow."""
    parent = entries.of_run(workspace, run)
    # Not those that never began.
    tasks = [entries.of_task(workspace, run, t) for t in run.tasks if t.state in STATUS]
    experiment = client.get_experiment_by_name(run.name)
    if experiment and experiment.lifecycle_stage != "active":
        return False
    home = (
        experiment.experiment_id if experiment else client.create_experiment(run.name, tags=_KIND)
    )
    of_this_run = f"tags.`{RUN_TAG}` = '{run.run}'"
    for partial_run in client.search_runs([home], of_this_run, max_results=1000):
        client.delete_run(partial_run.info.run_id)  # the sending of it was ended half-way
    parent_run_id = _log_entry(client, home, parent)
    for task in tasks:
        _log_entry(client, home, task, {"mlflow.parentRunId": parent_run_id})
    client.set_tag(parent_run_id, _SENT, "true")
    return True


def _log_entry(
    client: MlflowClient, home: str, entry: Entry, more_tags: Mapping[str, str] | None = None
) -> str:
    tags = {**entry.tags, **(more_tags or {})}
    run = client.create_run(home, entry.began, tags, run_name=entry.name).info.run_id
    for start in range(0, len(entry.metrics), 1000):  # MLflow takes no more at a time
        client.log_batch(run, metrics=entry.metrics[start : start + 1000])
    params = [Param(name, value) for name, value in entry.params.items()]
    for start in range(0, len(params), 100):
        client.log_batch(run, params=params[start : start + 100])
    if entry.dataset:
        client.log_inputs(run, [DatasetInput(entry.dataset)])
    client.set_terminated(run, entry.status, entry.ended)
    return str(run)


# --- models -----------------------------------------------------------------------------------


def _register(client: MlflowClient, workspace: Workspace, records: Sequence[Run]) -> None:
    """Register what runs have selected, oldest first, and say which version is current.

    One that the gate has held back is registered, too, and never current.
    """
    selected = [
        (run.name, task.key)
        for run in records
        if run.state == "succeeded"
        for task in run.tasks
        if task.step == SELECT.name and task.has_published
    ]
    for name in sorted({name for name, _ in selected}):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        registered = _versions(client, name)
        for version in dict.fromkeys(v for n, v in selected if n == name and v not in registered):
            try:
                folder = workspace.model(name, version)
                registered[version] = _register_version(client, folder)
            except ArtifactError:  # gone, or damaged: it cannot be served either
                continue
        for alias, find in _ALIASES.items():
            with suppress(ServingError, ArtifactError):  # it is gone, or damaged
                if (version := find(workspace, name)) in registered:
                    client.set_registered_model_alias(name, alias, registered[version])


def _register_version(client: MlflowClient, folder: ModelFolder) -> str:
    """Return MLflow's own number of the version: it counts from 1."""
    model, digest = ModelCard.load(folder.card), artifacts.digest(folder.path)
    registered = client.create_model_version(
        model.name,
        source=f"mlpipeline:///models/{model.name}/{model.version}",
        description=f"Where it came from: mlpipeline lineage {model.version}",
        tags={
            _VERSION: model.version,
            "digest": digest,
            "candidate": model.candidate,
            "test_accuracy": f"{model.test_accuracy:.4f}",
        },
    )
    return str(registered.version)


def _versions(client: MlflowClient, name: str) -> dict[str, str]:
    """MLflow's own number of each version of a model that is registered."""
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return {v.tags[_VERSION]: str(v.version) for v in versions if _VERSION in v.tags}
