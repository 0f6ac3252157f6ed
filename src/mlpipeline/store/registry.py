"""The registered models of a workspace: versions that are never overwritten, and which is current.

models/<name>/<version>/  model.json  request.json  saved_model/
models/<name>/current     the version that passed verification last
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlpipeline.errors import MissingArtifactError, ServingError
from mlpipeline.store import artifacts

EXAMPLE = "request.json"  # a V1 request with an image of the test split, to try the model with


def version_folder(workspace: Path, name: str, version: str) -> Path:
    """Where a version of a model is published."""
    return workspace / "models" / name / version


def description(workspace: Path, name: str, version: str) -> dict[str, Any]:
    """What is known of a version: its candidate, the keys of what it was made from, its figures.

    Raises:
        MissingArtifactError: There is no such version.
    """
    model: dict[str, Any] = artifacts.read_json(
        version_folder(workspace, name, version) / "model.json"
    )
    return model


def promote(workspace: Path, name: str, version: str) -> None:
    """Make a version the current one."""
    artifacts.verify(version_folder(workspace, name, version))
    artifacts.write_text(_pointer(workspace, name), version + "\n")


def current(workspace: Path, name: str) -> str:
    """Return the current version of a model.

    Raises:
        ServingError: No version has been promoted, or the promoted one is gone.
    """
    remedy = "run the pipeline first: `make run`"
    try:
        version = _pointer(workspace, name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ServingError(
            f"there is no model `{name}` in {workspace}",
            expected="a model that a run has selected and verified",
            remedy=remedy,
        ) from None
    try:
        artifacts.verify(version_folder(workspace, name, version))
    except MissingArtifactError as error:
        raise ServingError(
            f"version {version} of `{name}` is current, but it is gone",
            expected=f"the folder {version_folder(workspace, name, version)}",
            remedy=remedy,
        ) from error
    return version


def find(workspace: Path, version: str) -> Path:
    """Return the folder of a version, whichever model it is of.

    Raises:
        ServingError: No model has this version.
    """
    known = {folder.name: folder for folder in workspace.glob("models/*/*") if folder.is_dir()}
    if version not in known:
        raise ServingError(
            f"no model in {workspace} has the version {version}",
            expected=f"one of {', '.join(sorted(known)) or 'none yet'}",
            remedy="take one of these, or run the pipeline first: `make run`",
        )
    return known[version]


def _pointer(workspace: Path, name: str) -> Path:
    return workspace / "models" / name / "current"
