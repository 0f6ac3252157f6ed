"""Data sets without code: folders of images, tables, arrays, IDX files, TensorFlow Datasets."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlpipeline.errors import ConfigurationError, PipelineError, SourceError
from mlpipeline.learning.data import datasets, duplicates
from mlpipeline.learning.data.images import Dataset, Split, content_digest
from mlpipeline.learning.data.sources import taken
from mlpipeline.learning.data.sources.collection import natural_order
from mlpipeline.learning.data.sources.test_split import rows_of_test
from mlpipeline.learning.data.tfrecords import read_split
from mlpipeline.plan import config, pipeline, sources
from mlpipeline.plan.config import Data
from mlpipeline.steps.ingestion import ingest
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard

CLASSES = ("falling", "rising")
DIGITS = Path(__file__).parents[1] / "data" / "digits.csv.gz"


def picture(number: int, *, size: tuple[int, int] = (6, 5), colours: int = 1) -> np.ndarray:
    """An image that no other number has: uint8 [H, W] or [H, W, 3]."""
    shape = size if colours == 1 else (*size, colours)
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def write_folder(root: Path, parts: dict[str, int], classes: Sequence[str] = CLASSES) -> Path:
    """So many PNG files for each class in each part, each image another one."""
    number = 0
    for part, count in parts.items():
        for label in classes:
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                number += 1
                Image.fromarray(picture(number)).save(folder / f"{index}.png")
    return root


def load(reference: str, **data: Any) -> Dataset:
    return datasets.load(reference, data=Data(dataset=reference, **data))


def rows(split: Split) -> list[tuple[bytes, int]]:
    return sorted(
        (image.tobytes(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    )


# --- a folder of images ---------------------------------------------------------------------------


def test_a_folder_with_train_and_test_is_a_data_set(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "lines", {"train": 4, "test": 2})
    dataset = load(f"folder:{root}")
    assert dataset.name == "lines"
    assert dataset.classes == CLASSES
    assert dataset.train.images.shape == (8, 6, 5)
    assert np.bincount(dataset.train.labels).tolist() == [4, 4]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    assert rows(dataset.train) == sorted(
        (picture(number).tobytes(), int(number > 4)) for number in range(1, 9)
    )


def test_a_folder_of_classes_alone_is_cut_by_seed(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"": 20})
    one, same, other = (load(f"folder:{root}", seed=seed) for seed in (1, 1, 2))
    assert np.bincount(one.test.labels).tolist() == [2, 2]
    assert sorted(rows(one.train) + rows(one.test)) == sorted(
        (picture(number).tobytes(), int(number > 20)) for number in range(1, 41)
    )
    assert content_digest(one.test) == content_digest(same.test)
    assert content_digest(one.test) != content_digest(other.test)
    assert "cut" in one.source


def test_the_cut_does_not_depend_on_what_files_are_called(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "one", {"": 20})
    (tmp_path / "other").mkdir()
    for index, file in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        target = tmp_path / "other" / file.parent.name / f"{index:03}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    one, other = load(f"folder:{root}"), load(f"folder:{tmp_path / 'other'}")
    assert content_digest(one.test) == content_digest(other.test)
    assert content_digest(one.train) == content_digest(other.train)


@pytest.mark.parametrize(
    ("parts", "train", "test", "said"),
    [
        ({"train": 3, "val": 2}, 6, 4, "taken as `test`"),
        ({"Training": 3, "validation": 2, "Testing": 1}, 10, 2, "joined with `train`"),
    ],
)
def test_a_given_validation_split_is_used(
    tmp_path: Path, parts: dict[str, int], train: int, test: int, said: str
) -> None:
    dataset = load(f"folder:{write_folder(tmp_path, parts)}")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (train, test)
    assert said in dataset.source


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = load(f"folder:{write_folder(tmp_path, {'': 5}, ('bus', 'train'))}")
    assert dataset.classes == ("bus", "train")


def test_classes_are_in_the_order_that_people_expect() -> None:
    names = ["10", "9", "b2", "b10", "B1", "é", "a"]
    assert natural_order(names) == ("9", "10", "a", "B1", "b2", "b10", "é")
    assert natural_order(reversed(names)) == natural_order(names)


def test_what_is_hidden_or_no_image_is_left_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 3, "test": 2})
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt"):
        (root / "train" / "rising" / name).write_bytes(b"?")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "__MACOSX").mkdir()
    dataset = load(f"folder:{root}")
    assert len(dataset.train.labels) == 6
    assert dataset.unreadable is None


def test_folders_below_a_class_and_links_count(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", {"train": 3, "test": 2})
    below = root / "train" / "rising" / "more" / "of it"
    below.mkdir(parents=True)
    Image.fromarray(picture(100)).save(below / "x.PNG")
    Image.fromarray(picture(101)).save(tmp_path / "elsewhere.png")
    (below / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (below / "back").symlink_to(root / "train" / "rising")  # which would go on for ever
    dataset = load(f"folder:{root}")
    assert np.bincount(dataset.train.labels).tolist() == [3, 5]


def test_names_that_are_not_utf_8_can_be_used_and_shown(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 3, "test": 2})
    strange = os.fsdecode(b"caf\xe9.png")
    (root / "train" / "rising" / strange).write_bytes(b"no image")
    os.rename(root / "train" / "falling", os.fsencode(root / "train") + b"/f\xe9")  # noqa: PTH104
    os.rename(root / "test" / "falling", os.fsencode(root / "test") + b"/f\xe9")  # noqa: PTH104
    dataset = load(f"folder:{root}", unreadable="skip")
    assert dataset.classes == ("f\\xe9", "rising")
    assert dataset.unreadable is not None
    assert "caf\\xe9.png" in dataset.unreadable.first[0]
    str(dataset).encode()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda root: None, r"no images in folders of classes; it holds nothing"),
        (lambda root: (root / "x.txt").write_text(""), r"it holds x\.txt"),
        (lambda root: Image.new("L", (2, 2)).save(root / "x.png"), "1 images in it are in no"),
        (lambda root: write_folder(root, {"": 3}, ("a",)), "1 class: a"),
        (
            lambda root: (write_folder(root, {"": 3}), (root / "none").mkdir()),
            "no images are in the folders none",
        ),
        (
            lambda root: (
                write_folder(root, {"train": 2}, ("a", "b")),
                write_folder(root, {"test": 2}, ("a", "B")),
            ),
            "none to train on, of the classes B",
        ),
        (
            lambda root: write_folder(root, {"train": 2, "test": 1, "Test": 1}),
            "several folders for test",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, prepare: Callable[[Path], object], reason: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(SourceError, match=reason) as raised:
        load(f"folder:{tmp_path}")
    assert str(tmp_path) in str(raised.value)


# --- sizes, channels, what cannot be read ---------------------------------------------------------


def mixed(root: Path) -> Path:
    """Images of several sizes, colours and formats."""
    for part, count in (("train", 6), ("test", 3)):
        for label in CLASSES:
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                size, colours = ((8, 9), (10, 12), (20, 7))[index % 3], (1, 3)[index % 2]
                image = Image.fromarray(picture(index, size=size, colours=colours))
                image.save(folder / f"{index}.{('png', 'jpg', 'webp')[index % 3]}")
    return root


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    root = mixed(tmp_path)
    with pytest.raises(ConfigurationError, match=r"3 sizes.*8x9 \(6\), 10x12 \(6\), 20x7") as raised:
        load(f"folder:{root}")
    assert "size: [8, 9]" in raised.value.remedy
    dataset = load(f"folder:{root}", size=(8, 8))
    assert dataset.train.images.shape == (12, 8, 8, 3)
    assert load(f"folder:{root}", size=(8, 8), channels=1).test.images.shape == (6, 8, 8)


def test_a_photograph_that_lies_on_its_side_has_the_size_that_it_is_seen_with(
    tmp_path: Path,
) -> None:
    root = write_folder(tmp_path, {"": 3})
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(50).T.copy()).save(root / "rising" / "x.png", exif=turned)
    assert load(f"folder:{root}").train.images.shape[1:] == (6, 5)


def damage(root: Path, count: int) -> None:
    """Images with a whole header and no end, and a link that leads nowhere."""
    whole = (root / "train" / "rising" / "0.png").read_bytes()
    for index in range(count - 1):
        (root / "train" / "rising" / f"bad{index:02}.png").write_bytes(whole[:45])
    (root / "train" / "rising" / "bad_link.png").symlink_to(root / "nowhere.png")


def test_what_cannot_be_read_is_counted_named_and_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", {"train": 10, "test": 2})
    damage(root, 13)
    settings = Data(
        dataset=f"folder:{root}", unreadable="skip", validation=4, shards=2
    )
    ingest(settings, tmp_path / "out")
    folder = DatasetFolder(tmp_path / "out")
    card = DatasetCard.load(folder.card)
    assert card.counts == {"train": 16, "validation": 4, "test": 4}
    assert card.unreadable is not None
    assert card.unreadable.count == 13
    assert len(card.unreadable.first) == 10
    assert card.unreadable.first[0].startswith("train/rising/bad00.png: it is damaged")
    assert "train/rising/bad00.png" in folder.readme.read_text()
    assert list(tmp_path.glob(".*")) == []


def test_what_cannot_be_read_fails_unless_it_may_be_skipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", {"train": 10, "test": 2})
    damage(root, 13)
    with pytest.raises(SourceError, match=r"(?s)13 of 37 images .* and 3 others") as raised:
        ingest(Data(dataset=f"folder:{root}", validation=4, shards=2), tmp_path / "out")
    assert str(raised.value).count("\n  - ") == 11
    assert "unreadable: skip" in raised.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_where_nothing_can_be_read_nothing_is_skipped(tmp_path: Path) -> None:
    for label in CLASSES:
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="2 of 2 images"):
        load(f"folder:{tmp_path}", unreadable="skip")


# --- equal images ---------------------------------------------------------------------------------


def test_images_in_two_classes_and_in_train_and_test_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "data", {"train": 10, "test": 4})
    train, test = root / "train", root / "test"
    copy = (train / "rising" / "0.png").read_bytes()
    (train / "falling" / "again.png").write_bytes(copy)
    (test / "rising" / "leaked.png").write_bytes((train / "rising" / "1.png").read_bytes())
    (train / "rising" / "twice.png").write_bytes((train / "rising" / "2.png").read_bytes())
    ingest(Data(dataset=f"folder:{root}", validation=4, shards=2), tmp_path / "out")
    folder = DatasetFolder(tmp_path / "out")
    found = DatasetCard.load(folder.card).duplicates
    assert found is not None
    assert (found.in_two_classes, found.in_train_and_test) == (1, 1)
    assert found.first_in_two_classes == (
        "train/falling/again.png (train, falling) = train/rising/0.png (train, rising)",
    )
    assert found.first_in_train_and_test == (
        "train/rising/1.png (train, rising) = test/rising/leaked.png (test, rising)",
    )
    assert "test/rising/leaked.png" in folder.readme.read_text()
    assert "1 images are in more than one class, 1 are in train and in test" in caplog.text


def test_where_no_images_are_equal_nothing_is_reported(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 5, "test": 4})
    assert duplicates.find(load(f"folder:{root}")) is None


def test_equal_images_of_ones_own_function_are_reported_by_number() -> None:
    images = np.stack([picture(number) for number in (1, 2, 1, 3)])
    dataset = Dataset(
        "own", CLASSES, Split(images[:3], np.array([0, 1, 1])), Split(images[2:], np.array([1, 0])), ""
    )
    found = duplicates.find(dataset)
    assert found is not None
    assert found.first_in_two_classes == (
        "number 0 (train, falling) = number 2 (train, rising) = number 0 (test, rising)",
    )


def test_equal_images_come_to_one_side_of_the_cut() -> None:
    random = np.random.default_rng(0)
    contents = random.integers(0, 40, 400)  # each about ten times
    labels = contents % 2
    labels[contents == 7] = random.integers(0, 2, int((contents == 7).sum()))  # in two classes
    digests = np.array([number.tobytes() * 4 for number in contents.astype(np.int64)], "V32")
    test = rows_of_test(digests, labels.astype(np.int64), seed=3)
    train = np.setdiff1d(np.arange(400), test)
    assert set(contents[test]).isdisjoint(contents[train])
    assert 7 not in contents[test]
    assert set(labels[test]) == {0, 1}
    assert 20 < len(test) < 80


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"": 20})
    (root / "rare").mkdir()
    Image.fromarray(picture(99)).save(root / "rare" / "x.png")
    dataset = load(f"folder:{root}")
    rare = dataset.classes.index("rare")
    assert (dataset.train.labels == rare).sum() == 1
    assert (dataset.test.labels == rare).sum() == 0


def test_images_are_moved_out_of_a_file(tmp_path: Path) -> None:
    for chosen in ([], [0], [4], [0, 1, 2, 3, 4], [1, 3, 4], [0, 4]):
        with taken.Taken.into(tmp_path) as kept, taken.Taken.into(tmp_path) as moved:
            for number in range(5):
                kept.add(bytes([number] * 6), number, str(number))
            kept.move(np.array(chosen, np.int64), moved, size=6)
            splits = kept.split((2, 3)), moved.split((2, 3))
        for part, split, expected in zip(
            (kept, moved), splits, (set(range(5)) - set(chosen), chosen), strict=True
        ):
            assert split.images.shape == (len(expected), 2, 3)
            assert split.images[:, 0, 0].tolist() == split.labels.tolist()
            assert sorted(part.labels) == sorted(expected)
            assert part.names == [str(label) for label in part.labels]
    assert list(tmp_path.iterdir()) == []
