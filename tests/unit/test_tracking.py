"""How a run ends when MLflow does, or does not, take its record: it is never held up or failed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.runs.mlflow import sending
from mlpipeline.store.layout import Workspace

PYTHON = sys.executable


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the interpreter that the sending process is started with."""
    file = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(file))
    return file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that were started."""
    processes: list[subprocess.Popen[str]] = []

    class Popen(subprocess.Popen[str]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return processes


def _script(file: Path, *lines: str) -> None:
    # What has a command end with its parent is still a real interpreter's to do.
    real = f'[ "$1" != -I ] || exec {PYTHON} "$@"'
    file.write_text("\n".join(("#!/bin/sh", real, *lines)) + "\n")
    file.chmod(0o755)


def test_without_a_place_to_send_to_nothing_is_started(python: Path, tmp_path: Path) -> None:
    with sending.sending(Workspace(tmp_path), ""):
        pass  # the interpreter does not exist: to start it would be an error


def test_it_sends_while_the_caller_works(python: Path, tmp_path: Path) -> None:
    _script(python, f'echo "$MLFLOW_TRACKING_URI $*" >{tmp_path}/said')
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000"):
        pass
    expected = f"http://mlflow:5000 -m mlpipeline track --workspace {tmp_path}"
    assert (tmp_path / "said").read_text().strip() == expected


def test_a_failure_is_one_line_of_warning(
    python: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _script(python, 'echo "noise\nerror: MLflow: away\n  expected: a server" >&2', "exit 1")
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000"):
        pass
    assert caplog.messages == [
        "not sent to MLflow: MLflow: away; the next run sends it, or `mlpipeline track`"
    ]
    assert caplog.records[0].levelname == "WARNING"


def test_a_crash_without_a_message_is_a_warning_too(
    python: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _script(python, "exit 3")
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000"):
        pass
    assert "not sent to MLflow: status 3" in caplog.text
    _script(python, 'echo "Traceback:\n  in x\nKeyError: 7" >&2', "exit 1")
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000"):
        pass
    assert "not sent to MLflow: KeyError: 7" in caplog.text


def test_a_damaged_record_that_was_left_out_is_named(
    python: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _script(python, 'echo "warning: a damaged record is left out: runs/1/run.json" >&2')
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000"):
        pass
    assert caplog.messages == ["a damaged record is left out: runs/1/run.json"]


def test_what_hangs_is_ended(
    python: Path,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    _script(python, "exec sleep 600")
    with sending.sending(Workspace(tmp_path), "http://mlflow:5000", seconds=1):
        pass
    assert "it took more than 1 s" in caplog.text
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_an_error_of_the_caller_ends_it_too(
    python: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    _script(python, "exec sleep 600")
    with (
        pytest.raises(KeyboardInterrupt),
        sending.sending(Workspace(tmp_path), "http://mlflow:5000"),
    ):
        raise KeyboardInterrupt
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_where_to_is_the_variable_or_a_file_in_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = sending.embedded(Workspace(tmp_path))
    assert embedded == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sending.configured(default=embedded) == embedded
    assert sending.configured() == "", "on shared storage SQLite is not written"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert sending.configured(default=embedded) == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert sending.configured(default=embedded) == "", "set, but empty: nothing is sent"
