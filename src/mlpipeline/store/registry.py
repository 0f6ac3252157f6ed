"""The registered models: versions that are never overwritten, and which of them is current."""

from __future__ import annotations

from mlpipeline.errors import ArtifactError, MissingArtifactError, ServingError
from mlpipeline.store import artifacts, history
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.schemas.gate import Forced

_RUN_FIRST = "run the pipeline first: `make run`"


def promote(
    workspace: Workspace, name: str, version: str, *, run: str = "", forced: Forced | None = None
) -> None:
    """Make a version the current one, because a run has verified it.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: One of its versions.
        run: The name of the run; empty where somebody has called the step by hand.
        forced: Who has had it served in spite of the gate, and why; None where it passed.

    Raises:
        ArtifactError: It is missing or damaged.
        ServingError: Another process changes the current version, and does not end.
    """
    artifacts.verify(workspace.model(name, version).path)
    who, why = (forced.who, forced.reason) if forced else ("", "")
    history.move(workspace, name, version, "published", by=run, forced_by=who, why=why)


def current(workspace: Workspace, name: str) -> str:
    """Return the current version of a model.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.

    Raises:
        ServingError: No version has been promoted, or the promoted one is gone.
        DamagedArtifactError: The promoted one is damaged, or which one it is cannot be read.
    """
    if not (version := history.pointed_at(workspace, name)):
        raise no_model(workspace, name)
    folder = workspace.model(name, version)
    try:
        artifacts.verify(folder.path)
    except MissingArtifactError as error:
        raise ServingError(
            f"version {version} of `{name}` is current, but it is gone",
            expected=f"the folder {folder.path}",
            remedy=_RUN_FIRST,
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


def no_model(workspace: Workspace, name: str) -> ServingError:
    """Return the error that says that no version of a model is current."""
    return ServingError(
        f"there is no model `{name}` in {workspace}",
        expected="a model that a run has selected and verified",
        remedy=_RUN_FIRST,
    )


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
