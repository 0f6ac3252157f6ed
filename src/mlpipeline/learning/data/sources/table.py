"""`csv:PATH`: a table whose rows hold a label with pixels, or with an image file's path.

PATH is a file, from which a test split is cut, or a folder with `train.csv` and `test.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlpipeline.errors import SourceError
from mlpipeline.learning.data.sources.collection import (
    Collection,
    Item,
    Part,
    Unusable,
    class_name,
    natural_order,
)
from mlpipeline.plan import tables
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference, shown
from mlpipeline.plan.tables import Table


def find(reference: Reference, data: Data) -> Collection:
    """Return the images of one table, or of two.

    Raises:
        ConfigurationError: Nothing lies there.
        SourceError: A table cannot be read, or its pixels make no image.
    """
    path = reference.path
    files = {"train": path} if path.is_file() else tables.of_folder(path)
    if "train" not in files:
        raise SourceError(
            f"{shown(path)} has no train.csv",
            expected="a file, or a folder with `train.csv`, and `test.csv` if there is one",
            remedy="name the file itself: `csv:PATH/NAME.csv`",
        )
    found = {part: tables.recognise(file) for part, file in files.items()}
    labels = set[str]()
    parts: dict[str, Part] = {}
    for part, table in found.items():
        read = _reader(table, data)
        count = 0
        for _, row in table.rows():
            count += 1
            if len(row) == table.width:
                labels.add(_label(table, row))
        parts[part] = Part(count, read)
    return Collection.of(
        shown(path.name.partition(".")[0]) or "images",
        f"the table {shown(path)}",
        natural_order(labels - {""}),
        parts,
    )


def _reader(table: Table, data: Data) -> Callable[[], Iterator[Item]]:
    shape = _shape_of(table, data) if table.form == "pixels" else ()

    def items() -> Iterator[Item]:
        for number, row in table.rows():
            name = f"{shown(table.file.name)}, row {number}"
            if len(row) != table.width:
                why = f"it has {len(row)} columns, the first row {table.width}"
                yield Item(name, "", Unusable(why))
            elif not (label := _label(table, row)):
                yield Item(name, "", Unusable("it has no label"))
            elif table.form == "paths":
                yield Item(f"{name}, {row[table.path].strip()}", label, table.image(row))
            else:
                yield Item(name, label, _pixels(row[: table.label] + row[table.label + 1 :], shape))

    return items


def _label(table: Table, row: Sequence[str]) -> str:
    return class_name(row[table.label])


def _pixels(values: Sequence[str], shape: tuple[int, ...]) -> np.ndarray | Unusable:
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError as error:
        return Unusable(str(error))
    wrong = (numbers != np.floor(numbers)) | (numbers < 0) | (numbers > 255)
    if wrong.any():
        return Unusable(f"a pixel is {numbers[wrong][0]:g}, expected a whole number from 0 to 255")
    return numbers.astype(np.uint8).reshape(shape)


def _shape_of(table: Table, data: Data) -> tuple[int, ...]:
    """Return the shape of a row's pixels: as configured if that fits, otherwise square."""
    pixels = table.width - 1
    if data.size and pixels == math.prod(data.size):
        return data.size
    if data.size and pixels == 3 * math.prod(data.size):
        return (*data.size, 3)
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if side * side * channels == pixels:
            return (side, side) if channels == 1 else (side, side, channels)
    raise SourceError(
        f"{shown(table.file)} has {pixels} columns beside the label",
        expected="the pixels of square images, grey or with red, green and blue of each in turn",
        remedy="say how they are with `data: {size: [HEIGHT, WIDTH]}`",
    )
