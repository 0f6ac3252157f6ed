"""Going back to another version: what it refuses, and that nothing changes then."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.backends.local import processes, replicas
from mlpipeline.backends.local.rollback import roll_back
from mlpipeline.errors import GateError, PipelineError, ProcessError, ServingError
from mlpipeline.plan.config import Config
from mlpipeline.store import history, registry, rollback
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from support import stored_documents
from support.registered import NAME, damage, register

CONFIG = Config.model_validate({"name": NAME, "candidates": {"cnn": {"model": "cnn"}}})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three versions, of which the second one is current, and one of another model."""
    for version in ("shirts-1", "shirts-2", "shirts-3"):
        register(tmp_path, version)
    register(tmp_path, "bags-1", name="bags")
    for version in ("shirts-1", "shirts-2"):
        registry.promote(Workspace(tmp_path), NAME, version, run=f"run of {version}")
    return Workspace(tmp_path)


def _state(workspace: Workspace) -> tuple[str, str]:
    """All that a rollback changes."""
    return (
        workspace.current_version(NAME).read_text(),
        workspace.history(NAME).read_text(),
    )


@pytest.mark.parametrize(("named", "found"), [("", "shirts-1"), ("shirts-3", "shirts-3")])
def test_it_goes_to_the_version_that_is_named_or_was_current_before(
    workspace: Workspace, named: str, found: str
) -> None:
    assert rollback.find(workspace, NAME, named) == rollback.WayBack(NAME, "shirts-2", found)


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        (NAME, "shirts-9", "`shirts` has no version shirts-9: no model has it"),
        (NAME, "../bags/bags-1", "`shirts` has no version ../bags/bags-1"),
        (NAME, "bags-1", "`shirts` has no version bags-1: it is of `bags`"),
        (NAME, "shirts-2", "version shirts-2 of `shirts` is current already"),
        ("bags", "bags-1", "there is no model `bags`"),
    ],
)
def test_what_is_no_way_back_is_refused(
    workspace: Workspace, model: str, version: str, message: str
) -> None:
    before = _state(workspace)
    with pytest.raises(ServingError, match=message):
        rollback.find(workspace, model, version)
    assert _state(workspace) == before


def test_without_a_version_that_was_current_before_one_has_to_be_named(tmp_path: Path) -> None:
    for version in ("shirts-1", "shirts-2"):
        register(tmp_path, version)
    workspace = Workspace(tmp_path)
    registry.promote(workspace, NAME, "shirts-2")
    with pytest.raises(ServingError, match="no version of `shirts` is known to have been current"):
        rollback.find(workspace, NAME)
    assert rollback.find(workspace, NAME, "shirts-1").version == "shirts-1"


@pytest.mark.parametrize("what", ["model", "selection", "data set"])
@pytest.mark.parametrize("state", ["damaged", "gone"])
def test_a_version_that_could_not_be_verified_is_refused(
    workspace: Workspace, what: str, state: str
) -> None:
    folder = {
        "model": workspace.model(NAME, "shirts-1").path,
        "selection": workspace.selection("shirts-1").path,
        "data set": workspace.dataset("ingest-1").path,
    }[what]
    if state == "damaged":
        damage(folder)
    else:
        shutil.rmtree(folder)
    before = _state(workspace)
    with pytest.raises(ServingError, match="shirts-1") as raised:
        rollback.find(workspace, NAME, "shirts-1")
    assert str(folder) in raised.value.got or (what, state) == ("model", "gone")
    assert _state(workspace) == before


def test_a_current_version_that_is_damaged_is_no_obstacle(workspace: Workspace) -> None:
    damage(workspace.model(NAME, "shirts-2").path)
    rollback.find(workspace, NAME).take(workspace, by="ann")
    assert registry.current(workspace, NAME) == "shirts-1"


# --- what the gate held back -------------------------------------------------------------------


@pytest.fixture
def held(workspace: Workspace) -> Workspace:
    """The gate has held the third version back."""
    history.hold_back(workspace, NAME, "shirts-3", run="run-3", why="accuracy 70.00%")
    return workspace


def test_a_version_that_the_gate_held_back_is_refused_with_why_and_what_to_do(
    held: Workspace,
) -> None:
    before = _state(held)
    with pytest.raises(GateError) as raised:
        rollback.find(held, NAME, "shirts-3")
    assert raised.value.got == "the gate held version shirts-3 of `shirts` back: accuracy 70.00%"
    assert "`mlpipeline rollback --force --why`" in raised.value.remedy
    assert _state(held) == before


def test_by_force_it_is_gone_to_and_the_history_says_who_and_why(held: Workspace) -> None:
    way = rollback.find(held, NAME, "shirts-3", force=True)
    way.take(held, by="ann@desk", why="the demonstration", force=True)
    last = history.changes(held, NAME)[-1]
    assert last.reason == "rolled back by ann@desk, forced by ann@desk: the demonstration"
    rollback.find(held, NAME).take(held, by="bob")
    rollback.find(held, NAME, "shirts-3").take(held, by="bob")
    assert registry.current(held, NAME) == "shirts-3", "without force: it was current once"


def test_force_that_was_not_needed_is_not_in_the_history(workspace: Workspace) -> None:
    rollback.find(workspace, NAME, force=True).take(
        workspace, by="ann", why="to be sure", force=True
    )
    assert history.changes(workspace, NAME)[-1].reason == "rolled back by ann: to be sure"


def test_one_that_was_current_once_is_no_less_a_way_back(workspace: Workspace) -> None:
    """It is worse than what is current, says the gate: that may be why somebody goes back."""
    history.hold_back(workspace, NAME, "shirts-1", run="run-3", why="accuracy 70.00%")
    assert rollback.find(workspace, NAME).version == "shirts-1"


def test_what_is_held_back_while_somebody_goes_there_is_refused_in_the_end(
    workspace: Workspace,
) -> None:
    way = rollback.find(workspace, NAME, "shirts-3")
    history.hold_back(workspace, NAME, "shirts-3", run="run-3", why="accuracy 70.00%")
    with pytest.raises(GateError, match="the gate held version shirts-3"):
        way.take(workspace, by="ann")
    assert registry.current(workspace, NAME) == "shirts-2"


# --- on this machine ----------------------------------------------------------------------------


class Machine:
    """Stands for the processes: what was started, and what becomes of the verification."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: list[str] = []
        self.ended: list[str] = []
        self.commands: list[list[str]] = []
        self.during: Callable[[], None] = lambda: None
        self.fails = False
        monkeypatch.setattr(replicas, "serving", self._serving)
        monkeypatch.setattr(processes, "run", self._run)

    @asynccontextmanager
    async def _serving(
        self, config: Config, workspace: Workspace, version: str, *, logs: Path
    ) -> AsyncIterator[None]:
        assert config.serving.port != CONFIG.serving.port, "what is served there goes on"
        self.served.append(version)
        await asyncio.sleep(0)  # others may go on
        yield
        self.ended.append(version)

    async def _run(self, command: list[str], *, log: Path, **_: Any) -> None:
        self.commands.append(command)
        self.during()
        if self.fails:
            raise ProcessError("V1 JSON: a probability is off", expected="", remedy="")
        output = Path(command[command.index("--output") + 1])
        stored_documents.verification("replica-0", "replica-1").save(output)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def _roll_back(
    workspace: Workspace, version: str = "", why: str = "", *, force: bool = False
) -> list[str]:
    said: list[str] = []
    work = roll_back(
        CONFIG,
        Path("config.yaml"),
        workspace,
        version,
        by="ann@desk",
        why=why,
        force=force,
        say=said.append,
    )
    asyncio.run(work)
    return said


def test_a_version_is_served_and_verified_before_it_is_current(
    workspace: Workspace, machine: Machine
) -> None:
    seen: list[str] = []
    machine.during = lambda: seen.append(history.pointed_at(workspace, NAME))
    said = _roll_back(workspace, why="it takes coats for bags")
    assert (machine.served, machine.ended) == (["shirts-1"], ["shirts-1"])
    assert seen == ["shirts-2"], "until it is verified"
    (command,) = machine.commands
    assert "--only-verify" in command
    assert "--version=shirts-1" in command
    assert history.pointed_at(workspace, NAME) == "shirts-1"
    last = history.changes(workspace, NAME)[-1]
    assert last.reason == "rolled back by ann@desk: it takes coats for bags"
    assert "2 replicas" in said[-1]


def test_a_version_that_answers_otherwise_changes_nothing(
    workspace: Workspace, machine: Machine
) -> None:
    before, machine.fails = _state(workspace), True
    with pytest.raises(ProcessError, match="a probability is off"):
        _roll_back(workspace)
    assert _state(workspace) == before
    machine.fails = False
    _roll_back(workspace)
    assert history.pointed_at(workspace, NAME) == "shirts-1"


def test_one_that_the_gate_held_back_is_not_even_served_unless_by_force(
    held: Workspace, machine: Machine
) -> None:
    with pytest.raises(GateError, match="the gate held version shirts-3"):
        _roll_back(held, "shirts-3")
    assert machine.served == []
    _roll_back(held, "shirts-3", why="the demonstration", force=True)
    assert history.changes(held, NAME)[-1].forced_by == "ann@desk"


def test_of_two_at_once_one_goes_back_and_the_other_says_so(
    workspace: Workspace, machine: Machine
) -> None:
    async def both() -> tuple[Any, Any]:
        options: dict[str, Any] = {"why": "", "force": False, "say": lambda _: None}
        file = Path("config.yaml")
        return await asyncio.gather(
            roll_back(CONFIG, file, workspace, "shirts-1", by="ann", **options),
            roll_back(CONFIG, file, workspace, "shirts-3", by="bob", **options),
            return_exceptions=True,
        )

    first, second = asyncio.run(both())
    assert isinstance(first, rollback.WayBack)
    assert isinstance(second, PipelineError)
    assert second.got.startswith("a rollback of `shirts` is under way already, by ann")
    assert (history.pointed_at(workspace, NAME), machine.served) == ("shirts-1", ["shirts-1"])


def test_one_that_was_killed_does_not_keep_others_from_it(
    workspace: Workspace, machine: Machine
) -> None:
    lease = Lease(workspace.rollback_lease(NAME), "killed")
    assert lease.take() is None
    file = workspace.rollback_lease(NAME)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": 1 << 22}))  # no such process
    _roll_back(workspace)
    assert history.pointed_at(workspace, NAME) == "shirts-1"
    assert not file.exists()


def test_a_run_that_publishes_meanwhile_wins(workspace: Workspace, machine: Machine) -> None:
    machine.during = lambda: registry.promote(workspace, NAME, "shirts-3", run="run-3")
    with pytest.raises(ServingError, match="version shirts-3 of `shirts` has become current"):
        _roll_back(workspace)
    assert [change.version for change in history.changes(workspace, NAME)] == [
        *("shirts-1", "shirts-2", "shirts-3")
    ]
