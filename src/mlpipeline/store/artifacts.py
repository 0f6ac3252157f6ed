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
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlpipeline.errors import ArtifactError, DamagedArtifactError, MissingArtifactError

MANIFEST = "MANIFEST.json"
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


def verify(path: Path) -> None:
    """Check every file of a published artifact against its manifest.

    Raises:
        MissingArtifactError: Nothing is published at `path`.
        DamagedArtifactError: A file is missing or has other content than what was published.
    """
    for name, expected in _manifest(path).items():
        file = path / name
        if not file.is_file():
            raise _damaged(file, "it is missing", "the file")
        if (got := _sha256(file)) != expected:
            raise _damaged(file, f"SHA-256 {got[:12]}…", f"SHA-256 {expected[:12]}…")


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
    return _sha256(path / MANIFEST)


def read_json(path: Path) -> Any:
    """Read a JSON file of an artifact.

    Raises:
        MissingArtifactError: There is no such file.
        DamagedArtifactError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except ValueError as error:
        raise _damaged(path, f"unreadable content ({error})", "JSON") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        draft.write_text(content, encoding="utf-8")
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        sync(file)
    digests = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
    write_json(folder / MANIFEST, {"files": digests})


def _replace(target: Path, draft: Path) -> None:
    if target.exists():
        if is_whole(target):
            return
        # A folder cannot be renamed onto one that is not empty: first move the damaged one away.
        damaged = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.damaged"
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
        raise _missing(path)
    try:
        files = read_json(path / MANIFEST)["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (MissingArtifactError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path / MANIFEST, "no usable manifest", "a manifest of its files") from error


def _missing(path: Path) -> MissingArtifactError:
    return MissingArtifactError(
        f"nothing is published at {path}",
        expected="the artifact of an earlier step",
        remedy="run that step first; `make run` runs whatever is missing",
    )


def _damaged(file: Path, got: str, expected: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"{file} is damaged: {got}",
        expected=expected,
        remedy="run the step again; `make run` makes damaged artifacts anew",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
