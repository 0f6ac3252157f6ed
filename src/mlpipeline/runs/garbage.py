"""What nothing in a workspace leads to any more: found, and removed while nobody may need it.

    newest runs, versions to keep ──► what these name ──► stays; what is older and not named goes

A run looks once whether an artifact is there, and reads it minutes later. So a removal and a run
keep out of each other's way: a run first says that it has begun, then waits until nobody removes
anything (`wait_for_removal`); a removal first takes its lease, then looks whether a run has begun.
In whichever order these four happen, at least one of the two sees the other.

What goes is renamed first, which takes a moment, and a version before what it was made from.
Wherever that ends, because its process is killed, all that is left in its place is whole, and
nothing of it names what is gone. The files are removed after that, by the next removal if need be.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.filesize import decimal

from mlpipeline.errors import (
    ArtifactError,
    DamagedArtifactError,
    MissingArtifactError,
    ProcessError,
)
from mlpipeline.plan.pipeline import CANDIDATE, DATASET, MODEL, SELECTION, STEPS
from mlpipeline.store import artifacts, files, history
from mlpipeline.store.layout import (
    CANDIDATES,
    DATASETS,
    MADE,
    MODELS,
    RUNS,
    SELECTIONS,
    RunFolder,
    Workspace,
)
from mlpipeline.store.leases import BEAT_SECONDS, Lease
from mlpipeline.store.schemas.run import Run
from mlpipeline.store.schemas.selection import ModelCard

_log = logging.getLogger(__name__)

_PUBLISHES = {step.name: step.publishes for step in STEPS}
_GONE = ".gone"
_LEFT_OVER = (".draft", ".damaged", ".old")
"""How the names end that `store` gives to what is there for a moment only."""
# A writer that has not touched its draft for so long was killed.
_QUIET_SECONDS = 3_600.0
_LONGEST_WAIT_SECONDS = 3_600.0
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Garbage:
    """Something that nothing leads to any more.

    Attributes:
        path: Where it is: a folder, or a file.
        size: The bytes of its files.
    """

    path: Path
    size: int


def describe(found: Collection[Garbage], workspace: Workspace, *, is_done: bool) -> Iterator[str]:
    """Yield a line for each thing that was found, and one for all of them.

    Args:
        found: What was found.
        workspace: Where.
        is_done: Whether it was removed.
    """
    for garbage in found:
        yield f"{garbage.path.relative_to(workspace.root)}  {decimal(garbage.size)}"
    size = decimal(sum(garbage.size for garbage in found))
    yield f"{'removed' if is_done else 'would be removed'}: {len(found):,}, {size}"


def find(
    workspace: Workspace, keep_runs: int, *, served: Iterable[tuple[str, str]] = ()
) -> list[Garbage]:
    """Return what nothing that is kept leads to, in the order in which it may go.

    Args:
        workspace: The folder of all artifacts.
        keep_runs: How many of the newest runs are kept, with all that they have made or reused.
        served: Names of models and their versions that are kept as well.

    Raises:
        ArtifactError: What has to be known of what is kept cannot be read, so nothing is known.
    """
    newest = _newest(workspace, keep_runs)
    # What is not older than these may be of one that was killed, and has not written it down.
    since = min((_began(folder) for folder in newest), default=0.0)
    versions, runs = set(served), {folder.run for folder in newest}
    for name in workspace.model_names():
        kept, published_by = _kept_versions(workspace, name)
        versions |= {(name, version) for version in kept}
        runs |= published_by
    named: set[Path] = set()
    for folder in workspace.runs():
        if folder.run in runs and folder.record.exists():
            run = Run.load(folder.record)
            named |= set(_used_by(run))
            versions |= {(run.name, served.version) for served in run.served}
    for model in workspace.models():
        if model.path.stat().st_mtime >= since:
            versions.add((model.model, model.version))
    for name, version in versions:
        named |= set(_made_from(workspace, name, version))

    old_runs = [
        folder.path
        for folder in workspace.runs()
        if folder.run not in runs and (folder.record.exists() or _changed(folder.path) < since)
    ]
    not_named = [
        path
        for path in _artifacts(workspace)
        if path.relative_to(workspace.root) not in named and path.stat().st_mtime < since
    ]
    going = [*old_runs, *not_named]
    rest = [path for path in _rest(workspace, since) if path.parent not in going]
    return [Garbage(path, _size(path)) for path in (*going, *rest)]


def remove(
    workspace: Workspace,
    keep_runs: int,
    *,
    who: str,
    under_way: Callable[[], str],
    served: Callable[[], Iterable[tuple[str, str]]] = tuple,
    say: Callable[[str], None] = _log.info,
) -> list[Garbage]:
    """Remove what nothing that is kept leads to, once no run is under way; return what it was.

    Args:
        workspace: The folder of all artifacts.
        keep_runs: As of `find`.
        who: What this process calls itself, for those that wait for it.
        under_way: Returns what is to be waited for, in words; empty for nothing.
        served: Returns what `find` takes, once nobody can change that.
        say: Called with what it waits for.

    Raises:
        ArtifactError: As `find` has it; nothing is removed then.
        ProcessError: Something was under way all the time; or this process slept so long that
            others may have begun.
    """
    with _while_nothing_is_under_way(workspace, who, under_way, say) as lease:
        found = find(workspace, keep_runs, served=served())
        aside = [_put_aside(garbage.path, lease) for garbage in found]
    for path in filter(None, aside):
        try:
            artifacts.remove(path)
        except FileNotFoundError:  # another removal was quicker
            continue
        except OSError as error:
            _log.warning("%s stays, the next removal tries again: %s", path, error)
    return found


def wait_for_removal(workspace: Workspace, who: str) -> None:
    """Wait until nobody removes anything; call it once others can see that this is under way.

    Args:
        workspace: The folder of all artifacts.
        who: What this process calls itself.

    Raises:
        ProcessError: Somebody does, and does not end.
    """
    lease = Lease(workspace.removal_lease, who)
    _take(lease, lambda holder: f"{holder} removes what nobody needs in {workspace}")
    lease.release()


def _take(lease: Lease, describe_holder: Callable[[str], str]) -> None:
    """Wait for a lease.

    Raises:
        ProcessError: Somebody has it all the time.
    """
    if holder := lease.wait(_LONGEST_WAIT_SECONDS, every=_LOOK_AGAIN_SECONDS):
        raise ProcessError(
            f"{describe_holder(str(holder))}, and does not end",
            expected="that it is done in a moment",
            remedy=f"end that process, then do this again ({lease.file})",
        )


@contextmanager
def _while_nothing_is_under_way(
    workspace: Workspace, who: str, under_way: Callable[[], str], say: Callable[[str], None]
) -> Iterator[Lease]:
    """Keep runs from their work while the body runs, once none is under way."""
    lease, end, told = Lease(workspace.removal_lease, who), time.monotonic(), ""
    end += _LONGEST_WAIT_SECONDS
    while True:
        _take(lease, lambda holder: f"{holder} has the turn to remove something")
        try:
            if not (busy := under_way()):
                with _beating(lease):
                    yield lease
                return
        finally:
            lease.release()  # so what is under way, or begins now, does not wait for this one
        if busy != told:
            say(f"waiting for {busy}")
            told = busy
        if time.monotonic() > end:
            raise ProcessError(
                f"{busy} is under way, so nothing was removed",
                expected="a moment in which nothing is",
                remedy="do it again after its end",
            )
        time.sleep(_LOOK_AGAIN_SECONDS)


@contextmanager
def _beating(lease: Lease) -> Iterator[None]:
    """Keep a lease while the body runs: on slow storage it may take minutes to find what goes."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_SECONDS) and lease.touch():
            pass

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        is_over.set()
        beating.join()


def _put_aside(path: Path, lease: Lease) -> Path | None:
    """Rename something to a name that nobody looks at; return that, or None for what is gone.

    Raises:
        ProcessError: The lease is another's, so runs may have begun.
    """
    if not lease.touch():
        raise ProcessError(
            "this removal was taken over by another process, because it was stopped for long",
            expected="that it goes on, once it is begun",
            remedy="do it again: what it has not done yet is done then",
        )
    if path.suffix == _GONE:
        return path
    if path.suffix == ".lease":  # by the rule of leases: somebody may have taken it just now
        old = Lease(path, lease.who)
        if old.take() is None:
            old.release()
        return None
    aside = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex[:8]}{_GONE}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    files.sync(path.parent)  # also after a loss of power it went before what it was made from
    return aside


def _newest(workspace: Workspace, count: int) -> list[RunFolder]:
    """The runs that began last. One without a record was killed before it had made anything."""
    began = {folder: _began(folder) for folder in workspace.runs() if folder.record.exists()}
    return sorted(began, key=lambda folder: began[folder], reverse=True)[:count]


def _began(folder: RunFolder) -> float:
    try:
        return datetime.fromisoformat(Run.load(folder.record).started).timestamp()
    except ArtifactError:  # if it is one to keep, that ends the removal
        return folder.record.stat().st_mtime


def _kept_versions(workspace: Workspace, name: str) -> tuple[set[str], set[str]]:
    """The versions of a model that are kept whichever runs are, and the runs that published them.

    The current one and the one before it; those that were held back since: somebody may still want
    one of them in its place; and those that are pinned.
    """
    known = history.read(workspace, name)
    kept = {change.version for change in known.changes[-2:]} | _pinned(workspace, name)
    since = known.changes[-1].time if known.changes else ""
    held = [held for held in known.held_back if held.time >= since]
    by = {change.version: change.by for change in known.changes if change.how == "published"}
    runs = {by[version] for version in kept if version in by} | {one.run for one in held}
    return kept | {one.version for one in held}, runs


def _pinned(workspace: Workspace, name: str) -> set[str]:
    """The versions that people have named in the file `pinned`; what follows a `#` says why.

    Raises:
        DamagedArtifactError: It is not text, or names what is no version: by a slip of the hand one
            that somebody wants to keep would go.
    """
    file = workspace.pinned(name)
    try:
        lines = files.read_text(file).splitlines()
    except MissingArtifactError:
        return set()
    versions = {line.partition("#")[0].strip() for line in lines} - {""}
    if unknown := sorted(versions.difference(workspace.versions(name))):
        raise DamagedArtifactError(
            f"{file} names {', '.join(unknown)}: `{name}` has no such version",
            expected="one of its versions in each line; what follows a `#` is for people",
            remedy="mend that line, or take it out: `mlpipeline models` lists the versions",
        )
    return versions


def _used_by(run: Run) -> Iterator[Path]:
    """What a run has made or reused, below the workspace."""
    for task in run.tasks:
        if task.key:
            for artifact in _PUBLISHES.get(task.step, ()):
                yield artifact.path(task.key, run.name)


def _made_from(workspace: Workspace, name: str, version: str) -> Iterator[Path]:
    """A version, and all that serving, verifying and explaining it needs, below the workspace.

    Raises:
        ArtifactError: The version is there, but what it was made from cannot be read.
    """
    for artifact in (MODEL, SELECTION):
        yield artifact.path(version, name)
    try:
        card = ModelCard.load(workspace.model(name, version).card)
    except MissingArtifactError:
        return
    yield DATASET.path(card.dataset_key, name)
    yield CANDIDATE.path(card.candidate_key, name)


def _artifacts(workspace: Workspace) -> Iterator[Path]:
    """What is published and can be made again, each before what it was made from."""
    yield from (model.path for model in workspace.models())
    for name in (SELECTIONS, CANDIDATES, DATASETS):
        folders = sorted((workspace.root / name).glob("[!.]*"))
        yield from (folder for folder in folders if folder.is_dir())


def _rest(workspace: Workspace, since: float) -> Iterator[Path]:
    """What is no artifact, and of no use any more."""
    quiet = time.time() - _QUIET_SECONDS
    yield from (log for log in workspace.inbox.logs() if _changed(log) < since)
    for work in sorted((workspace.root / CANDIDATES).glob(".*.work")):
        if _changed(work) < since:  # a training that was stopped later goes on from there
            yield work
    for place in _places(workspace):
        for path in sorted(place.glob(".*")):
            match path.suffix:
                case ".gone":
                    yield path
                case ".lease" if Lease(path, "").holder() is None:
                    yield path
                case suffix if suffix in _LEFT_OVER and _changed(path) < quiet:
                    yield path


def _places(workspace: Workspace) -> Iterator[Path]:
    """The folders in which `store` writes by rename, or takes leases."""
    yield workspace.root
    yield from (workspace.root / name for name in MADE)
    yield from (workspace.inbox.path, workspace.serving_logs)
    for name in (MODELS, RUNS):
        yield from (path for path in (workspace.root / name).glob("[!.]*") if path.is_dir())


def _within(path: Path) -> Iterator[os.stat_result]:
    """Yield what is known of a file; of a folder, of all that is in it, too."""
    paths = [path]
    for base, folders, names in os.walk(path):
        paths += [Path(base, name) for name in (*folders, *names)]
    for each in paths:
        try:
            yield each.lstat()
        except FileNotFoundError:  # somebody has just finished it
            continue


def _changed(path: Path) -> float:
    """When something was changed last, with all that is in it."""
    return max((found.st_mtime for found in _within(path)), default=time.time())


def _size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(found.st_size for found in _within(path) if not stat.S_ISDIR(found.st_mode))
