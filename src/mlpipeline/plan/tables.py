"""Tables of images as CSV: in each row a label and pixels, or a label and an image file's path.

The separator, a header and the columns are found out from the first rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from mlpipeline.errors import SourceError

_LABELS = ("label", "labels", "class", "class_name", "category", "target", "y")
_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
_FEWEST_PIXELS = 16  # columns of a table of pixels, which one of paths has not
_LONGEST_FIELD = 1 << 20


@dataclass(frozen=True)
class Table:
    """A CSV file whose form is known.

    Attributes:
        file: The file.
        form: Whether its rows hold pixels, or paths of image files.
        separator: What stands between two values.
        has_header: Whether its first row names the columns.
        width: How many columns it has.
        label: The column of the label.
        path: The column of the path; with pixels, of no meaning.
    """

    file: Path
    form: Literal["pixels", "paths"]
    separator: str
    has_header: bool
    width: int
    label: int
    path: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not empty, with its number in the file from 1.

        Raises:
            SourceError: The file cannot be read.
        """
        rows = _rows(self.file, self.separator)
        if self.has_header:
            next(rows, None)
        yield from rows

    def image(self, row: Sequence[str]) -> Path:
        """Return the file that a row names: its path is relative to the table's folder."""
        return self.file.parent / row[self.path].strip()


def of_folder(folder: Path) -> dict[str, Path]:
    """Return the tables `train` and `test` of a folder, those that are there."""
    named = {
        part: [folder / f"{part}.csv", folder / f"{part}.csv.gz"] for part in ("train", "test")
    }
    return {p: file for p, files in named.items() for file in files[::-1] if file.is_file()}


def recognise(file: Path) -> Table:
    """Find out the form of a table from its first rows.

    Raises:
        SourceError: It cannot be read, or is of no form that is known.
    """
    first_line = next(_lines(file), "")
    separator = max(",;\t", key=first_line.count)
    rows = _rows(file, separator)
    first, second = (next(rows, (0, []))[1] for _ in range(2))
    if len(first) < 2:
        raise _unusable(file, f"its first line is {first_line[:60]!r}")
    names = [cell.strip().lower() for cell in first]
    label, path = _first_of(_LABELS, names), _first_of(_PATHS, names)
    if len(first) > _FEWEST_PIXELS:
        has_header = not all(_is_number(cell) for cell in first[1:])
        if has_header and label is None:
            raise _unlabelled(file)
        return Table(file, "pixels", separator, has_header, len(first), label or 0, 0)
    if label is not None and path is not None:
        return Table(file, "paths", separator, True, len(first), label, path)
    if len(first) != 2:
        raise _unusable(file, f"its columns are {', '.join(first)[:100]}")
    exists = [(file.parent / row[0].strip()).is_file() for row in (first, second) if row]
    has_header = label == 1 or path == 0 or exists == [False, True]
    return Table(file, "paths", separator, has_header, 2, 1, 0)


def images_named_in(file: Path) -> Iterator[tuple[int, Path]]:
    """Yield the row and the path of each image that a table names; nothing of one of pixels.

    Raises:
        SourceError: The table cannot be read.
    """
    table = recognise(file)
    if table.form == "paths":
        for number, row in table.rows():
            if len(row) == table.width:
                yield number, table.image(row)


def _rows(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        for number, row in enumerate(csv.reader(_lines(file), delimiter=separator), start=1):
            if any(cell.strip() for cell in row):
                yield number, row
    except csv.Error as error:
        raise _unusable(file, str(error)) from error


def _lines(file: Path) -> Iterator[str]:
    try:
        with _opened(file) as stream:
            yield from stream
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _unusable(file, str(error)) from error


def _opened(file: Path) -> IO[str]:
    binary = gzip.GzipFile(file) if file.suffix == ".gz" else file.open("rb")
    # What spreadsheets save begins with a mark of its encoding.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unlabelled(file: Path) -> SourceError:
    return SourceError(
        f"{file} has no column of labels",
        expected=f"a column called {', '.join(_LABELS)}: what a competition asks for has none",
        remedy="name the labelled file itself, such as `csv:PATH/train.csv`: a test split is cut "
        "from it",
    )


def _unusable(file: Path, got: str) -> SourceError:
    return SourceError(
        f"cannot use {file}: {got}",
        expected="CSV in UTF-8 with a label and pixels in each row, or columns `path` and `label`",
        remedy="mend the file",
    )
