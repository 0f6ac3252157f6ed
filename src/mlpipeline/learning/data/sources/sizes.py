"""Which size and how many channels all images of a collection get."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from mlpipeline.errors import ConfigurationError
from mlpipeline.image_files import formats
from mlpipeline.learning.data.sources.collection import Collection, Item, Unusable, check_file
from mlpipeline.plan.config import Data

_SHOWN = 5
_LYING = 5  # EXIF's orientations from this one on exchange height and width


class Look(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for colour; of an array, as many as it has.
    """

    size: tuple[int, int]
    channels: int


def shape_of(collection: Collection, data: Data) -> tuple[int, ...]:
    """Return the shape of every image: what is said, otherwise what all of them have.

    Args:
        collection: The images.
        data: `size` and `channels`, where they are said.

    Returns:
        `(H, W)` for grey images, otherwise `(H, W, C)`.

    Raises:
        ConfigurationError: They are of several sizes, and none is said.
    """
    if data.size and data.channels:
        return data.size if data.channels == 1 else (*data.size, data.channels)
    looks = Counter[Look]()
    for part in (collection.train, collection.test):
        looks.update(look for item in (part.items() if part else ()) if (look := _look(item)))
    sizes = Counter[tuple[int, int]]()
    for look, count in looks.items():
        sizes[look.size] += count
    if not sizes:  # nothing can be read: said with the reasons, when it is tried
        return (1, 1)
    if data.size is None and len(sizes) > 1:
        raise _several(collection, sizes)
    size = data.size or next(iter(sizes))
    channels = data.channels or max(look.channels for look in looks)
    return size if channels == 1 else (*size, channels)


def _look(item: Item) -> Look | None:
    image = item.image
    if isinstance(image, Unusable):
        return None
    if not isinstance(image, (Path, bytes)):
        height, width, *channels = image.shape
        return Look((height, width), channels[0] if channels else 1)
    try:
        if isinstance(image, Path):
            check_file(image)
        file = BytesIO(image) if isinstance(image, bytes) else image
        with Image.open(file, formats=formats()) as opened:  # of others none will be decoded
            width, height = opened.size
            lying = int(opened.getexif().get(ExifTags.Base.Orientation, 1)) >= _LYING
            grey = opened.mode in ("1", "L", "LA", "La", "F") or opened.mode.startswith("I")
    except Exception:  # said with the reason, when it is decoded
        return None
    return Look((width, height) if lying else (height, width), 1 if grey else 3)


def _several(collection: Collection, sizes: Counter[tuple[int, int]]) -> ConfigurationError:
    most = [f"{h}x{w} ({count:,})" for (h, w), count in sizes.most_common(_SHOWN)]
    more = f" and {len(sizes) - _SHOWN:,} others" if len(sizes) > _SHOWN else ""
    (height, width), _ = sizes.most_common(1)[0]
    return ConfigurationError(
        f"the images of {collection.source} have {len(sizes):,} sizes, height x width: "
        f"{', '.join(most)}{more}",
        expected="one size, or data.size, which all of them get",
        remedy=f"say `data: {{size: [{height}, {width}]}}`, or another height and width; "
        "data.fit says what becomes of other proportions",
    )
