"""Image files of any size and colour become images as the model takes them."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# What Pillow's decoders raise for files that are damaged or no images.
UNREADABLE = (OSError, Image.DecompressionBombError, SyntaxError, ValueError, TypeError)


class ImageFile(NamedTuple):
    """An image as it was read.

    Attributes:
        pixels: uint8 of the model's input shape, bright on a dark ground, as training images are.
        inverted: Whether the file has it dark on a bright ground.
    """

    pixels: NDArray[np.uint8]
    inverted: bool

    @property
    def as_in_the_file(self) -> NDArray[np.uint8]:
        """Return the pixels before they were inverted, uint8 of the model's input shape."""
        return 255 - self.pixels if self.inverted else self.pixels


def decode(content: bytes, shape: tuple[int, ...]) -> ImageFile:
    """Decode the content of an image file into the shape of one image of the model.

    It is scaled by Lanczos's filter, made grey where the model takes grey images, and inverted
    where its border is bright.

    Args:
        content: The bytes of the file.
        shape: (H, W) or (H, W, C) with C of 1 or 3.

    Raises:
        Exception: One of `UNREADABLE`: it is no image, or a damaged one.
    """
    try:
        with Image.open(BytesIO(content)) as opened:
            image = opened.convert("L" if len(shape) == 2 or shape[2] == 1 else "RGB")
    except UnidentifiedImageError:  # its message names an object in memory
        raise ValueError("it is no image of a known format") from None
    pixels = np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.LANCZOS))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    inverted = bool(border.mean() > 127)
    return ImageFile((255 - pixels if inverted else pixels).reshape(shape), inverted)
