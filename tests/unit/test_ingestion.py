"""Ingestion: exact stratified splits, the same shards from any source, and the card."""

from __future__ import annotations

import hashlib
import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from mlpipeline.errors import ConfigurationError, DamagedArtifactError
from mlpipeline.image_files import ImageKind, Preparation
from mlpipeline.learning.data import datasets, images
from mlpipeline.learning.data.images import Dataset, Split
from mlpipeline.plan.config import Data
from mlpipeline.steps.ingestion import cut_validation, ingest
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.dataset import SPLITS, DatasetCard
from support.whole_split import read_split

SETTINGS = Data(dataset="synthetic", validation=205, shards=3)

OWN_MODULE = """
import numpy as np
from mlpipeline.learning.data import Dataset, Split, datasets

def shuffled():
    given = datasets.synthetic()
    order = np.random.default_rng(1).permutation(len(given.train.labels))
    train = Split(given.train.images[order], given.train.labels[order])
    return Dataset("shuffled", given.classes, train, given.test, "another source")
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace") / "synthetic"
    ingest(SETTINGS, folder)
    return folder


def rows_of(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    return sorted(
        image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)
    )


def test_the_splits_hold_every_image_once(published: Path) -> None:
    given = datasets.synthetic()
    both = rows_of(*read_split(published, "train")) + rows_of(*read_split(published, "validation"))
    assert sorted(both) == rows_of(given.train.images, given.train.labels)
    test = read_split(published, "test")
    assert rows_of(*test) == rows_of(given.test.images, given.test.labels)


def test_the_card_describes_what_is_published(published: Path) -> None:
    artifacts.verify(published)
    card = DatasetCard.load(DatasetFolder(published).card)
    assert card.synthetic
    assert card.shape == (28, 28)
    assert card.counts == {"train": 3_795, "validation": 205, "test": 1_000}
    for name in SPLITS:
        _, labels = read_split(published, name)
        assert np.bincount(labels).tolist() == list(card.per_class[name])
        assert sum(shard.count for shard in card.shards[name]) == card.counts[name]
        for shard in card.shards[name]:
            content = (published / shard.name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == shard.sha256
    assert len(card.shards["train"]) == 3
    text = (published / "README.md").read_text()
    assert "Made-up data" in text
    assert "| all | 3,795 | 205 | 1,000 |" in text


def test_the_card_for_people_shows_names_as_they_are(published: Path, tmp_path: Path) -> None:
    card = DatasetCard.load(DatasetFolder(published).card)
    names = ("<b>bold</b>", "a|b", "two\nlines", "*star*", "`tick", "_under_", "[link](x)")
    others = ("&amp;", "back\\slash", "T-shirt/top, x")
    card.model_copy(update={"classes": names + others}).publish(DatasetFolder(tmp_path))
    rendered = MarkdownIt("commonmark").enable("table").render((tmp_path / "README.md").read_text())
    cells = re.findall(r"<tr>\s*<td>(.*?)</td>", rendered)
    assert [html.unescape(cell) for cell in cells] == [
        *(name.replace("\n", " ") for name in names + others),
        "all",
        "all of one colour",
        "equal to an earlier one of the split",
        "also in a split before it",
        "equal to one of another class",
    ]
    assert "<b>" not in rendered
    assert "<em>" not in rendered


def test_any_source_and_any_run_gives_the_same_shards(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_shuffled.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    ingest(SETTINGS.model_copy(update={"dataset": "own_shuffled:shuffled"}), tmp_path / "other")
    one, other = (
        DatasetCard.load(DatasetFolder(published).card),
        DatasetCard.load(DatasetFolder(tmp_path / "other").card),
    )
    assert other.shards == one.shards
    assert other.digest == one.digest
    assert (other.name, other.source, other.synthetic) == ("shuffled", "another source", False)


def test_a_memory_mapped_file_read_in_slices_gives_the_same_shards(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = datasets.synthetic()
    np.save(tmp_path / "images.npy", given.train.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    dataset = replace(given, train=Split(mapped, given.train.labels))
    monkeypatch.setattr(datasets, "load", lambda *_: dataset)
    monkeypatch.setattr(images, "SLICE_BYTES", 100 * 28 * 28)
    ingest(SETTINGS, tmp_path / "other")
    one, other = (
        DatasetCard.load(DatasetFolder(published).card),
        DatasetCard.load(DatasetFolder(tmp_path / "other").card),
    )
    assert other.shards == one.shards
    assert other.digest == one.digest


# --- how pictures become images -----------------------------------------------------------------


def own(shape: tuple[int, ...], *, brightest: int = 256, count: int = 60) -> Dataset:
    """Noise of any shape, on the left darker than on the right for every second image."""

    def split(seed: int) -> Split:
        labels = np.arange(count) % 2
        images = np.random.default_rng(seed).integers(0, brightest, (count, *shape), np.uint8)
        images[labels == 1, :, : shape[1] // 2] //= 2
        return Split(images, labels.astype(np.int64))

    return Dataset("own", ("even", "halved"), split(0), split(1), "drawn")


def ingested(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, **settings: Any
) -> DatasetCard:
    monkeypatch.setattr(datasets, "load", lambda *_: dataset)
    ingest(Data(dataset="own", validation=10, shards=2, **settings), folder)
    return DatasetCard.load(DatasetFolder(folder).card)


@pytest.mark.parametrize(
    ("shape", "settings", "becomes", "kind"),
    [
        ((12, 10), {}, (12, 10), ImageKind((12, 10), 1)),
        ((12, 10, 1), {}, (12, 10, 1), ImageKind((12, 10), 1)),
        ((12, 10, 3), {}, (12, 10, 3), ImageKind((12, 10), 3)),
        ((12, 10, 4), {}, (12, 10, 4), None),
        ((12, 10, 7), {}, (12, 10, 7), None),
        ((12, 10), {"fit": "pad"}, (12, 10), ImageKind((12, 10), 1, "pad")),
        ((12, 10), {"size": (6, 8)}, (6, 8), ImageKind((6, 8), 1)),
        ((12, 10), {"channels": 3}, (12, 10, 3), ImageKind((12, 10), 3)),
        ((12, 10, 1), {"size": (6, 8)}, (6, 8, 1), ImageKind((6, 8), 1)),
        ((12, 10, 1), {"channels": 1}, (12, 10), ImageKind((12, 10), 1)),
        (
            (12, 10, 3),
            {"size": (5, 5), "channels": 1, "fit": "crop"},
            (5, 5),
            ImageKind((5, 5), 1, "crop"),
        ),
    ],
)
def test_images_are_prepared_as_configured_and_the_card_says_how(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    settings: dict[str, Any],
    becomes: tuple[int, ...],
    kind: ImageKind | None,
) -> None:
    dataset = own(shape)
    monkeypatch.setattr(images, "SLICE_BYTES", 7 * 12 * 10)
    card = ingested(tmp_path / "datasets" / "key", monkeypatch, dataset, **settings)
    assert card.shape == becomes
    assert card.preparation == kind
    assert card.counts == {"train": 50, "validation": 10, "test": 60}
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["key"]
    expected = dataset.test
    if kind and shape != becomes:
        made = [
            Preparation.of(kind).from_array(image).reshape(becomes) for image in expected.images
        ]
        expected = Split(np.stack(made), expected.labels)
    test = read_split(tmp_path / "datasets" / "key", "test")
    assert rows_of(*test) == rows_of(expected.images, expected.labels)


@pytest.mark.parametrize("settings", [{"size": (6, 8)}, {"channels": 3}, {"fit": "crop"}])
def test_images_of_other_channels_than_files_have_cannot_be_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"images of shape \[12, 10, 7\]"):
        ingested(tmp_path / "key", monkeypatch, own((12, 10, 7)), **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "brightest", "dark"),
    [
        ((12, 10), 200, True),
        ((12, 10, 1), 200, True),
        ((12, 10), 256, False),
        ((9, 9, 3), 99, False),
    ],
    ids=["grey", "one-channel", "mixed", "colour"],
)
def test_a_dark_ground_is_measured_on_grey_training_images(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    brightest: int,
    dark: bool,
) -> None:
    card = ingested(tmp_path / "key", monkeypatch, own(shape, brightest=brightest))
    assert card.preparation is not None
    assert card.preparation.dark_ground is dark


def test_a_card_of_an_older_version_says_nothing_of_it(published: Path) -> None:
    content = artifacts.read_json(published / "dataset.json")
    del content["preparation"]
    assert DatasetCard.parse(content, origin="old").preparation is None


def test_unless_told_a_tenth_is_cut_for_validation(tmp_path: Path) -> None:
    ingest(Data(dataset="synthetic"), tmp_path / "synthetic")
    assert DatasetCard.load(DatasetFolder(tmp_path / "synthetic").card).counts == {
        "train": 3_600,
        "validation": 400,
        "test": 1_000,
    }


def test_another_seed_cuts_another_validation_split(published: Path, tmp_path: Path) -> None:
    ingest(SETTINGS.model_copy(update={"seed": 18}), tmp_path / "other")
    assert rows_of(*read_split(published, "validation")) != rows_of(
        *read_split(tmp_path / "other", "validation")
    )


@pytest.mark.parametrize("count", [1, 7, 50, 90])
def test_validation_is_exact_and_in_proportion_to_the_classes(count: int) -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    split = Split(np.zeros((100, 1, 1), np.uint8), labels)
    train, validation = cut_validation(split, np.arange(100)[::-1], count=count, seed=5)
    assert len(validation) == count
    assert sorted([*train, *validation]) == list(range(100))
    quotas = count * np.array([0.6, 0.3, 0.1])
    assert (abs(np.bincount(labels[validation], minlength=3) - quotas) < 1).all()


@pytest.mark.parametrize(("count", "expected"), [(None, 2), (3, 3), (4, 4), (9, 9)])
def test_no_class_loses_all_its_images_to_validation(count: int | None, expected: int) -> None:
    """Twelve classes of one image, and one of ten: only that one can be cut from."""
    labels = np.repeat(np.arange(13), [1] * 12 + [10])
    split = Split(np.zeros((22, 1, 1), np.uint8), labels)
    train, validation = cut_validation(split, np.arange(22), count=count, seed=5)
    assert len(validation) == expected
    assert np.bincount(labels[train], minlength=13).tolist() == [1] * 12 + [10 - expected]
    assert set(labels[validation]) == {12}


@pytest.mark.parametrize("count", [None, 1])
def test_classes_of_one_image_leave_nothing_to_validate_with(count: int | None) -> None:
    split = Split(np.zeros((5, 1, 1), np.uint8), np.arange(5))
    with pytest.raises(ConfigurationError, match="for 5 training images of 5 classes"):
        cut_validation(split, np.arange(5), count=count, seed=5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"validation": 4_000}, "data.validation is 4000 for 4000 training images of 10"),
        ({"validation": 3_990, "shards": 11}, "data.shards is 11 for 10"),
    ],
)
def test_too_few_images_are_refused_and_leave_nothing(
    tmp_path: Path, changes: dict[str, int], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ingest(SETTINGS.model_copy(update=changes), tmp_path / "never")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_card_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match=r"dataset\.json is not a data set's card"):
        DatasetCard.load(DatasetFolder(tmp_path).card)
