"""Conversion: what LiteRT cannot do is said, and 8-bit variants answer as the model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlpipeline.engines.litert import LiteRt
from mlpipeline.learning.model import conversion, models
from mlpipeline.learning.model.export import ExportableModel
from mlpipeline.plan.config import Candidate
from support.small_models import CLASSES, SHAPE, convolutional, save

IMAGES = np.random.default_rng(5).integers(0, 256, (300, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("average_flip", [False, True])
@pytest.mark.parametrize(
    "quantize",
    [
        conversion.with_dynamic_range,
        lambda model: conversion.with_full_integers(model, IMAGES[:50]),
    ],
    ids=["dynamic", "full"],
)
def test_an_8_bit_model_is_smaller_and_answers_nearly_the_same(
    tmp_path: Path, quantize: Callable[[bytes], bytes], average_flip: bool
) -> None:
    exported = convolutional(average_flip=average_flip)
    exported.save(tmp_path / "saved_model")
    converted = conversion.convert(tmp_path / "saved_model")
    file = tmp_path / "model.tflite"
    file.write_bytes(quantize(converted))
    assert file.stat().st_size < len(converted)
    answer = LiteRt(file).predict(IMAGES)
    expected = exported.predict(IMAGES)
    assert answer.shape == (len(IMAGES), CLASSES)
    assert 1e-4 < np.abs(answer - expected).max() < 0.1  # it is another model, but no other answer
    assert (answer.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("shape", [(28, 28), (24, 32, 3)], ids=["grey", "colours"])
@pytest.mark.parametrize("model", sorted(models.ARCHITECTURES))
def test_litert_has_all_operations_of_our_models(
    tmp_path: Path, model: str, shape: tuple[int, ...]
) -> None:
    network = models.build(Candidate(model=model), shape, CLASSES)
    exported = ExportableModel(network, shape, average_flip=True, average_shift=1)
    exported.save(tmp_path / "saved_model")
    converted = conversion.convert(tmp_path / "saved_model")
    images = np.random.default_rng(1).integers(0, 256, (30, *shape), dtype=np.uint8)
    file = tmp_path / "model.tflite"
    file.write_bytes(converted)
    np.testing.assert_allclose(LiteRt(file).predict(images), exported.predict(images), atol=1e-4)
    for quantized in (
        conversion.with_dynamic_range(converted),
        conversion.with_full_integers(converted, images),
    ):
        file.write_bytes(quantized)
        assert np.isfinite(LiteRt(file).predict(images)).all()


def test_what_litert_has_no_operation_for_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def special(images: Any) -> dict[str, Any]:
        return {"probabilities": tf.math.bessel_i0e(tf.cast(images[:, 0], tf.float32))}

    folder = save(tmp_path / "saved_model", special)
    with pytest.raises(conversion.ConversionError, match="BesselI0e"):
        conversion.convert(folder)
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_no_model_cannot_be_quantized() -> None:
    for quantize in (
        conversion.with_dynamic_range,
        lambda model: conversion.with_full_integers(model, IMAGES[:2]),
    ):
        with pytest.raises(conversion.ConversionError):
            quantize(b"not a model")
