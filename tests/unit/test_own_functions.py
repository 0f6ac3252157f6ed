"""Functions of one's own that are almost right: each is named, with what was expected of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpipeline.errors import ConfigurationError, PipelineError, SourceError
from mlpipeline.learning.data import Dataset, Split, datasets, own
from mlpipeline.plan.config import Data
from mlpipeline.steps.ingestion import ingest

IMAGES = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
LABELS = np.arange(20) % 2


def right() -> Dataset:
    split = Split(IMAGES, LABELS)
    return Dataset("signs", ("a", "b"), split, split, "a test")


def returning(**changes: Any) -> Callable[[], Any]:
    return lambda: replace(right(), **changes)


def raising() -> Dataset:
    empty: dict[str, Dataset] = {}
    return empty["no such key"]


def leaving() -> Dataset:
    raise SystemExit(3)


def refusing() -> Dataset:
    raise SourceError("the greenhouse is closed", expected="that it is open", remedy="wait")


def with_argument(folder: Path) -> Dataset:
    return right()


def with_defaults(folder: Path = Path(), *, seed: int = 0) -> Dataset:
    return right()


@pytest.mark.parametrize(
    ("function", "got", "expected"),
    [
        (raising, "raised KeyError: 'no such key' (", "a Dataset"),
        (leaving, "raised SystemExit: 3 (", "a Dataset"),
        (with_argument, "takes (folder: ", "without arguments"),
        (lambda: None, "returned NoneType", "a Dataset"),
        (lambda: (IMAGES, LABELS), "returned tuple", "a Dataset"),
        (lambda: Dataset, "returned type", "a Dataset"),
        (returning(classes=np.array(["a", "b"])), "classes=an array <U1 [2]", "a tuple of names"),
        (returning(classes="ab"), "classes='ab' (str)", "a tuple of names"),
        (returning(classes=(0, 1)), "classes=(0, 1) (tuple)", "a tuple of names"),
        (returning(source=Path("/x")), "source=PosixPath('/x')", "text"),
        (returning(name=None), "name=None", "text"),
        (returning(synthetic="no"), "synthetic='no'", "True or False"),
        (returning(train=(IMAGES, LABELS)), "train=(array(", "a Split"),
        (returning(test=None), "test=None", "a Split"),
        (
            returning(train=Split(IMAGES.tolist(), LABELS)),  # type: ignore[arg-type]
            "train.images that are a list of 20",
            "a NumPy array, uint8 [N, height, width",
        ),
        (
            returning(test=Split(IMAGES, LABELS.tolist())),  # type: ignore[arg-type]
            "test.labels that are a list of 20",
            "a NumPy array, int64 [N]",
        ),
        (
            returning(train=Split(IMAGES, np.full(20, 2**63, np.uint64))),
            "train.labels up to 9223372036854775808",
            "int64",
        ),
    ],
)
def test_a_function_that_is_almost_right_is_named(
    function: Callable[..., Any], got: str, expected: str
) -> None:
    with pytest.raises(PipelineError) as raised:
        own.call(function, "my.data:flowers")
    assert raised.value.got.startswith("`my.data:flowers` ")
    assert got in raised.value.got
    assert expected in raised.value.expected


def test_an_error_of_a_function_says_where_it_was_raised() -> None:
    with pytest.raises(SourceError, match=rf"\({__file__}, line \d+\)"):
        own.call(raising, "my.data:flowers")


def test_what_a_function_says_itself_is_what_is_said() -> None:
    with pytest.raises(SourceError, match="the greenhouse is closed"):
        own.call(refusing, "my.data:flowers")


def test_arguments_with_defaults_are_no_hindrance() -> None:
    assert own.call(with_defaults, "my.data:flowers").classes == ("a", "b")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i8"])
def test_labels_of_any_integer_type_are_taken(kind: Any) -> None:
    given = returning(train=Split(IMAGES, LABELS.astype(kind)), classes=["a", "b"])
    dataset = own.call(given, "my.data:flowers")
    assert dataset.train.labels.dtype == np.dtype("int64")
    assert dataset.train.labels.dtype.isnative
    assert (dataset.train.labels == LABELS).all()
    assert dataset.classes == ("a", "b")


@pytest.mark.parametrize("kind", [np.float32, bool, "U1"])
def test_labels_that_are_no_integers_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    labels = LABELS.astype(kind)
    monkeypatch.setitem(datasets.BUILTIN, "own", returning(train=Split(IMAGES, labels)))
    with pytest.raises(SourceError, match="train labels are"):
        datasets.load("own")


def test_nothing_is_written_for_a_function_that_is_almost_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.BUILTIN, "own", returning(classes=np.array(["a", "b"])))
    with pytest.raises(SourceError, match="`own` returned classes"):
        ingest(Data(dataset="own", validation=4, shards=2), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_reference_is_the_configurations_fault() -> None:
    with pytest.raises(ConfigurationError, match="without arguments"):
        own.call(with_argument, "my.data:flowers")
