"""MLflow's copy of the runs of a workspace, made from their records and artifacts.

    experiment          the model
    └─ run              a run of the pipeline: its configuration, the chosen candidate's figures
       └─ nested run    a task: parameters, metrics by epoch, retries, code, what failed and why
    registered model    the versions that were verified; `current` is the one that is served

What is there already is found by the tag `mlpipeline.run`, so that it can be called at any time,
also after it was ended half-way.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Param, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlpipeline.errors import ArtifactError, ServingError, TrackingError
from mlpipeline.plan.pipeline import SELECT
from mlpipeline.runs.mlflow import entries
from mlpipeline.runs.mlflow.entries import RUN_TAG, STATUS, Entry, Record
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace

_SENT, _VERSION = "mlpipeline.sent", "version"
_LOCK_SECONDS = 60.0
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # how its page is laid out
# What comes of a record that is damaged, or of another version of the code.
_DAMAGE = (ArtifactError, AttributeError, KeyError, TypeError, ValueError)


def send(workspace: Workspace, uri: str) -> list[str]:
    """Send every run that has ended and was not sent yet; return their names.

    A damaged record is left out with a warning.

    Args:
        workspace: The folder of all artifacts.
        uri: Of MLflow's server or database.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    sent: list[str] = []
    try:
        with _alone(workspace):
            _create_file(uri)
            client = MlflowClient(uri, registry_uri=uri)
            there, records = _there(client), _records(workspace)
            for run in records:
                if run["run"] not in there and _send(client, workspace, run):
                    sent.append(run["run"])
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
def _alone(workspace: Workspace) -> Iterator[None]:
    """Let one process at a time send: two would send the same run, or meet in SQLite."""
    workspace.mlflow_lock.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _LOCK_SECONDS
    with workspace.mlflow_lock.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("another process is sending, and does not end") from None
                time.sleep(0.1)
        yield


def _create_file(uri: str) -> None:
    """Make a SQLite file whole or not at all: MLflow cannot mend one that is half made."""
    scheme, _, name = uri.partition(":///")
    file = Path(name)
    if scheme == "sqlite" and not file.exists():
        draft = file.with_name(f".{file.name}.draft")
        draft.unlink(missing_ok=True)  # of one that was ended meanwhile; we are alone
        MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
        draft.rename(file)


def _records(workspace: Workspace) -> list[Record]:
    """The records of all runs that have ended, oldest first."""
    records = []
    for folder in workspace.runs():
        file = folder.record
        try:
            run = artifacts.read_json(file)
            if run["state"] in STATUS:
                _ = run["run"], run["config"].get("name")
                _ = [(task["step"], task["key"], task["state"]) for task in run["tasks"]]
                records.append((entries.milliseconds(run["started"]), run))
        except _DAMAGE as error:
            _warn(file, error)
    return [run for _, run in sorted(records, key=lambda pair: pair[0])]


def _there(client: MlflowClient) -> set[str]:
    """The runs that are there whole, also those that somebody has deleted there."""
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    whole: set[str] = set()
    page: str | None = None
    while True:
        found = client.search_runs(
            experiments,
            f"tags.`{_SENT}` = 'true'",
            run_view_type=ViewType.ALL,
            max_results=1000,
            page_token=page,
        )
        whole |= {run.data.tags[RUN_TAG] for run in found}
        page = found.token
        if not page:
            return whole


# --- runs -------------------------------------------------------------------------------------


def _send(client: MlflowClient, workspace: Workspace, run: Record) -> bool:
    """Send one run; False if it is damaged, or somebody has deleted its experiment there."""
    try:
        parent = entries.of_run(workspace, run)
        # Not those that never began.
        tasks = [entries.of_task(workspace, run, t) for t in run["tasks"] if t["state"] in STATUS]
    except _DAMAGE as error:
        _warn(workspace.run(run["run"]).record, error)
        return False
    name = str(run["config"].get("name", "pipeline"))
    experiment = client.get_experiment_by_name(name)
    if experiment and experiment.lifecycle_stage != "active":
        return False
    home = experiment.experiment_id if experiment else client.create_experiment(name, tags=_KIND)
    for half in client.search_runs([home], f"tags.`{RUN_TAG}` = '{run['run']}'", max_results=1000):
        client.delete_run(half.info.run_id)  # the sending of it was ended half-way
    whole = _log(client, home, parent)
    for task in tasks:
        _log(client, home, task, {"mlflow.parentRunId": whole})
    client.set_tag(whole, _SENT, "true")
    return True


def _log(
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


def _warn(file: Path, error: Exception) -> None:
    got = error.got if isinstance(error, ArtifactError) else f"{file}: {error!r}"
    print(f"warning: a damaged record is left out: {got}", file=sys.stderr, flush=True)


# --- models -----------------------------------------------------------------------------------


def _register(client: MlflowClient, workspace: Workspace, records: Sequence[Record]) -> None:
    """Register what runs have verified, oldest first, and say which version is current."""
    verified = [
        (str(run["config"]["name"]), str(task["key"]))
        for run in records
        if run["state"] == "succeeded"
        for task in run["tasks"]
        if task["step"] == SELECT.name and task["state"] in ("succeeded", "reused")
    ]
    for name in sorted({name for name, _ in verified}):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        there = _versions(client, name)
        for version in dict.fromkeys(v for n, v in verified if n == name and v not in there):
            try:
                folder = workspace.model(name, version).path
                there[version] = _register_version(client, folder)
            except ArtifactError:  # gone, or damaged: it cannot be served either
                continue
        try:
            current = there.get(registry.current(workspace, name))
        except (ServingError, ArtifactError):  # it is gone, or damaged
            continue
        if current:
            client.set_registered_model_alias(name, "current", current)


def _register_version(client: MlflowClient, folder: Path) -> str:
    """Return MLflow's own number of the version: it counts from 1."""
    about, digest = artifacts.read_json(folder / "model.json"), artifacts.digest(folder)
    registered = client.create_model_version(
        about["name"],
        source=f"mlpipeline:///models/{about['name']}/{about['version']}",
        description=f"Where it came from: mlpipeline lineage {about['version']}",
        tags={
            _VERSION: about["version"],
            "digest": digest,
            "candidate": about["candidate"],
            "test_accuracy": f"{about['test_accuracy']:.4f}",
        },
    )
    return str(registered.version)


def _versions(client: MlflowClient, name: str) -> dict[str, str]:
    """Of each version of a model that is registered, MLflow's own number."""
    found = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return {v.tags[_VERSION]: str(v.version) for v in found if _VERSION in v.tags}
