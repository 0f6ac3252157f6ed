"""The exported model: uint8 in, probabilities out, the same as while it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.learning.model import export, models
from mlpipeline.learning.model.export import ExportableModel, preprocess
from mlpipeline.plan.config import Candidate

SHAPE, CLASSES = (6, 5), 4
IMAGES = np.random.default_rng(2).integers(0, 256, (11, *SHAPE), dtype=np.uint8)


def _model(shape: tuple[int, ...] = SHAPE) -> keras.Model:
    keras.utils.set_random_seed(3)
    options: dict[str, Any] = {"widths": [4], "units": 8}
    return models.build(Candidate(model="dropout", options=options), shape, CLASSES)


@pytest.fixture(scope="module")
def plain() -> ExportableModel:
    return ExportableModel(_model(), SHAPE)


@pytest.fixture(scope="module")
def averaging() -> ExportableModel:
    return ExportableModel(_model(), SHAPE, average_flip=True)


@pytest.fixture(scope="module")
def exported(averaging: ExportableModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported") / "saved_model"
    averaging.save(folder)
    return export.load(folder)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3)])
def test_preprocessing_scales_all_bytes_to_between_minus_one_and_one(
    shape: tuple[int, ...],
) -> None:
    black, white = (preprocess(np.full((1, *shape), byte, np.uint8)) for byte in (0, 255))
    assert black.shape == white.shape == (1, *(*shape, 1)[:3])
    assert black.dtype == tf.float32
    np.testing.assert_array_equal(black, -1)
    np.testing.assert_array_equal(white, 1)
    assert abs(float(preprocess(np.full((1, 1, 1), 128, np.uint8))[0, 0, 0, 0])) < 0.01


def test_probabilities_are_float32_and_add_up_to_one(plain: ExportableModel) -> None:
    probabilities = plain.predict(IMAGES)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(IMAGES), CLASSES)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 0.1  # they depend on the image


def test_the_exported_model_gives_what_the_trained_one_gave(
    averaging: ExportableModel, exported: Any
) -> None:
    np.testing.assert_allclose(
        export.predict(exported, IMAGES), averaging.predict(IMAGES), rtol=1e-5, atol=1e-7
    )


def test_the_exported_model_takes_batches_of_bytes_of_any_size(exported: Any) -> None:
    ((_, inputs),) = exported.structured_input_signature[1].items()
    assert (inputs.name, inputs.dtype, inputs.shape.as_list()) == ("images", tf.uint8, [None, 6, 5])
    assert exported.structured_outputs.keys() == {"probabilities"}
    for count in (1, 7):
        assert export.predict(exported, IMAGES[:count]).shape == (count, CLASSES)


def test_large_batches_are_evaluated_in_parts_without_a_difference(
    exported: Any, averaging: ExportableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export.predict(exported, IMAGES)
    monkeypatch.setattr(export, "rows_in_a_batch", lambda shape: 4)
    for parts in (export.predict(exported, IMAGES), averaging.predict(IMAGES)):
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-7)


def test_an_average_over_the_mirror_image_does_not_tell_left_from_right(
    averaging: ExportableModel, plain: ExportableModel
) -> None:
    mirrored = IMAGES[:, :, ::-1]
    np.testing.assert_allclose(averaging.predict(IMAGES), averaging.predict(mirrored), rtol=1e-5)
    assert np.abs(plain.predict(IMAGES) - plain.predict(mirrored)).max() > 0.01


def test_the_average_is_that_of_the_two_probabilities(
    averaging: ExportableModel, plain: ExportableModel
) -> None:
    both = [plain.predict(images) for images in (IMAGES, IMAGES[:, :, ::-1])]
    np.testing.assert_allclose(averaging.predict(IMAGES), np.mean(both, axis=0), rtol=1e-5)


def _moved(images: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Images moved up and to the left, their border repeated."""
    rows, columns = (np.clip(np.arange(side) + by, 0, side - 1) for side in SHAPE)
    return images[:, rows][:, :, columns]


@pytest.mark.parametrize("flip", [False, True])
def test_the_average_over_shifts_counts_the_image_itself_as_much_as_the_others(
    plain: ExportableModel, averaging: ExportableModel, flip: bool
) -> None:
    shifting = ExportableModel(plain.model, SHAPE, average_flip=flip, average_shift=2)
    of_one = averaging if flip else plain
    itself, up, down = (of_one.predict(_moved(IMAGES, by)) for by in (0, 2, -2))
    assert np.abs(up - down).max() > 0.01
    expected = itself / 2 + (up + down) / 4
    np.testing.assert_allclose(shifting.predict(IMAGES), expected, rtol=1e-5)


def test_averages_can_be_left_out(plain: ExportableModel, averaging: ExportableModel) -> None:
    answers = averaging.predict(IMAGES, averaged=False)
    np.testing.assert_allclose(answers, plain.predict(IMAGES), rtol=1e-5)


def test_dropout_does_not_act_on_predictions(plain: ExportableModel) -> None:
    np.testing.assert_array_equal(plain.predict(IMAGES), plain.predict(IMAGES))


def test_colour_images_are_exported(tmp_path: Path) -> None:
    images: NDArray[np.uint8] = np.stack([IMAGES, IMAGES // 2, IMAGES // 4], axis=-1)
    predictor = ExportableModel(_model((*SHAPE, 3)), (*SHAPE, 3))
    predictor.save(tmp_path / "saved_model")
    served = export.predict(export.load(tmp_path / "saved_model"), images)
    np.testing.assert_allclose(served, predictor.predict(images), rtol=1e-5, atol=1e-7)
