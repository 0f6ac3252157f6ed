"""Data sets that are named by where they lie: `folder:PATH`, `csv:PATH` and so on.

What lies there is part of the cache key, as the code of a data set's function is (`own_files`).
The words before the colon are reserved: no module of one's own can be called so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import data_files, tables
from mlpipeline.plan.config import SCHEMES


class Reference(NamedTuple):
    """A data set named by its source.

    Attributes:
        scheme: One of `SCHEMES`.
        rest: What follows the colon: a path, or a name.
    """

    scheme: str
    rest: str

    @property
    def is_path(self) -> bool:
        """Whether it is read from files that it names."""
        return self.scheme != "tfds"

    @property
    def path(self) -> Path:
        """The file or folder, absolute: `~` is the home, the rest relative to where one is.

        Raises:
            ConfigurationError: It names no path, or nothing lies there.
        """
        if not self.rest:
            raise _nothing(self, "it names no path")
        try:
            path = Path(self.rest).expanduser().absolute()
        except RuntimeError as error:  # no home
            raise _nothing(self, str(error)) from error
        if not path.exists() and not (self.scheme == "idx" and path.parent.is_dir()):
            raise _nothing(self, f"there is nothing at {shown(path)}")
        return path


def parse(reference: str) -> Reference | None:
    """Return what a data set's name says of its source; None for a function's name."""
    scheme, separator, rest = reference.partition(":")
    return Reference(scheme, rest.strip()) if separator and scheme in SCHEMES else None


def shown(path: os.PathLike[str] | str) -> str:
    """Return a path as it can be printed and kept, where its bytes are not UTF-8, too."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def compare(reference: Reference) -> data_files.Compared | None:
    """Return what the files of a source are like; None where it names none.

    Raises:
        ConfigurationError: Nothing lies there.
        SourceError: A table of paths cannot be read.
    """
    return data_files.compare(dict(_files_of(reference))) if reference.is_path else None


def _files_of(reference: Reference) -> Iterator[tuple[str, Path]]:
    path = reference.path
    if path.exists():
        yield "", path
    else:  # `idx:FOLDER/PREFIX`
        yield from ((file.name, file) for file in sorted(path.parent.glob(f"{path.name}*")))
    if reference.scheme == "csv":
        files = [path] if path.is_file() else tables.of_folder(path).values()
        for file in files:
            for row, image in tables.images_named_in(file):
                yield f"{file.name}:{row}", image


def _nothing(reference: Reference, got: str) -> ConfigurationError:
    scheme, rest = reference
    return ConfigurationError(
        f"data.dataset is `{scheme}:{shown(rest)}`: {got}",
        expected="an absolute path, one from `~`, or one from the folder that the command runs in",
        remedy=f"mend the path; `{scheme}` is reserved, no module of your own can be called so",
    )
