"""What the images of a data set are like, as its card and its models' cards record it.

Apart from what reads files: who only reads a card does not depend on Pillow, and its key neither.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

_LARGEST_FILE = 512 << 20  # bytes: larger is no picture, and may not fit into memory
_PIECE = 1 << 20

Fit = Literal["crop", "pad", "stretch"]

BLANK = 3
"""How much the pixels of a blank image differ at most, of 255: JPEG makes so much of one colour."""


class UnreadableImageError(ValueError):
    """There is no picture in it; the text says why."""


UNREADABLE = (OSError, UnreadableImageError)
"""What reading and preparing a file of unknown content may raise."""


def content_of(file: Path) -> bytes:
    """Return what is in a file that may be a picture; of a pipe, what comes through it.

    Args:
        file: The file.

    Raises:
        OSError: It cannot be read, or is too large for a picture.
    """
    status = file.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_FILE:
        return file.read_bytes()
    content = bytearray()
    with file.open("rb") as stream:
        while len(content) <= _LARGEST_FILE and not stat.S_ISREG(status.st_mode):
            if not (piece := stream.read(_PIECE)):
                return bytes(content)
            content += piece
    raise OSError(f"it has more than {_LARGEST_FILE >> 20} MB, which no picture has")


@dataclass(frozen=True)
class ImageKind:
    """How a picture of any size and colour becomes one image of a data set.

    Attributes:
        size: Height and width, in pixels.
        channels: 1 for grey images `[H, W]`, 3 for RGB `[H, W, 3]`.
        fit: What becomes of a picture of other proportions: `crop` takes its middle, `pad` keeps
            all of it and continues the colour of its border, `stretch` changes its proportions.
        dark_ground: Whether the training images are bright on a dark ground: a file that is dark on
            a bright ground is then taken for a negative and inverted. Ingestion measures it.
    """

    size: tuple[int, int]
    channels: Literal[1, 3]
    fit: Fit = "stretch"
    dark_ground: bool = False

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], *, fit: Fit = "stretch") -> Self:
        """Return how a picture becomes an image of a shape.

        Args:
            shape: `(H, W)` or `(H, W, C)`.
            fit: What becomes of a picture of other proportions.

        Raises:
            UnreadableImageError: There are channels that no file of an image has.
        """
        match shape:
            case (height, width) | (height, width, 1):
                return cls((height, width), 1, fit)
            case (height, width, 3):
                return cls((height, width), 3, fit)
        raise UnreadableImageError(
            f"images of shape {list(shape)} cannot be made of files: expected [height, width], "
            "or the same with 1 or 3 channels"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: `(H, W)` or `(H, W, 3)`."""
        return self.size if self.channels == 1 else (*self.size, 3)
