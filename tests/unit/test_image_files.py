"""Files of all kinds become images as the training images are; what cannot be is refused."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mlpipeline.image_files import (
    UNREADABLE,
    Fit,
    ImageFile,
    Preparation,
    UnreadableImageError,
    has_dark_ground,
)

SIZE = (28, 28)
GREY = Preparation(SIZE, 1)
FASHION = Preparation(SIZE, 1, dark_ground=True)

DRAWING = np.zeros(SIZE, np.uint8)
DRAWING[8:15, 6:20] = 200
WIDE = (np.arange(20 * 30) % 251).astype(np.uint8).reshape(20, 30)  # no two turns of it are alike
EXIF_ORIENTATION, TIFF_PHOTOMETRIC = 0x0112, 262


def encoded(picture: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def transparent(colour: int, mode: str = "RGBA") -> Image.Image:
    """The drawing in one colour, and everything around it transparent."""
    plane = Image.new("L", SIZE, colour)
    return Image.merge(mode, [plane] * (len(mode) - 1) + [Image.fromarray(DRAWING)])


# --- as the file says -------------------------------------------------------------------------

HELD = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", HELD)
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_a_picture_is_upright_however_the_camera_was_held(
    orientation: int, kind: str, options: dict[str, Any]
) -> None:
    turn = HELD[orientation]
    held = Image.fromarray(WIDE) if turn is None else Image.fromarray(WIDE).transpose(turn)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    content = encoded(held.convert("RGB"), kind, exif=exif, **options)
    np.testing.assert_array_equal(Preparation((20, 30), 1).from_file(content).pixels, WIDE)


def test_exif_that_is_damaged_says_nothing() -> None:
    content = encoded(DRAWING, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(GREY.from_file(content).pixels, DRAWING)


@pytest.mark.parametrize(
    ("content", "drawn"),
    [
        (encoded(transparent(0)), 255 - DRAWING),
        (encoded(transparent(0), "TIFF"), 255 - DRAWING),
        (encoded(transparent(0), "WEBP", lossless=True), 255 - DRAWING),
        (encoded(transparent(0, "LA")), 255 - DRAWING),
        (encoded(transparent(255)), DRAWING),  # on white there would be nothing to see
        (encoded(transparent(255, "LA")), DRAWING),
        (encoded(transparent(230, "LA")), (DRAWING * (230 / 255)).round().astype(np.uint8)),
    ],
    ids=["rgba", "rgba-tiff", "rgba-webp", "la", "white-rgba", "white-la", "bright-la"],
)
def test_what_is_transparent_is_laid_on_a_ground(content: bytes, drawn: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(GREY.from_file(content).pixels, drawn)


ON_WHITE = np.where(DRAWING, DRAWING, 255)


@pytest.mark.parametrize(
    "content",
    [
        encoded(DRAWING, transparency=0),
        encoded(Image.fromarray(DRAWING).convert("RGB"), transparency=(0, 0, 0)),
        encoded(Image.fromarray(DRAWING).convert("P"), transparency=0),
        encoded(
            Image.fromarray(DRAWING).convert("P"), transparency=bytes([0]) + bytes([255]) * 255
        ),
        encoded(Image.fromarray(DRAWING).convert("P"), "GIF", transparency=0),
        encoded(DRAWING.astype(np.uint16) * 257, transparency=0),
    ],
    ids=["grey", "rgb", "palette", "palette-with-degrees", "gif", "grey-16"],
)
def test_a_colour_that_stands_for_transparent_is_laid_on_white(content: bytes) -> None:
    np.testing.assert_array_equal(GREY.from_file(content).pixels, ON_WHITE)


def test_a_transparent_drawing_is_the_same_as_an_opaque_one_on_white() -> None:
    """And of a data set with a dark ground both are inverted."""
    black = FASHION.from_file(encoded(transparent(0)))
    assert black.inverted
    np.testing.assert_array_equal(black.pixels, DRAWING)
    np.testing.assert_array_equal(FASHION.from_file(encoded(255 - DRAWING)).pixels, DRAWING)


def half_bright(shade: int, kind: str = "PNG") -> bytes:
    """A drawing of one shade on a ground that a colour stands for, as in a palette."""
    palette = Image.fromarray(np.where(DRAWING, np.uint8(shade), np.uint8(0))).convert("P")
    return encoded(palette, kind, transparency=0)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("shade", [128, 170, 200])
def test_where_the_ground_is_dark_a_drawing_is_on_what_more_is_seen_of_it(
    shade: int, kind: str
) -> None:
    """Inverted it would be as bright as it is far from white."""
    content = half_bright(shade, kind)
    read = FASHION.from_file(content)
    np.testing.assert_array_equal(read.pixels, np.where(DRAWING, shade, 0))
    assert not read.inverted
    assert read.notes == (
        "the background is transparent, the data set's is dark: it is made black",
    )
    # Ingestion, which knows no ground yet, has it on white, whatever the drawing is.
    np.testing.assert_array_equal(read.as_in_the_file, np.where(DRAWING, shade, 255))
    np.testing.assert_array_equal(GREY.from_file(content).pixels, read.as_in_the_file)


@pytest.mark.parametrize("shade", [10, 90, 127])
def test_what_is_seen_better_on_white_is_on_white_and_inverted(shade: int) -> None:
    read = FASHION.from_file(half_bright(shade))
    np.testing.assert_array_equal(read.pixels, np.where(DRAWING, 255 - shade, 0))
    assert read.inverted
    assert "inverted" in read.notes[0]
    np.testing.assert_array_equal(read.as_in_the_file, np.where(DRAWING, shade, 255))


def test_a_bright_ground_of_the_files_own_is_inverted_whatever_is_transparent_in_it() -> None:
    """Only its drawing is transparent: to make that black would not make its ground dark."""
    opacity = Image.fromarray(255 - DRAWING)
    content = encoded(Image.merge("LA", [Image.new("L", SIZE, 190), opacity]))
    read = FASHION.from_file(content)
    assert read.inverted
    np.testing.assert_array_equal(read.pixels, 255 - read.as_in_the_file)


def with_opacity(shade: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> bytes:
    return encoded(Image.merge("LA", [Image.fromarray(shade), Image.fromarray(opacity)]))


SOFT = np.zeros(SIZE, np.uint8)  # a drawing whose edges are between it and its ground
SOFT[7:16, 5:21], SOFT[8:15, 6:20] = 90, 200
DREW = np.where(SOFT, np.uint8(255), np.uint8(0))
RIM = np.pad(np.full((26, 26), 255, np.uint8), 1)
CORNERS = np.full(SIZE, 255, np.uint8)
for _corner in (np.s_[:2, :2], np.s_[:2, -2:], np.s_[-2:, :2], np.s_[-2:, -2:]):
    CORNERS[_corner] = 0


@pytest.mark.parametrize("opacity", [RIM, CORNERS], ids=["rim", "corners"])
@pytest.mark.parametrize("ground", [160, 200])
def test_a_bright_card_is_inverted_though_it_ends_in_something_transparent(
    ground: int, opacity: NDArray[np.uint8]
) -> None:
    """It is bright on the whole, as a drawing may be that is laid on black."""
    card = np.where(SOFT, np.uint8(20), np.uint8(ground))
    read = FASHION.from_file(with_opacity(card, opacity))
    assert read.inverted
    np.testing.assert_array_equal(read.pixels, np.where(opacity, 255 - card, 0))


def test_a_dark_drawing_cut_out_of_a_bright_page_is_inverted() -> None:
    """What clings to its edge says so, though it is bright on the whole."""
    content = with_opacity(255 - SOFT // 2, DREW)
    read = FASHION.from_file(content)
    assert read.inverted
    np.testing.assert_array_equal(read.pixels, SOFT // 2)
    # So does the other way round: cut out of something dark it is laid on black.
    read = FASHION.from_file(with_opacity(SOFT, DREW))
    assert not read.inverted
    np.testing.assert_array_equal(read.pixels, SOFT)


@pytest.mark.parametrize("opacity", [60, 180, 255])
def test_a_page_as_transparent_as_its_drawing_is_a_ground_of_the_files_own(opacity: int) -> None:
    page = np.where(SOFT, np.uint8(20), np.uint8(200))
    read = FASHION.from_file(with_opacity(page, np.full(SIZE, opacity, np.uint8)))
    assert read.inverted


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (40, 2)])
def test_a_transparent_picture_may_be_as_small_as_it_likes(size: tuple[int, int]) -> None:
    shade, opacity = np.full(size, 170, np.uint8), np.zeros(size, np.uint8)
    assert FASHION.from_file(with_opacity(shade, opacity)).pixels.max() == 0
    opacity[0, 0] = 255
    assert FASHION.from_file(with_opacity(shade, opacity)).pixels.max() > 0


def test_a_turn_is_obeyed_on_either_ground() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    picture = Image.fromarray(DRAWING).transpose(Image.Transpose.ROTATE_90).convert("P")
    content = encoded(picture, transparency=0, exif=exif)
    np.testing.assert_array_equal(FASHION.from_file(content).pixels, DRAWING)


def big_endian_tiff(pixels: NDArray[np.uint16]) -> bytes:
    return encoded(
        Image.frombytes("I;16B", pixels.shape[::-1], pixels.astype(">u2").tobytes()), "TIFF"
    )


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Change a tag of one 16-bit value in a little-endian TIFF."""
    place = tiff.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return tiff[:place] + struct.pack("<H", value) + tiff[place + 2 :]


DRAWING_16 = DRAWING.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "content",
    [
        encoded(DRAWING_16),
        encoded(DRAWING_16, "TIFF"),
        big_endian_tiff(DRAWING_16),
        encoded(DRAWING_16, "PPM"),
        encoded(DRAWING_16, "JPEG2000"),
        with_tag(encoded(65_535 - DRAWING_16, "TIFF"), TIFF_PHOTOMETRIC, 0),
        encoded(DRAWING / np.float32(255), "TIFF", tiffinfo={340: 0.0, 341: 1.0}),
        encoded(DRAWING.astype(np.int32) * 1000, "TIFF", tiffinfo={340: 0, 341: 255_000}),
    ],
    ids=["png", "tiff", "tiff-big-endian", "pgm", "jpeg2000", "white-is-zero", "float", "int32"],
)
def test_more_than_8_bits_are_scaled_by_the_range_of_the_file(content: bytes) -> None:
    np.testing.assert_array_equal(GREY.from_file(content).pixels, DRAWING)


def test_12_bits_are_scaled_by_their_range() -> None:
    """Two pixels in three bytes, as scanners write them: Pillow reads such files only."""
    pair = (4095, 0)
    packed = bytes([pair[0] >> 4, (pair[0] & 15) << 4 | pair[1] >> 8, pair[1] & 255])
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    content = b"II*\x00" + struct.pack("<I", 12) + packed + b"\x00" + directory
    pixels = Preparation((1, 2), 1).from_file(content).pixels
    assert pixels.tolist() == [[255, 0]]


@pytest.mark.parametrize(
    "content",
    [
        encoded(DRAWING / np.float32(255), "TIFF"),
        encoded(DRAWING.astype(np.int32), "TIFF"),
        encoded(DRAWING / np.float32(255), "TIFF", tiffinfo={340: 1.0, 341: 1.0}),
        b"Pf\n28 28\n-1.0\n" + DRAWING.astype("<f4").tobytes(),
    ],
    ids=["float", "int32", "no-range", "pfm"],
)
def test_numbers_without_a_range_are_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImageError, match="does not say"):
        GREY.from_file(content)


def test_no_number_at_all_is_black() -> None:
    pixels = np.where(DRAWING, 1, np.nan).astype(np.float32)
    content = encoded(pixels, "TIFF", tiffinfo={340: 0.0, 341: 1.0})
    np.testing.assert_array_equal(GREY.from_file(content).pixels, np.where(DRAWING, 255, 0))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[("1", kind) for kind in ("PNG", "TIFF", "BMP", "PPM")],
        *[("L", kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA")],
        *[("RGB", kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "JPEG2000", "ICO")],
        *[("CMYK", kind) for kind in ("JPEG", "TIFF")],
        *[("YCbCr", "TIFF"), ("LAB", "TIFF"), ("P", "BMP"), ("P", "PCX"), ("RGB", "SGI")],
    ],
)
def test_every_format_and_mode_is_read(mode: str, kind: str) -> None:
    plane = Image.fromarray(DRAWING)
    middle = Image.new("L", SIZE, 128)
    picture = Image.merge("LAB", [plane, middle, middle]) if mode == "LAB" else plane.convert(mode)
    options = {"sizes": [SIZE]} if kind == "ICO" else {}
    content = encoded(picture, kind, **options)
    for preparation in (GREY, Preparation(SIZE, 3)):
        read = preparation.from_file(content)
        assert read.pixels.shape == preparation.shape
        assert read.pixels.dtype == np.uint8
        assert read.notes == ()
        drawn = 255 if mode == "1" else 200
        assert np.abs(read.pixels[10, 12].astype(int) - drawn).max() < 12
        assert read.pixels[20, 14].max() < 12


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_pictures_the_first_is_taken_and_that_is_said(kind: str) -> None:
    others = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    content = encoded(
        Image.fromarray(DRAWING).convert("RGB"), kind, save_all=True, append_images=others
    )
    read = GREY.from_file(content)
    assert read.notes == ("only the first of the file's 3 pictures is looked at",)
    assert (int(read.pixels[10, 12]) > 190, int(read.pixels[20, 14]) < 10) == (True, True)


def test_a_large_photograph_is_read_as_well_and_sooner() -> None:
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (30, 40, 3), np.uint8)
    large = Image.fromarray(colours).resize((1600, 1200), Image.Resampling.BICUBIC)
    preparation = Preparation((28, 28), 3, "crop")
    from_jpeg = preparation.from_file(encoded(large, "JPEG", quality=95)).pixels
    from_png = preparation.from_file(encoded(large)).pixels
    assert np.abs(from_jpeg.astype(int) - from_png).mean() < 2


# --- what is no picture -----------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A file that claims a size, and has next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image of a known format"),
        (b"hello", "no image of a known format"),
        (bytes(4) + b"ftypheic" + bytes(40), "save it as JPEG or PNG"),
        (encoded(Image.fromarray(DRAWING).convert("RGB"), "EPS"), "no image of a known format"),
        (png(0, 10), "no image of a known format"),
        (png(60_000, 60_000), "too large"),
        (png(12_000, 12_000), "too large: 12000x12000 pixels, expected at most 100,000,000"),
        (png(5_000, 5_000), "damaged"),
        (encoded(WIDE)[:-40], "damaged"),
        (encoded(WIDE, "JPEG")[:-40], "damaged"),
    ],
    ids=[
        "empty",
        "text",
        "heic",
        "eps",
        "no-height",
        "bomb",
        "large",
        "claim",
        "cut-png",
        "cut-jpeg",
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        GREY.from_file(content)


# --- size, channels, proportions --------------------------------------------------------------


def test_one_of_the_size_and_colour_that_is_wanted_stays_as_it_is() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for fit in ("crop", "pad", "stretch"):
        grey, rgb = Preparation((20, 30), 1, fit), Preparation((20, 30), 3, fit)
        np.testing.assert_array_equal(grey.from_file(encoded(WIDE)).pixels, WIDE)
        np.testing.assert_array_equal(rgb.from_file(encoded(colours)).pixels, colours)
        np.testing.assert_array_equal(rgb.from_array(colours), colours)
        np.testing.assert_array_equal(grey.from_array(WIDE), WIDE)
        np.testing.assert_array_equal(grey.from_array(WIDE[..., np.newaxis]), WIDE)


def thirds() -> NDArray[np.uint8]:
    """90 wide, 30 high: left black, middle 100, right 200."""
    return np.repeat(np.array([0, 100, 200], np.uint8), 30)[np.newaxis].repeat(30, axis=0)


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "high"])
def test_crop_takes_the_middle(turned: bool) -> None:
    image = thirds().T if turned else thirds()
    pixels = Preparation((30, 30), 1, "crop").from_array(image)
    assert (pixels == 100).all()


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "high"])
def test_stretch_keeps_all_and_changes_the_proportions(turned: bool) -> None:
    image = thirds().T if turned else thirds()
    pixels = Preparation((30, 30), 1, "stretch").from_array(image)
    pixels = pixels.T if turned else pixels
    assert pixels[:, [4, 15, 25]].std(axis=0).max() == 0
    assert pixels[0, [4, 15, 25]].tolist() == [0, 100, 200]


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "high"])
@pytest.mark.parametrize("ground", [0, 60, 255])
def test_pad_keeps_the_proportions_on_the_colour_of_the_border(turned: bool, ground: int) -> None:
    image = np.full((30, 90), ground, np.uint8)
    image[10:20, 30:60] = 150
    pixels = Preparation((30, 30), 1, "pad").from_array(image.T if turned else image)
    pixels = pixels.T if turned else pixels
    assert (pixels[:10] == ground).all()
    assert (pixels[20:] == ground).all()
    assert abs(int(pixels[15, 15]) - 150) < 30  # what Lanczos's filter overshoots by
    assert abs(int(pixels[15, 2]) - ground) < 8


def test_pad_has_a_colour_of_its_own_in_each_channel() -> None:
    image = np.full((10, 40, 3), (10, 120, 250), np.uint8)
    assert Preparation((20, 20), 3, "pad").from_array(image)[0, 0].tolist() == [10, 120, 250]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 500), (7, 5)])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (5, 300)])
def test_any_proportions_become_the_size(
    fit: Fit, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = Preparation(size, 1, fit).from_array(np.full(shape, 77, np.uint8))
    assert pixels.shape == size
    assert (pixels == 77).all()


@pytest.mark.parametrize(
    "image",
    [
        DRAWING_16,
        DRAWING_16.astype(">u2"),
        DRAWING / 255,
        DRAWING.astype(np.float32) / 255,
        DRAWING.astype(np.int64),
        DRAWING[..., np.newaxis],
        np.stack([DRAWING] * 3, axis=-1),
        np.stack([DRAWING] * 3, axis=-1).transpose(1, 0, 2)[::-1].transpose(1, 0, 2)[:, ::-1],
    ],
    ids=[
        "uint16",
        "big-endian",
        "float64",
        "float32",
        "int64",
        "one-channel",
        "rgb",
        "not-contiguous",
    ],
)
def test_arrays_are_scaled_by_the_range_of_their_type(image: NDArray[Any]) -> None:
    np.testing.assert_array_equal(GREY.from_array(image), DRAWING)
    np.testing.assert_array_equal(GREY.from_array(DRAWING > 0), np.where(DRAWING, 255, 0))


@pytest.mark.parametrize(
    "image",
    [
        DRAWING.astype(np.float32),
        DRAWING.astype(np.int64) + 256,
        DRAWING.astype(np.int64) - 1,
        np.full(SIZE, np.nan),
        np.zeros((28, 28, 4), np.uint8),
        np.zeros((28, 28, 2), np.uint8),
        np.zeros((0, 28), np.uint8),
        np.zeros(28, np.uint8),
        np.full(SIZE, "a"),
        np.full(SIZE, 1j),
    ],
    ids=["0..255", "above", "below", "nan", "rgba", "two", "none", "flat", "text", "complex"],
)
def test_arrays_that_are_no_pictures_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(UnreadableImageError, match="expected"):
        GREY.from_array(image)


def test_a_shape_says_how_files_become_images_of_it() -> None:
    assert Preparation.of_shape((28, 20)) == Preparation((28, 20), 1)
    assert Preparation.of_shape((28, 20, 1), fit="pad") == Preparation((28, 20), 1, "pad")
    assert Preparation.of_shape((28, 20, 3)).shape == (28, 20, 3)
    for channels in (2, 4, 7):
        with pytest.raises(UnreadableImageError, match="1 or 3 channels"):
            Preparation.of_shape((28, 20, channels))


# --- grounds ----------------------------------------------------------------------------------


def test_a_negative_is_inverted_only_where_the_data_set_has_a_dark_ground() -> None:
    content = encoded(255 - DRAWING)
    as_it_is, inverted = GREY.from_file(content), FASHION.from_file(content)
    np.testing.assert_array_equal(as_it_is.pixels, 255 - DRAWING)
    assert (as_it_is.inverted, as_it_is.notes) == (False, ())
    np.testing.assert_array_equal(inverted.pixels, DRAWING)
    assert "inverted" in inverted.notes[0]
    for read in (as_it_is, inverted):
        np.testing.assert_array_equal(read.as_in_the_file, 255 - DRAWING)


def test_the_border_alone_says_what_the_ground_is() -> None:
    framed = np.full(SIZE, 255, np.uint8)
    framed[[0, -1]] = framed[:, [0, -1]] = 0
    assert has_dark_ground(framed)
    assert not has_dark_ground(255 - framed)
    np.testing.assert_array_equal(FASHION.from_file(encoded(framed)).pixels, framed)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_file_of_the_training_images_is_named_as_ingestion_names_it(fit: Fit) -> None:
    """What is asked later, and how corrections find it: by the pixels before any inversion."""
    picture = 255 - thirds()
    ingested = Preparation((20, 20), 1, fit).from_array(picture)
    asked = Preparation((20, 20), 1, fit, dark_ground=True).from_file(encoded(picture))
    assert asked.as_in_the_file.tobytes() == ingested.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("colour", [0, 90, 255])
def test_a_blank_image_is_said(kind: str, colour: int) -> None:
    read = GREY.from_file(encoded(np.full((50, 40), colour, np.uint8), kind))
    assert read.notes == ("the image is blank: it is all of one colour",)
    assert (
        "blank"
        in Preparation(SIZE, 3).from_file(encoded(transparent(0).crop((0, 0, 3, 3)))).notes[0]
    )


# --- damage -----------------------------------------------------------------------------------


def _mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Overwrite, take out, double or cut some bytes, most often near the head, which says most."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 9)):
        place = int(len(changed) * random.random() ** random.choice([1, 4]))
        length = int(random.choice([1, 1, 2, 4, 40]))
        match random.integers(6):
            case 0 | 1:
                changed[place : place + length] = random.bytes(len(changed[place : place + length]))
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + length]
            case 4:
                value = int(random.choice([0, 0x7F, 0x80, 0xFF]))
                changed[place : place + length] = bytes([value]) * len(
                    changed[place : place + length]
                )
            case 5 if random.random() < 0.2:
                del changed[place:]
    return bytes(changed)


def _originals() -> list[bytes]:
    random = np.random.default_rng(5)
    rgb = Image.fromarray(random.integers(0, 256, (24, 31, 3), np.uint8))
    grey, exif = rgb.convert("L"), Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    rgba = rgb.convert("RGBA")
    rgba.putalpha(grey)
    kinds = [(rgb, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")]
    contents = [encoded(picture, kind, exif=exif) for picture, kind in kinds]
    contents += [encoded(rgba, kind) for kind in ("PNG", "WEBP", "TIFF", "ICO", "TGA", "DDS")]
    contents += [encoded(rgb.quantize(16), kind) for kind in ("PNG", "GIF", "BMP", "PCX")]
    contents += [encoded(grey, "GIF", save_all=True, append_images=[grey.rotate(90)])]
    contents += [encoded(rgb.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")]
    contents += [encoded(rgb, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "jpeg")]
    contents += [encoded(DRAWING_16, kind) for kind in ("PNG", "TIFF", "PPM", "JPEG2000")]
    contents += [encoded(DRAWING / np.float32(255), "TIFF", tiffinfo={340: 0.0, 341: 1.0})]
    contents += [encoded(grey.convert("1"), kind) for kind in ("PNG", "TIFF", "XBM", "MSP")]
    contents += [encoded(rgb, kind) for kind in ("SGI", "PPM", "JPEG2000", "IM", "ICNS", "QOI")]
    return contents


def _read(preparation: Preparation, content: bytes) -> ImageFile | str:
    try:
        return preparation.from_file(content)
    except UNREADABLE as error:
        return str(error)


FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")


def test_damaged_files_end_in_an_image_or_in_a_clear_error() -> None:
    """The same 300 each time; MUTATED_IMAGES=100000 FUZZ_SEED=2 in the environment looks longer."""
    count = int(os.environ.get("MUTATED_IMAGES", "300"))
    random = np.random.default_rng(int(os.environ.get("FUZZ_SEED", "17")))
    originals = _originals()
    read = 0
    for number in range(count):
        original = originals[number % len(originals)]
        preparation = Preparation((9, 14), random.choice([1, 3]), FITS[number % 3])
        content = _mutated(original, random)
        found = _read(preparation, content)
        if isinstance(found, str):
            assert found.startswith(("it is ", "it has ")), (number, found)
            assert "object at 0x" not in found, (number, found)
            continue
        read += 1
        assert found.pixels.dtype == np.uint8, number
        assert found.pixels.shape == preparation.shape, number
        again = _read(preparation, content)
        assert isinstance(again, ImageFile)
        np.testing.assert_array_equal(again.pixels, found.pixels)
    assert 0.1 * count < read < 0.9 * count, "neither all whole nor all broken"
