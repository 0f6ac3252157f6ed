"""The registered models: which version is current, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlpipeline.errors import DamagedArtifactError, MissingArtifactError, ServingError
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import Workspace

NAME = "shirts"


def _register(workspace: Path, version: str) -> Path:
    folder = Workspace(workspace).model(NAME, version).path
    with artifacts.publish(folder) as draft:
        (draft / "model.json").write_text(f'{{"version": "{version}"}}')
    return folder


def test_the_version_that_was_promoted_last_is_current(tmp_path: Path) -> None:
    for version in ("shirts-1", "shirts-2"):
        _register(tmp_path, version)
        registry.promote(Workspace(tmp_path), NAME, version)
    assert registry.current(Workspace(tmp_path), NAME) == "shirts-2"
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    assert registry.current(Workspace(tmp_path), NAME) == "shirts-1"


def test_a_version_that_is_registered_only_is_not_current(tmp_path: Path) -> None:
    _register(tmp_path, "shirts-1")
    with pytest.raises(ServingError, match="there is no model `shirts`"):
        registry.current(Workspace(tmp_path), NAME)


def test_models_of_other_names_do_not_count(tmp_path: Path) -> None:
    _register(tmp_path, "shirts-1")
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    with pytest.raises(ServingError, match="there is no model `trousers`"):
        registry.current(Workspace(tmp_path), "trousers")


def test_a_current_version_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = _register(tmp_path, "shirts-1")
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ServingError, match="version shirts-1 of `shirts` is current, but it is"):
        registry.current(Workspace(tmp_path), NAME)


@pytest.mark.parametrize("content", [b"\xff", b"", b"../shirts-1", b"x" * 5_000, None])
def test_a_current_version_that_cannot_be_read_is_damage_and_the_next_run_mends_it(
    tmp_path: Path, content: bytes | None
) -> None:
    workspace = Workspace(tmp_path)
    _register(tmp_path, "shirts-1")
    file = workspace.current_version(NAME)
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match=f"{file} is damaged"):
        registry.current(workspace, NAME)
    if content is not None:
        registry.promote(workspace, NAME, "shirts-1")
        assert registry.current(workspace, NAME) == "shirts-1"


def test_a_current_version_that_is_damaged_is_not_served(tmp_path: Path) -> None:
    folder = _register(tmp_path, "shirts-1")
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    (folder / "model.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match=r"model\.json is damaged"):
        registry.current(Workspace(tmp_path), NAME)


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_only_a_whole_version_can_be_promoted(tmp_path: Path, state: str) -> None:
    _register(tmp_path, "shirts-1")
    registry.promote(Workspace(tmp_path), NAME, "shirts-1")
    if state == "damaged":
        (_register(tmp_path, "shirts-2") / "model.json").write_text("{}")

    with pytest.raises((MissingArtifactError, DamagedArtifactError), match="shirts-2"):
        registry.promote(Workspace(tmp_path), NAME, "shirts-2")
    assert registry.current(Workspace(tmp_path), NAME) == "shirts-1"
