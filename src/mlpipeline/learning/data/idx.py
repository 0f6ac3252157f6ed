"""Reader of the IDX format in which MNIST and its relatives are published, gzip-compressed.

A big-endian header (two zero bytes, the type, the number of dimensions, their sizes), then the
elements. http://yann.lecun.com/exdb/mnist

Ours rather than a library such as idx2numpy: it is thirty lines, and its errors name the file, what
is wrong with it and what to do, where a library's name an offset.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import SourceError

_UNSIGNED_BYTE = 0x08
_LARGEST = 1 << 28  # bytes of an image: of more, the header is damaged


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in a gzip-compressed IDX file of unsigned bytes.

    Raises:
        SourceError: The file is missing, truncated, altered, or of another type or rank.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:  # OSError: no such file, or a wrong checksum
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _unreadable(path, reason, "a whole gzip file") from error
    header = struct.calcsize(f">4B{dimensions}I")
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if len(content) < header or content[:4] != magic:
        raise _unreadable(path, f"it begins with {content[:4].hex()}", f"{magic.hex()} (IDX)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise _unreadable(
            path,
            f"it holds {len(content) - header} bytes",
            f"{math.prod(shape)} bytes, as its header says ({'x'.join(map(str, shape))})",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Return the labels in an IDX file, which may be gzip-compressed: uint8 `[N]`.

    Raises:
        SourceError: The file is missing, truncated, altered, empty, or of another type or rank.
    """
    values = [int(label) for label in stream(path, dimensions=(1,))]
    if not values:
        raise _unreadable(path, "it holds no labels", "some")
    return np.array(values, np.uint8)


def stream(
    path: Path, *, dimensions: Sequence[int] = (3, 4), count: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the elements along the first dimension of an IDX file, one at a time.

    Args:
        path: The file; gzip-compressed if it is called `.gz`.
        dimensions: How many it may have.
        count: How many elements it must have, where that is known.

    Raises:
        SourceError: The file is missing, truncated, altered, or of another type, rank or length.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if magic[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or magic[3:] not in map(
                _byte, dimensions
            ):
                expected = " or ".join(f"0000{_UNSIGNED_BYTE:02x}{d:02x}" for d in dimensions)
                raise _unreadable(path, f"it begins with {magic.hex()}", f"{expected} (IDX)")
            total, *shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
            if count is not None and total != count:
                raise _unreadable(path, f"it has {total} images", f"{count}, one for each label")
            if (size := math.prod(shape)) > _LARGEST:
                raise _unreadable(path, f"an element has {size} bytes", f"at most {_LARGEST}")
            for number in range(total):
                content = file.read(size)
                if len(content) != size:
                    raise _unreadable(path, f"it ends in element {number}", f"{total} of them")
                yield np.frombuffer(content, np.uint8).reshape(shape)
            if file.read(1):
                raise _unreadable(path, f"it goes on after {total} elements", "its end")
    except (OSError, EOFError, zlib.error, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _unreadable(path, reason, "a whole file") from error


def _byte(number: int) -> bytes:
    return bytes([number])


def _unreadable(path: Path, got: str, expected: str) -> SourceError:
    return SourceError(
        f"cannot read {path}: {got}", expected=expected, remedy="fetch the file again"
    )
