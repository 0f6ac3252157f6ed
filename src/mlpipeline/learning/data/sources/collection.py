"""Labelled images as a source has them: before they are prepared."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Unusable(NamedTuple):
    """Stands for an image that there is not: a row of a table that is damaged.

    Attributes:
        why: What is wrong.
    """

    why: str


class Item(NamedTuple):
    """One image.

    Attributes:
        name: What messages call it: a path, or a row.
        label: The name of its class.
        image: The file, its content, the pixels, or why there are none.
    """

    name: str
    label: str
    image: Path | bytes | NDArray[Any] | Unusable


@dataclass(frozen=True)
class Part:
    """The images of one split, read one at a time.

    Attributes:
        count: How many there are.
        items: Returns them from the first one on, in the same order each time.
    """

    count: int
    items: Callable[[], Iterator[Item]]

    def __add__(self, other: Part) -> Part:
        """Return the images of both."""

        def both() -> Iterator[Item]:
            yield from self.items()
            yield from other.items()

        return Part(self.count + other.count, both)


@dataclass(frozen=True)
class Collection:
    """Labelled images with their classes.

    Attributes:
        name: What the data set is called.
        source: Where they came from, and what became of splits of other names.
        classes: Names of the classes, in the order of their labels.
        train: The images to train on; all of them where there is no test split.
        test: The images to test on; None where they are to be cut from `train`.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Part
    test: Part | None

    @classmethod
    def of(
        cls, name: str, source: str, classes: tuple[str, ...], parts: Mapping[str, Part]
    ) -> Collection:
        """Return a collection of splits as they are called elsewhere.

        The pipeline cuts validation images from those to train on. So a given validation split is
        joined with these; where there is no test split, it takes its place.

        Args:
            name: What the data set is called.
            source: Where it came from.
            classes: Names of the classes.
            parts: `train`, and perhaps `validation` and `test`.
        """
        train, validation, test = parts["train"], parts.get("validation"), parts.get("test")
        if validation is not None and test is not None:
            train, source = train + validation, f"{source}, `validation` joined with `train`"
        elif validation is not None:
            test, source = validation, f"{source}, `validation` taken as `test`"
        return cls(name, source, classes, train, test)


def check_file(file: Path) -> None:
    """See that it is a file: a pipe would be waited for without end.

    Raises:
        OSError: It is not there, or is no file.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("it is no file")


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names, each once, as people expect them: `2` before `10`, whatever the locale."""

    def parts(name: str) -> list[tuple[int, int, str]]:
        pieces = re.findall(r"[0-9]+|[^0-9]+", name)
        return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p.casefold()) for p in pieces]

    return tuple(sorted(set(names), key=lambda name: (parts(name), name)))


def class_name(text: str) -> str:
    """Return a class's name as it is compared: without blanks around it, its accents composed."""
    return unicodedata.normalize("NFC", text.strip())
