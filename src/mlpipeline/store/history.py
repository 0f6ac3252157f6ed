"""What a model's pointer `current` said when, and why: written down before it is moved.

    changes.json: …, planned: new ──► current: new ──► changes.json: …, new

A process that is killed in between leaves a planned change. It has taken place if `current` names
its version, otherwise it never did: so the two files agree after any crash.

What the gate held back is in it, too: nobody is to go there unawares.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from mlpipeline.errors import DamagedArtifactError, MissingArtifactError, ServingError
from mlpipeline.store import files
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import LEASE_SECONDS, Lease
from mlpipeline.store.schemas.history import Change, HeldBack, ModelHistory

_log = logging.getLogger(__name__)

# To move a pointer takes milliseconds; but a process that was killed on another host has a lease
# still.
_LONGEST_WAIT_SECONDS = LEASE_SECONDS + 30
_LOOK_AGAIN_SECONDS = 0.1
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")  # what `artifacts.make_key` makes


def pointed_at(workspace: Workspace, name: str) -> str:
    """Return the version that `current` names; empty where there is no such file.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.

    Raises:
        DamagedArtifactError: It cannot be read, or names no version.
    """
    file = workspace.current_version(name)
    try:
        version = files.read_text(file).strip()
    except MissingArtifactError:
        return ""
    if not _VERSION.fullmatch(version):
        raise files.damaged(file, f"it says {version[:40]!r}", "the version of a model")
    return version


def read(workspace: Workspace, name: str) -> ModelHistory:
    """Return which versions of a model were current, of which the last one is, or held back.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.

    Raises:
        DamagedArtifactError: The history cannot be read, or which version is current cannot.
        UnknownSchemaError: A newer version of this code has written it.
    """
    while True:
        version = pointed_at(workspace, name)
        stored = _load(workspace, name)
        if version == pointed_at(workspace, name):  # otherwise the two are of different moments
            return _settled(workspace, name, stored, version)


def changes(workspace: Workspace, name: str) -> tuple[Change, ...]:
    """Return which versions of a model were current, the oldest first; the last one is.

    Raises:
        DamagedArtifactError, UnknownSchemaError: As `read` has it.
    """
    return read(workspace, name).changes


def previous(workspace: Workspace, name: str) -> str:
    """Return the version that was current before the one that is; empty if none is known.

    Raises:
        DamagedArtifactError, UnknownSchemaError: As `read` has it.
    """
    known = changes(workspace, name)
    return known[-2].version if len(known) > 1 else ""


def held_back(workspace: Workspace, name: str, version: str) -> HeldBack | None:
    """Return why the gate held a version back; None if it did not, or the version was current once.

    One that was current has passed the gate, or somebody has answered for it: that it is worse than
    what is current now is no reason not to go back to it.

    Raises:
        DamagedArtifactError, UnknownSchemaError: As `read` has it.
    """
    known = read(workspace, name)
    if any(change.version == version for change in known.changes):
        return None
    return next((held for held in reversed(known.held_back) if held.version == version), None)


def hold_back(
    workspace: Workspace,
    name: str,
    version: str,
    *,
    run: str,
    why: str,
    by: Literal["gate", "canary"] = "gate",
) -> None:
    """Write down that a version was held back; nothing if that is the last word already.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: The version.
        run: The name of the run; empty where somebody has called the step by hand.
        why: What was found against it.
        by: What has held it back.

    Raises:
        ServingError: Others write all the time.
        UnknownSchemaError: A newer version of this code has written the history.
    """
    with _alone(workspace, name, run or "somebody"):
        stored = _load_or_put_aside(workspace, name)
        held = HeldBack(version=version, time=_now(), run=run, by=by, why=why)
        # A step whose pod was killed is done again, and one version may be judged twice in a run.
        if stored.held_back and stored.held_back[-1].model_copy(update={"time": held.time}) == held:
            return
        known = (*stored.held_back, held)
        stored.model_copy(update={"held_back": known}).save(workspace.history(name))


def move(
    workspace: Workspace,
    name: str,
    version: str,
    how: Literal["published", "rolled back"],
    *,
    by: str,
    forced_by: str = "",
    why: str = "",
    instead_of: str | None = None,
) -> None:
    """Make a version the current one, and say in the history why; nothing if it is already.

    Args:
        workspace: The folder of all artifacts.
        name: What the model is called.
        version: The version.
        how: What has made it current.
        by: The run or the person.
        forced_by: Who has had it served though the gate held it back; empty where it did not.
        why: What the person says.
        instead_of: The version that must be current until now; None for any.

    Raises:
        ServingError: Another version is current by now, or others move it all the time.
        UnknownSchemaError: A newer version of this code has written the history.
    """
    with _alone(workspace, name, by or "somebody"):
        try:
            before = pointed_at(workspace, name)
        except DamagedArtifactError as error:
            _log.warning("%s; it is written anew", error.got)
            before = ""
        # Not if it is current already: somebody does again what was done, and had no answer.
        if instead_of is not None and before not in (instead_of, version):
            raise overtaken(name, before, instead_of, version)
        stored = _load_or_put_aside(workspace, name)
        history = _settled(workspace, name, stored, before)
        if before != version:
            change = Change(
                version=version, time=_now(), how=how, by=by, forced_by=forced_by, why=why
            )
            history.model_copy(update={"planned": change}).save(workspace.history(name))
            files.write_text(workspace.current_version(name), version + "\n")
            history = history.model_copy(update={"changes": (*history.changes, change)})
        if history != stored:
            history.save(workspace.history(name))


def overtaken(name: str, found: str, expected: str, wanted: str) -> ServingError:
    """Return the error that says that another version has become current than the expected one."""
    return ServingError(
        f"version {found} of `{name}` has become current meanwhile",
        expected=f"that it is {expected} until {wanted} takes its place",
        remedy="see why: `mlpipeline models`; then do it again, if it is still to be done",
    )


def _settled(workspace: Workspace, name: str, stored: ModelHistory, current: str) -> ModelHistory:
    """The history as it agrees with the version that is current, without a planned change."""
    known = stored.changes
    if stored.planned is not None and stored.planned.version == current:
        known += (stored.planned,)
    if current and (not known or known[-1].version != current):
        moved = datetime.fromtimestamp(workspace.current_version(name).stat().st_mtime, UTC)
        time_of_it = moved.isoformat(timespec="seconds")
        known += (Change(version=current, time=time_of_it, how="found"),)
    return stored.model_copy(update={"changes": known, "planned": None})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _load(workspace: Workspace, name: str) -> ModelHistory:
    try:
        return ModelHistory.load(workspace.history(name))
    except MissingArtifactError:
        return ModelHistory(changes=())


def _load_or_put_aside(workspace: Workspace, name: str) -> ModelHistory:
    """Load the history; one that is damaged does not keep a model from being published."""
    try:
        return _load(workspace, name)
    except DamagedArtifactError as error:
        file = workspace.history(name)
        aside = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.damaged")
        file.rename(aside)
        _log.warning("%s; it is kept as %s, and another one begins", error.got, aside.name)
        return ModelHistory(changes=())


@contextmanager
def _alone(workspace: Workspace, name: str, who: str) -> Iterator[None]:
    """Let one process at a time move a model's pointer while the body runs.

    Raises:
        ServingError: Others do for longer than any of them may take.
    """
    lease = Lease(workspace.current_lease(name), who)
    if holder := lease.wait(_LONGEST_WAIT_SECONDS, every=_LOOK_AGAIN_SECONDS):
        raise ServingError(
            f"{holder} makes another version of `{name}` current, and does not end",
            expected="that it is done in a moment",
            remedy=f"end that process, then do it again ({lease.file})",
        )
    try:
        yield
    finally:
        lease.release()
