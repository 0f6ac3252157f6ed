"""The tables of `mlpipeline models`."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from mlpipeline.errors import ServingError
from mlpipeline.runs import versions
from mlpipeline.store import history, registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.history import Change, ModelHistory
from support.registered import NAME, register

TIMES = [f"2026-11-30T1{hour}:00:00+00:00" for hour in range(4)]


def _shown(workspace: Workspace, model: str = "") -> list[str]:
    console = Console(file=io.StringIO(), width=500, markup=False, highlight=False)
    for table in versions.tables(workspace, model):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    register(tmp_path, "shirts-1", test_accuracy=0.91, validation_accuracy=0.92)
    register(tmp_path, "shirts-2", test_accuracy=0.93, validation_accuracy=0.94)
    register(tmp_path, "shirts-3", test_accuracy=0.95, validation_accuracy=0.96)
    workspace = Workspace(tmp_path)
    changes = (
        Change(version="shirts-1", time=TIMES[0], how="published", by="run-1"),
        Change(version="shirts-2", time=TIMES[1], how="published", by="run-2"),
        Change(version="shirts-1", time=TIMES[2], how="rolled back", by="ann", why="[bad]\x1b[2J"),
    )
    ModelHistory(changes=changes).save(workspace.history(NAME))
    workspace.current_version(NAME).write_text("shirts-1\n")
    return workspace


def test_they_say_the_figures_and_which_was_current_when_and_why(workspace: Workspace) -> None:
    assert _shown(workspace) == [
        "shirts candidate validation test current (UTC)",
        "shirts-1 cnn 92.00% 91.00% since 2026-11-30 12:00:00",
        "shirts-2 cnn 94.00% 93.00% 2026-11-30 11:00:00 to 2026-11-30 12:00:00",
        "shirts-3 cnn 96.00% 95.00% never",
        "changed (UTC) to why",
        "2026-11-30 12:00:00 shirts-1 rolled back by ann: [bad] [2J",
        "2026-11-30 11:00:00 shirts-2 published by run run-2",
        "2026-11-30 10:00:00 shirts-1 published by run run-1",
    ]


def test_what_the_gate_held_back_is_named_with_the_reason(workspace: Workspace) -> None:
    history.hold_back(workspace, NAME, "shirts-3", run="run-3", why="accuracy 70%\x1b[2J")
    history.hold_back(workspace, NAME, "shirts-2", run="run-4", why="size")
    *_, heading, last, first = _shown(workspace)
    (line,) = [line for line in _shown(workspace) if line.startswith("shirts-3")]
    assert line == "shirts-3 cnn 96.00% 95.00% never, held back by the gate"
    assert heading == "held back (UTC) version why"
    assert last.endswith(" shirts-2 held back by the gate in run run-4: size")
    assert first.endswith(" shirts-3 held back by the gate in run run-3: accuracy 70% [2J")
    assert not [line for line in _shown(workspace) if "shirts-2 cnn" in line and "never" in line]
    history.hold_back(workspace, NAME, "shirts-3", run="run-5", why="slow", by="canary")
    (line,) = [line for line in _shown(workspace) if line.startswith("shirts-3")]
    assert line.endswith("never, held back by the canary")


def test_a_version_that_was_removed_is_in_them_still(workspace: Workspace) -> None:
    shutil.rmtree(workspace.model(NAME, "shirts-2").path)
    (line,) = [line for line in _shown(workspace) if line.startswith("shirts-2")]
    assert line == "shirts-2 gone or damaged 2026-11-30 11:00:00 to 2026-11-30 12:00:00"


def test_each_model_has_its_own(workspace: Workspace) -> None:
    register(workspace.root, "bags-1", name="bags")
    registry.promote(workspace, "bags", "bags-1", run="run-7")
    heads = [line.split()[0] for line in _shown(workspace) if "validation" in line]
    assert heads == ["bags", "shirts"]
    assert not [line for line in _shown(workspace, "bags") if "shirts" in line]
    assert history.previous(workspace, "bags") == ""


def test_a_model_that_there_is_not_is_an_error_that_names_those_there_are(
    workspace: Workspace,
) -> None:
    with pytest.raises(ServingError, match="there is no model `bags`") as raised:
        _shown(workspace, "bags")
    assert raised.value.expected == "one of shirts"
    with pytest.raises(ServingError, match="there is no model in"):
        _shown(Workspace(workspace.root / "none"))
