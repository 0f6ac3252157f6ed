"""The registered models: versions that are never overwritten, and which of them is current."""

from __future__ import annotations

import re

from mlpipeline.errors import ArtifactError, MissingArtifactError, ServingError
from mlpipeline.store import artifacts, files
from mlpipeline.store.layout import ModelFolder, Workspace

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")  # what `artifacts.make_key` makes


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
        DamagedArtifactError: The promoted one is damaged, or which one it is cannot be read.
    """
    remedy = "run the pipeline first: `make run`"
    file = workspace.current_version(name)
    try:
        version = artifacts.read_text(file).strip()
    except MissingArtifactError:
        raise ServingError(
            f"there is no model `{name}` in {workspace}",
            expected="a model that a run has selected and verified",
            remedy=remedy,
        ) from None
    if not _VERSION.fullmatch(version):
        raise files.damaged(file, f"it says {version[:40]!r}", "the version of a model")
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


def usable(workspace: Workspace, name: str) -> str:
    """Return the current version of a model; empty for none that could be served.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
    """
    try:
        return current(workspace, name)
    except (ArtifactError, ServingError):
        return ""


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
