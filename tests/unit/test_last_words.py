"""What a container leaves as its last words: the error alone, its beginning and its remedy."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import click
import pytest
import typer

from mlpipeline.cli import app, last_words
from mlpipeline.errors import SelectionError


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the kubelet has put there; the process ends with its status as an error."""

    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(last_words, "FILE", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    return tmp_path / "termination-log"


def end(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Run the command line with a command that raises."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    app.main()


def test_an_error_is_the_last_word_of_its_pod(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Left):
        end(monkeypatch, SelectionError("it is late", expected="in time", remedy="hurry"))
    assert file.read_text() == "error: it is late\n  expected: in time\n  to do:    hurry"


def test_a_workspace_that_cannot_be_written_says_what_to_do_in_a_cluster(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Left):
        end(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "/workspace/runs"))
    said = file.read_text()
    assert said.startswith("error: cannot use /workspace/runs: Permission denied\n")
    assert "chmod -R a+rwX workspace-kind" in said
    assert "--workspace" not in said


def test_a_bug_says_what_it_was_and_where(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        end(monkeypatch, ZeroDivisionError("seven"))
    first, *places, expected, to_do = file.read_text().splitlines()
    assert first == "error: a bug: ZeroDivisionError: seven"
    assert f"{__file__}:" in places[-1]
    assert (expected[:12], to_do[:8]) == ("  expected: ", "  to do:")


def test_of_a_long_text_the_beginning_and_the_end_stay(file: Path) -> None:
    last_words.write("error: first\n" + "é" * 5000 + "\n  to do:    hurry")
    said = file.read_bytes()
    assert 4000 < len(said) <= 4096
    assert said.decode().startswith("error: first\né")
    assert said.decode().endswith("é\n  to do:    hurry")


def test_elsewhere_than_in_a_pod_nothing_is_written(file: Path) -> None:
    file.unlink()
    last_words.write("error: first")
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_no_matter(file: Path) -> None:
    file.unlink()
    file.mkdir()
    last_words.write("error: first")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["step", "ingest"], last_words.UNSAID),
        (["cluster", "record"], last_words.UNSAID),
        # Who waits for these looks into their log, where there are no last words.
        (["step", "train"], ""),
        (["step", "serve"], ""),
    ],
)
def test_a_step_that_is_killed_has_not_the_end_of_its_log_as_its_last_words(
    file: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], expected: str
) -> None:
    said: list[str] = []
    group, name = command
    typed = typer.main.get_command(app.app)
    assert isinstance(typed, typer.core.TyperGroup)
    inner = typed.commands[group]
    assert isinstance(inner, typer.core.TyperGroup)
    looking = click.Command(name, callback=lambda: said.append(file.read_text()))
    monkeypatch.setitem(inner.commands, name, looking)
    monkeypatch.setattr(app, "app", lambda: typed(command))
    with pytest.raises(SystemExit):
        app.main()
    assert said == [expected]
    assert file.read_text() == "", "it has ended by itself"


def test_a_command_that_there_is_not_has_its_log_as_its_last_words(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet takes the end of the log where nothing was left."""
    monkeypatch.setattr(sys, "argv", ["mlpipeline", "step", "ingest", "--no-such-option"])
    with pytest.raises(SystemExit) as raised:
        app.main()
    assert raised.value.code == 2
    assert file.read_text() == ""
