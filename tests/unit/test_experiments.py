"""MLflow's copy of the runs, in a SQLite file, read back with MLflow's own client."""

from __future__ import annotations

import copy
import functools
import operator
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from mlpipeline.errors import TrackingError
from mlpipeline.runs.mlflow import client, entries, sending
from mlpipeline.store import artifacts, history, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run as RunOnDisk
from support.fabricated_run import artifact_of, fabricate, try_on_requests
from support.stored_documents import model_card

KILLED = "this command ended with signal SIGKILL"


class Store:
    """A workspace with finished runs, and its copy: to make the tables takes two seconds."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.uri = sending.embedded(Workspace(workspace))
        self.client = MlflowClient(self.uri, registry_uri=self.uri)

    def send(self) -> list[str]:
        return client.send(Workspace(self.workspace), self.uri)

    def of(self, run: str) -> dict[str, Run]:
        """The run and its tasks by name; one that nobody has deleted."""
        (home,) = (e for e in self.client.search_experiments() if e.name == "fashion-mnist")
        found = self.client.search_runs([home.experiment_id], f"tags.`mlpipeline.run` = '{run}'")
        by_name = {each.info.run_name: each for each in found}
        assert len(by_name) == len(found), "something is there twice"
        return by_name


def _finished(workspace: Path, run: str, **changes: Any) -> dict[str, Any]:
    """Add a run to the workspace: made up, with a registered model that is current."""
    record = fabricate(workspace) | {"run": run, "source": "commit 0123abcd"} | changes
    _save(workspace, record)
    version = next(task["key"] for task in record["tasks"] if task["step"] == "select")
    folder = Workspace(workspace).model("fashion-mnist", version).path
    with artifacts.publish(folder) as draft:
        about = {"name": "fashion-mnist", "version": version, "candidate": "batch_norm"}
        model_card(**about, test_accuracy=0.9268).save(draft / "model.json")
    registry.promote(Workspace(workspace), "fashion-mnist", version)
    return record


def _epoch(number: int) -> dict[str, Any]:
    """An epoch as a training writes it."""
    figures = dict.fromkeys(("accuracy", "validation_loss", "validation_accuracy"), 0.1)
    return figures | {"epoch": number, "learning_rate": 0.1, "cpu_seconds": None}


def _save(workspace: Path, record: Mapping[str, Any]) -> None:
    artifacts.write_json(workspace / "runs" / record["run"] / "run.json", record)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    workspace = tmp_path_factory.mktemp("workspace")
    record = _finished(workspace, "first")
    train = next(t for t in record["tasks"] if t["name"] == "train-batch_norm")
    train |= {"retries": [KILLED], "code": "c0de" * 16, "started": "2026-11-21T13:53:00+00:00"}
    _save(workspace, record)
    assert client.send(Workspace(workspace), sending.embedded(Workspace(workspace))) == ["first"]
    return Store(workspace)


def test_a_run_is_one_of_its_models_experiment_with_a_nested_one_for_each_task(
    store: Store,
) -> None:
    runs = store.of("first")
    whole = runs.pop("first")
    assert set(runs) == {
        *(
            "ingest",
            "train-cnn",
            "train-batch_norm",
            "train-dropout",
            "select",
            "gate",
            "serve",
            "verify",
        )
    }
    assert {r.data.tags["mlflow.parentRunId"] for r in runs.values()} == {whole.info.run_id}
    assert whole.info.status == "FINISHED"
    assert whole.info.end_time - whole.info.start_time == 229_700, "milliseconds"
    assert whole.data.params["data.dataset"] == "fashion_mnist"
    assert whole.data.params["candidates"] == "cnn, batch_norm, dropout"
    assert whole.data.metrics["duration_s"] == 229.7
    assert whole.data.metrics["test_accuracy"] == pytest.approx(
        artifacts.read_json(
            artifact_of(store.workspace, {"tasks": [_SELECT]}, "select") / "decision.json"
        )["test"]["accuracy"]
    )
    assert whole.data.tags["version.tensorflow"] == "2.21.0"
    assert whole.data.tags["mlflow.source.git.commit"] == "0123abcd"


def test_the_gate_has_its_verdict_and_every_figure_beside_the_current_ones(store: Store) -> None:
    data = store.of("first")["gate"].data
    assert data.metrics["gate.accuracy"] == 0.9293
    assert data.metrics["gate.accuracy.current"] == 0.9286
    assert data.metrics["gate.class Shirt.limit"] == 0.72
    assert "gate.size.limit" not in data.metrics, "it may be anything"
    assert data.tags["gate.verdict"] == "passed"
    assert data.tags["gate.current"] == "fashion-mnist-0a1b2c3d4e5f6071"
    assert "outcome" not in store.of("first")["first"].data.tags, "nothing was kept"


def test_who_has_forced_a_version_and_what_was_kept_can_be_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    record = _finished(tmp_path, "forced")
    gate = next(task for task in record["tasks"] if task["name"] == "gate")
    odd = {"what": "class a/ö: {{x}}", "unit": "share", "new": 0.5}
    gate["gate"] = gate["gate"] | {
        "forced": {"who": "ann", "reason": "a new class"},
        "checks": [odd],
    }
    run = RunOnDisk.parse(record, origin="made up")
    entry = entries.of_task(workspace, run, next(t for t in run.tasks if t.name == "gate"))
    assert entry.tags["gate.forced.who"] == "ann"
    assert entry.tags["gate.forced.reason"] == "a new class"
    assert "gate.class a_ö_ __x__" in {metric.key for metric in entry.metrics}
    try_on_requests(record)
    run = RunOnDisk.parse(record, origin="made up")
    entry = entries.of_task(workspace, run, next(t for t in run.tasks if t.name == "canary"))
    assert entry.tags["canary.verdict"] == "passed"
    assert {m.key: m.value for m in entry.metrics}["canary.canary.same class"] == 0.966
    record["tasks"] = [task for task in record["tasks"] if task["name"] != "canary"]
    gate["gate"] |= {"verdict": "kept", "forced": None}
    held = entries.of_run(workspace, RunOnDisk.parse(record, origin="made up"))
    assert held.tags["outcome"] == "succeeded, kept fashion-mnist-0a1b2c3d4e5f6071"


def test_a_selection_has_the_figures_of_each_variant(store: Store) -> None:
    data = store.of("first")["select"].data
    metrics = data.metrics
    assert metrics["int8-dynamic.milliseconds"] == 0.036
    assert metrics["int8-dynamic.agreement"] == 0.9988
    assert metrics["float32.bytes"] == 504_300
    assert "int8-full.milliseconds" not in metrics, "it could not be made"
    served = (data.tags["served.engine"], data.tags["served.variant"])
    assert served == ("litert", "int8-dynamic")
    assert data.tags["served.reason"]
    assert data.tags["int8-full.refused"]


_SELECT = {"name": "select", "step": "select", "key": "fashion-mnist-d2b7c6e5f4a39180"}


def test_a_training_has_its_recipe_its_metrics_by_epoch_its_retries_and_its_code(
    store: Store,
) -> None:
    training = store.of("first")["train-batch_norm"]
    assert training.data.params["model"] == "batch_norm"
    tags = training.data.tags
    assert (tags["step"], tags["state"], tags["code"]) == ("train", "succeeded", "c0de" * 16)
    assert tags["key"] == "batch-norm-6c02fa9be1d47385"
    assert training.data.metrics["retries"] == 1
    assert KILLED in tags["mlflow.note.content"]
    assert training.data.metrics["parameters"] == 141_642
    history = store.client.get_metric_history(training.info.run_id, "validation_accuracy")
    epochs = artifacts.read_json(
        store.workspace / "candidates" / "batch-norm-6c02fa9be1d47385" / "history.json"
    )
    by_epoch = sorted(history, key=lambda metric: int(metric.step))
    assert [metric.step for metric in by_epoch] == [e["epoch"] for e in epochs]
    accuracies = [e["validation_accuracy"] for e in epochs]
    assert [metric.value for metric in by_epoch] == pytest.approx(accuracies)
    began = training.info.start_time
    seconds = [int(e["seconds"] * 1000) for e in epochs]
    assert [metric.timestamp - began for metric in by_epoch] == seconds


def test_the_data_set_is_an_input_with_its_digest(store: Store) -> None:
    for name in ("first", "ingest"):
        inputs = store.of("first")[name].inputs
        assert inputs is not None
        (given,) = inputs.dataset_inputs
        assert given.dataset.name == "fashion_mnist"
        assert given.dataset.digest == ("9f2c7be1a4d05836" * 4)[:36]
        assert "dataset-fashion-mnist" in given.dataset.source


def test_the_verified_version_is_registered_and_current(store: Store) -> None:
    current = store.client.get_model_version_by_alias("fashion-mnist", "current")
    assert current.tags["version"] == "fashion-mnist-d2b7c6e5f4a39180"
    folder = store.workspace / "models" / "fashion-mnist" / "fashion-mnist-d2b7c6e5f4a39180"
    assert current.tags["digest"] == artifacts.digest(folder)


def test_the_aliases_follow_a_rollback(tmp_path: Path) -> None:
    workspace, name = Workspace(tmp_path), "fashion-mnist"
    record = _finished(tmp_path, "first")
    first = _SELECT["key"]
    folder = workspace.model(name, second := "fashion-mnist-2").path
    with artifacts.publish(folder) as draft:
        model_card(name=name, version=second).save(draft / "model.json")
    tasks = [t | {"key": second} if t["name"] == "select" else t for t in record["tasks"]]
    started = "2026-11-22T13:52:20+00:00"
    _save(tmp_path, record | {"run": "second", "started": started, "tasks": tasks})
    registry.promote(workspace, name, second, run="second")
    store = Store(tmp_path)

    def aliases() -> dict[str, str]:
        found = {
            alias: store.client.get_model_version_by_alias(name, alias)
            for alias in ("current", "previous")
        }
        return {alias: version.tags["version"] for alias, version in found.items()}

    store.send()
    assert aliases() == {"current": second, "previous": first}
    history.move(workspace, name, first, "rolled back", by="ann")
    store.send()
    assert aliases() == {"current": first, "previous": second}
    workspace.history(name).write_text("{")
    store.send()
    assert aliases()["current"] == first, "whatever is the matter with the history"


def test_what_is_there_is_not_sent_again(store: Store) -> None:
    before = store.of("first")
    assert store.send() == []
    assert {r.info.run_id for r in store.of("first").values()} == {
        r.info.run_id for r in before.values()
    }
    assert len(store.client.search_model_versions("name = 'fashion-mnist'")) == 1


def test_a_run_whose_sending_was_ended_half_way_is_sent_whole(store: Store) -> None:
    whole = store.of("first")["first"]
    store.client.delete_tag(whole.info.run_id, "mlpipeline.sent")
    store.client.delete_run(store.of("first")["verify"].info.run_id)
    assert store.send() == ["first"]
    assert len(store.of("first")) == 9
    assert store.of("first")["first"].info.run_id != whole.info.run_id


def test_a_failed_run_says_what_failed_why_and_after_how_long(store: Store) -> None:
    record = _finished(store.workspace, "failed", state="failed", error="every candidate failed")
    training = record["tasks"][2]
    training |= {"state": "failed", "error": "its loss was not finite\n  expected: a number"}
    training |= {"key": "batch-norm-0000000000000000", "where": "pod mlpipeline-1 on node kind"}
    record["tasks"] = record["tasks"][:3]
    unfinished = store.workspace / "candidates" / ".batch-norm-0000000000000000.work"
    epochs = [
        _epoch(1) | {"step": 9, "loss": 7.5, "seconds": 4.0},
        _epoch(2) | {"step": 18, "loss": None, "seconds": 8.0},  # it was not finite
    ]
    artifacts.write_json(unfinished / "history.json", epochs)
    _save(store.workspace, record)
    assert store.send() == ["failed"]
    runs = store.of("failed")
    assert (runs["failed"].info.status, runs["ingest"].info.status) == ("FAILED", "FINISHED")
    failed = runs["train-batch_norm"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"].startswith("its loss was not finite")
    assert "Failed after 96 s" in failed.data.tags["mlflow.note.content"]
    assert failed.data.tags["where"] == "pod mlpipeline-1 on node kind"
    assert failed.data.metrics["loss"] == 7.5, "of the epochs that it had come to"


def test_a_run_that_is_under_way_is_not_sent(store: Store) -> None:
    record = _finished(store.workspace, "running", state="running")
    assert store.send() == []
    _save(store.workspace, record | {"state": "interrupted", "error": "stopped by a signal"})
    assert store.send() == ["running"]
    assert store.of("running")["running"].info.status == "KILLED"


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: "{",
        lambda record: [],
        lambda record: {k: v for k, v in record.items() if k != "tasks"},
        lambda record: record | {"started": "yesterday"},
        lambda record: record | {"tasks": [{"state": "succeeded"}]},
        lambda record: record | {"config": {"name": "fashion-mnist"}},
    ],
    ids=["no JSON", "no record", "no tasks", "no time", "half a task", "no candidates"],
)
def test_a_damaged_record_is_left_out_with_a_warning_that_names_it(
    store: Store, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    good = _finished(store.workspace, "good")
    damaged = damage(copy.deepcopy(good) | {"run": "damaged"})
    file = store.workspace / "runs" / "damaged" / "run.json"
    if isinstance(damaged, str):
        artifacts.write_text(file, damaged)
    else:
        artifacts.write_json(file, damaged)
    store.send()
    (warning,) = caplog.messages
    assert warning.startswith("a damaged record is left out: ")
    assert str(file) in warning
    assert "good" in store.of("good"), "the others are sent"
    assert store.of("damaged") == {}
    file.unlink()


def test_what_somebody_has_deleted_in_mlflow_does_not_come_back(store: Store) -> None:
    _finished(store.workspace, "unwanted")
    assert "unwanted" in store.send()
    store.client.delete_run(store.of("unwanted")["unwanted"].info.run_id)
    assert store.send() == []


def test_two_that_send_at_the_same_moment_send_each_run_once(store: Store) -> None:
    runs = [f"race-{n}" for n in range(3)]
    for run in runs:
        _finished(store.workspace, run)
    sent: list[list[str]] = []
    threads = [threading.Thread(target=lambda: sent.append(store.send())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(functools.reduce(operator.iadd, sent, [])) == runs
    assert all(len(store.of(run)) == 9 for run in runs)


def test_a_server_that_is_away_is_an_error_and_the_run_is_sent_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    _finished(store.workspace, "later")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
        client.send(Workspace(store.workspace), "http://127.0.0.1:9")  # discard: nobody listens
    assert store.send() == ["later"]
