"""The way back from a model's current version to another one: found, and checked."""

from __future__ import annotations

from dataclasses import dataclass

from mlpipeline.errors import ArtifactError, GateError, ServingError
from mlpipeline.store import artifacts, history, registry
from mlpipeline.store.layout import ModelFolder, Workspace
from mlpipeline.store.schemas.selection import Decision, ModelCard


@dataclass(frozen=True)
class WayBack:
    """From the version of a model that is current to another one, which was checked.

    Attributes:
        name: What the model is called.
        current: The version that is current.
        version: The other one.
    """

    name: str
    current: str
    version: str

    def confirm(self, workspace: Workspace) -> None:
        """Check that nobody has changed the current version since the way was found.

        Raises:
            ServingError: Somebody has.
            DamagedArtifactError: Which version is current cannot be read.
        """
        found = history.pointed_at(workspace, self.name)
        if found not in (self.current, self.version):
            raise history.overtaken(self.name, found, self.current, self.version)

    def take(self, workspace: Workspace, *, by: str, why: str = "", force: bool = False) -> None:
        """Make the other version the current one.

        Args:
            workspace: The folder of all artifacts.
            by: Who goes back.
            why: What they say about it.
            force: Whether also to one that the gate held back.

        Raises:
            ArtifactError: It is damaged by now.
            GateError: The gate held it back.
            ServingError: By now another one is current, which somebody has published or gone to.
        """
        artifacts.verify(workspace.model(self.name, self.version).path)
        is_forced = _passes_by_force(workspace, self.name, self.version, force=force)
        history.move(
            workspace,
            self.name,
            self.version,
            "rolled back",
            by=by,
            forced_by=by if is_forced else "",
            why=why,
            instead_of=self.current,
        )


def find(workspace: Workspace, name: str, version: str = "", *, force: bool = False) -> WayBack:
    """Find the version to go back to, and check all that serving and verifying it need.

    The current one is not checked: that it is damaged may be why somebody goes back.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: One of its versions; empty for the one that was current before.
        force: Whether also one that the gate held back.

    Raises:
        GateError: The gate held it back.
        ServingError: There is nothing to go back from, or to; or it is current already, or of
            another model, or missing or damaged.
        ArtifactError: The history is damaged, or which version is current cannot be read.
    """
    current = history.pointed_at(workspace, name)
    if not current:
        raise registry.no_model(workspace, name)
    wanted = version or history.previous(workspace, name)
    if not wanted:
        raise ServingError(
            f"no version of `{name}` is known to have been current before {current}",
            expected="one that was, or the name of one",
            remedy="name one that `mlpipeline models` lists",
        )
    if wanted == current:
        raise ServingError(
            f"version {wanted} of `{name}` is current already",
            expected="another one",
            remedy="nothing; or name one that `mlpipeline models` lists",
        )
    if wanted not in workspace.versions(name):
        others = {folder.model for folder in workspace.models() if folder.version == wanted}
        of_whom = f"it is of `{min(others)}`" if others else "no model has it"
        raise ServingError(
            f"`{name}` has no version {wanted}: {of_whom}",
            expected=f"a version of `{name}`",
            remedy="name one that `mlpipeline models` lists; another model is named by --config",
        )
    _passes_by_force(workspace, name, wanted, force=force)
    try:
        _check_verifiable(workspace, workspace.model(name, wanted))
    except ArtifactError as error:
        raise ServingError(
            f"version {wanted} of `{name}` cannot be verified, so {current} stays: {error.got}",
            expected=error.expected,
            remedy="name another one that `mlpipeline models` lists",
        ) from error
    return WayBack(name, current, wanted)


def _passes_by_force(workspace: Workspace, name: str, version: str, *, force: bool) -> bool:
    """Return whether a version needs the force that there is, because it was held back.

    Raises:
        GateError: It needs force, and there is none.
    """
    if (held := history.held_back(workspace, name, version)) is None:
        return False
    if not force:
        raise GateError(
            f"the {held.by} held version {version} of `{name}` back: {held.why}",
            expected="one that was current once, or that was not held back",
            remedy="name another one that `mlpipeline models` lists; or go there by force, and say "
            "why: `mlpipeline rollback --force --why`, or in a cluster `FORCE=1 WHY=`",
        )
    return True


def _check_verifiable(workspace: Workspace, folder: ModelFolder) -> None:
    """Check a version, what was recorded of its answers, and the images that they answer.

    Raises:
        ArtifactError: Something is missing or damaged.
    """
    artifacts.verify(folder.path)
    ModelCard.load(folder.card)
    selection = workspace.selection(folder.version)
    artifacts.verify(selection.path)
    artifacts.verify(workspace.dataset(Decision.load(selection.decision).dataset).path)
