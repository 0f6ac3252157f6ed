"""What the images of a data set are like, as its card and its models' cards record it.

Apart from what reads files: who only reads a card does not depend on Pillow, and its key neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

Fit = Literal["crop", "pad", "stretch"]


class UnreadableImageError(ValueError):
    """There is no picture in it; the text says why."""


UNREADABLE = (OSError, UnreadableImageError)
"""What reading and preparing a file of unknown content may raise."""


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
