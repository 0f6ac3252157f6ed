"""`idx:PATH`: files in MNIST's format, with or without .gz.

PATH is a folder with one set of such files, or a folder and the beginning of the files' names:
`idx:/data/emnist/emnist-letters`. A file `classes.txt` beside them names the classes, one a line in
the order of the labels; otherwise each is called by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mlpipeline.errors import SourceError
from mlpipeline.learning.data import idx
from mlpipeline.learning.data.sources.collection import Collection, Item, Part, natural_order
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference, shown

_PARTS = {"train": ("train",), "test": ("t10k", "test")}
_CLASSES = "classes.txt"


def find(reference: Reference, data: Data) -> Collection:
    """Return the images of a set of IDX files.

    Raises:
        ConfigurationError: Nothing lies there.
        SourceError: The files are not one set, or cannot be read.
    """
    path = reference.path
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    pairs = {part: _pair(folder, prefix, words) for part, words in _PARTS.items()}
    if pairs["train"] is None:
        raise _unusable(folder, f"it has no file `{prefix}*train*images*idx*`")
    labels = {part: idx.read_labels(pair[1]) for part, pair in pairs.items() if pair}
    named = _names(folder / _CLASSES)
    numbers = sorted({int(label) for values in labels.values() for label in set(values)})
    if named and numbers[-1] >= len(named):
        raise _unusable(folder, f"{_CLASSES} has {len(named)} lines, and a label is {numbers[-1]}")
    parts = {
        part: _part(pair[0], [named[label] if named else str(label) for label in labels[part]])
        for part, pair in pairs.items()
        if pair
    }
    classes = tuple(named) if named else natural_order(map(str, numbers))
    name = prefix.rstrip("-_.") or folder.name
    return Collection.of(shown(name), f"IDX files in {shown(folder)}", classes, parts)


def _pair(folder: Path, prefix: str, words: tuple[str, ...]) -> tuple[Path, Path] | None:
    """Return the files of images and of labels of a split; None where it has neither."""
    images, labels = (_only(folder, prefix, words, what) for what in ("images", "labels"))
    if images and labels:
        return images, labels
    if alone := images or labels:
        raise _unusable(folder, f"it has {alone.name}, but not its counterpart")
    return None


def _only(folder: Path, prefix: str, words: tuple[str, ...], what: str) -> Path | None:
    pattern = re.compile(rf"(.*[-_.])?({'|'.join(words)})[-_.]{what}[-_.]idx[134][-_.]ubyte(\.gz)?")
    found = {
        file.name.removesuffix(".gz"): file
        for file in sorted(folder.iterdir(), reverse=True)  # of both, that which is not packed
        if file.name.startswith(prefix) and pattern.fullmatch(file.name)
    }
    if len(found) > 1:
        raise _unusable(folder, f"it has several sets: {', '.join(sorted(found))}")
    return next(iter(found.values()), None)


def _part(images: Path, labels: list[str]) -> Part:
    def items() -> Iterator[Item]:
        for number, (label, pixels) in enumerate(
            zip(labels, idx.stream(images, count=len(labels)), strict=True)
        ):
            yield Item(f"{shown(images.name)}, number {number}", label, pixels)

    return Part(len(labels), items)


def _names(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:  # editors may put a mark of its encoding in front
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(file.parent, f"cannot read {_CLASSES}: {error}") from error
    while names and not names[-1]:
        names.pop()
    if "" in names:  # left out, it would give each label behind it another's name
        raise _unusable(file.parent, f"line {names.index('') + 1} of {_CLASSES} is empty")
    return names


def _unusable(folder: Path, got: str) -> SourceError:
    return SourceError(
        f"cannot use the IDX files in {shown(folder)}: {got}",
        expected="train-images-idx3-ubyte, train-labels-idx1-ubyte, and the same with t10k or test",
        remedy="name a folder with one set, or the beginning of its names: `idx:FOLDER/PREFIX`",
    )
