"""Prepared images of one split, in a file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data.images import Split


@dataclass
class Taken:
    """The images of one split that are in a file by now.

    Attributes:
        file: Their pixels one after the other; it has no name, so nothing is left of it.
        labels: Their labels.
        names: What messages call them.
    """

    file: IO[bytes]
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def into(cls, scratch: Path) -> Iterator[Taken]:
        """Yield an empty one; what was mapped of it stays until nobody has it any more.

        Args:
            scratch: The folder that its file lies in.
        """
        with tempfile.TemporaryFile(dir=scratch) as file:
            yield cls(file)

    def add(self, content: bytes, label: int, name: str) -> None:
        """Add an image.

        Args:
            content: Its pixels.
            label: Its label.
            name: What messages call it.
        """
        self.file.write(content)
        self.labels.append(label)
        self.names.append(name)

    def split(self, shape: tuple[int, ...]) -> Split:
        """Return it with its images mapped into memory, which keeps them when it is closed."""
        self.file.flush()
        shape = (len(self.labels), *shape)
        if not self.labels:  # nothing cannot be mapped
            return Split(np.zeros(shape, np.uint8), np.zeros(0, np.int64))
        images = np.memmap(self.file, np.uint8, mode="r", shape=shape)
        return Split(images, np.array(self.labels, np.int64))

    def move(self, rows: NDArray[np.int64], into: Taken, *, size: int) -> None:
        """Move some images to another; the last of those that stay take their places.

        Args:
            rows: Which images, ascending: int64 `[M]`.
            into: Where they are added.
            size: Bytes of an image.
        """
        kept = len(self.labels) - len(rows)
        for row in rows.tolist():
            into.add(self._content(row, size), self.labels[row], self.names[row])
        behind = np.setdiff1d(np.arange(kept, len(self.labels)), rows)
        for hole, row in zip(rows[rows < kept].tolist(), behind.tolist(), strict=True):
            content = self._content(row, size)
            self.file.seek(hole * size)
            self.file.write(content)
            self.labels[hole], self.names[hole] = self.labels[row], self.names[row]
        self.file.truncate(kept * size)
        del self.labels[kept:], self.names[kept:]

    def _content(self, row: int, size: int) -> bytes:
        self.file.seek(row * size)
        return self.file.read(size)
