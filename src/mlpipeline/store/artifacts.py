"""Content-addressed artifacts: published whole by rename, verified before use.

A step writes into a temporary folder beside its target. `publish` then writes a manifest with the
SHA-256 of every file, syncs all of it to the disk and renames the folder. So a half-written
artifact is never visible, and a damaged one is an error that names the file, never a wrong result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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
        source: A published artifact, on the same storage.
        target: Where it is to be. A damaged artifact there is replaced; a whole one stays.

    Raises:
        MissingArtifactError: Nothing is published at `source`.
        DamagedArtifactError: It is damaged, or holds a link: that leads to what is no part of it.
    """
    for path in (source, *source.rglob("*")):
        if path.is_symlink():
            raise damaged(path, "it is a link", "files and folders")
    verify(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, source)


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
