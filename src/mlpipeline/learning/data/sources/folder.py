"""`folder:PATH`: image files in a folder for each class.

    PATH/train/CLASS/…  PATH/test/CLASS/…  perhaps PATH/validation/CLASS/…
    PATH/CLASS/…

What a class's folder holds counts at any depth. Links are followed; what is hidden is left alone,
and so are files that do not claim to be images.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlpipeline.errors import SourceError
from mlpipeline.learning.data.sources.collection import (
    Collection,
    Item,
    Part,
    check_file,
    class_name,
    natural_order,
)
from mlpipeline.plan.config import Data
from mlpipeline.plan.sources import Reference, shown

_log = logging.getLogger(__name__)

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".pcx", ".sgi"),
    *(".dds", ".icns", ".psd", ".qoi", ".xbm", ".xpm"),
}
_NO_CLASSES = ("__MACOSX", "__pycache__")
_SHOWN = 10


def find(reference: Reference, data: Data) -> Collection:
    """Return the images below a folder.

    Raises:
        ConfigurationError: Nothing lies there.
        SourceError: It is no folder of classes, or a class has no images.
    """
    root = reference.path
    if not root.is_dir():
        raise _unusable(root, "it is a file")
    folders = _subfolders(root)
    named = [(_PARTS.get(folder.name.lower(), ""), folder) for folder in folders]
    parts = {part: folder for part, folder in named if part}
    if "train" not in parts or _holds_images(parts["train"]):
        parts = {"train": root}  # the folders are classes, whatever they are called
    elif repeated := [p for p, count in Counter(p for p, _ in named if p).items() if count > 1]:
        raise _unusable(root, f"it has several folders for {', '.join(repeated)}")
    found = {part: _classes_of(folder) for part, folder in parts.items()}
    classes = natural_order(name for in_part in found.values() for name in in_part)
    images = {
        part: [(path, name) for name, paths in in_part.items() for path in paths]
        for part, in_part in found.items()
    }
    _check(root, classes, images)
    return Collection.of(
        shown(root.name) or "images",
        f"the folder {shown(root)}",
        classes,
        {part: _part(root, files) for part, files in images.items()},
    )


def _part(root: Path, files: Sequence[tuple[Path, str]]) -> Part:
    def items() -> Iterator[Item]:
        for path, label in files:
            yield Item(shown(path.relative_to(root)), label, path)

    return Part(len(files), items)


def _classes_of(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, in the order of their paths."""
    found: dict[str, list[Path]] = {}
    others = Counter[str]()
    for place in _subfolders(folder):
        name = class_name(shown(place.name))
        if name in found:
            raise _unusable(folder, f"two folders are called {name}")
        found[name] = []
        for path in _files(place, frozenset()):
            if path.suffix.lower() in _IMAGES or (not path.suffix and _is_image(path)):
                found[name].append(path)
            else:
                others[path.suffix.lower() or "none"] += 1
    if strays := sum(path.suffix.lower() in _IMAGES for path in folder.iterdir() if path.is_file()):
        raise _unusable(folder, f"{strays:,} images in it are in no class's folder")
    if others:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in others.most_common(_SHOWN))
        _log.info("%s: files that are no images are left alone, by suffix: %s", folder, kinds)
    return found


def _check(root: Path, classes: Sequence[str], images: dict[str, list[tuple[Path, str]]]) -> None:
    used = {name for files in images.values() for _, name in files}
    if not used:
        held = ", ".join(shown(path.name) for path in sorted(root.iterdir())[:_SHOWN]) or "nothing"
        raise _unusable(root, f"it has no images in folders of classes; it holds {held}")
    if empty := [name for name in classes if name not in used]:
        raise _unusable(root, f"no images are in the folders {', '.join(empty[:_SHOWN])}")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in _NO_CLASSES
    )


def _holds_images(folder: Path) -> bool:
    """Whether images lie in a folder itself: then it is a class that is called `train`."""
    return any(path.suffix.lower() in _IMAGES for path in folder.iterdir() if path.is_file())


def _files(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield all files below a folder, sorted; no link leads into a folder that it lies in."""
    state = folder.stat()
    this = (state.st_dev, state.st_ino)
    if this in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in _NO_CLASSES:
            continue
        if entry.is_dir():
            yield from _files(folder / entry.name, above | {this})
        else:
            yield folder / entry.name


def _is_image(path: Path) -> bool:
    """Whether a file without a suffix begins as images do."""
    starts = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
    try:
        check_file(path)
        with path.open("rb") as file:
            return file.read(4).startswith(starts)
    except OSError:
        return False


def _unusable(folder: Path, got: str) -> SourceError:
    return SourceError(
        f"cannot use the folder {shown(folder)}: {got}",
        expected="train/CLASS/ and test/CLASS/, or CLASS/ alone, each with image files in it",
        remedy="put each image into the folder of its class, and remove empty ones",
    )
