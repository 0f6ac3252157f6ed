"""Records: what each worker reads, in which order, and what damage to a file looks like."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlpipeline.errors import DamagedArtifactError
from mlpipeline.learning.data import splits, tfrecords
from mlpipeline.learning.data.images import Split
from mlpipeline.learning.data.records import split_batches
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.data.tfrecords import shards_of, training_batches, write_shards
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, Shard
from support.whole_split import read_split

ROWS_PER_SHARD = 2


@dataclass(frozen=True)
class Published:
    """A data set of which image number i shows the number i, and has the label i."""

    folder: Path
    count: int
    shards: tuple[Shard, ...]

    def batches(
        self, steps: int, worker: int = 0, workers: int = 1, **options: Any
    ) -> list[list[int]]:
        """The numbers of the images in one worker's first batches."""
        stream = training_batches(
            self.folder,
            shards=shards_of(worker, workers, self.shards),
            rows_per_shard=ROWS_PER_SHARD,
            **{"seed": 3} | options,
        )
        batches = list(stream.take(steps).as_numpy_iterator())
        for images, labels in batches:
            assert images.dtype == np.uint8
            assert images.shape[1:] == (4, 3)
            assert labels.dtype == np.int64
            assert (images == labels[:, np.newaxis, np.newaxis]).all()  # each with its own label
        return [labels.tolist() for _, labels in batches]

    def global_batches(self, steps: int, workers: int, **options: Any) -> list[list[int]]:
        """The numbers of the images in the first batches of all workers together, sorted."""
        parts = [self.batches(steps, worker, workers, **options) for worker in range(workers)]
        return [sorted(chain.from_iterable(batch)) for batch in zip(*parts, strict=True)]


def publish(folder: Path, count: int, shards: int) -> Published:
    numbers = np.arange(count)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None], (count, 4, 3))
    written = tuple(
        write_shards(Split(images, numbers), numbers, folder, "train", shards=shards, seed=1)
    )
    DatasetCard(
        name="numbers",
        source="test",
        synthetic=True,
        digest="",
        seed=1,
        classes=tuple(map(str, numbers)),
        shape=(4, 3),
        counts={"train": count, "validation": 0, "test": 0},
        per_class={"train": (1,) * count, "validation": (0,) * count, "test": (0,) * count},
        shards={"train": written, "validation": (), "test": ()},
    ).publish(DatasetFolder(folder))
    return Published(folder, count, written)


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """80 images in 8 shards: with two rows of each, an epoch is five batches."""
    return publish(tmp_path_factory.mktemp("even"), count=80, shards=8)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """83 images in 8 shards of 10 or 11."""
    return publish(tmp_path_factory.mktemp("uneven"), count=83, shards=8)


def test_shards_are_balanced_and_hold_every_image_once(uneven: Published) -> None:
    assert sorted(shard.count for shard in uneven.shards) == [10] * 5 + [11] * 3
    assert uneven.shards[3].name == "train-00003-of-00008.tfrecord"
    _, labels = read_split(uneven.folder, "train")
    assert sorted(labels) == list(range(83))
    assert list(labels) != sorted(labels)  # dealt at random, so that a shard is a fair sample


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_an_epoch_has_every_image_once_over_all_workers(even: Published, workers: int) -> None:
    batches = even.global_batches(10, workers)
    first, second = batches[:5], batches[5:]
    assert sorted(chain.from_iterable(first)) == list(range(80))
    assert sorted(chain.from_iterable(second)) == list(range(80))
    assert first != second


@pytest.mark.parametrize(
    ("images", "shards", "workers"), [(83, 8, 3), (50, 5, 3), (79, 7, 4), (23, 7, 5)]
)
def test_uneven_shards_and_workers_lose_and_repeat_nothing(
    tmp_path: Path, images: int, shards: int, workers: int
) -> None:
    published = publish(tmp_path, images, shards)
    longest = max(shard.count for shard in published.shards)
    seen: list[int] = []
    for worker in range(workers):
        own = shards_of(worker, workers, published.shards)
        batches = published.batches(longest, worker, workers)
        for place, shard in enumerate(own):  # a batch has the rows of one shard after another's
            rows = slice(ROWS_PER_SHARD * place, ROWS_PER_SHARD * (place + 1))
            stream = list(chain.from_iterable(batch[rows] for batch in batches))
            first, second = stream[: shard.count], stream[shard.count : 2 * shard.count]
            assert sorted(first) == sorted(second)
            seen += first
    assert sorted(seen) == list(range(images))


@pytest.mark.parametrize("count", [5, 8, 64])
def test_shards_are_dealt_evenly_and_a_worker_more_moves_the_least(count: int) -> None:
    shards = [Shard(index, f"shard-{index}", 1, "") for index in range(count)]
    before = [shards]
    for workers in range(2, count + 1):
        owned = [shards_of(worker, workers, shards) for worker in range(workers)]
        assert sorted(chain.from_iterable(owned), key=lambda shard: shard.index) == shards
        sizes = [len(own) for own in owned]
        assert max(sizes) - min(sizes) <= 1
        for own, of_before in zip(owned[:-1], before, strict=True):
            assert set(own) <= set(of_before), "a shard moved between workers that were there"
        assert len(owned[-1]) == count // workers  # no fewer, or they would not be even
        before = owned


def test_a_job_that_changes_its_workers_goes_through_the_same_global_batches(
    uneven: Published,
) -> None:
    def resumed(step: int, steps: int, workers: int) -> list[list[int]]:
        return uneven.global_batches(steps, workers, skip_steps=step)

    undisturbed = uneven.global_batches(13, workers=1)
    assert resumed(0, 4, workers=2) + resumed(4, 5, workers=3) + resumed(9, 4, workers=1) == (
        undisturbed
    )


def test_global_batches_do_not_depend_on_the_number_of_workers(uneven: Published) -> None:
    alone = uneven.global_batches(13, workers=1)
    assert all(len(batch) == 8 * ROWS_PER_SHARD for batch in alone)
    assert uneven.global_batches(13, workers=2) == alone
    assert uneven.global_batches(13, workers=3) == alone  # of 3, 3 and 2 shards


def test_an_epoch_ends_within_a_batch_without_loss_or_repetition(uneven: Published) -> None:
    own = next(shard for shard in uneven.shards if shard.count == 11)
    stream = training_batches(uneven.folder, shards=[own], rows_per_shard=2, seed=3).take(11)
    labels = np.concatenate([labels for _, labels in stream.as_numpy_iterator()]).tolist()
    first, second = labels[:11], labels[11:]
    assert len(set(first)) == 11
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_order_is_the_same_in_every_process_and_version(even: Published) -> None:
    # A run may be resumed by another process, on another machine.
    as_first_written = [[43, 48, 70, 1], [7, 47, 19, 8]]
    assert even.batches(2, worker=0, workers=4) == as_first_written
    assert even.batches(2, worker=0, workers=4, seed=4) != as_first_written


@pytest.mark.parametrize(
    ("cache", "window_rows"), [("memory", 100), ("memory", 4), ("disk", 4), ("none", 4)]
)
def test_resuming_gives_the_batches_of_an_undisturbed_run(
    uneven: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    window_rows: int,
) -> None:
    monkeypatch.setattr(tfrecords, "_SHUFFLE_BYTES", 8 * window_rows * 12)
    undisturbed = uneven.batches(31, worker=1, workers=3)
    resumed = uneven.batches(  # within the fifth epoch
        8, worker=1, workers=3, skip_steps=23, cache=cache, cache_folder=tmp_path
    )
    assert resumed == undisturbed[23:]


def test_windows_smaller_than_a_shard_repeat_nothing(
    even: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecords, "_SHUFFLE_BYTES", 8 * 4 * 12)
    assert sorted(chain.from_iterable(even.batches(5))) == list(range(80))


def test_a_disk_cache_that_a_killed_process_left_is_overwritten(
    even: Published, tmp_path: Path
) -> None:
    (tmp_path / f"{even.shards[0].name}.cache_0.lockfile").write_text("")
    assert even.batches(9, cache="disk", cache_folder=tmp_path) == even.batches(9)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "is damaged: SHA-256"),
        (lambda content: content[:20] + b"?" + content[21:], "is damaged: SHA-256"),
        (lambda content: b"", "is damaged: SHA-256"),
        (lambda content: content * 2, "is damaged: SHA-256"),
        (None, "is damaged: it is missing"),
    ],
    ids=["truncated", "altered", "empty", "doubled", "missing"],
)
def test_damage_to_a_shard_is_an_error_that_names_it(
    tmp_path: Path, damage: Any, reason: str
) -> None:
    published = publish(tmp_path, count=20, shards=2)
    path = tmp_path / published.shards[1].name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedArtifactError, match=reason) as raised:
        read_split(tmp_path, "train")
    assert str(path) in str(raised.value)
    with pytest.raises(DamagedArtifactError, match=reason):  # whichever images a worker reads
        list(split_batches(tmp_path, "train", 3, worker=1, workers=2))


@pytest.mark.parametrize("rows", [1, 7, 10, 64])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_split_is_read_in_the_order_of_its_files(tmp_path: Path, rows: int, workers: int) -> None:
    publish(tmp_path, count=50, shards=4)
    _, order = read_split(tmp_path, "train")
    assert sorted(order.tolist()) == list(range(50))
    for worker in range(workers):
        batches = list(split_batches(tmp_path, "train", rows, worker=worker, workers=workers))
        own = order[worker::workers]
        assert [len(labels) for _, labels in batches[:-1]] == [rows] * (len(batches) - 1)
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), own)
        for images, labels in batches:
            assert images.dtype == np.uint8
            assert (images == labels[:, np.newaxis, np.newaxis]).all()


def test_a_small_split_is_read_once_and_a_large_one_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(tmp_path, count=50, shards=4)
    small, large = (StoredSplit(tmp_path, "train").share(1, 2) for _ in range(2))
    assert (small.count, small.shape) == (25, (4, 3))
    small.hold_if_small()
    monkeypatch.setattr(splits, "HELD_BYTES", 25 * 12 - 1)
    large.hold_if_small()
    for _ in range(2):
        for held, read in zip(small.batches(7), large.batches(7), strict=True):
            np.testing.assert_array_equal(held[0], read[0])
            np.testing.assert_array_equal(held[1], read[1])
    for shard in published.shards:
        (tmp_path / shard.name).unlink()
    assert len(list(small.batches(7))) == 4
    with pytest.raises(DamagedArtifactError):
        next(large.batches(7))


def test_images_are_found_by_their_places(tmp_path: Path) -> None:
    publish(tmp_path, count=50, shards=4)
    images, _ = read_split(tmp_path, "train")
    places = np.array([49, 3, 3, 17])
    found = StoredSplit(tmp_path, "train").images(places, rows=8)
    np.testing.assert_array_equal(found, images[places])


@pytest.mark.parametrize("label", [0, 127, 128, 999, 2**40])
def test_a_label_of_any_size_is_read_as_tensorflow_wrote_it(tmp_path: Path, label: int) -> None:
    publish(tmp_path, count=3, shards=1)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    split = Split(images, np.full(3, label, np.int64))
    rows = np.arange(3)
    (shard,) = write_shards(split, rows, tmp_path, "train", shards=1, seed=1)
    card = DatasetCard.load(DatasetFolder(tmp_path).card)
    shards = {"train": (shard,), "validation": (), "test": ()}
    card.model_copy(update={"shards": shards}).publish(DatasetFolder(tmp_path))
    read, labels = read_split(tmp_path, "train")
    order = np.random.default_rng([1, 3]).permutation(rows)
    np.testing.assert_array_equal(read, images[order])
    assert labels.tolist() == [label] * 3


def test_an_empty_shard_ends_training_instead_of_hanging(tmp_path: Path) -> None:
    published = publish(tmp_path, count=20, shards=2)
    (tmp_path / published.shards[0].name).write_bytes(b"")
    with pytest.raises(tf.errors.FailedPreconditionError):
        published.batches(1)


def test_a_full_disk_is_reported_as_one(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.tfrecord").symlink_to("/dev/full")
    split = Split(np.zeros((9, 100, 100), np.uint8), np.zeros(9, np.int64))
    with pytest.raises(OSError, match="No space left") as raised:
        list(write_shards(split, np.arange(9), tmp_path, "train", shards=1, seed=0))
    assert raised.value.errno == errno.ENOSPC


# --- a shard of an epoch at a time ----------------------------------------------------------------


def batches_of(published: Published, shard: Shard, epoch: int, rows: int) -> list[list[int]]:
    stream = tfrecords.shard_batches(
        str(published.folder / shard.name),
        *(tf.constant(value, tf.int64) for value in (shard.count, shard.index, epoch)),
        shape=(4, 3),
        rows=rows,
        seed=3,
    )
    return [labels.tolist() for _, labels in stream.as_numpy_iterator()]


def test_every_image_is_once_in_the_pieces_of_an_epoch(even: Published) -> None:
    pieces = [batches_of(even, shard, 0, rows=4) for shard in even.shards]
    assert [[len(batch) for batch in batches] for batches in pieces] == [[4, 4, 2]] * 8
    seen = chain.from_iterable(chain.from_iterable(pieces))
    assert sorted(seen) == list(range(even.count))


def test_a_piece_has_an_order_that_depends_on_its_epoch_alone(even: Published) -> None:
    shard = even.shards[2]
    first, again, later = (batches_of(even, shard, epoch, rows=10)[0] for epoch in (0, 0, 1))
    assert first == again
    assert first != later
    assert sorted(first) == sorted(later)
