"""`npz:PATH`: arrays in NumPy's archive, as Keras writes them.

`x_train`, `y_train`, `x_test`, `y_test`; or `x`, `y` alone, from which a test split is cut; or
`train_images`, `train_labels` and so on. A member `classes` names the classes in the order of the
labels; otherwise each is called by its label. Arrays are read an image at a time, packed or not.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mlpipeline.errors import SourceError
from mlpipeline.learning.data.sources.collection import Collection, Item, Part, natural_order
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference, shown

_MEMBERS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
_CLASSES = "classes"
_LARGEST = 1 << 28  # bytes of an image: of more, it is no image


@dataclass(frozen=True)
class _Array:
    """An array in an archive, of which nothing but its header has been read."""

    file: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, file: Path, member: str) -> _Array:
        with _member(file, member) as (_, shape, in_columns, dtype):
            if dtype.hasobject or in_columns or not shape or math.prod(shape) == 0:
                kind = "objects" if dtype.hasobject else "columns" if in_columns else "nothing"
                raise _unusable(file, f"`{member}` holds {kind}: {dtype} {list(shape)}")
            return cls(file, member, shape, dtype)

    def elements(self) -> Iterator[NDArray[Any]]:
        """Yield what is along the first dimension, one at a time."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        if size > _LARGEST:
            raise _unusable(self.file, f"`{self.member}` has {size:,} bytes for each image")
        with _member(self.file, self.member) as (stream, *_):
            for number in range(self.shape[0]):
                content = stream.read(size)
                if len(content) != size:
                    raise _unusable(self.file, f"`{self.member}` ends in number {number}")
                yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])


def find(reference: Reference, data: Data) -> Collection:
    """Return the images of an archive.

    Raises:
        ConfigurationError: Nothing lies there.
        SourceError: It is no archive, or its arrays are no labelled images.
    """
    file = reference.path
    held = _names(file)
    pairs = {
        part: pair
        for part, choices in _MEMBERS.items()
        for pair in choices
        if set(pair) <= held and not (part == "train" and pair == ("x", "y") and len(held) > 3)
    }
    if "train" not in pairs:
        raise _unusable(file, f"its arrays are {', '.join(sorted(held)) or 'none'}")
    names = _class_names(file) if _CLASSES in held else ()
    labels = {part: _labels(file, y, names) for part, (_, y) in pairs.items()}
    return Collection.of(
        shown(file.stem),
        f"the arrays of {shown(file)}",
        names or natural_order(label for of_part in labels.values() for label in of_part),
        {part: _part(file, x, labels[part]) for part, (x, _) in pairs.items()},
    )


def _part(file: Path, member: str, labels: list[str]) -> Part:
    array = _Array.of(file, member)
    shape = list(array.shape)
    if array.dtype.kind not in "uifb" or len(shape) not in (3, 4):
        raise _unusable(file, f"`{member}` is {array.dtype} {shape}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise _unusable(file, f"`{member}` is {shape}: its channels come first")
    if shape[0] != len(labels):
        raise _unusable(file, f"`{member}` has {shape[0]} images for {len(labels)} labels")

    def items() -> Iterator[Item]:
        for number, (label, image) in enumerate(zip(labels, array.elements(), strict=True)):
            yield Item(f"{member}[{number}]", label, image)

    return Part(len(labels), items)


def _labels(file: Path, member: str, names: tuple[str, ...]) -> list[str]:
    array = _Array.of(file, member)
    if array.shape[1:] not in ((), (1,)) or array.dtype.kind not in "uibUS":
        raise _unusable(file, f"`{member}` is {array.dtype} {list(array.shape)}")
    values = [_text(element.reshape(-1)[0]) for element in array.elements()]
    if not names or array.dtype.kind in "US":
        return values
    if wrong := [value for value in set(values) if not 0 <= int(value) < len(names)]:
        raise _unusable(file, f"`{member}` has the label {wrong[0]} for {len(names)} classes")
    return [names[int(value)] for value in values]


def _class_names(file: Path) -> tuple[str, ...]:
    array = _Array.of(file, _CLASSES)
    if array.dtype.kind not in "US" or len(array.shape) != 1:
        raise _unusable(file, f"`{_CLASSES}` is {array.dtype} {list(array.shape)}")
    return tuple(_text(element[()]) for element in array.elements())


def _text(value: Any) -> str:
    if isinstance(value, np.bool_):
        return str(int(value))
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _names(file: Path) -> set[str]:
    with _naming(file), zipfile.ZipFile(file) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


@contextmanager
def _member(
    file: Path, member: str
) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]]:
    """Open an array behind its header: with its shape, whether columns come first, and its type."""
    with (
        _naming(file),
        zipfile.ZipFile(file) as archive,
        archive.open(f"{member}.npy") as stream,
    ):
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        yield stream, *read(stream)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    if not file.is_file():
        raise _unusable(file, "it is a folder" if file.is_dir() else "it is no file")
    try:
        yield
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(file, f"it is no archive, or damaged: {error}") from error


def _unusable(file: Path, got: str) -> SourceError:
    return SourceError(
        f"cannot use {shown(file)}: {got}",
        expected="x_train [N, height, width] or [N, height, width, channels] and y_train [N] "
        "(integers or names), perhaps x_test and y_test; or x and y",
        remedy="write it with numpy.savez_compressed(file, x_train=…, y_train=…), channels last",
    )
