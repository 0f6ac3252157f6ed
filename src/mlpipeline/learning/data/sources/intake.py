"""Prepares the images of a collection one by one, into files that are mapped into memory."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.errors import SourceError
from mlpipeline.image_files import UNREADABLE, Preparation, content_of
from mlpipeline.learning.data.images import Dataset, Names
from mlpipeline.learning.data.sources import sizes, test_split
from mlpipeline.learning.data.sources.collection import Collection, Item, Unusable, check_file
from mlpipeline.learning.data.sources.taken import Taken
from mlpipeline.plan.config import Data
from mlpipeline.store.schemas.dataset import Unreadable

_SHOWN = 10
_AT_ONCE = 64  # images that are decoded while others wait to be written


def take_in(collection: Collection, data: Data, scratch: Path) -> Dataset:
    """Prepare all images of a collection, and cut a test split where there is none.

    Args:
        collection: The images as their source has them.
        data: How they are prepared, what is done with those that cannot be read, and the seed.
        scratch: A folder with room for all of them.

    Raises:
        ConfigurationError: They are of several sizes, and none is said.
        SourceError: Images cannot be read, there is no data set in what can, or no room for it.
    """
    shape = sizes.shape_of(collection, data)
    scratch.mkdir(parents=True, exist_ok=True)
    _check_room(collection, shape, scratch)
    with Taken.into(scratch) as train, Taken.into(scratch) as test:
        unreadable, losing = _fill(collection, train, test, shape, data)
        if collection.test is None:
            test_split.cut(train, test, shape, seed=data.seed)
        _check_classes(collection, train, test, losing)
        return Dataset(
            collection.name,
            collection.classes,
            train.split(shape),
            test.split(shape),
            collection.source + ("" if collection.test else f", {test_split.DESCRIPTION}"),
            unreadable=unreadable,
            names=Names(train.names, test.names),
        )


def _check_room(collection: Collection, shape: tuple[int, ...], scratch: Path) -> None:
    """Say at once, not when hours have been spent and the disk is full, that there is no room."""
    count = collection.train.count + (collection.test.count if collection.test else 0)
    needed = 2 * count * math.prod(shape)  # prepared, and in the files that are made of that
    if needed > (free := shutil.disk_usage(scratch).free):
        raise SourceError(
            f"{count:,} images of shape {list(shape)} take {needed / 1e9:,.1f} GB while they are "
            f"ingested, and the disk of {scratch} has {free / 1e9:,.1f} GB left",
            expected="room for all of them, twice: prepared, and in the data set's files",
            remedy="say a smaller `data.size`, make room, or have the workspace on another disk",
        )


def _fill(
    collection: Collection, train: Taken, test: Taken, shape: tuple[int, ...], data: Data
) -> tuple[Unreadable | None, set[str]]:
    """Prepare all images; return what is left out, and the classes that lost images to train on."""
    labels = {name: index for index, name in enumerate(collection.classes)}
    parts = [(collection.train, train)] + ([(collection.test, test)] if collection.test else [])
    total = sum(part.count for part, _ in parts)
    faults: list[str] = []
    losing = set[str]()
    done = 0
    for part, into in parts:
        for item, pixels in _prepared(part.items(), shape, data):
            if isinstance(pixels, Unusable):
                faults.append(f"{item.name}: {pixels.why}")
                if into is train and item.label in labels:
                    losing.add(item.label)
            else:
                into.add(pixels.tobytes(), labels[item.label], item.name)
            done += 1
            if done % _AT_ONCE == 0:
                progress.report(done, total, doing="preparing images")
    return _unreadable(collection, faults, total, data), losing


Prepared = NDArray[np.uint8] | Unusable


def _prepared(
    items: Iterable[Item], shape: tuple[int, ...], data: Data
) -> Iterator[tuple[Item, Prepared]]:
    """Yield each item with its pixels; some are decoded at a time, outside of Python's lock."""
    height, width, *channels = shape
    grey_or_colour = {(): 1, (1,): 1, (3,): 3}.get(tuple(channels))
    preparation = (
        Preparation((height, width), 1 if grey_or_colour == 1 else 3, data.fit or "stretch")
        if grey_or_colour
        else None
    )
    prepare = partial(_prepare, shape=shape, preparation=preparation)
    iterator = iter(items)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while batch := list(itertools.islice(iterator, _AT_ONCE)):
            yield from zip(batch, pool.map(prepare, batch), strict=True)


def _prepare(item: Item, *, shape: tuple[int, ...], preparation: Preparation | None) -> Prepared:
    image = item.image
    if isinstance(image, Unusable):
        return image
    try:
        if isinstance(image, (Path, bytes)):
            if preparation is None:
                return Unusable("it is a file, and the others have other channels than files")
            if isinstance(image, Path):
                check_file(image)
                image = content_of(image)
            return preparation.from_file(image).pixels
        return _of_array(image, shape, preparation)
    except UNREADABLE as error:
        return Unusable(getattr(error, "strerror", None) or str(error))


def _of_array(
    image: NDArray[Any], shape: tuple[int, ...], preparation: Preparation | None
) -> Prepared:
    if image.dtype == np.uint8 and image.shape in (shape, (*shape, 1)):
        return image.reshape(shape)
    if preparation is None:
        return Unusable(f"it is {image.dtype} {list(image.shape)}, expected uint8 {list(shape)}")
    return preparation.from_array(image)


def _unreadable(
    collection: Collection, faults: list[str], total: int, data: Data
) -> Unreadable | None:
    if not faults:
        return None
    first = faults[:_SHOWN]
    if data.unreadable == "fail" or len(faults) == total:
        more = f"\n  - and {len(faults) - _SHOWN:,} others" if len(faults) > _SHOWN else ""
        raise SourceError(
            f"{len(faults):,} of {total:,} images of {collection.source} cannot be read:\n"
            + "\n".join(f"  - {fault}" for fault in first)
            + more,
            expected="images in files that are whole",
            remedy="mend or remove them, or leave them out with `data: {unreadable: skip}`",
        )
    return Unreadable(count=len(faults), first=tuple(first))


def _check_classes(collection: Collection, train: Taken, test: Taken, losing: set[str]) -> None:
    if not test.labels:
        raise SourceError(
            f"{collection.source} has a test split without any image that can be read",
            expected="test images, or no test split: then one is cut from the others",
            remedy="add some, or remove the empty folder, table or array",
        )
    used = sorted(set(train.labels))
    if emptied := sorted(losing - {collection.classes[label] for label in used}):
        raise SourceError(
            f"no image to train on can be read of the classes {', '.join(emptied)} of "
            f"{collection.source}",
            expected="training images of every class, also where `data.unreadable` is `skip`",
            remedy="mend or add some, or remove these classes",
        )
    if unlearned := sorted(set(test.labels) - set(used)):
        names = ", ".join(collection.classes[label] for label in unlearned)
        raise SourceError(
            f"{collection.source} has test images, but none to train on, of the classes {names}",
            expected="training images of every class",
            remedy="add some, or remove these test images; mind how the classes are spelt",
        )
    if len(used) < 2:
        names = ", ".join(collection.classes[label] for label in used)
        raise SourceError(
            f"{collection.source} has training images of {len(used)} class{'' if used else 'es'}"
            + (f": {names}" if used else ""),
            expected="two classes or more",
            remedy="mind where the classes are: docs/how-to/own-data.md has the forms",
        )
