"""Files that a reader sees whole or not at all, and that outlast a loss of power."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from mlpipeline.errors import DamagedArtifactError, MissingArtifactError


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Args:
        file: Where it is.

    Raises:
        MissingArtifactError: There is no such file.
        DamagedArtifactError: It is not JSON.
    """
    text = read_text(file)
    try:
        return parse_json(text)
    except ValueError as error:
        raise damaged(file, f"unreadable content ({error})", "JSON") from error


def parse_json(text: str) -> Any:
    """Return what JSON says.

    Args:
        text: JSON.

    Raises:
        ValueError: It is not JSON, has a key twice, or half a character, which could not be
            written again.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "\\ud" in text.lower():  # two such escapes are one character, one alone is none
        json.dumps(content, ensure_ascii=False).encode()
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs: of a key that is there twice, one reader takes the first."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return content


def read_text(file: Path) -> str:
    """Read a file of text.

    Args:
        file: Where it is.

    Raises:
        MissingArtifactError: There is no such file.
        DamagedArtifactError: It is not text in UTF-8, or no file.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise missing(file) from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise damaged(file, f"unreadable content ({error})", "text in UTF-8") from error


def write_json(file: Path, content: Any) -> None:
    """Write `content` as JSON so that a reader sees the old file or the whole new one."""
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(file: Path, content: str) -> None:
    """Write `content` so that a reader sees the old file or the whole new one."""
    write_bytes(file, content.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write `content` so that a reader sees the old file or the whole new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        draft.write_bytes(content)
        sync(draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file so that a reader sees the old target or the whole new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        shutil.copyfile(source, draft)
        sync(draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def missing(path: Path) -> MissingArtifactError:
    """Return the error that says that there is nothing at `path`."""
    return MissingArtifactError(
        f"nothing is published at {path}",
        expected="the artifact of an earlier step; it has another key if code or data files have "
        "changed since the run began",
        remedy="run that step first; `make run` runs whatever is missing",
    )


def damaged(file: Path, got: str, expected: str) -> DamagedArtifactError:
    """Return the error that says what was found in `file` in place of what is expected."""
    return DamagedArtifactError(
        f"{file} is damaged: {got}",
        expected=expected,
        remedy="run the step again; `make run` makes damaged artifacts anew",
    )
