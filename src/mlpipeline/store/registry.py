"""The registered models: versions that are never overwritten, and which of them is current."""

from __future__ import annotations

from mlpipeline.errors import MissingArtifactError, ServingError
from mlpipeline.store import artifacts
from mlpipeline.store.layout import ModelFolder, Workspace


def promote(workspace: Workspace, name: str, version: str) -> None:
    """Make a version the current one.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: One of its versions.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    artifacts.verify(workspace.model(name, version).path)
    artifacts.write_text(workspace.current_version(name), version + "\n")


def current(workspace: Workspace, name: str) -> str:
    """Return the current version of a model.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.

    Raises:
        ServingError: No version has been promoted, or the promoted one is gone.
        DamagedArtifactError: The promoted one is damaged.
    """
    remedy = "run the pipeline first: `make run`"
    try:
        version = workspace.current_version(name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ServingError(
            f"there is no model `{name}` in {workspace}",
            expected="a model that a run has selected and verified",
            remedy=remedy,
        ) from None
    folder = workspace.model(name, version)
    try:
        artifacts.verify(folder.path)
    except MissingArtifactError as error:
        raise ServingError(
            f"version {version} of `{name}` is current, but it is gone",
            expected=f"the folder {folder.path}",
            remedy=remedy,
        ) from error
    return version


def find(workspace: Workspace, version: str) -> ModelFolder:
    """Return the folder of a version, whichever model it is of.

    Args:
        workspace: The folder of all artifacts.
        version: A version of some model.

    Raises:
        ServingError: No model has this version.
    """
    known = {model.version: model for model in workspace.models()}
    if version not in known:
        raise ServingError(
            f"no model in {workspace} has the version {version}",
            expected=f"one of {', '.join(sorted(known)) or 'none yet'}",
            remedy="take one of these, or run the pipeline first: `make run`",
        )
    return known[version]
