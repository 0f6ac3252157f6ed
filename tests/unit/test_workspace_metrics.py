"""Metrics of the pipeline and of training, as they are read from a workspace."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from mlpipeline.errors import ServingError
from mlpipeline.runs import workspace_metrics
from mlpipeline.runs.workspace_metrics import WorkspaceMetrics
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.candidate import TrainingProgress
from mlpipeline.store.schemas.run import TaskRecord
from support.past_runs import add_run
from support.registered import NAME
from support.tls import tls_server

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md"
PROGRESS = TrainingProgress(
    step=200,
    steps=430,
    epoch=2,
    loss=0.5,
    accuracy=0.8,
    images_per_second=12_800,
    step_seconds=0.01,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def told(metrics: WorkspaceMetrics) -> dict[str, float]:
    """Return all series but those of the disk."""
    lines = generate_latest(metrics).decode().splitlines()
    series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    own = {name.replace(f'model="{NAME}",', ""): float(value) for name, _, value in series}
    return {name: value for name, value in own.items() if "workspace" not in name}


def test_an_empty_workspace_has_room_and_nothing_else(workspace: Workspace) -> None:
    assert told(WorkspaceMetrics(workspace)) == {}
    text = generate_latest(WorkspaceMetrics(workspace)).decode()
    size, free = (
        float(re.search(rf"^mlpipeline_workspace_{what}_bytes (\S+)$", text, re.M)[1])  # type: ignore[index]
        for what in ("size", "available")
    )
    assert 0 < free < size


def test_runs_are_counted_and_the_newest_is_told_of(workspace: Workspace) -> None:
    reused = TaskRecord(name="ingest", step="ingest", key="k", state="reused", seconds=0.5)
    trained = [
        TaskRecord(name=f"train-{n}", step="train", key=n, state="succeeded", seconds=20)
        for n in ("cnn", "dropout")
    ]
    add_run(workspace, 1)
    current = add_run(workspace, 3, tasks=(reused, *trained), seconds=90.0)
    add_run(workspace, 2, state="failed", promote=False)
    add_run(workspace, 5, state="running", promote=False)
    metrics = WorkspaceMetrics(workspace)
    series = told(metrics)
    assert series['mlpipeline_runs{state="succeeded"}'] == 2
    assert series['mlpipeline_runs{state="failed"}'] == 1
    assert series['mlpipeline_runs{state="running"}'] == 1
    assert 'mlpipeline_last_run_seconds{state="running"}' not in series
    assert series['mlpipeline_run_tasks{state="reused",step="ingest"}'] == 1
    assert series['mlpipeline_run_tasks{state="succeeded",step="ingest"}'] == 3
    assert series['mlpipeline_run_tasks{state="succeeded",step="train"}'] == 5
    assert series['mlpipeline_last_run_seconds{state="succeeded"}'] == 90
    last, failed = (
        series[f'mlpipeline_last_run_timestamp_seconds{{state="{state}"}}']
        for state in ("succeeded", "failed")
    )
    assert last - failed == pytest.approx(24 * 60 * 60 + 30, abs=1)
    assert series['mlpipeline_last_run_step_seconds{step="train"}'] == 40
    assert series[f'mlpipeline_current_version_info{{version="{current}"}}'] == 1

    add_run(workspace, 4)
    assert told(metrics)['mlpipeline_runs{state="succeeded"}'] == 3


def test_only_new_records_are_read(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(workspace, 1)
    read = []
    monkeypatch.setattr(workspace_metrics, "_read", lambda record: read.append(record))
    metrics = WorkspaceMetrics(workspace)
    told(metrics)
    told(metrics)
    add_run(workspace, 2)
    told(metrics)
    assert [record.parent.name for record in read] == ["run-1", "run-2"]


def test_what_is_damaged_takes_nothing_else_away(workspace: Workspace) -> None:
    add_run(workspace, 1)
    add_run(workspace, 2, promote=False)
    workspace.run("run-2").record.write_text("{")
    workspace.current_version(NAME).write_text("no version\n")
    (workspace.root / "runs" / "begun").mkdir()
    series = told(WorkspaceMetrics(workspace))
    assert series['mlpipeline_runs{state="succeeded"}'] == 1
    assert not any("current_version" in name for name in series)


def test_a_training_is_told_of_while_it_goes_on(workspace: Workspace) -> None:
    work = workspace.candidate("batch-norm-0123").work
    PROGRESS.save(work.progress)
    workspace.candidate("cnn-4567").work.path.mkdir()  # it has no step yet
    metrics = WorkspaceMetrics(workspace)
    labels = '{candidate="batch-norm",key="batch-norm-0123"}'
    series = told(metrics)
    assert time.time() - series.pop(
        f"mlpipeline_training_progress_timestamp_seconds{labels}"
    ) == pytest.approx(0, abs=5)
    assert series == {
        f"mlpipeline_training_steps{labels}": 200,
        f"mlpipeline_training_planned_steps{labels}": 430,
        f"mlpipeline_training_loss{labels}": 0.5,
        f"mlpipeline_training_accuracy_ratio{labels}": 0.8,
        f"mlpipeline_training_images_per_second{labels}": 12_800,
        f"mlpipeline_training_step_seconds{labels}": 0.01,
    }

    long_ago = time.time() - 2 * 3600
    os.utime(work.progress, (long_ago, long_ago))
    assert told(metrics) == {}


def test_what_cannot_be_read_is_no_workspace_without_runs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(workspace, 1)
    closed = workspace.root / "runs"
    listed = os.listdir

    def deny(path: Path) -> list[str]:  # root may look into any
        if path == closed:
            raise PermissionError(path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", deny)
    with pytest.raises(PermissionError):
        told(WorkspaceMetrics(workspace))
    with pytest.raises(FileNotFoundError):
        told(WorkspaceMetrics(Workspace(workspace.root / "none")))


def test_the_page_about_them_names_each(workspace: Workspace) -> None:
    families = {family.name for family in WorkspaceMetrics(workspace).collect()}
    named = set(re.findall(r"^\| `(mlpipeline_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert {name.removesuffix("_info") for name in named} >= families


def test_they_are_told_by_http_on_a_port_of_their_own(workspace: Workspace) -> None:
    add_run(workspace, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port}"):
            workspace_metrics.serve(WorkspaceMetrics(workspace), "127.0.0.1", port)
    workspace_metrics.serve(WorkspaceMetrics(workspace), "127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"mlpipeline_runs{" in answer.read()


def test_it_is_seen_when_a_certificate_expires(workspace: Workspace, tmp_path: Path) -> None:
    with tls_server(tmp_path) as address:
        series = told(WorkspaceMetrics(workspace, [address, "127.0.0.1:1", "no address"]))
    ((name, expires),) = series.items()
    assert name == f'mlpipeline_certificate_expiry_timestamp_seconds{{address="{address}"}}'
    assert expires - time.time() == pytest.approx(10 * 24 * 60 * 60, abs=60)
