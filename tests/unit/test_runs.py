"""Records of runs whose process was killed, and of those that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlpipeline.plan import config
from mlpipeline.runs import record as runs
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts
from mlpipeline.store.layout import RunFolder, Workspace


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    settings = config.parse({"name": "toy", "candidates": {"a": {"model": "cnn"}}}, origin="")
    return RunRecord.begin(settings, Path("toy.yaml"), Workspace(tmp_path))


def written(record: RunRecord) -> dict[str, Any]:
    content: dict[str, Any] = artifacts.read_json(record.folder.record)
    return content


def test_a_run_that_goes_on_is_left_alone_and_a_killed_one_is_closed_once(
    record: RunRecord, tmp_path: Path
) -> None:
    with runs.under_way(record.folder):
        record.save()
        assert list(runs.close_killed(Workspace(tmp_path))) == []
        assert written(record)["state"] == "running"
    (closed,) = runs.close_killed(Workspace(tmp_path))
    assert closed.content() == written(record)
    changes = {"state": "interrupted", "error": "its process was killed"}
    assert closed.content() == record.content().content() | changes
    assert list(runs.close_killed(Workspace(tmp_path))) == []


@pytest.mark.parametrize("state", ["succeeded", "failed", "interrupted"])
def test_a_run_that_has_ended_stays_as_it_is(record: RunRecord, tmp_path: Path, state: Any) -> None:
    with runs.under_way(record.folder):
        record.state = state
        record.save()
    assert list(runs.close_killed(Workspace(tmp_path))) == []
    assert written(record)["state"] == state


def test_a_damaged_record_and_one_of_a_cluster_are_left_alone(
    record: RunRecord, tmp_path: Path
) -> None:
    record.save()  # nobody on this machine ever held its lock
    damaged = tmp_path / "runs" / "damaged"
    with runs.under_way(RunFolder(damaged)):
        (damaged / "run.json").write_text("{")
    assert list(runs.close_killed(Workspace(tmp_path))) == []
    assert written(record)["state"] == "running"
    assert (damaged / "run.json").read_text() == "{"
