"""A file or an array becomes a picture: upright, opaque, of 8 bits, grey or RGB.

What a file says of itself is obeyed: how it was held (EXIF), what is transparent, from which value
to which it goes. One that does not say it, such as a TIFF of floating point, is refused.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageCms,
    ImageFilter,
    TiffTags,
    UnidentifiedImageError,
)

from mlpipeline.image_files.kind import UnreadableImageError

# Not EPS, for which Pillow starts Ghostscript, nor formats that it knows by name only.
_FORMATS = {
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO"),
    *("TGA", "PCX", "SGI", "SUN", "DDS", "ICNS", "PSD", "QOI", "XBM", "XPM", "IM", "MSP"),
}
# In others, such as MPO and PSD, further pictures are previews or layers of the first.
_SERIES = {"GIF", "TIFF", "WEBP", "PNG", "AVIF"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_PIXELS = 100_000_000  # a gigabyte while it is read
_SPARE = 4  # pixels in each direction for one of the result: Lanczos's filter looks at six
_BITS, _PHOTOMETRIC = 258, 262  # TIFF's tags
_LEAST, _GREATEST = 340, 341
_BRIGHT = 204  # of 255, where black is four times as far as white
_MIDDLE = 127.5
_WHITE_IS_ZERO = 0


@functools.cache
def formats() -> list[str]:
    """Return Pillow's names of the formats that are read."""
    Image.init()
    return sorted(_FORMATS & set(Image.OPEN))


class Picture(NamedTuple):
    """A picture as it was read.

    Attributes:
        image: The picture, of mode L or RGB. What is transparent is white, unless the drawing is so
            bright that it would hardly be seen.
        on_black: The same on black, if a drawing that was laid on white is seen better there and
            does not look cut out of something bright.
        notes: What somebody should know of it.
    """

    image: Image.Image
    on_black: Image.Image | None
    notes: list[str]


def picture_in(content: bytes, *, enough: int) -> Picture:
    """Decode a file.

    Args:
        content: The bytes of the file.
        enough: Width and height that the picture is needed in, at most. Of a JPEG of several times
            that, so much less is decoded, which takes a fraction of the time.

    Raises:
        UnreadableImageError: It is no picture, or a damaged one, or it does not say its range.
    """
    with (
        _refusing_whatever_is_wrong_with(content),
        Image.open(BytesIO(content), formats=formats()) as opened,
    ):
        notes = []
        frames = getattr(opened, "n_frames", 1) if opened.format in _SERIES else 1
        if frames > 1:
            notes.append(f"only the first of the file's {frames} pictures is looked at")
        if opened.width * opened.height > _MOST_PIXELS:
            raise UnreadableImageError(
                f"it is too large: {opened.width}x{opened.height} pixels, expected at most "
                f"{_MOST_PIXELS:,}"
            )
        opened.draft(None, (_SPARE * enough, _SPARE * enough))
        opened.load()
        turn = _UPRIGHT.get(_orientation(opened))
        image, on_black = _opaque(_of_8_bits(opened))
        if turn is not None:
            image, on_black = image.transpose(turn), on_black and on_black.transpose(turn)
        return Picture(image, on_black, notes)


def picture_of(array: NDArray[np.generic]) -> Image.Image:
    """Return an array as a picture of mode L or RGB.

    Args:
        array: `[H, W]`, `[H, W, 1]` or `[H, W, 3]`: uint8; uint16 with all of its range; other
            integers 0..255; floating point 0..1; or bool.

    Raises:
        UnreadableImageError: It is something else.
    """
    channels = array.shape[2:]
    if array.ndim < 2 or 0 in array.shape or channels not in ((), (1,), (3,)):
        raise UnreadableImageError(
            f"an array of shape {list(array.shape)} is no picture: expected [height, width], "
            "or the same with 1 or 3 channels"
        )
    if array.dtype.kind not in "biuf":
        raise UnreadableImageError(f"values of type {array.dtype}: expected numbers")
    least, greatest = _range_of(array.dtype)
    values = array.reshape(array.shape[:2]) if channels == (1,) else array
    if values.dtype != np.uint8:
        if not (values.min() >= least and values.max() <= greatest):  # also: not a number
            raise UnreadableImageError(
                f"values of type {values.dtype} lie between {values.min()} and {values.max()}: "
                f"expected {least} to {greatest}"
            )
        values = _scaled(values, least, greatest)
    return Image.fromarray(np.ascontiguousarray(values))


@contextmanager
def _refusing_whatever_is_wrong_with(content: bytes) -> Iterator[None]:
    """Let one error stand for the dozen kinds that Pillow's decoders raise for damaged files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what does not hinder it from being read
            yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:  # its message names an object in memory
        hint = ": HEIC, say; save it as JPEG or PNG" if content[4:8] == b"ftyp" else ""
        raise UnreadableImageError(f"it is no image of a known format{hint}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"it is too large: {error}") from error
    except Exception as error:
        raise UnreadableImageError(f"it is damaged ({type(error).__name__}: {error})") from error


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8: after loading, which turns a TIFF upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what it says beside the picture may be damaged: so it says nothing
        return 1


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return a picture of a mode with 8 bits for each channel, scaled by the file's range."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        scaled = _scaled(values, *_range_in_the_file(image))
        if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
            scaled = 255 - scaled
        grey = Image.fromarray(scaled)
        if (transparent := image.info.get("transparency")) is not None:
            grey.putalpha(Image.fromarray(values != transparent))
        return grey
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None, "it is not done in place"
        return converted
    return image


def _opaque(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture of mode L or RGB, and perhaps the same on black, as `Picture` has them."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode == "La":
        image = image.convert("LA")
    if not (image.has_transparency_data or image.mode == "RGBa"):
        return image.convert("L" if grey else "RGB"), None
    drawing = image.convert("RGBA")
    shade, opacity = drawing.convert("LA").split()
    brightness = _mean(shade, weights=opacity) or 0.0

    def laid_on(ground: str) -> Image.Image:
        laid = Image.alpha_composite(Image.new("RGBA", drawing.size, ground), drawing)
        return laid.convert("RGB").convert("L" if grey else "RGB")

    if brightness > _BRIGHT:
        return laid_on("black"), None
    # Where it was cut out, some of its old ground clings to a drawing: a rim brighter than the rest
    # was on something bright, and so is a card with a thin transparent rim or round corners.
    rim = ImageChops.subtract(opacity, opacity.filter(ImageFilter.MinFilter(3)))
    outline = _mean(shade, weights=rim)
    is_bright = brightness > _MIDDLE and outline is not None and outline <= brightness
    return laid_on("white"), laid_on("black") if is_bright else None


def _mean(plane: Image.Image, *, weights: Image.Image) -> float | None:
    """The exact mean of a plane of 8 bits, if anything in it has weight; makes no larger copy."""
    values, shares = np.asarray(plane), np.asarray(weights)
    total = shares.sum(dtype=np.int64)
    return np.einsum("ij,ij->", values, shares, dtype=np.int64) / total if total else None


def _range_in_the_file(image: Image.Image) -> tuple[float, float]:
    """The values of black and white in a picture of more than 8 bits, as its format has them."""
    if image.format != "TIFF":
        if image.mode == "F":
            raise UnreadableImageError(
                "it has numbers of floating point and does not say their range"
            )
        return 0, 65_535
    if image.mode.startswith("I;16"):
        return 0, 2 ** int(_tag(image, _BITS) or 16) - 1
    least, greatest = _tag(image, _LEAST), _tag(image, _GREATEST)
    if least is None or greatest is None or not least < greatest:
        raise UnreadableImageError(
            f"it has numbers of mode {image.mode} and does not say their range: expected the tags "
            f"{TiffTags.lookup(_LEAST).name} and {TiffTags.lookup(_GREATEST).name}, or 8 or 16 bits"
        )
    return least, greatest


def _tag(image: Image.Image, number: int) -> float | None:
    """The first value of one of a TIFF file's tags."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _range_of(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    if (dtype.kind, dtype.itemsize) == ("u", 2):  # in either order of bytes
        return 0, 65_535
    return (0, 1) if dtype.kind in "fb" else (0, 255)


def _scaled(values: NDArray[np.generic], least: float, greatest: float) -> NDArray[np.uint8]:
    """Return what lies beyond as black and white, and what is no number as black."""
    shares = values.astype(np.float32)
    shares -= np.float32(least)
    shares *= np.float32(255 / (greatest - least))
    np.nan_to_num(shares, copy=False, nan=0, posinf=255, neginf=0)
    np.clip(shares, 0, 255, out=shares)
    return np.rint(shares, out=shares).astype(np.uint8)
