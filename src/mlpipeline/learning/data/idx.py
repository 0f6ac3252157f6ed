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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.errors import SourceError

_UNSIGNED_BYTE = 0x08


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


def _unreadable(path: Path, got: str, expected: str) -> SourceError:
    return SourceError(
        f"cannot read {path}: {got}", expected=expected, remedy="fetch the file again"
    )
