"""What a model was asked, and what it said: a sample, in files that a reader finds whole or not.

    requests/MODEL/VERSION/TIME-RANDOM.npz    a shard, sealed: it does not change any more
    requests/MODEL/VERSION/.TIME-….draft      one that is being written, or whose writer was killed

A shard is NumPy's `.npz`, which needs neither TensorFlow nor a library of ours:
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    version         the version that answered, as text
    classes         the names of its classes, text [C]
    sha256          of each image's raw pixels, in hexadecimal, ASCII [N]: so feedback names it
    seconds         when it was answered, float64 [N], as Unix has it
    images          uint8 [N, H, W] or [N, H, W, C']
    probabilities   float32 [N, C]
"""

from __future__ import annotations

import hashlib
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpipeline.store.files import damaged, sync

_PartT = TypeVar("_PartT")

_SUFFIX = ".npz"
_DIGITS = 16  # microseconds since 1970, until the year 2286
_UNREADABLE = (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Shard:
    """Some images that a version was asked about, in the order of their answers.

    Attributes:
        version: The version.
        classes: The names of its classes, in the order of the probabilities.
        seconds: When each was answered, float64 `[N]`, as Unix has it.
        images: uint8 `[N, H, W]` or `[N, H, W, C]`.
        probabilities: float32 `[N, classes]`.
        sha256: Of each image's raw pixels, in hexadecimal, ASCII `[N]`: so feedback names it.
    """

    version: str
    classes: tuple[str, ...]
    seconds: NDArray[np.float64]
    images: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    sha256: NDArray[np.bytes_]


def keys(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return the SHA-256 of each image's raw pixels, in hexadecimal: ASCII `[N]`."""
    return np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images], "S64")


def write(folder: Path, shard: Shard) -> Path:
    """Write a shard so that a reader sees all of it or nothing.

    Args:
        folder: The folder of the model's version; it is made if it is not there.
        shard: What to write; one image at least.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    microseconds = int(shard.seconds[0] * 1_000_000)
    file = folder / f"{microseconds:0{_DIGITS}d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
    draft = file.with_name(f".{file.stem}.draft")
    try:
        with draft.open("wb") as stream:
            np.savez_compressed(
                stream,
                version=np.array(shard.version),
                classes=np.array(shard.classes),
                seconds=shard.seconds,
                images=shard.images,
                probabilities=shard.probabilities,
                sha256=shard.sha256,
            )
        sync(draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return file


def read(folder: Path) -> Iterator[Shard]:
    """Yield the sealed shards of a version, the newest first.

    What another process removes meanwhile is left out.

    Args:
        folder: The folder of the model's version; it need not be there.

    Raises:
        DamagedArtifactError: One is not what was written.
    """
    yield from _read(folder, _shard_of)


def seconds(folder: Path) -> Iterator[NDArray[np.float64]]:
    """Yield when the images of each shard were answered, likewise; no image is read.

    Args:
        folder: The folder of the model's version; it need not be there.

    Raises:
        DamagedArtifactError: One is not what was written.
    """
    yield from _read(folder, lambda arrays: arrays["seconds"])


def _read(folder: Path, part: Callable[[np.lib.npyio.NpzFile], _PartT]) -> Iterator[_PartT]:
    """Yield a part of each sealed shard, the newest first: of a file only that part is unpacked."""
    for file in sorted(folder.glob(f"[!.]*{_SUFFIX}"), reverse=True):
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                yield part(arrays)
        except FileNotFoundError:
            continue
        except _UNREADABLE as error:
            raise damaged(file, f"unreadable content ({error})", "a shard of requests") from error


def _shard_of(arrays: np.lib.npyio.NpzFile) -> Shard:
    shard = Shard(
        str(arrays["version"]),
        tuple(arrays["classes"].tolist()),
        *(arrays[name] for name in ("seconds", "images", "probabilities", "sha256")),
    )
    lengths = {len(each) for each in (shard.seconds, shard.images, shard.probabilities)}
    if lengths != {len(shard.sha256)}:
        raise ValueError(f"arrays of {sorted(lengths | {len(shard.sha256)})} images")
    return shard


def is_empty(folder: Path) -> bool:
    """Return whether nothing that a model was asked is sealed yet.

    Args:
        folder: The folder of the model; it need not be there.

    Raises:
        PermissionError: It is closed to us.
    """
    try:
        files = [each for version in folder.iterdir() for each in version.iterdir()]
    except FileNotFoundError:
        return True
    return not any(each.suffix == _SUFFIX and not each.name.startswith(".") for each in files)


def keep_within(folder: Path, most: int) -> None:
    """Remove the oldest files of a model's versions until all have so many bytes at most.

    That goes for drafts, too, which writers have left that were killed. Several writers may do so
    at a time.

    Args:
        folder: The folder of the model.
        most: How many bytes may stay.
    """
    found = []
    for file in folder.glob("*/*"):
        try:
            found.append((file.name.lstrip("."), file.stat().st_size, file))
        except FileNotFoundError:
            continue
    left = sum(size for _, size, _ in found) - most
    for _, size, file in sorted(found):
        if left <= 0:
            break
        file.unlink(missing_ok=True)
        left -= size


def make_private(folder: Path) -> None:
    """Make a folder that nobody else may look into: there may be people's pictures in it.

    Args:
        folder: The folder; one that is there stays as it is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
