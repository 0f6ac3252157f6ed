"""What data files are like: a digest of a set of files, for a key to change with them.

A small set counts by content, so that a clone, a copy and an image of it have the same key. A large
one counts by the size and the time of each file: nobody waits for gigabytes to be read in every
process that asks. Where a set lies is no part of its digest.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mlpipeline.errors import ConfigurationError
from mlpipeline.store.files import sha256

_CONTENT_BYTES = 64 * 2**20  # 0.05 s to 0.2 s of SHA-256
_CONTENT_FILES = 1_000
_DIGITS = 16


@dataclass(frozen=True)
class Compared:
    """A set of files as it was found.

    Attributes:
        digest: Of the names below what was named, and of what they are like.
        files: How many there are.
        size: Bytes of all of them.
        by: What each was compared by.
    """

    digest: str
    files: int
    size: int
    by: Literal["content", "size and time"]


def compare(named: Mapping[str, Path], *, limit: int | None = None) -> Compared:
    """Return what files and folders are like; found once in a process.

    What is hidden, and what Python keeps compiled, is left out of a folder. A file that is not
    there or cannot be read counts as such: it is another set once it can.

    Args:
        named: Files and folders by the names that their digest is to know them by.
        limit: More files than these are no data set, but a folder that was named by mistake.

    Raises:
        ConfigurationError: There are more.
    """
    return _compare(tuple(sorted(named.items())), limit)


def forget() -> None:
    """Have the next call of `compare` look again."""
    _compare.cache_clear()


@lru_cache
def _compare(named: tuple[tuple[str, Path], ...], limit: int | None) -> Compared:
    found: dict[str, tuple[Path, os.stat_result | None]] = {}
    for name, path in named:
        for below, file, status in _files(path):
            found[f"{name}/{below}" if below else name] = file, status
            if limit is not None and len(found) > limit:
                raise _too_many(path, limit)
    size = sum(status.st_size for _, status in found.values() if status)
    is_small = size <= _CONTENT_BYTES and len(found) <= _CONTENT_FILES
    digest = hashlib.sha256()
    for name, (file, status) in sorted(found.items()):
        like = _content(file, status) if is_small else _looks(status)
        digest.update(f"{name}\0{like}\n".encode(errors="surrogateescape"))
    return Compared(
        digest.hexdigest()[:_DIGITS],
        files=len(found),
        size=size,
        by="content" if is_small else "size and time",
    )


def _looks(status: os.stat_result | None) -> str:
    return "unreadable" if status is None else f"{status.st_size} {status.st_mtime_ns}"


def _content(file: Path, status: os.stat_result | None) -> str:
    if status is None:
        return _looks(status)
    try:
        return sha256(file)
    except OSError:
        return f"unreadable {_looks(status)}"


_Found = tuple[str, Path, os.stat_result | None]


def _files(path: Path) -> Iterator[_Found]:
    """Yield the file, or the files of the folder: name below it, path, size and time if known."""
    try:
        status = path.stat()
    except OSError:
        yield "", path, None
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _below(path, "", ((status.st_dev, status.st_ino),))
    elif stat.S_ISREG(status.st_mode):
        yield "", path, status


def _below(folder: Path, name: str, inside: tuple[tuple[int, int], ...]) -> Iterator[_Found]:
    """Walk a folder; links are followed, but not into one of the folders that we are inside of."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        yield name, folder, None
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        below = f"{name}/{entry.name}" if name else entry.name
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            yield below, Path(entry.path), None
            continue
        if stat.S_ISREG(status.st_mode):
            yield below, Path(entry.path), status
        elif stat.S_ISDIR(status.st_mode):
            identity = status.st_dev, status.st_ino
            if identity not in inside:
                yield from _below(Path(entry.path), below, (*inside, identity))


def _too_many(path: Path, limit: int) -> ConfigurationError:
    return ConfigurationError(
        f"the folder {path} has more than {limit:,} files",
        expected="a folder with data alone, named by a data set's or a model's own code",
        remedy="say which files count: `files` in the configuration, a list of patterns",
    )
