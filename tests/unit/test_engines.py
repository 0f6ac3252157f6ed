"""Engines: the same answers whatever computes them, in batches of any size, and nothing foreign."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.engines.litert import LiteRt, pieces, worthwhile
from mlpipeline.engines.saved_model import SavedModel
from mlpipeline.errors import ServingError
from mlpipeline.learning.model import conversion
from support.small_models import CLASSES, SHAPE, convolutional, save

IMAGES = np.random.default_rng(5).integers(0, 256, (150, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "saved_model"
    convolutional().save(folder)
    return folder


@pytest.fixture(scope="module")
def tflite(saved_model: Path) -> Path:
    file = saved_model.with_name("model.tflite")
    file.write_bytes(conversion.convert(saved_model))
    return file


@pytest.fixture(scope="module")
def expected(saved_model: Path) -> NDArray[np.float32]:
    return SavedModel(saved_model).predict(IMAGES)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 64, 150])
def test_both_engines_say_the_same(tflite: Path, expected: NDArray[np.float32], count: int) -> None:
    engine = LiteRt(tflite)
    assert engine.input_shape == SHAPE
    answer = engine.predict(IMAGES[:count])
    assert answer.dtype == np.float32
    assert answer.shape == (count, CLASSES)
    np.testing.assert_allclose(answer, expected[:count], atol=1e-5)


def test_the_size_of_a_batch_makes_no_difference(
    tflite: Path, expected: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    for sizes in ((1,), (1, 2), (1, 8, 64)):
        monkeypatch.setattr("mlpipeline.engines.litert.worthwhile", lambda _, s=sizes: s)
        engine = LiteRt(tflite)
        assert engine.sizes == sizes
        np.testing.assert_allclose(engine.predict(IMAGES), expected, atol=1e-5)


def test_of_a_large_model_there_are_fewer_copies(
    tflite: Path, expected: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlpipeline.engines.litert.worthwhile", lambda _: (1, 4, 16))
    size = tflite.stat().st_size
    for copies, sets, sizes in (
        (0, 1, (1,)),
        (1, 1, (1,)),
        (2, 2, (1,)),
        (5, 2, (1, 4)),
        (6, 2, (1, 4, 16)),
    ):
        monkeypatch.setattr("mlpipeline.engines.litert._WEIGHTS_BYTES", copies * size)
        engine = LiteRt(tflite, threads=2)
        assert (engine.sets, engine.sizes) == (sets, sizes)
        np.testing.assert_allclose(engine.predict(IMAGES), expected, atol=1e-5)


def test_more_callers_than_processors_are_answered_each_its_own(
    tflite: Path, expected: NDArray[np.float32]
) -> None:
    engine = LiteRt(tflite, threads=2)
    with ThreadPoolExecutor(8) as callers:
        starts = [17 * number % 100 for number in range(200)]
        answers = callers.map(lambda start: engine.predict(IMAGES[start : start + 9]), starts)
        for start, answer in zip(starts, answers, strict=True):
            np.testing.assert_allclose(answer, expected[start : start + 9], atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0}, (1,)),
        ({1: 1.0, 2: 0.96, 4: 0.95, 8: 1.2}, (1,)),
        ({1: 1.0, 2: 0.96, 4: 0.94, 8: 1.2}, (1, 4)),
        ({1: 1.0, 2: 0.5, 4: 0.49, 8: 0.4}, (1, 2, 8)),
    ],
    ids=["one", "no-gain", "a-sum-of-small-gains", "several"],
)
def test_sizes_that_save_time_are_taken(seconds: dict[int, float], chosen: tuple[int, ...]) -> None:
    assert worthwhile(seconds) == chosen


@pytest.mark.parametrize("count", [0, 1, 7, 8, 23, 1000])
@pytest.mark.parametrize("sizes", [(1,), (1, 4), (1, 2, 8)])
def test_pieces_follow_each_other_without_a_gap(count: int, sizes: tuple[int, ...]) -> None:
    place = 0
    for start, size in pieces(count, sizes):
        assert start == place
        assert size in sizes
        place += size
    assert place == count


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"TFL3" * 1000,
        lambda content: content[:4] + b"PNG!" + content[8:],
        None,
    ],
    ids=["empty", "cut", "altered", "another-format", "missing"],
)
def test_a_damaged_model_is_refused_by_name(
    tflite: Path, tmp_path: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    file = tmp_path / "model.tflite"
    if damage:
        file.write_bytes(damage(tflite.read_bytes()))
    with pytest.raises(ServingError, match="cannot be loaded by LiteRT") as raised:
        LiteRt(file)
    assert str(file) in raised.value.got


def _images(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda images: {"probabilities": function(tf.cast(images, tf.float32))}


@pytest.mark.parametrize(
    ("function", "specification", "got"),
    [
        (lambda x: {"y": x}, tf.TensorSpec([None, 4], tf.float32, name="x"), "signatures"),
        (
            _images(lambda x: x[:, 0]),
            tf.TensorSpec([None, *SHAPE], tf.float32, name="images"),
            "an input float32",
        ),
        (
            _images(lambda x: x[:, 0, :1] * 0 + [1.0] * CLASSES),
            tf.TensorSpec([None, None, None], tf.uint8, name="images"),
            "an input of any shape",
        ),
        (lambda images: {"probabilities": images, "y": images}, None, "signatures"),
        (_images(lambda x: x), None, "float32 [1, 12, 10] for 1 images"),
        (_images(lambda x: tf.cast(x[:, 0], tf.int32)), None, "an output int32"),
        (_images(lambda x: x[0]), None, "an output float32"),
        (_images(tf.reduce_sum), None, "cannot be loaded by LiteRT"),
    ],
    ids=["signature", "input", "any-shape", "two-outputs", "rank", "output", "rows", "scalar"],
)
def test_a_foreign_model_is_refused_by_name(
    tmp_path: Path, function: Callable[[Any], Any], specification: Any, got: str
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(conversion.convert(save(tmp_path / "saved_model", function, specification)))
    with pytest.raises(ServingError) as raised:
        LiteRt(file)
    assert str(file) in raised.value.got
    assert got in raised.value.got
    assert "uint8 `images`" in raised.value.expected or "`select`" in raised.value.expected
