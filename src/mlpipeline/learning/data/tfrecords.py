"""Images in sharded TFRecord files: written balanced, read by several workers in one global order.

Each of the S training shards gives the same number of rows to every global batch, in an order that
is a function of (seed, shard, epoch). So *which* images are in batch t does not depend on how many
workers there are, or on where a run was resumed: a worker only decides which shards it reads.

Ours rather than Grain or `tf.data`'s own sharding and shuffling: in these the order follows from
the number of readers, so that a run resumed on fewer workers would train on other batches.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.learning.data.images import Split, rows_in_a_slice, take
from mlpipeline.store.files import sha256
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, Shard

Cache = Literal["memory", "disk", "none"]

# Rows are shuffled within a window: the whole of a small shard, of a large one as much as may be
# held in memory. Rows were dealt to shards and to places in them at random when they were written,
# so that a window is itself a fair sample. All shards' windows together take so many bytes; a
# worker has its share of them. (A share for each *worker* would make the order depend on these.)
_SHUFFLE_BYTES = 64 << 20
_PREFETCHED_BATCHES = 4
_READ_BUFFER_BYTES = 1 << 20  # four times the default: fewer requests to a network's storage


def write_shards(
    split: Split, rows: NDArray[np.int64], folder: Path, prefix: str, *, shards: int, seed: int
) -> Iterator[Shard]:
    """Write some rows of a split into TFRecord files, and yield each file as it is done.

    Rows are dealt to the files at random, so that each file is a fair sample; their sizes differ by
    one at most. The images may be a memory-mapped file larger than memory, see `take`: for
    every `SLICE_BYTES` that are written, what is needed of it is read from front to back.

    Args:
        split: Where the images and labels are.
        rows: Which rows to write: int64 `[N]`, `N >= shards`.
        folder: Where to write the files.
        shards: Number of files.
        seed: Random seed for which row comes into which file.
        prefix: The files are called `prefix-00000-of-00008.tfrecord` and so on.

    Raises:
        OSError: They cannot be written; ENOSPC where the disk is full.
    """
    shuffled = np.random.default_rng([seed, len(rows)]).permutation(rows)
    held = rows_in_a_slice(split.images.shape[1:])
    for index in range(shards):
        own = shuffled[index::shards]
        path = folder / f"{prefix}-{index:05}-of-{shards:05}.tfrecord"
        try:
            with tf.io.TFRecordWriter(str(path)) as writer:
                for start in range(0, len(own), held):
                    part = own[start : start + held]
                    images = take(split.images, part)
                    for image, label in zip(images, split.labels[part], strict=True):
                        writer.write(_encode(image, label))
        except tf.errors.ResourceExhaustedError as error:  # as any other file reports a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        yield Shard(index, path.name, len(own), sha256(path))


def shards_of(worker: int, workers: int, shards: Sequence[Shard]) -> list[Shard]:
    """Return what worker number `worker` of `workers` reads; together they read each shard once.

    Their numbers of shards differ by one at most. A worker more moves the least: it takes what it
    must have from those who have most, and nothing moves between the others.
    """
    owned = [list(shards)]
    while len(owned) < workers:
        added: list[Shard] = []
        while len(added) < len(shards) // (len(owned) + 1):
            added.append(max(owned, key=len).pop())
        owned.append(added)
    return sorted(owned[worker], key=lambda shard: shard.index)


def training_batches(
    folder: Path,
    *,
    shards: Sequence[Shard],
    rows_per_shard: int,
    seed: int,
    skip_steps: int = 0,
    cache: Cache = "memory",
    cache_folder: Path | None = None,
) -> tf.data.Dataset:
    """Return one worker's part of the global batches, without end, from batch `skip_steps` on.

    Within an epoch of a shard each of its rows comes once; a batch may span two epochs, so nothing
    is left out.

    Args:
        folder: The published data set.
        shards: Those of the training shards that this worker owns, see `shards_of`.
        rows_per_shard: The global batch size divided by the number of *all* training shards.
        seed: Random seed for the order of the rows.
        skip_steps: How many batches were used up before; takes no longer than one epoch.
        cache: Where decoded images are kept after they were first read. In `memory` all of the
            worker's images are held; otherwise the windows that are being shuffled, 64 MB at most
            for all shards, and a few batches.
        cache_folder: Folder of this worker alone, for `disk`. What an earlier process left there
            is overwritten.

    Returns:
        A data set of (images uint8 `[B, *shape]`, labels int64 `[B]`), shard after shard, with
        `B = rows_per_shard * len(shards)`.
    """
    card = DatasetCard.load(DatasetFolder(folder).card)
    shape = card.shape
    window = _window_of(shape, shards=len(card.shards["train"]))
    caches = [_fresh_cache(cache, cache_folder, shard) for shard in shards]

    def rows_of(path: Any, count: Any, index: Any, cache_prefix: Any) -> tf.data.Dataset:
        windows = _windows(path, count, shape, window)
        if cache != "none":
            windows = windows.cache(cache_prefix)
        shard_seed = tf.stack([tf.constant(seed, tf.int64), index])
        skip_rows = skip_steps * rows_per_shard
        epochs = _shuffled_epochs(windows, count, window, seed=shard_seed, skip_rows=skip_rows)
        return epochs.rebatch(rows_per_shard, drop_remainder=True)

    # One function for all shards: tracing one for each would take seconds. Being without end, their
    # streams take turns for ever, and each round is a batch.
    return (
        tf.data.Dataset.from_tensor_slices(
            (
                [str(folder / shard.name) for shard in shards],
                np.array([shard.count for shard in shards], np.int64),
                np.array([shard.index for shard in shards], np.int64),
                caches,
            )
        )
        .interleave(rows_of, cycle_length=len(shards), block_length=1)
        .rebatch(rows_per_shard * len(shards), drop_remainder=True)
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(_options())
    )


def shard_batches(
    path: Any, count: Any, index: Any, epoch: Any, *, shape: Sequence[int], rows: int, seed: int
) -> tf.data.Dataset:
    """Return one epoch of one training shard, each of its rows once, in batches of `rows`.

    What tells which shard and which epoch may be tensors: a compiled function can learn it from its
    arguments.

    Args:
        path: Path of the file, a string.
        count: How many rows it has, int64.
        index: Number of the shard, int64; with `seed` and `epoch` it determines the order.
        epoch: Number of the epoch, int64, from 0 on.
        shape: Shape of an image, `[H, W]` or `[H, W, C]`.
        rows: Images in a batch; the last batch may have fewer.
        seed: Random seed for the order of the rows.

    Returns:
        A data set of (images uint8 `[B, *shape]`, labels int64 `[B]`).
    """
    windows = _windows(path, count, shape, _window_of(shape, shards=1))  # one at a time
    shard_seed = tf.stack([tf.constant(seed, tf.int64), index])
    return _shuffled_epoch(windows, shard_seed, epoch).rebatch(rows).prefetch(tf.data.AUTOTUNE)


def _encode(image: NDArray[np.uint8], label: np.int64) -> bytes:
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    content: bytes = example.SerializeToString(deterministic=True)
    return content


def _window_of(shape: Sequence[int], *, shards: int) -> int:
    """Return how many images of a shard are shuffled together, of so many shards at once."""
    return max(1, _SHUFFLE_BYTES // shards // math.prod(shape))


def _windows(path: Any, count: Any, shape: Sequence[int], rows: int) -> tf.data.Dataset:
    """Return the `count` rows of a file in their order, decoded, `rows` at a time."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def decode(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:  # many at once, for speed
        parsed = tf.io.parse_example(examples, features)
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        return tf.reshape(pixels, [-1, *shape]), parsed["label"]

    records = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
    # An empty file would make a stream without end that never yields anything.
    records = records.apply(tf.data.experimental.assert_cardinality(count))
    return records.batch(rows).map(decode)


def _shuffled_epochs(
    windows: tf.data.Dataset, count: Any, window: int, *, seed: Any, skip_rows: int
) -> tf.data.Dataset:
    """Return epoch after epoch of a shard's rows from row `skip_rows` on, in pieces of any size."""
    first_epoch, skip_rows = skip_rows // count, skip_rows % count

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
        lambda epoch: _shuffled_epoch(windows, seed, epoch)
    )
    return (
        epochs.skip(skip_rows // window)
        .enumerate()
        .map(lambda number, rows: _drop(rows, tf.where(number == 0, skip_rows % window, 0)))
    )


def _shuffled_epoch(windows: tf.data.Dataset, seed: Any, epoch: Any) -> tf.data.Dataset:
    # Stateless, hence the same in every process and after every restart.
    epoch_seed = tf.random.fold_in(seed, epoch)
    return windows.enumerate().map(
        lambda number, rows: _shuffle(rows, tf.random.fold_in(epoch_seed, number))
    )


def _shuffle(rows: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    images, labels = rows
    order = tf.random.experimental.stateless_shuffle(
        tf.range(tf.size(labels)), seed=seed, alg="philox"
    )
    return tf.gather(images, order), tf.gather(labels, order)


def _drop(rows: tuple[tf.Tensor, tf.Tensor], count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    images, labels = rows
    return images[count:], labels[count:]


def _fresh_cache(cache: Cache, folder: Path | None, shard: Shard) -> str:
    """Return where tf.data caches a shard, "" for memory; what a killed process left is removed."""
    if cache != "disk":
        return ""
    assert folder is not None, "cache `disk` needs a folder"
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{shard.name}.cache"
    for left_over in folder.glob(f"{prefix}*"):
        left_over.unlink()
    return str(folder / prefix)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Our shards are dealt to workers already; a distribution strategy must not do so again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
