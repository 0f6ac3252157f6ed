"""How a picture becomes one image of a data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mlpipeline.image_files.decoding import picture_in, picture_of
from mlpipeline.image_files.kind import BLANK, ImageKind

_FILTER = Image.Resampling.LANCZOS


class ImageFile(NamedTuple):
    """An image as it was read.

    Attributes:
        pixels: uint8 `[H, W]` or `[H, W, 3]`, as the model's training images are.
        as_in_the_file: The pixels before the ground was changed, as ingestion would make them of
            the file.
        inverted: Whether the file has it dark on a bright ground, and the training images bright
            on a dark one.
        notes: What somebody should know of it, such as that it is blank.
    """

    pixels: NDArray[np.uint8]
    as_in_the_file: NDArray[np.uint8]
    inverted: bool = False
    notes: tuple[str, ...] = ()


class Preparation(ImageKind):
    """Makes images of a kind out of files and arrays."""

    @classmethod
    def of(cls, kind: ImageKind) -> Preparation:
        """Return what makes images of a kind, as a card has it."""
        return cls(kind.size, kind.channels, kind.fit, kind.dark_ground)

    def from_file(self, content: bytes) -> ImageFile:
        """Make an image of the content of a file.

        Args:
            content: The bytes of the file.

        Raises:
            UnreadableImageError: It is no picture, or a damaged one, or it does not say its range.
        """
        picture, on_black, notes = picture_in(content, enough=max(self.size))
        pixels = self._fitted(picture)
        if np.ptp(pixels, axis=(0, 1)).max() <= BLANK:
            notes.append("the image is blank: it is all of one colour")
        if not self.dark_ground or has_dark_ground(pixels):
            return ImageFile(pixels, pixels, notes=tuple(notes))
        # White is no ground of the file's own: of a bright drawing, inverting leaves less to see.
        if on_black is not None and has_dark_ground(dark := self._fitted(on_black)):
            notes.append("the background is transparent, the data set's is dark: it is made black")
            return ImageFile(dark, pixels, notes=tuple(notes))
        notes.append("the background is bright, the data set's is dark: the image is inverted")
        return ImageFile(255 - pixels, pixels, inverted=True, notes=tuple(notes))

    def from_array(self, image: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Make an image of an array.

        Args:
            image: `[H', W']`, `[H', W', 1]` or `[H', W', 3]`: uint8; uint16 with all of its range;
                other integers 0..255; floating point 0..1; or bool.

        Returns:
            uint8 of `shape`, never inverted.

        Raises:
            UnreadableImageError: It is something else.
        """
        return self._fitted(picture_of(image))

    def _fitted(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return the pixels of a picture: uint8 of `shape`."""
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        if self.fit == "crop":
            picture = ImageOps.fit(picture, (width, height), _FILTER)
        elif self.fit == "pad":
            picture = _padded(picture, width, height)
        return np.array(picture.resize((width, height), _FILTER))


def has_dark_ground(pixels: NDArray[np.uint8]) -> bool:
    """Whether the border of an image, uint8 `[H, W]` or `[H, W, C]`, is dark on the whole."""
    return bool(_border(pixels).mean() <= 127)


def _padded(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Scale a picture so that all of it fits, and lay it on the colour that its border has most."""
    scale = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    scaled = picture.resize(inner, _FILTER)
    colour = np.median(_border(np.asarray(scaled)), axis=0).astype(np.uint8).tolist()
    ground = Image.new(
        picture.mode, (width, height), colour if picture.mode == "L" else tuple(colour)
    )
    ground.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return ground


def _border(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The outermost pixels: `[B]` or `[B, C]`."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
