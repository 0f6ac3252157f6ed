"""Data sets without code: folders of images, tables, arrays, IDX files, TensorFlow Datasets."""

from __future__ import annotations

import gzip
import importlib.util
import os
import struct
import zipfile
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlpipeline.errors import ConfigurationError, SourceError
from mlpipeline.learning.data import datasets, duplicates, profile
from mlpipeline.learning.data.images import Dataset, Split, content_digest
from mlpipeline.learning.data.sources import intake, taken
from mlpipeline.learning.data.sources.collection import natural_order
from mlpipeline.learning.data.sources.test_split import rows_of_test
from mlpipeline.plan import config, data_files, own_files, pipeline, sources
from mlpipeline.plan.config import Data
from mlpipeline.steps.ingestion import ingest
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import DatasetCard, Duplicates
from support.not_tested import leave_out

CLASSES = ("falling", "rising")


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
    with pytest.raises(
        ConfigurationError, match=r"3 sizes.*8x9 \(6\), 10x12 \(6\), 20x7"
    ) as raised:
        load(f"folder:{root}")
    assert "size: [8, 9]" in raised.value.remedy
    dataset = load(f"folder:{root}", size=(8, 8))
    assert dataset.train.images.shape == (12, 8, 8, 3)
    assert load(f"folder:{root}", size=(8, 8), channels=1).test.images.shape == (6, 8, 8)


def test_images_that_the_disk_has_no_room_for_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "images", {"train": 5, "test": 2})
    usage = namedtuple("usage", "free")
    needed = 2 * 14 * 100 * 100 * 3

    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(needed))
    assert load(f"folder:{root}", size=(100, 100), channels=3).test.images.shape[0] == 4

    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(needed - 1))
    monkeypatch.setattr(intake, "_fill", pytest.fail)
    with pytest.raises(SourceError, match=r"14 images of shape \[100, 100, 3\] take") as raised:
        load(f"folder:{root}", size=(100, 100), channels=3)
    assert "data.size" in raised.value.remedy


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
    settings = Data(dataset=f"folder:{root}", unreadable="skip", validation=4, shards=2)
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


@pytest.mark.timeout(20)
def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "lines", {"": 4})
    for name in ("pipe.png", "pipe"):
        os.mkfifo(root / "rising" / name)
    dataset = load(f"folder:{root}", unreadable="skip")
    assert dataset.unreadable is not None
    assert dataset.unreadable.first == ("rising/pipe.png: it is no file",)
    table = tmp_path / "table.csv"
    images = [f"lines/{label}/{n}.png,{label}\n" for label in CLASSES for n in range(4)]
    table.write_text(
        "path,label\n" + "".join(images) + "lines/rising/pipe,rising\n/dev/zero,rising\n"
    )
    dataset = load(f"csv:{table}", unreadable="skip")
    assert dataset.unreadable is not None
    assert [name.partition(": ")[2] for name in dataset.unreadable.first] == ["it is no file"] * 2
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(SourceError, match="it is no file"):
        load(f"npz:{tmp_path / 'pipe.npz'}")


def test_a_file_that_is_never_decoded_has_no_size(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "lines", {"": 4})
    (root / "rising" / "drawing.png").write_bytes(b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 10 10\n")
    dataset = load(f"folder:{root}", unreadable="skip")
    assert dataset.train.images.shape[1:] == (6, 5)
    assert dataset.unreadable is not None
    assert dataset.unreadable.count == 1


def test_a_class_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "lines", {"": 4})
    (root / "level").mkdir()
    (root / "level" / "1.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="no image to train on can be read of the classes level"):
        load(f"folder:{root}", unreadable="skip")


@pytest.mark.parametrize("damaged", [True, False])
def test_a_test_split_without_images_is_an_error(tmp_path: Path, damaged: bool) -> None:
    root = write_folder(tmp_path / "lines", {"train": 4})
    (root / "test" / "rising").mkdir(parents=True)
    if damaged:
        (root / "test" / "rising" / "1.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="test split without any image that can be read"):
        load(f"folder:{root}", unreadable="skip")


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


def found_in(dataset: Dataset) -> Duplicates | None:
    return duplicates.find(dataset, profile.read(dataset)[0])


def test_where_no_images_are_equal_nothing_is_reported(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 5, "test": 4})
    assert found_in(load(f"folder:{root}")) is None


def test_equal_images_of_ones_own_function_are_reported_by_number() -> None:
    images = np.stack([picture(number) for number in (1, 2, 1, 3)])
    dataset = Dataset(
        "own",
        CLASSES,
        Split(images[:3], np.array([0, 1, 1])),
        Split(images[2:], np.array([1, 0])),
        "",
    )
    found = found_in(dataset)
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


# --- tables ---------------------------------------------------------------------------------------


def write_table(file: Path, count: int, *, start: int = 1, separator: str = ",") -> Path:
    """Kaggle's form: a header, the label, then the pixels of images of 6x6."""
    lines = [separator.join(["label", *(f"pixel{index}" for index in range(36))])]
    for number in range(start, start + count):
        pixels = picture(number, size=(6, 6)).reshape(-1)
        lines.append(separator.join(map(str, [number % 2, *pixels])))
    file.write_text("\n".join(lines) + "\n")
    return file


def expected_rows(numbers: range) -> list[tuple[bytes, int]]:
    return sorted((picture(n, size=(6, 6)).tobytes(), n % 2) for n in numbers)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_pixels_is_cut_by_seed(tmp_path: Path, separator: str) -> None:
    file = write_table(tmp_path / "digits.csv", 40, separator=separator)
    dataset = load(f"csv:{file}")
    assert (dataset.name, dataset.classes) == ("digits", ("0", "1"))
    assert sorted(rows(dataset.train) + rows(dataset.test)) == expected_rows(range(1, 41))
    assert len(dataset.test.labels) == 4


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_two_tables_is_not_cut(tmp_path: Path, packed: bool) -> None:
    for name, count, start in (("train.csv", 10, 1), ("test.csv", 4, 11)):
        file = write_table(tmp_path / name, count, start=start)
        if packed:
            file.with_name(f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    dataset = load(f"csv:{tmp_path}")
    assert rows(dataset.train) == expected_rows(range(1, 11))
    assert rows(dataset.test) == expected_rows(range(11, 15))


def test_a_label_may_come_last_and_there_may_be_no_header(tmp_path: Path) -> None:
    pixels = [",".join(map(str, picture(n, size=(6, 6)).reshape(-1))) for n in range(20)]
    (tmp_path / "first.csv").write_text("\n".join(f"{n % 2},{p}" for n, p in enumerate(pixels)))
    header = ",".join([*(f"p{index}" for index in range(36)), "class"])
    (tmp_path / "last.csv").write_text(
        "\ufeff" + "\n".join([header, *(f"{p},{n % 2}" for n, p in enumerate(pixels))])
    )
    one, other = load(f"csv:{tmp_path / 'first.csv'}"), load(f"csv:{tmp_path / 'last.csv'}")
    assert rows(one.train) == rows(other.train)
    assert len(one.train.labels) == 18


def test_pixels_that_are_not_square_need_a_size(tmp_path: Path) -> None:
    lines = [",".join(map(str, [n % 2, *picture(n).reshape(-1)])) for n in range(20)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(SourceError, match="30 columns beside the label") as raised:
        load(f"csv:{tmp_path / 'x.csv'}")
    assert "size: [HEIGHT, WIDTH]" in raised.value.remedy
    assert load(f"csv:{tmp_path / 'x.csv'}", size=(6, 5)).train.images.shape[1:] == (6, 5)


def test_what_a_competition_asks_for_has_no_labels(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", 10)
    text = write_table(tmp_path / "test.csv", 4).read_text()
    unlabelled = [line.partition(",")[2] for line in text.splitlines()]
    (tmp_path / "test.csv").write_text("\n".join(unlabelled))
    with pytest.raises(SourceError, match=r"test\.csv has no column of labels") as raised:
        load(f"csv:{tmp_path}")
    assert "csv:PATH/train.csv" in raised.value.remedy
    assert len(load(f"csv:{tmp_path / 'train.csv'}").test.labels) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,2,3", "it has 3 columns, the first row 37"),
        (",".join(["", *["1"] * 36]), "it has no label"),
        (",".join(["1", "x", *["1"] * 35]), "could not convert"),
        (",".join(["1", "256", *["1"] * 35]), "a pixel is 256"),
        (",".join(["1", "-1", *["1"] * 35]), "a pixel is -1"),
        (",".join(["1", "0.5", *["1"] * 35]), "a pixel is 0.5"),
        (",".join(["1", "nan", *["1"] * 35]), "a pixel is nan"),
    ],
)
def test_a_row_that_is_damaged_is_named(tmp_path: Path, row: str, reason: str) -> None:
    file = write_table(tmp_path / "x.csv", 30)
    file.write_text(file.read_text() + row + "\n")
    with pytest.raises(SourceError, match=r"x\.csv, row 32: " + reason):
        load(f"csv:{file}")
    dataset = load(f"csv:{file}", unreadable="skip")
    assert dataset.unreadable is not None
    assert dataset.unreadable.count == 1


@pytest.mark.parametrize(
    "header", ["", "path,label\n", "Filename;Class;Notes\n"], ids=["none", "plain", "other words"]
)
def test_a_table_of_paths_is_relative_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.chdir("/")
    root = write_folder(tmp_path, {"images": 10})
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    separator, more = (";", ";?") if ";" in header else (",", "")
    lines = [f"{file}{separator}{file.parent.name}{more}" for file in files]
    (root / "all.csv").write_text(header + "\n".join(lines))
    dataset = load(f"csv:{root / 'all.csv'}")
    assert dataset.classes == CLASSES
    assert np.bincount(dataset.train.labels).tolist() == [9, 9]


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    with pytest.raises(SourceError, match=r"row 2, a\.png: No such file"):
        load(f"csv:{tmp_path / 'all.csv'}")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"", "its first line is ''"),
        ("x.csv", b"just words\n", "its first line is"),
        ("x.csv", b"a,b,c\n1,2,3\n", "its columns are a, b, c"),
        ("x.csv", b"path,label\n\xff,1\n", "utf-8"),
        ("x.csv.gz", b"no gzip", "Not a gzipped file"),
        ("x.csv.gz", gzip.compress(b"path,label\n" * 9, mtime=0)[:-9], "ended before"),
    ],
)
def test_a_file_that_is_no_table_is_named(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=reason) as raised:
        load(f"csv:{tmp_path / name}")
    assert str(tmp_path / name) in str(raised.value)


# --- scikit-learn's digits: a real data set, in every form ----------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1 797 images of 8x8, uint8, and their labels."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        leave_out("scikit-learn", why="it is not installed", to_do="pip install scikit-learn")
    with gzip.open(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        values = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return (values[:, :-1].reshape(-1, 8, 8) * 15).astype(np.uint8), values[:, -1]


def as_folder(root: Path, images: np.ndarray, labels: np.ndarray) -> str:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{index}.bmp")
    return f"folder:{root}"


def as_table(root: Path, images: np.ndarray, labels: np.ndarray) -> str:
    values = np.hstack([labels[:, None], images.reshape(len(images), -1)])
    header = ",".join(["label", *(f"pixel{index}" for index in range(64))])
    np.savetxt(root / "digits.csv", values, "%d", delimiter=",", header=header, comments="")
    return f"csv:{root / 'digits.csv'}"


def as_archive(root: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez_compressed(root / "digits.npz", x_train=images, y_train=labels)
    return f"npz:{root / 'digits.npz'}"


def as_idx(root: Path, images: np.ndarray, labels: np.ndarray) -> str:
    write_idx(root / "train-images-idx3-ubyte.gz", images)
    write_idx(root / "train-labels-idx1-ubyte.gz", labels)
    return f"idx:{root}"


@pytest.mark.parametrize("write", [as_folder, as_table, as_archive, as_idx])
def test_real_digits_are_the_same_in_every_form(
    tmp_path: Path,
    digits: tuple[np.ndarray, np.ndarray],
    write: Callable[[Path, np.ndarray, np.ndarray], str],
) -> None:
    images, labels = digits
    dataset = load(write(tmp_path, images, labels))
    assert dataset.classes == tuple("0123456789")
    given = Split(images, labels)
    assert sorted(rows(dataset.train) + rows(dataset.test)) == rows(given)
    assert len(dataset.test.labels) == 179
    assert content_digest(dataset.test) == content_digest(load(as_archive(tmp_path, *digits)).test)


# --- arrays ---------------------------------------------------------------------------------------


def arrays(count: int = 20, **others: Any) -> dict[str, Any]:
    """What Keras writes: images of 6x5, and labels of two classes."""
    images = np.stack([picture(number) for number in range(count)])
    return {"x_train": images, "y_train": np.arange(count) % 2} | others


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def save(file: Path, packed: bool = True, **members: Any) -> str:
    (np.savez_compressed if packed else np.savez)(file, **members)
    return f"npz:{file}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["keras", "medmnist"])
def test_an_archive_with_a_test_split_is_read(tmp_path: Path, packed: bool, names: str) -> None:
    train, test = arrays(20), arrays(6)
    members = {
        "keras": ("x_train", "y_train", "x_test", "y_test"),
        "medmnist": ("train_images", "train_labels", "test_images", "test_labels"),
    }[names]
    values = (train["x_train"], train["y_train"], test["x_train"], test["y_train"])
    file = tmp_path / "x.npz"
    dataset = load(save(file, packed, **dict(zip(members, values, strict=True))))
    assert rows(dataset.train) == rows(Split(train["x_train"], train["y_train"]))
    assert rows(dataset.test) == rows(Split(test["x_train"], test["y_train"]))


@pytest.mark.parametrize(
    ("changes", "classes", "shape"),
    [
        ({"y_train": (np.arange(20) % 2).astype(np.uint8)[:, None]}, ("0", "1"), (6, 5)),
        ({"y_train": np.arange(20) % 2 + 9}, ("9", "10"), (6, 5)),
        ({"y_train": np.array(["no", "yes"] * 10)}, ("no", "yes"), (6, 5)),
        ({"y_train": np.arange(20) % 2 == 1}, ("0", "1"), (6, 5)),
        ({"classes": np.array(["cat", "dog"])}, ("cat", "dog"), (6, 5)),
        ({"x_train": noise(20, 6, 5, 1)}, ("0", "1"), (6, 5)),
        ({"x_train": noise(20, 6, 5, 3)}, ("0", "1"), (6, 5, 3)),
        ({"x_train": noise(20, 6, 5, 4)}, ("0", "1"), (6, 5, 4)),
        ({"x_train": (noise(20, 6, 5) / 255).astype(np.float32)}, ("0", "1"), (6, 5)),
        ({"x_train": noise(20, 6, 5).astype(np.int64)}, ("0", "1"), (6, 5)),
    ],
)
def test_arrays_of_other_types_that_mean_the_same_are_taken(
    tmp_path: Path, changes: dict[str, Any], classes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    dataset = load(save(tmp_path / "x.npz", **arrays(**changes)))
    assert dataset.classes == classes
    assert dataset.train.images.shape[1:] == shape
    assert set(dataset.train.labels) == {0, 1}
    if changes.get("x_train") is not None:
        given = Split(noise(*changes["x_train"].shape).reshape(20, *shape), np.arange(20) % 2)
        assert sorted(rows(dataset.train) + rows(dataset.test)) == rows(given)


def test_where_all_images_are_equal_none_can_be_cut(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no test split can be cut"):
        load(save(tmp_path / "x.npz", **arrays(x_train=np.zeros((20, 6, 5), np.uint8))))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"images": np.zeros(3)}, "its arrays are images"),
        (arrays(x_train=np.zeros((20, 6))), r"`x_train` is float64 \[20, 6\]"),
        (arrays(x_train=np.zeros((20, 3, 32, 32), np.uint8)), "channels come first"),
        (arrays(x_train=np.zeros((19, 6, 5), np.uint8)), "19 images for 20 labels"),
        (arrays(x_train=np.full((20, 6, 5), 300)), "lie between 300 and 300"),
        (arrays(x_train=np.full((20, 6, 5), 2.5)), "lie between 2.5 and 2.5"),
        (arrays(y_train=np.eye(20)), r"`y_train` is float64 \[20, 20\]"),
        (arrays(y_train=np.array([None] * 20)), "`y_train` holds objects"),
        (arrays(classes=np.array(["a"])), "the label 1 for 1 classes"),
        (arrays(x_train=np.zeros((0, 6, 5), np.uint8)), "`x_train` holds nothing"),
    ],
)
def test_arrays_that_are_no_images_are_named(
    tmp_path: Path, members: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        load(save(tmp_path / "x.npz", **members))


def test_an_archive_that_is_damaged_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    save(file, **arrays())
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("x_train.npy").header_offset
    altered = whole[: place + 200] + b"????" + whole[place + 204 :]
    for content in (b"", b"no archive", whole[:-30], altered):
        file.write_bytes(content)
        with pytest.raises(SourceError, match="or damaged") as raised:
            load(f"npz:{file}")
        assert str(file) in str(raised.value)


# --- IDX ------------------------------------------------------------------------------------------


def write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte.gz", "train-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz"),
    ],
)
def test_idx_files_of_any_name_are_read(tmp_path: Path, images: str, labels: str) -> None:
    given = arrays(20)
    for name, word in ((images, "train"), (labels, "train"), (images, "t10k"), (labels, "t10k")):
        array = given["x_train" if "images" in name else "y_train"]
        write_idx(tmp_path / name.replace("train", word), array if word == "train" else array[:4])
    dataset = load(f"idx:{tmp_path}")
    assert rows(dataset.train) == rows(Split(given["x_train"], given["y_train"]))
    assert len(dataset.test.labels) == 4
    assert dataset.classes == ("0", "1")


def test_idx_labels_that_begin_at_one_are_classes_by_their_number(tmp_path: Path) -> None:
    given = arrays(40)
    for prefix in ("letters-", "digits-"):
        write_idx(tmp_path / f"{prefix}train-images-idx3-ubyte", given["x_train"])
        write_idx(tmp_path / f"{prefix}train-labels-idx1-ubyte", given["y_train"] + 9)
    with pytest.raises(SourceError, match="several sets"):
        load(f"idx:{tmp_path}")
    dataset = load(f"idx:{tmp_path / 'letters'}")
    assert (dataset.name, dataset.classes) == ("letters", ("9", "10"))
    (tmp_path / "classes.txt").write_text("\n".join(f"letter {number}" for number in range(11)))
    named = load(f"idx:{tmp_path / 'letters'}")
    assert named.classes[named.train.labels.max()] == "letter 10"
    lines = "\r\n".join(f"letter {number}" for number in range(11)) + "\r\n\r\n"
    (tmp_path / "classes.txt").write_bytes(lines.encode("utf-8-sig"))
    assert load(f"idx:{tmp_path / 'letters'}").classes == named.classes


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "train-labels-idx1-ubyte").unlink(), "but not its counterpart"),
        (lambda root: [file.unlink() for file in root.iterdir()], "it has no file"),
        (lambda root: truncated(root / "train-images-idx3-ubyte"), "it ends in element 19"),
        (lambda root: truncated(root / "train-labels-idx1-ubyte"), "it ends in element 19"),
        (
            lambda root: write_idx(root / "train-labels-idx1-ubyte", np.zeros(19)),
            "it has 20 images.*19, one for each",
        ),
        (
            lambda root: write_idx(root / "train-images-idx3-ubyte", np.zeros(20)),
            "begins with 00000801",
        ),
        (lambda root: (root / "train-labels-idx1-ubyte").write_bytes(b""), "it begins with"),
        (lambda root: (root / "classes.txt").write_text("a\n"), "1 lines, and a label is 1"),
        (lambda root: (root / "classes.txt").write_text("a\n\nb\n"), "line 2 of .* is empty"),
    ],
)
def test_idx_files_that_are_damaged_are_named(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    given = arrays(20)
    write_idx(tmp_path / "train-images-idx3-ubyte", given["x_train"])
    write_idx(tmp_path / "train-labels-idx1-ubyte", given["y_train"])
    damage(tmp_path)
    with pytest.raises(SourceError, match=f"(?s){reason}") as raised:
        load(f"idx:{tmp_path}")
    assert str(tmp_path) in str(raised.value)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


# --- references, keys -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("folder:", "it names no path"),
        ("csv:/no/such.csv", r"there is nothing at /no/such\.csv"),
        ("folder:data:photos", "there is nothing at .*data:photos"),
        ("idx:/no/such/prefix", "there is nothing at"),
        ("npz:~no_such_user_at_all/x", "home"),
    ],
)
def test_a_path_to_nothing_is_an_error_before_anything_is_planned(
    reference: str, reason: str
) -> None:
    settings = config.parse(
        {"name": "x", "data": {"dataset": reference}, "candidates": {"c": {"model": "cnn"}}},
        origin="a test",
    )
    for act in (own_files.pinned, pipeline.plan):
        with pytest.raises(ConfigurationError, match=reason):
            act(settings)


def test_the_word_before_the_colon_is_a_source_only_where_it_is_one_of_five() -> None:
    assert sources.parse("folder:x:y") == ("folder", "x:y")
    assert sources.parse("tfds:mnist/a:1.0.0") == ("tfds", "mnist/a:1.0.0")
    for reference in ("my.folder:x", "folders:x", "folder", "fashion_mnist", ":x"):
        assert sources.parse(reference) is None


def test_a_home_and_where_one_is_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "data", {"": 5})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for reference in ("folder:~/data", "folder:data", "folder:./data", f"folder:{tmp_path}/data"):
        assert len(load(reference).train.labels) == 8


def key_of(settings: Any) -> str:
    data_files.forget()  # as in another process
    return pipeline.plan(settings)["ingest"].key


def configured(reference: str) -> Any:
    return config.parse(
        {"name": "x", "data": {"dataset": reference}, "candidates": {"c": {"model": "cnn"}}},
        origin="a test",
    )


@pytest.mark.parametrize("form", ["folder", "csv"])
def test_the_files_are_part_of_the_key(tmp_path: Path, form: str) -> None:
    root = write_folder(tmp_path / "data", {"": 3})
    files = sorted(root.rglob("*.png"))
    (root.parent / "all.csv").write_text(
        "path,label\n" + "".join(f"{f.relative_to(tmp_path)},{f.parent.name}\n" for f in files)
    )
    settings = configured({"folder": f"folder:{root}", "csv": f"csv:{tmp_path / 'all.csv'}"}[form])
    before = key_of(settings)
    assert key_of(settings) == before
    pinned = own_files.pinned(settings)
    assert key_of(pinned) == before
    line = own_files.compared(settings.data.dataset, settings.data)
    assert "files (0.0 MB, by content) are as they were" in line
    Image.fromarray(picture(77)).save(files[0])
    assert key_of(settings) != before
    assert key_of(pinned) == before  # a run keeps to what it began with


def test_files_that_change_while_they_are_read_are_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", {"": 20})
    data = own_files.pinned(configured(f"folder:{root}")).data
    data = data.model_copy(update={"validation": 4, "shards": 2})

    def confirm() -> None:
        own_files.confirm(data.dataset, data)

    ingest(data, tmp_path / "one", confirm=confirm)
    (root / "rising" / "0.png").unlink()
    with pytest.raises(SourceError, match="are not what they were when the run began"):
        ingest(data, tmp_path / "other", confirm=confirm)
    assert not (tmp_path / "other").exists()


def test_patterns_of_files_are_for_functions(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.files: expected a function of your own"):
        config.parse(
            {
                "name": "x",
                "data": {"dataset": f"folder:{tmp_path}", "files": ["*.png"]},
                "candidates": {"c": {"model": "cnn"}},
            },
            origin="a test",
        )


def test_a_source_is_no_module_of_ones_own() -> None:
    settings = configured("tfds:mnist")
    assert pipeline.plan(settings)["ingest"].key.startswith("ingest-")
    assert pipeline.code_of(pipeline.plan(settings)["ingest"], settings)


def test_only_fashion_mnist_has_several_sources(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.source is `idx`"):
        datasets.load(f"folder:{tmp_path}", "idx")
