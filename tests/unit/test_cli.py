"""The command line: what is said where something is wrong, and the status that a pod ends with."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlpipeline.cli import app
from mlpipeline.errors import (
    ConfigurationError,
    MissingArtifactError,
    PeerLostError,
    PipelineError,
    SelectionError,
)
from mlpipeline.learning.data import splits
from mlpipeline.plan import config as configuration
from mlpipeline.plan.pipeline import STEPS, plan
from mlpipeline.steps import verification
from mlpipeline.steps.verification import Expected
from mlpipeline.store import artifacts, history, registry
from mlpipeline.store.layout import DatasetFolder, SelectionFolder, Workspace
from mlpipeline.store.schemas.gate import Forced
from mlpipeline.store.schemas.run import Verification
from mlpipeline.store.schemas.selection import TestFigures
from support import stored_documents as documents

PIPELINE = """
name: shirts
data: {dataset: synthetic}
candidates:
  cnn: {model: cnn}
  dropout: {model: dropout}
"""


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(PIPELINE)
    return file


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run the command line with a command that raises; return the status it ends with."""

    def leave(status: int) -> None:
        raise Left(status)

    def run(error: BaseException) -> int:
        def fail() -> None:
            raise error

        monkeypatch.setattr(app, "app", fail)
        monkeypatch.setattr(os, "_exit", leave)
        with pytest.raises(Left) as raised:
            app.main()
        return int(raised.value.args[0])

    return run


@pytest.mark.parametrize(
    ("kind", "status"), [(ConfigurationError, 1), (SelectionError, 1), (PeerLostError, 143)]
)
def test_an_error_with_a_remedy_is_a_message_and_the_status_of_its_kind(
    main: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    kind: type[PipelineError],
    status: int,
) -> None:
    assert main(kind("it is late", expected="in time", remedy="hurry")) == status
    said = capsys.readouterr()
    assert said.err == "error: it is late\n  expected: in time\n  to do:    hurry\n"
    assert said.out == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_message(
    main: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert main(OSError(number, os.strerror(number), "/data/shard")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the disk is full: ")
    assert "/data/shard" in said
    assert "to do:" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR])
def test_a_path_that_cannot_be_used_is_a_message_that_names_it(
    main: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert main(OSError(number, os.strerror(number), "/data/runs")) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot use /data/runs: {os.strerror(number)}\n  expected: ")
    assert "to do:" in said


@pytest.mark.parametrize("command", ["run", "predict", "watch"])
def test_a_workspace_that_is_a_file_is_a_message(
    config: Path, tmp_path: Path, command: str
) -> None:
    (workspace := tmp_path / "workspace").touch()
    options = ["--config", str(config)]
    arguments = {"run": options, "predict": [str(config), *options], "watch": []}
    program = [sys.executable, "-m", "mlpipeline"]
    ran = subprocess.run(
        [*program, command, *arguments[command], "--workspace", workspace],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert str(workspace) in ran.stderr
    assert "to do:" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "gone"), KeyError()],
)
def test_any_other_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(type(error)) as raised:
        app.main()
    assert raised.value is error


def test_a_process_ends_with_the_message_alone_and_without_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('what takes seconds')")
    broken = tmp_path / "broken.yaml"
    broken.write_text("nam: x\n")
    ran = subprocess.run(
        [sys.executable, "-m", "mlpipeline", "step", "ingest", "--config", str(broken)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {broken} has 3 problems:\n")
    assert "did you mean `name`?" in ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout


def _invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app.app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_help_lists_the_steps_and_what_they_do() -> None:
    status, text = _invoke("--help")
    assert status == 0
    names = _described(text)
    assert {"run", "serve", "predict", "post-event", "report"} <= set(names)
    assert names[-2:] == ["step", "cluster"], "what people call comes first"
    status, text = _invoke("step", "--help")
    assert status == 0
    assert {step.name for step in STEPS} <= set(_described(text))


def _described(text: str) -> list[str]:
    """The commands that a help text describes, in its order."""
    commands = re.findall(r"^│ ([\w-]+) +(\S.*?) +│$", text, re.MULTILINE)
    return [name for name, described in commands if described and not name.startswith("-")]


def test_every_task_that_is_a_process_has_a_command_line_that_parses(config: Path) -> None:
    tasks = plan(configuration.load(config)).values()
    for task in tasks:
        status, text = _invoke(*task.arguments(config, Workspace(config.parent)), "--help")
        assert status == 0, text


def test_an_unknown_candidate_is_refused_with_the_known_ones(config: Path, tmp_path: Path) -> None:
    status, text = _invoke(
        *("step", "train", "--candidate", "cmm", "--config", config, "--workspace", tmp_path)
    )
    assert status == 2
    assert "--candidate" in text
    assert "got 'cmm', expected one of cnn, dropout" in text


@pytest.mark.parametrize("command", ["learn", "--wrong"])
def test_an_unknown_command_is_refused(command: str) -> None:
    status, text = _invoke(command)
    assert status == 2
    assert command in text


@pytest.mark.parametrize("step", ["ingest", "select"])
def test_a_step_whose_result_is_whole_does_nothing_again(
    config: Path, tmp_path: Path, step: str
) -> None:
    tasks = plan(configuration.load(config))
    for task in tasks.values():
        for folder in task.publishes:
            with artifacts.publish(tmp_path / folder) as draft:
                (draft / "made").write_text("earlier")
                documents.dataset_card().save(DatasetFolder(draft).card)

    status, text = _invoke("step", step, "--config", config, "--workspace", tmp_path)

    assert status == 0
    assert text == f"{step}: {tasks[step].key} is there already\n"
    assert (tmp_path / tasks[step].publishes[0] / "made").read_text() == "earlier"


def test_what_is_verified_is_the_version_that_is_served_whatever_was_trained_since(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has completed a candidate that was missing when this one's was selected."""
    settings, workspace = configuration.load(config), Workspace(tmp_path)
    tasks = plan(settings)
    for task in (task for task in tasks.values() if task.candidate):
        _publish(workspace.candidate(task.key).path)
    served = plan(settings, without={"dropout"})["select"].key
    assert served != tasks["select"].key
    _publish(workspace.model("shirts", served).path)
    of_its_own = documents.decision(
        {"cnn": "cnn-1"}, dataset="ingest-earlier", test=TestFigures(images=2, hits=1, accuracy=0.5)
    )
    with artifacts.publish(workspace.selection(served).path) as draft:
        folder = SelectionFolder(draft)
        of_its_own.save(folder.decision)
        np.save(folder.test_probabilities, np.full((2, 2), 0.5, np.float32))
    seen: list[Any] = []

    def verify(*, expected: Expected, **_: Any) -> Verification:
        seen.extend((expected.split, expected.accuracy))
        return documents.verification()

    monkeypatch.setattr(verification, "verify", verify)
    monkeypatch.setattr(splits, "StoredSplit", lambda folder, name: (folder, name))

    command: list[str | Path] = ["step", "verify", "--config", config, "--workspace", tmp_path]
    status, text = _invoke(*command, f"--version={served}", "--only-verify")
    assert status == 0, text
    assert history.pointed_at(workspace, "shirts") == ""
    seen.clear()
    status, text = _invoke(*command, f"--version={served}", "--run=monday", "--forced=nobody")

    assert status == 0, text
    assert seen == [(workspace.dataset("ingest-earlier").path, "test"), 0.5]
    assert registry.current(workspace, "shirts") == served
    (change,) = history.changes(workspace, "shirts")
    assert change.reason == "published by run monday"
    with pytest.raises(MissingArtifactError, match=tasks["select"].key):
        _invoke(*command)  # what would be selected now, nobody has

    workspace.current_version("shirts").unlink()
    workspace.history("shirts").unlink()
    forced = tmp_path / "forced.json"
    Forced(who="ann", reason="a new class").save(forced)
    _invoke(*command, f"--version={served}", "--run=monday", f"--forced={forced}")
    (change,) = history.changes(workspace, "shirts")
    assert change.reason == "published by run monday, forced by ann: a new class"


def _publish(folder: Path) -> None:
    with artifacts.publish(folder) as draft:
        (draft / "made").write_text("earlier")
