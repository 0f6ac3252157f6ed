"""The history of a model's current version: what it says after changes, crashes and damage."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from mlpipeline.errors import DamagedArtifactError, ServingError, UnknownSchemaError
from mlpipeline.store import files, history, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from mlpipeline.store.schemas.gate import Forced
from support.registered import NAME, register


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for version in ("shirts-1", "shirts-2", "shirts-3"):
        register(tmp_path, version)
    return Workspace(tmp_path)


def _publish(workspace: Workspace, *versions: str) -> None:
    for number, version in enumerate(versions, 1):
        registry.promote(workspace, NAME, version, run=f"run-{number}")


def _said(workspace: Workspace) -> list[tuple[str, str]]:
    return [(change.version, change.reason) for change in history.changes(workspace, NAME)]


def test_it_says_which_version_was_current_by_whom_and_why(workspace: Workspace) -> None:
    _publish(workspace, "shirts-1", "shirts-2")
    history.move(
        workspace, NAME, "shirts-1", "rolled back", by="ann@desk", why="it takes coats for bags"
    )
    assert _said(workspace) == [
        ("shirts-1", "published by run run-1"),
        ("shirts-2", "published by run run-2"),
        ("shirts-1", "rolled back by ann@desk: it takes coats for bags"),
    ]
    assert history.pointed_at(workspace, NAME) == "shirts-1"
    times = [change.time for change in history.changes(workspace, NAME)]
    assert times == sorted(times)


def test_who_has_passed_the_gate_by_force_is_in_it_and_why(workspace: Workspace) -> None:
    forced = Forced(who="ann@desk", reason="a new class")
    registry.promote(workspace, NAME, "shirts-1", run="run-1", forced=forced)
    history.move(
        workspace, NAME, "shirts-2", "rolled back", by="bob", forced_by="bob", why="it must"
    )
    assert _said(workspace) == [
        ("shirts-1", "published by run run-1, forced by ann@desk: a new class"),
        ("shirts-2", "rolled back by bob, forced by bob: it must"),
    ]


def test_what_the_gate_held_back_is_in_it_once_beside_what_was_current(
    workspace: Workspace,
) -> None:
    _publish(workspace, "shirts-1")
    for _ in range(2):  # its pod was killed before Argo knew that it was done
        history.hold_back(workspace, NAME, "shirts-2", run="run-2", why="accuracy 70.00%")
    history.hold_back(workspace, NAME, "shirts-2", run="run-3", why="accuracy 71.00%")
    _publish(workspace, "shirts-3")
    held = history.read(workspace, NAME).held_back
    assert [one.reason for one in held] == [
        "held back by the gate in run run-2: accuracy 70.00%",
        "held back by the gate in run run-3: accuracy 71.00%",
    ]
    assert history.held_back(workspace, NAME, "shirts-2") == held[1], "its last word"
    assert [version for version, _ in _said(workspace)] == ["shirts-1", "shirts-3"]
    assert history.previous(workspace, NAME) == "shirts-1"


def test_a_version_that_was_current_is_not_held_back_whatever_the_gate_said(
    workspace: Workspace,
) -> None:
    _publish(workspace, "shirts-1", "shirts-2")
    history.hold_back(workspace, NAME, "shirts-1", run="run-3", why="accuracy 70.00%")
    assert history.held_back(workspace, NAME, "shirts-1") is None
    assert history.held_back(workspace, NAME, "shirts-3") is None, "nobody has judged it"


def test_a_change_under_way_is_left_so_by_what_is_held_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, calls = files.write_text, 0

    def killed_before_the_last(file: Path, content: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        really(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_text", killed_before_the_last)
        with pytest.raises(KilledError):
            registry.promote(workspace, NAME, "shirts-1", run="killed")
    history.hold_back(workspace, NAME, "shirts-2", run="run-2", why="accuracy 70.00%")
    assert _said(workspace) == [("shirts-1", "published by run killed")]


def test_a_version_that_is_current_already_is_no_change(workspace: Workspace) -> None:
    _publish(workspace, "shirts-1", "shirts-1")
    assert _said(workspace) == [("shirts-1", "published by run run-1")]


@pytest.mark.parametrize(
    ("published", "previous"),
    [
        ((), ""),
        (("shirts-1",), ""),
        (("shirts-1", "shirts-2", "shirts-3"), "shirts-2"),
        (("shirts-1", "shirts-2", "shirts-1"), "shirts-2"),
    ],
)
def test_the_previous_version_was_current_before(
    workspace: Workspace, published: tuple[str, ...], previous: str
) -> None:
    _publish(workspace, *published)
    assert history.previous(workspace, NAME) == previous


@pytest.mark.parametrize("write", [1, 2, 3])
def test_after_a_crash_at_any_write_it_agrees_with_what_is_current(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    _publish(workspace, "shirts-1")
    really, calls = files.write_text, 0

    def killed_before(file: Path, content: str) -> None:
        nonlocal calls
        calls += 1
        if calls == write:
            raise KilledError
        really(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_text", killed_before)
        with pytest.raises(KilledError):
            registry.promote(workspace, NAME, "shirts-2", run="killed")
    before = [("shirts-1", "published by run run-1")]
    taken = [("shirts-2", "published by run killed")] if write == 3 else []
    assert _said(workspace) == before + taken
    assert history.pointed_at(workspace, NAME) == _said(workspace)[-1][0]

    registry.promote(workspace, NAME, "shirts-3", run="next")
    assert _said(workspace) == [*before, *taken, ("shirts-3", "published by run next")]


def test_a_version_that_somebody_has_made_current_by_hand_is_found(workspace: Workspace) -> None:
    _publish(workspace, "shirts-1", "shirts-2")
    pointer = workspace.current_version(NAME)
    pointer.write_text("shirts-3\n")
    os.utime(pointer, (1_000_000_000, 1_000_000_000))
    assert _said(workspace)[-1] == ("shirts-3", "found")
    assert history.changes(workspace, NAME)[-1].time == "2001-09-09T01:46:40+00:00"
    assert history.previous(workspace, NAME) == "shirts-2"

    _publish(workspace, "shirts-1")
    assert [version for version, _ in _said(workspace)[-2:]] == ["shirts-3", "shirts-1"]


def test_a_workspace_of_an_earlier_release_has_a_history_from_its_current_version_on(
    workspace: Workspace,
) -> None:
    workspace.current_version(NAME).write_text("shirts-1\n")
    assert _said(workspace) == [("shirts-1", "found")]
    _publish(workspace, "shirts-2")
    assert history.previous(workspace, NAME) == "shirts-1"


def test_it_goes_only_from_the_version_that_was_meant(workspace: Workspace) -> None:
    _publish(workspace, "shirts-1", "shirts-2")
    before = _said(workspace)
    with pytest.raises(ServingError, match="version shirts-2 of `shirts` has become current"):
        history.move(workspace, NAME, "shirts-3", "rolled back", by="ann", instead_of="shirts-1")
    assert _said(workspace) == before
    assert history.pointed_at(workspace, NAME) == "shirts-2"


def test_a_damaged_history_is_named_and_kept_but_the_next_run_publishes(
    workspace: Workspace,
) -> None:
    _publish(workspace, "shirts-1")
    file = workspace.history(NAME)
    file.write_text("{")
    with pytest.raises(DamagedArtifactError, match=r"changes\.json"):
        history.changes(workspace, NAME)
    _publish(workspace, "shirts-2")
    (kept,) = file.parent.glob("changes.json.*.damaged")
    assert kept.read_text() == "{"
    assert [version for version, _ in _said(workspace)] == ["shirts-1", "shirts-2"]


def test_a_history_of_a_newer_release_is_left_as_it_is(workspace: Workspace) -> None:
    _publish(workspace, "shirts-1")
    file = workspace.history(NAME)
    content = json.dumps(json.loads(file.read_text()) | {"schema_version": 2})
    file.write_text(content)
    with pytest.raises(UnknownSchemaError):
        registry.promote(workspace, NAME, "shirts-2")
    assert file.read_text() == content
    assert history.pointed_at(workspace, NAME) == "shirts-1"


def test_changes_at_the_same_time_are_all_written_down(workspace: Workspace) -> None:
    versions = [f"shirts-{number}" for number in range(4, 16)]
    for version in versions:
        register(workspace.root, version)
    threads = [
        threading.Thread(target=registry.promote, args=(workspace, NAME, version))
        for version in versions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [version for version, _ in _said(workspace)]
    assert sorted(said) == sorted(versions), "each once, and none is found"
    assert history.pointed_at(workspace, NAME) == said[-1]


def test_nobody_waits_for_ever(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LONGEST_WAIT_SECONDS", 0.2)
    holder = Lease(workspace.current_lease(NAME), "run-9")
    assert holder.take() is None
    with pytest.raises(ServingError, match="run-9"):
        registry.promote(workspace, NAME, "shirts-1")
    holder.release()
    registry.promote(workspace, NAME, "shirts-1")
    assert history.pointed_at(workspace, NAME) == "shirts-1"
    assert not workspace.current_lease(NAME).exists()
