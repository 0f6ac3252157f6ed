"""What nobody needs is removed, and nothing else: not what a run reuses, not half of anything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mlpipeline.backends.local import commands
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.errors import ArtifactError, DamagedArtifactError, ProcessError
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.runs import garbage
from mlpipeline.runs import record as runs
from mlpipeline.store import artifacts, history, registry, rollback
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from mlpipeline.store.schemas.run import Machine
from support import stored_documents as documents
from support.past_runs import add_run, age, made_by, publish, there
from support.registered import NAME

pytestmark = pytest.mark.timeout(60)


def _remove(workspace: Workspace, keep_runs: int = 1, **options: Any) -> list[garbage.Garbage]:
    given: dict[str, Any] = {"who": "gc", "under_way": lambda: ""}
    return garbage.remove(workspace, keep_runs, **given | options)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


# --- what stays -------------------------------------------------------------------------------


def test_the_newest_runs_stay_with_all_that_they_used_and_so_do_current_and_previous(
    workspace: Workspace,
) -> None:
    for day in range(6):
        add_run(workspace, day, promote=day in (0, 1, 2))
    _remove(workspace, 2)
    assert there(workspace) == made_by(1, 2, 4, 5), "two were current last, two are the newest"
    assert history.pointed_at(workspace, NAME) == f"{NAME}-2"
    rollback.find(workspace, NAME)


def test_what_a_kept_run_has_reused_of_an_old_one_stays(workspace: Workspace) -> None:
    add_run(workspace, 0, promote=False)
    add_run(workspace, 1, promote=False)
    add_run(workspace, 2, dataset="ingest-0")
    _remove(workspace)
    assert there(workspace) == made_by(2) - {"datasets/ingest-2"} | {"datasets/ingest-0"}


def test_runs_are_compared_by_when_they_began_not_by_their_names(workspace: Workspace) -> None:
    for day in (9, 10):
        add_run(workspace, day, promote=False)
    _remove(workspace)
    assert there(workspace) == made_by(10)


def test_what_the_gate_held_back_stays_until_another_version_is_current(
    workspace: Workspace,
) -> None:
    for day in range(4):
        add_run(workspace, day, promote=day == 0)
    history.hold_back(workspace, NAME, f"{NAME}-1", run="run-1", why="worse")
    _remove(workspace)
    assert there(workspace) == made_by(0, 1, 3)
    for moment in ("current", "changes.json"):
        assert (workspace.root / "models" / NAME / moment).exists()
    time.sleep(1.1)  # a history tells seconds apart
    for day in (0, 3):
        registry.promote(workspace, NAME, f"{NAME}-{day}", run=f"run-{day}")
    _remove(workspace)
    assert there(workspace) == made_by(0, 3)


def test_what_is_pinned_stays_with_what_it_was_made_from(workspace: Workspace) -> None:
    for day in range(3):
        add_run(workspace, day, promote=False)
    workspace.pinned(NAME).write_text(f"# the one of the paper\n{NAME}-0  # do not lose\n\n")
    _remove(workspace)
    assert there(workspace) == made_by(2) | made_by(0) - {"runs/run-0"}


@pytest.mark.parametrize("text", [b"shirts-9\n", b"../bags/bags-1\n", b"\xff\n"])
def test_a_pin_that_is_no_version_ends_it_before_anything_is_removed(
    workspace: Workspace, text: bytes
) -> None:
    for day in range(3):
        add_run(workspace, day, promote=False)
    workspace.pinned(NAME).write_bytes(text)
    with pytest.raises(DamagedArtifactError, match="pinned"):
        _remove(workspace)
    assert there(workspace) == made_by(0, 1, 2)


def test_what_is_served_in_a_cluster_stays_though_it_is_not_current(workspace: Workspace) -> None:
    for day in range(3):
        add_run(workspace, day, promote=False)
    _remove(workspace, served=lambda: [(NAME, f"{NAME}-0"), ("of-others", "others-1")])
    assert there(workspace) == made_by(2) | made_by(0) - {"runs/run-0"}


def test_what_was_made_since_a_kept_run_began_stays_though_no_record_names_it(
    workspace: Workspace,
) -> None:
    """A run that is killed leaves results that it has not written down."""
    add_run(workspace, 0)
    publish(workspace.dataset("ingest-old"), 1, dataset={})
    add_run(workspace, 2)
    made_from = {"candidate_key": "cnn-3", "dataset_key": "ingest-old"}
    card = documents.model_card(version="killed-3", **made_from)
    publish(workspace.candidate("cnn-3"), 3, metrics={})
    publish(workspace.model(NAME, "killed-3"), 3, model=card.content())
    publish(workspace.candidate("cnn-of-no-version-yet"), 3, metrics={})
    publish(workspace.dataset("ingest-lost"), 1, dataset={})
    before = there(workspace)
    _remove(workspace)
    assert before - there(workspace) == {"datasets/ingest-lost"}


def test_without_any_run_nothing_is_known_so_nothing_goes(workspace: Workspace) -> None:
    publish(workspace.dataset("ingest-0"), 0, dataset={})
    assert _remove(workspace) == []


@pytest.mark.parametrize("what", ["the newest run's record", "the history", "a model's card"])
def test_if_it_cannot_be_read_what_is_needed_nothing_is_removed(
    workspace: Workspace, what: str
) -> None:
    for day in range(4):
        add_run(workspace, day)
    file = {
        "the newest run's record": workspace.run("run-3").record,
        "the history": workspace.history(NAME),
        "a model's card": workspace.model(NAME, f"{NAME}-3").card,
    }[what]
    file.write_text("{")
    with pytest.raises(ArtifactError, match=str(file)):
        _remove(workspace)
    assert there(workspace) == made_by(0, 1, 2, 3)


def test_the_damaged_record_of_an_old_run_goes_with_it(workspace: Workspace) -> None:
    for day in range(3):
        add_run(workspace, day, promote=False)
    workspace.run("run-0").record.write_text("{")
    age(workspace.run("run-0").path, 0)
    _remove(workspace)
    assert there(workspace) == made_by(2)


# --- what is no artifact ----------------------------------------------------------------------


def test_what_killed_writers_left_goes_and_what_may_be_needed_does_not(
    workspace: Workspace,
) -> None:
    add_run(workspace, 0)
    add_run(workspace, 2)
    candidates, models = workspace.root / "candidates", workspace.root / "models" / NAME
    goes = [
        workspace.candidate("cnn-stopped-before").work.path,
        candidates / ".cnn-7.01234567.draft",
        workspace.root / "datasets" / ".ingest-7.01234567.damaged",
        models / ".current.01234567.draft",
        workspace.root / ".report.html.01234567.draft",
        workspace.run("run-2").path / ".run.json.01234567.draft",
        workspace.inbox.log("train-old"),
    ]
    stays = [
        workspace.candidate("cnn-stopped-since").work.path,
        workspace.inbox.log("train-new"),
        workspace.inbox.done("train-old"),
        workspace.answer("predict-old"),
    ]
    for path in (*goes, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.mkdir() if path.name.endswith(".work") else path.write_text("x"))
        age(path, 3 if path in stays[:2] else 1)
    young = candidates / ".cnn-8.01234567.draft"
    young.mkdir()
    before = time.time() - 2 * 60 * 60
    (young / "saved_model.pb").write_text("x")  # its writer lives
    os.utime(young, (before, before))
    found = {each.path for each in _remove(workspace)}
    assert found == set(goes)
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in (*stays, young))


def test_leases_of_those_that_are_gone_go_and_others_stay(workspace: Workspace) -> None:
    add_run(workspace, 0)
    held, gone = (workspace.candidate(f"cnn-{name}").lease for name in ("held", "gone"))
    for file in (held, gone):
        Lease(file, "run 7").take()
    gone.write_text(gone.read_text().replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
    (found,) = _remove(workspace)
    assert found.path == gone
    assert held.exists()
    assert not gone.exists()


def test_a_run_that_has_only_just_made_its_folder_is_left_alone(workspace: Workspace) -> None:
    add_run(workspace, 0)
    young, old = (workspace.run(name).path for name in ("run-just-begun", "run-killed-at-once"))
    for path in (young, old):
        path.mkdir()
    age(old, -1)
    _remove(workspace)
    assert young.exists()
    assert not old.exists()


# --- what it says -----------------------------------------------------------------------------


def test_it_says_what_went_and_how_many_bytes_and_a_dry_run_says_the_same(
    workspace: Workspace,
) -> None:
    for day in range(2):
        add_run(workspace, day, promote=False)
    before = {path: path.lstat().st_mtime_ns for path in workspace.root.rglob("*")}
    dry: list[str] = []
    commands.gc(workspace, 1, dry_run=True, say=dry.append)
    assert {path: path.lstat().st_mtime_ns for path in workspace.root.rglob("*")} == before
    size = sum(
        file.stat().st_size
        for name in made_by(0)
        for file in (workspace.root / name).rglob("*")
        if file.is_file()
    )
    assert sum(each.size for each in garbage.find(workspace, 1)) == size
    wet: list[str] = []
    commands.gc(workspace, 1, dry_run=False, say=wet.append)
    assert dry[:-1] == wet[:-1]
    assert {line.split("  ")[0] for line in wet[:-1]} == made_by(0)
    assert dry[-1].startswith("would be removed: 5, ")
    assert wet[-1] == dry[-1].replace("would be removed", "removed")
    assert there(workspace) == made_by(1)


# --- a removal that is interrupted ------------------------------------------------------------


@pytest.mark.parametrize("step", range(16))
def test_wherever_it_is_killed_what_is_left_is_whole_and_the_next_one_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for day in range(5):
        add_run(workspace, day, promote=day in (3, 4))
    steps = iter(range(step))

    def killed(work: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return work(*arguments)

        return do

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed(Path.rename))
        patch.setattr(artifacts, "remove", killed(artifacts.remove))
        with pytest.raises(KeyboardInterrupt):
            _remove(workspace)
    for name in there(workspace) - {f"runs/run-{day}" for day in range(5)}:
        artifacts.verify(workspace.root / name)
    for model in workspace.models():
        if model.version not in (f"{NAME}-4",):
            rollback.find(workspace, NAME, model.version)  # all that it was made from is there
    _remove(workspace)
    assert there(workspace) == made_by(3, 4)
    assert not list(workspace.root.rglob("*.gone"))


def test_one_that_takes_its_time_to_find_everything_keeps_its_turn(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "BEAT_SECONDS", 0.05)
    add_run(workspace, 0)
    find, touched = garbage.find, []

    def slowly(*arguments: Any, **options: Any) -> list[garbage.Garbage]:
        lease = workspace.removal_lease
        os.utime(lease, (0, 0))
        _wait_until(lambda: lease.stat().st_mtime > 0)
        touched.append(lease)
        return find(*arguments, **options)

    monkeypatch.setattr(garbage, "find", slowly)
    _remove(workspace)
    assert touched
    assert not workspace.removal_lease.exists()


def test_one_that_slept_until_others_may_have_begun_goes_no_further(workspace: Workspace) -> None:
    for day in range(3):
        add_run(workspace, day, promote=False)

    def under_way() -> str:
        workspace.removal_lease.unlink()  # another host has found it over
        return ""

    with pytest.raises(ProcessError, match="taken over"):
        _remove(workspace, under_way=under_way)
    assert there(workspace) == made_by(0, 1, 2)


# --- beside a run -----------------------------------------------------------------------------


CONFIG = {"name": NAME, "data": {"dataset": "synthetic"}, "candidates": {"cnn": {"model": "cnn"}}}


class _Beside:
    """A run whose only work is to reuse a data set, which no earlier run that is kept has used."""

    def __init__(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
    ) -> None:
        self.settings = configuration.parse(CONFIG, origin="a test")
        self.task = pipeline.plan(self.settings)["ingest"]
        self.workspace, self.was_there = workspace, False
        add_run(workspace, 0, promote=False)
        self.dataset = publish(workspace.dataset(self.task.key), 0, dataset={})
        add_run(workspace, 5, promote=False)

        async def run(backend: LocalBackend, **_: Any) -> None:
            self.was_there = self.task.is_done(workspace)
            if self.was_there:
                backend.record.add(self.task, "reused", 0.0)
            work()
            if self.was_there:
                artifacts.verify(self.dataset)  # a later step reads it

        monkeypatch.setattr(LocalBackend, "run", run)
        monkeypatch.setattr(commands, "_conclude", lambda record, *_: record.save())

    def run(self) -> None:
        commands.run(self.settings, Path("default.yaml"), self.workspace)


def _wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


def test_what_a_run_has_just_found_to_be_there_stays_until_it_ends_and_then_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    removing = threading.Thread(
        target=lambda: commands.gc(workspace, 1, dry_run=False, say=said.append)
    )

    def look() -> None:
        """The run has seen it, and not read it yet: now somebody cleans up."""
        removing.start()
        _wait_until(lambda: said)
        time.sleep(0.2)

    beside = _Beside(workspace, monkeypatch, look)
    beside.run()
    removing.join(30)
    assert beside.was_there
    assert said[0].startswith("waiting for run ")
    assert beside.dataset.exists(), "it is in the record of the newest run by now"
    assert not workspace.run("run-5").path.exists(), "but it has done its work since"


def test_a_run_that_begins_while_something_is_removed_looks_only_after_that(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = _Beside(workspace, monkeypatch, lambda: None)
    removing = threading.Thread(
        target=lambda: commands.gc(workspace, 1, dry_run=False, say=lambda _: None)
    )
    put_aside, begun = garbage._put_aside, threading.Event()

    def slowly(path: Path, lease: Lease) -> Path | None:
        begun.set()
        _wait_until(lambda: len([f for f in workspace.runs() if f.lock.exists()]) == 1)
        time.sleep(0.2)  # the run goes as far as it is let
        return put_aside(path, lease)

    monkeypatch.setattr(garbage, "_put_aside", slowly)
    removing.start()
    assert begun.wait(30)
    beside.run()
    removing.join(30)
    assert not beside.dataset.exists()
    assert not beside.was_there, "it makes it anew"


def test_a_rollback_that_is_under_way_is_waited_for(workspace: Workspace) -> None:
    for day in range(3):
        add_run(workspace, day)
    lease = Lease(workspace.rollback_lease(NAME), "ann")
    lease.take()
    assert commands._under_way(workspace).startswith(f"a rollback of `{NAME}` by ann")
    lease.release()
    assert commands._under_way(workspace) == ""


def test_one_that_never_gets_its_turn_says_what_kept_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_LONGEST_WAIT_SECONDS", 0.0)
    with pytest.raises(ProcessError, match="run 7 is under way, so nothing was removed"):
        _remove(workspace, under_way=lambda: "run 7")
    assert not workspace.removal_lease.exists()


def test_who_waits_for_a_removal_that_never_ends_is_told_whose_it_is(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_LONGEST_WAIT_SECONDS", 0.0)
    Lease(workspace.removal_lease, "gc of ann").take()
    with pytest.raises(ProcessError, match=r"gc of ann .* removes what nobody needs"):
        garbage.wait_for_removal(workspace, "run 7")


@pytest.mark.parametrize(
    ("lock", "host", "hours", "goes_on"),
    [
        ("held", "here", 0, True),
        ("held", "here", 30, True),
        ("free", "here", 0, False),  # killed
        ("free", "elsewhere", 0, True),  # locks of the kernel may be seen on one host only
        ("free", "elsewhere", 30, False),
        ("none", "elsewhere", 0, True),  # of a cluster
        ("none", "elsewhere", 30, False),
    ],
)
def test_which_runs_go_on(
    workspace: Workspace, lock: str, host: str, hours: int, goes_on: bool
) -> None:
    machine = Machine(host=runs.describe_machine().host if host == "here" else host)
    add_run(workspace, 0, state="running", machine=machine)
    folder = workspace.run("run-0")
    written = time.time() - hours * 60 * 60
    os.utime(folder.record, (written, written))
    if lock == "free":
        folder.lock.touch()
    holding = FileLock(folder.lock)
    if lock == "held":
        holding.acquire()
    try:
        assert list(runs.going_on(workspace)) == (["run-0"] if goes_on else [])
    finally:
        holding.release()
