"""A SavedModel as LiteRT takes it: converted as it is, and with 8-bit integers for its numbers."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from litert_quantizer import quantizer, recipe
from litert_quantizer.algorithm_manager import AlgorithmName
from litert_quantizer.qtyping import TFLOperationName
from numpy.typing import NDArray

from mlpipeline import processors
from mlpipeline.learning.model.export import INPUT, SIGNATURE

# The quantizer averages the ranges of the batches that it is given: of single images that would cut
# off what only some of them have. (The default model's probabilities were then up to 0.26 off, and
# are 0.07 off with these.) Of large images there are fewer: all their activations are held.
_CALIBRATION_BATCH, _CALIBRATION_BYTES = 25, 1 << 20


_UNKNOWN = re.compile(r"^(?:TF Select|Custom) ops: (.+)$", re.MULTILINE)
_LONGEST = 200


class ConversionError(Exception):
    """A model cannot be converted, or not be quantized; its text says why."""


def convert(saved_model: Path) -> bytes:
    """Return a SavedModel as a `.tflite` file with the same float32 numbers.

    Args:
        saved_model: What `ExportableModel.save` wrote.

    Raises:
        ConversionError: It has operations that LiteRT does not know.
    """
    with _quietly():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), [SIGNATURE])
        converted: bytes = converter.convert()
    return converted


def with_dynamic_range(model: bytes) -> bytes:
    """Return a converted model with 8-bit weights.

    Activations are rounded to 8 bits while it computes, to the range that they happen to have.

    Raises:
        ConversionError: It cannot be quantized.
    """
    with _quietly():
        return bytes(
            quantizer.Quantizer(model, recipe.dynamic_wi8_afp32()).quantize().quantized_model
        )


def with_full_integers(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """Return a converted model with 8-bit weights and activations; its probabilities stay float32.

    Args:
        model: What `convert` returned.
        images: What it is to be calibrated on, uint8 `[N, *shape]`: activations get the range
            that they have for these.

    Raises:
        ConversionError: It cannot be quantized.
    """
    with _quietly():
        quantized = quantizer.Quantizer(model, recipe.static_wi8_ai8())
        for operation in (TFLOperationName.SOFTMAX, TFLOperationName.OUTPUT):
            quantized.update_quantization_recipe(
                ".*", operation, algorithm_key=AlgorithmName.NO_QUANTIZE
            )
        rows = min(_CALIBRATION_BATCH, max(1, _CALIBRATION_BYTES // images[0].nbytes))
        starts = range(0, len(images), rows)
        data = {SIGNATURE: [{INPUT: images[start : start + rows]} for start in starts]}
        ranges = quantized.calibrate(data, num_threads=processors.count())
        return bytes(quantized.quantize(ranges).quantized_model)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let two libraries say what is wrong by an error of ours, and nothing else."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        try:
            yield
        except (OSError, MemoryError):  # this machine's, and not the model's: another try may do
            raise
        except Exception as error:  # they raise whatever kind comes to hand
            raise ConversionError(_in_short(str(error)) or type(error).__name__) from error


def _in_short(message: str) -> str:
    """Return which operations LiteRT does not know, or else the first line of a message."""
    if unknown := _UNKNOWN.findall(message):
        return f"it has no operation {', '.join(dict.fromkeys(unknown))}"
    return next((line.strip() for line in message.splitlines() if line.strip()), "")[:_LONGEST]
