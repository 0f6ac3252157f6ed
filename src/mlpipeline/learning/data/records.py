"""Published splits, read in their order from TFRecord files: without TensorFlow, and checked.

What verifies a served model, or measures one, reads a split from its beginning to its end. That
takes no more than the format of the files, so those processes start without TensorFlow:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

A record holds a `tf.train.Example`, which is a protocol buffer: fields with a number and a value.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.store.files import damaged, sha256
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, Shard, SplitName

_LENGTH = struct.Struct("<QI")  # of a record, and the checksum of this number
_CHECKSUM_BYTES = 4  # behind each record
_READ_BUFFER_BYTES = 1 << 20


def split_batches(
    folder: Path, split: SplitName, rows: int, *, worker: int = 0, workers: int = 1
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield a split in the order of its files, `rows` images at a time.

    Of several workers, each has every `workers`-th image of the whole split: which images these are
    does not depend on the files.

    Args:
        folder: The published data set.
        split: Which split.
        rows: Images in a batch; the last one may have fewer.
        worker: Whose share to read.
        workers: How many share it.

    Yields:
        Images uint8 `[B, *shape]` and labels int64 `[B]`, in arrays of their own.

    Raises:
        DamagedArtifactError: A shard is missing, truncated or altered.
    """
    card = DatasetCard.load(DatasetFolder(folder).card)
    images, labels = np.empty((rows, *card.shape), np.uint8), np.empty(rows, np.int64)
    filled = first = 0
    for shard in card.shards[split]:
        for record in _records(folder, shard, (worker - first) % workers, workers):
            pixels, labels[filled] = _decode(record)
            images[filled] = np.frombuffer(pixels, np.uint8).reshape(card.shape)
            filled += 1
            if filled == rows:
                yield images, labels
                images, labels = np.empty_like(images), np.empty_like(labels)
                filled = 0
        first += shard.count
    if filled:
        yield images[:filled], labels[:filled]


def _records(folder: Path, shard: Shard, first: int, every: int) -> Iterator[memoryview]:
    """Yield each `every`-th record of a file, from number `first` on, once the file is checked."""
    file = folder / shard.name
    if not file.is_file():
        raise damaged(file, "it is missing", "the file")
    if (got := sha256(file)) != shard.sha256:
        raise damaged(file, f"SHA-256 {got[:12]}…", f"SHA-256 {shard.sha256[:12]}…")
    with file.open("rb", buffering=_READ_BUFFER_BYTES) as stream:
        for number in range(shard.count):
            length, _ = _LENGTH.unpack(stream.read(_LENGTH.size))
            if number % every == first:
                yield memoryview(stream.read(length))
                length = 0
            stream.seek(length + _CHECKSUM_BYTES, 1)


def _decode(record: memoryview) -> tuple[memoryview, int]:
    """Return the bytes of an image, and its label."""
    ((_, features),) = _fields(record)
    found = {}
    for _, entry in _fields(features):
        ((_, name), (_, feature)) = _fields(entry)
        ((_, values),) = _fields(feature)
        ((_, found[bytes(name)]),) = _fields(values)
    label, _ = _varint(found[b"label"], 0)
    return found[b"image"], label


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the numbers and the values of a message's fields, all of which are bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        size, place = _varint(message, place)
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at a place of a message, 7 bits in each byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
