"""Where everything in a workspace lies: people's commands and other tools rely on these names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mlpipeline.store.layout import Workspace

WORKSPACE = Workspace(Path("/w"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (WORKSPACE.dataset("k").path, "datasets/k"),
        (WORKSPACE.dataset("k").manifest, "datasets/k/MANIFEST.json"),
        (WORKSPACE.dataset("k").card, "datasets/k/dataset.json"),
        (WORKSPACE.dataset("k").readme, "datasets/k/README.md"),
        (WORKSPACE.dataset("k").shard("train.tfrecord"), "datasets/k/train.tfrecord"),
        (WORKSPACE.candidate("k").metrics, "candidates/k/metrics.json"),
        (WORKSPACE.candidate("k").history, "candidates/k/history.json"),
        (WORKSPACE.candidate("k").saved_model, "candidates/k/saved_model"),
        (WORKSPACE.candidate("k").checkpoints, "candidates/k/checkpoints"),
        (WORKSPACE.candidate("k").tensorboard, "candidates/k/tensorboard"),
        (WORKSPACE.candidate("k").work.history, "candidates/.k.work/history.json"),
        (WORKSPACE.candidate("k").work.progress, "candidates/.k.work/progress.json"),
        (WORKSPACE.candidate("k").work.result.path, "candidates/.k.work/result"),
        (WORKSPACE.selection("k").decision, "selections/k/decision.json"),
        (WORKSPACE.selection("k").test_probabilities, "selections/k/test_probabilities.npy"),
        (WORKSPACE.selection("k").test_labels, "selections/k/test_labels.npy"),
        (WORKSPACE.selection("k").mistakes, "selections/k/mistakes.npz"),
        (WORKSPACE.model("m", "v").card, "models/m/v/model.json"),
        (WORKSPACE.model("m", "v").page, "models/m/v/card.md"),
        (WORKSPACE.model("m", "v").example, "models/m/v/request.json"),
        (WORKSPACE.model("m", "v").examples, "models/m/v/examples.json"),
        (WORKSPACE.model("m", "v").saved_model, "models/m/v/saved_model"),
        (WORKSPACE.current_version("m"), "models/m/current"),
        (WORKSPACE.current_lease("m"), "models/m/.current.lease"),
        (WORKSPACE.history("m"), "models/m/changes.json"),
        (WORKSPACE.pinned("m"), "models/m/pinned"),
        (WORKSPACE.removal_lease, "runs/.removal.lease"),
        (WORKSPACE.rollback_lease("m"), "models/m/.rollback.lease"),
        (WORKSPACE.predictions("k").table, "predictions/k/predictions.csv"),
        (WORKSPACE.predictions("k").summary, "predictions/k/summary.json"),
        (WORKSPACE.run("r").record, "runs/r/run.json"),
        (WORKSPACE.run("r").config, "runs/r/config.yaml"),
        (WORKSPACE.run("r").verification, "runs/r/verification.json"),
        (WORKSPACE.run("r").lineage, "runs/r/lineage.jsonl"),
        (WORKSPACE.run("r").report, "runs/r/report.html"),
        (WORKSPACE.run("r").log("train-cnn"), "runs/r/logs/train-cnn.log"),
        (WORKSPACE.run("r").lock, "runs/r/.lock"),
        (WORKSPACE.run("r").told, "runs/r/.told"),
        (WORKSPACE.inbox.done("train-a"), "inbox/done/train-a.json"),
        (WORKSPACE.inbox.failed(Path("/x/a.json")), "inbox/failed/a.json"),
        (WORKSPACE.inbox.reason(Path("/x/a.json")), "inbox/failed/a.txt"),
        (WORKSPACE.inbox.log("train-a"), "inbox/logs/train-a.log"),
        (WORKSPACE.inbox.lock, "inbox/.lock"),
        (WORKSPACE.feedback.event("m", "e"), "feedback/events/m/e.json"),
        (WORKSPACE.feedback.snapshot("d"), "feedback/snapshots/d.json"),
        (WORKSPACE.artifact("datasets/k").path, "datasets/k"),
        (WORKSPACE.serving_logs, "serving"),
        (WORKSPACE.rollback_logs, "serving/rollback"),
        (WORKSPACE.report, "report.html"),
        (WORKSPACE.mlflow_database, "mlflow.db"),
        (WORKSPACE.mlflow_lock, "runs/.tracking.lock"),
    ],
)
def test_every_path_is_where_it_is_documented(path: Path, expected: str) -> None:
    assert path == Path("/w", expected)


def test_it_lists_the_versions_and_runs_that_are_there_but_no_drafts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for folder in ("models/a/2", "models/a/.3.draft", "models/b/1", "runs/second", "runs/first"):
        (tmp_path / folder).mkdir(parents=True)
    workspace.current_version("a").write_text("2\n")
    workspace.mlflow_lock.touch()
    assert [model.version for model in workspace.models()] == ["2", "1"]
    assert [run.run for run in workspace.runs()] == ["first", "second"]


def test_it_lists_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "none")
    assert workspace.models() == []
    assert workspace.runs() == []
    assert workspace.feedback.events("m") == []
    assert list(workspace.inbox.waiting()) == []


def test_the_folders_that_pods_mount_are_made_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare("m")
    (tmp_path / "models" / "m" / "current").write_text("1\n")
    workspace.prepare("m")
    assert (tmp_path / "models" / "m" / "current").read_text() == "1\n"
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert {"datasets", "candidates", "selections", "models/m", "predictions", "runs"} <= made
    assert {"requests/m", "requests/.none"} <= made
    assert stat.S_IMODE((tmp_path / "requests").stat().st_mode) == 0o700


def _close(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Close folders to us, as root's are on strict storage; what is made in their place is open."""
    closed = {folder.stat().st_ino for folder in folders}
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).stat().st_ino not in closed)


def test_empty_folders_that_are_closed_to_us_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("datasets", "models/m"):
        (tmp_path / name).mkdir(parents=True, mode=0o755)
    _close(monkeypatch, tmp_path / "datasets", tmp_path / "models", tmp_path / "models" / "m")
    # Not really removed, or a new one might get its number.
    monkeypatch.setattr(Path, "rmdir", lambda path: path.rename(tmp_path / f"old {path.name}"))
    Workspace(tmp_path).prepare("m")
    assert all(os.access(tmp_path / name, os.W_OK) for name in ("datasets", "models", "models/m"))


def test_a_folder_that_is_closed_to_us_and_holds_something_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "candidates" / "cnn-1").mkdir(parents=True)
    _close(monkeypatch, tmp_path / "candidates")
    with pytest.raises(PermissionError) as raised:
        Workspace(tmp_path).prepare("m")
    assert raised.value.filename == str(tmp_path / "candidates")
    assert (tmp_path / "candidates" / "cnn-1").is_dir()


def test_a_message_names_its_folder() -> None:
    assert f"in {WORKSPACE}" == "in /w"
