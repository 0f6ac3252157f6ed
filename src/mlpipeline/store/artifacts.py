"""Content-addressed artifacts: published whole by rename, verified before use.

A step writes into a temporary folder beside its target. `publish` then writes a manifest with the
SHA-256 of every file, syncs all of it to the disk and renames the folder. So a half-written
artifact is never visible, and a damaged one is an error that names the file, never a wrong result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlpipeline.errors import ArtifactError, MissingArtifactError
from mlpipeline.store.files import damaged, missing, sha256
from mlpipeline.store.files import read_json as read_json
from mlpipeline.store.files import read_text as read_text
from mlpipeline.store.files import sync as sync
from mlpipeline.store.files import write_json as write_json
from mlpipeline.store.files import write_text as write_text
from mlpipeline.store.layout import MANIFEST as MANIFEST
from mlpipeline.store.schemas.manifest import Manifest

_KEY_DIGITS = 16  # 64 bits: a collision in one workspace is out of the question


def make_key(name: str, *, code: str, parameters: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return the cache key of a step's output, such as `batch-norm-4f0c…`.

    It holds letters, digits and `-` only, which is what Argo's memoization accepts.

    Args:
        name: What the artifact is called, as a prefix for the reader's sake.
        code: Version of the step's code.
        parameters: The parameters that the result depends on, JSON-serializable.
        inputs: The keys of the artifacts that the step reads.
    """
    identity = json.dumps([code, parameters, list(inputs)], sort_keys=True)
    prefix = "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-")
    return f"{prefix}-{hashlib.sha256(identity.encode()).hexdigest()[:_KEY_DIGITS]}"


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield an empty folder to write to; on success it becomes `target`, otherwise it is removed.

    A damaged artifact at `target` is replaced. Where another process has published a whole one in
    the meantime, that one stays: equal keys mean equal content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.draft"
    draft.mkdir()
    try:
        yield draft
        _seal(draft)
        _replace(target, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def take_over(source: Path, target: Path) -> None:
    """Move to `target` what somebody else has published at `source`, who may not write there.

    Args:
        source: A published artifact, on the same storage, that nobody writes to any more.
        target: Where it is to be. A damaged artifact there is replaced; a whole one stays.

    Raises:
        MissingArtifactError: Nothing is published at `source`.
        DamagedArtifactError: It is damaged, or there is more in it than its manifest names, such as
            a link: that leads to what is no part of it.
    """
    check_of_others(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, source)


def check_of_others(path: Path) -> None:
    """Check an artifact that somebody has published whom we do not trust: `verify`, and more.

    Raises:
        MissingArtifactError: Nothing is published at `path`.
        DamagedArtifactError: As `take_over` has it.
    """
    try:
        found = _regular_files(path)
        if MANIFEST not in found:
            raise damaged(path / MANIFEST, "it is missing", "a manifest of its files")
        if strange := sorted(found ^ {MANIFEST, *_manifest(path)}):
            raise damaged(path / strange[0], "it is there or in the manifest alone", "both")
        verify(path)
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error})", "files of ours") from error


def _regular_files(folder: Path) -> set[str]:
    """The paths of all files in a folder. What is no file may wait for ever, or lead elsewhere."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise damaged(folder, "it is a link or a file", "a folder")
    except FileNotFoundError:
        raise missing(folder) from None
    files = set()
    for base, folders, names in os.walk(folder, onerror=_raise):
        for path in (Path(base, name) for name in (*folders, *names)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                files.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(mode):
                raise damaged(path, "it is a link or a special file", "a file or a folder")
    return files


def _raise(error: OSError) -> None:
    raise error


def remove(path: Path) -> None:
    """Remove what is at a path, if anything is; of a link not what it leads to.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Check every file of a published artifact against its manifest.

    Raises:
        MissingArtifactError: Nothing is published at `path`.
        DamagedArtifactError: A file is missing or has other content than what was published.
    """
    for name, expected in _manifest(path).items():
        file = path / name
        if not file.is_file():
            raise damaged(file, "it is missing", "the file")
        if (got := sha256(file)) != expected:
            raise damaged(file, f"SHA-256 {got[:12]}…", f"SHA-256 {expected[:12]}…")


def is_whole(path: Path) -> bool:
    """Whether `verify` accepts what is at `path`."""
    try:
        verify(path)
    except ArtifactError:
        return False
    return True


def digest(path: Path) -> str:
    """Return the SHA-256 of an artifact's manifest, and so of all that it holds.

    Raises:
        MissingArtifactError: Nothing is published at `path`.
        DamagedArtifactError: It has no manifest.
    """
    _manifest(path)
    return sha256(path / MANIFEST)


def _seal(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        sync(file)
    digests = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    Manifest(files=digests).save(folder / MANIFEST)


def _replace(target: Path, draft: Path) -> None:
    if target.exists():
        if is_whole(target):
            return
        # A folder cannot be renamed onto one that is not empty: first move the damaged one away.
        damaged = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.damaged"
        with suppress(FileNotFoundError):  # another process was quicker
            target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        draft.rename(target)
    except OSError:
        if not is_whole(target):  # not a lost race against an equal artifact
            raise
    sync(target.parent)


def _manifest(path: Path) -> dict[str, str]:
    if not path.is_dir():
        raise missing(path)
    try:
        return Manifest.load(path / MANIFEST).files
    except MissingArtifactError as error:
        raise damaged(path / MANIFEST, "no usable manifest", "a manifest of its files") from error
