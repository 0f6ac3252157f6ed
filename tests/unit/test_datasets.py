"""Data sets: what is refused, and why; a user's own; what is said when no source answers."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlpipeline.errors import ConfigurationError, PipelineError, SourceError
from mlpipeline.learning.data import datasets
from mlpipeline.learning.data.fashion_mnist import fashion_mnist
from mlpipeline.learning.data.idx import read_idx
from mlpipeline.learning.data.images import (
    Dataset,
    Split,
    canonical_order,
    check,
    content_digest,
    take,
)

OWN_MODULE = """
import numpy as np
from mlpipeline.learning.data import Dataset, Split

def halves():
    images = np.zeros((20, 6, 5, 3), np.uint8)
    images[10:] = 255
    split = Split(images, np.repeat(np.arange(2), 10))
    return Dataset("halves", ("dark", "light"), split, split, "made here")

def nothing():
    return None

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any source: no TFDS folder, network, IDX files or apt-get."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # refuses connections
    monkeypatch.setenv("MLPIPELINE_IDX_DIR", str(tmp_path / "idx"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))


def split_of(images: int = 4) -> Split:
    rows = np.arange(images)
    return Split(np.broadcast_to(rows.astype(np.uint8)[:, None, None], (images, 2, 2)), rows % 2)


def small() -> Dataset:
    return Dataset("small", ("a", "b"), split_of(), split_of(2), "a test")


def idx(array: np.ndarray, *, kind: int = 8) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path) -> None:
    folder.mkdir()
    for prefix in ("train", "t10k"):
        images, labels = np.zeros((5, 28, 28)), np.zeros(5)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def test_synthetic_data_says_so_and_is_always_the_same() -> None:
    first, second = datasets.load("synthetic"), datasets.load("synthetic")
    assert first.synthetic
    assert len(first.train.labels) == 4_000
    assert set(first.train.labels) == set(range(len(first.classes)))
    assert content_digest(first.train) == content_digest(second.train)


def test_synthetic_data_can_be_learned() -> None:
    data = datasets.synthetic()
    flat = data.train.images.reshape(4_000, -1).astype(float)
    means = np.stack([flat[data.train.labels == label].mean(axis=0) for label in range(10)])
    distances = ((data.test.images.reshape(1_000, 1, -1) - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == data.test.labels).mean() > 0.6


@pytest.mark.usefixtures("own_module")
def test_a_data_set_of_your_own_is_a_function() -> None:
    dataset = datasets.load("own_data:halves")
    assert dataset.classes == ("dark", "light")
    assert dataset.train.images.shape == (20, 6, 5, 3)
    assert not dataset.synthetic


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("reference", "source", "kind", "reason"),
    [
        ("fashion_mnits", "auto", ConfigurationError, "fashion_mnist"),
        ("no_such_module:data", "auto", ConfigurationError, "no_such_module"),
        ("own_data:quarters", "auto", ConfigurationError, "quarters"),
        ("own_data:number", "auto", ConfigurationError, "int"),
        ("own_data:halves", "idx", ConfigurationError, "data.source"),
        ("own_data:nothing", "auto", SourceError, "NoneType"),
    ],
)
def test_a_reference_to_nothing_usable_is_refused(
    reference: str, source: str, kind: type[PipelineError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        datasets.load(reference, source)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ("a",)}, "classes"),
        ({"classes": ("a", "a")}, "classes"),
        ({"train": Split(np.zeros((4, 2, 2)), np.zeros(4, np.int64))}, "float64"),  # type: ignore
        ({"train": Split(np.zeros((4, 4), np.uint8), np.zeros(4, np.int64))}, r"\[4, 4\]"),
        ({"test": Split(np.zeros((0, 2, 2), np.uint8), np.zeros(0, np.int64))}, r"\[0, 2, 2\]"),
        ({"test": Split(np.zeros((4, 3, 3), np.uint8), np.zeros(4, np.int64))}, "one shape"),
        ({"train": replace(split_of(), labels=np.zeros(3, np.int64))}, r"labels are int64 \[3\]"),
        ({"train": replace(split_of(), labels=np.zeros(4, np.float64))}, "float64"),
        ({"train": replace(split_of(), labels=np.full(4, 2))}, "between 2 and 2"),
        ({"train": replace(split_of(), labels=np.full(4, -1))}, "between -1 and -1"),
    ],
)
def test_what_is_not_a_data_set_is_refused(changes: dict[str, object], reason: str) -> None:
    check(small())
    with pytest.raises(SourceError, match=reason):
        check(replace(small(), **changes))  # type: ignore[arg-type]


def test_the_canonical_order_does_not_depend_on_the_given_one() -> None:
    split = datasets.synthetic().test
    shuffle = np.random.default_rng(1).permutation(len(split.labels))
    shuffled = Split(split.images[shuffle], split.labels[shuffle])
    one, other = canonical_order(split), canonical_order(shuffled)
    assert (split.images[one] == shuffled.images[other]).all()
    assert (split.labels[one] == shuffled.labels[other]).all()
    assert content_digest(split) == content_digest(shuffled)


def test_the_digest_sees_one_changed_pixel_or_label() -> None:
    split = split_of()
    images, labels = split.images.copy(), split.labels.copy()
    images[0, 0, 0] += 1
    labels[0] = 1
    digests = {content_digest(s) for s in (split, Split(images, split.labels))}
    digests.add(content_digest(Split(split.images, labels)))
    assert len(digests) == 3


def test_an_idx_file_is_read(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(array)))
    assert (read_idx(tmp_path / "x.gz", dimensions=3) == array).all()


WHOLE = gzip.compress(idx(np.zeros((2, 3, 4))), mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "begins with"),
        (b"no gzip", "Not a gzipped file"),
        (WHOLE[:-9], "ended before"),
        (WHOLE[:-6] + bytes([WHOLE[-6] ^ 1]) + WHOLE[-5:], "CRC"),
        (gzip.compress(idx(np.zeros((2, 3)))), "begins with 00000802"),
        (gzip.compress(idx(np.zeros((2, 3, 4)), kind=13)), "begins with 00000d03"),
        (gzip.compress(idx(np.zeros((2, 3, 4)))[:-1]), "23 bytes"),
        (gzip.compress(idx(np.zeros((2, 3, 4))) + b"?"), "25 bytes"),
    ],
    ids=["missing", "empty", "plain", "truncated", "altered", "rank", "type", "short", "long"],
)
def test_a_damaged_idx_file_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "images.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=reason) as raised:
        read_idx(path, dimensions=3)
    assert str(path) in str(raised.value)


@pytest.mark.usefixtures("no_source")
def test_other_images_than_fashion_mnists_are_refused(tmp_path: Path) -> None:
    write_idx_folder(tmp_path / "idx")
    with pytest.raises(SourceError, match=r"idx.*train split \(5 images\) is not Fashion-MNIST"):
        fashion_mnist("idx")


def truncate(folder: Path) -> None:
    path = folder / "idx" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])


def damage_tfds(folder: Path) -> None:
    prepared = folder / "tfds" / "fashion_mnist" / "3.0.1"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.usefixtures("no_source")
@pytest.mark.parametrize(
    ("prepare", "reasons"),
    [
        (nothing, ["no prepared fashion_mnist", "Connection refused", "no folder", "apt-get"]),
        (truncate, ["no prepared fashion_mnist", "t10k-images-idx3-ubyte.gz", "apt-get"]),
        (damage_tfds, ["TFDS cannot read", "Connection refused", "no folder"]),
    ],
    ids=["nothing there", "truncated IDX", "damaged TFDS"],
)
def test_when_no_source_answers_the_error_lists_all_that_were_tried(
    tmp_path: Path, prepare: Callable[[Path], None], reasons: list[str]
) -> None:
    write_idx_folder(tmp_path / "idx") if prepare is truncate else None
    prepare(tmp_path)
    with pytest.raises(SourceError) as raised:
        fashion_mnist("auto")
    lines = [line for line in str(raised.value).splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == [
        "  - tfds",
        "  - download",
        "  - idx",
        "  - debian",
    ]
    for reason in reasons:
        assert any(reason in line for line in lines), reason


def test_images_are_taken_in_any_order_and_a_private_mapping_keeps_its_changes(
    tmp_path: Path,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 3), np.uint8)
    rows = np.random.default_rng(1).permutation(50)[:20]
    np.save(tmp_path / "images.npy", images)
    mapped, private = (np.load(tmp_path / "images.npy", mmap_mode=mode) for mode in ("r", "c"))
    private[rows[0]] = 7
    for source in (images, mapped, private):
        expected = np.array(source)[rows]
        for _ in range(2):  # also after its pages were given back
            np.testing.assert_array_equal(take(source, rows), expected)


def test_dataset_and_split_are_imported_without_tensorflow() -> None:
    code = """
import sys
from mlpipeline.learning.data import Dataset, Split
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
