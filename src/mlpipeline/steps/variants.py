"""What a chosen candidate is served as: made, measured, and decided by `plan.variants`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline import progress
from mlpipeline.engines import Engine, predict_batches
from mlpipeline.engines.litert import LiteRt
from mlpipeline.engines.saved_model import SavedModel
from mlpipeline.errors import SelectionError, ServingError
from mlpipeline.learning.data.images import rows_in_a_batch, rows_in_a_slice
from mlpipeline.learning.data.splits import StoredSplit
from mlpipeline.learning.model import conversion, export
from mlpipeline.learning.model.conversion import ConversionError
from mlpipeline.plan import variants as rule
from mlpipeline.plan.config import EngineChoice, Precision
from mlpipeline.steps.timing import least_milliseconds
from mlpipeline.store.schemas.selection import ServedVariant, Variant

_log = logging.getLogger(__name__)

_EXACT = "float32"
# Two ways to add the same float32 numbers are 1e-6 apart; what is further has lost something.
_FURTHEST = 1e-3
_COMPARED = 100  # images
_CALIBRATED = 500  # images
_BATCH = 64  # images, as many as a replica computes at once


@dataclass(frozen=True)
class Served:
    """What is served of a candidate.

    Attributes:
        engine: What computes it.
        about: What it is and why.
        tflite: LiteRT's file of it; None where TensorFlow serves the SavedModel.
    """

    engine: Engine
    about: ServedVariant
    tflite: Path | None

    @property
    def validation_accuracy(self) -> float | None:
        """The share of hits on the validation split; None where it was not measured again."""
        figures = {variant.name: variant.validation_accuracy for variant in self.about.variants}
        return figures.get(self.about.variant)


def make(
    saved_model: Path,
    validation: StoredSplit,
    engine: EngineChoice,
    precision: Precision,
    *,
    scratch: Path,
) -> Served:
    """Make what is served of a candidate: LiteRT's file, where LiteRT can do what the model does.

    Args:
        saved_model: The candidate's SavedModel.
        validation: What variants are measured on.
        engine: What is asked for: with `tensorflow`, the SavedModel is served as it is.
        precision: Likewise.
        scratch: A folder for the files.

    Raises:
        SelectionError: LiteRT is asked for, and cannot do what the model does.
    """
    if engine == "tensorflow":
        return _by_tensorflow(saved_model, precision, rule.AS_CONFIGURED)
    progress.report(0, validation.count, doing="converting")
    images, _ = next(validation.batches(min(_CALIBRATED, rows_in_a_slice(validation.shape))))
    try:
        model = conversion.convert(saved_model)
        exact = _Made.of(model, scratch, _EXACT)
        _require_same(exact.engine, saved_model, images[:_COMPARED])
    except ConversionError as error:
        if engine == "litert":
            raise SelectionError(
                f"LiteRT cannot serve {saved_model}: {error}",
                expected="a model that it can serve, as `serving.engine` is `litert`",
                remedy="change the candidate's network, or set `serving.engine` to `auto`, by "
                "which TensorFlow serves the model",
            ) from error
        refused = Variant(name=_EXACT, refused=str(error))
        return _by_tensorflow(saved_model, precision, f"LiteRT cannot: {error}", refused)
    timed = images[: rows_in_a_batch(validation.shape, _BATCH)]
    figures, reference = _measure(exact, validation, timed)
    made, measured = {_EXACT: exact}, []
    for name, quantize in _quantizers(model, images).items() if precision != _EXACT else ():
        try:
            made[name] = _Made.of(quantize(), scratch, name)
        except ConversionError as error:
            measured.append(Variant(name=name, refused=f"cannot be made: {error}"))
        else:
            measured.append(_measure(made[name], validation, timed, reference)[0])
    about = rule.choose(figures, measured, precision)
    missed = precision == "int8" and about.variant == _EXACT
    _log.log(
        logging.WARNING if missed else logging.INFO,
        "served as %s: %s",
        about.variant,
        about.reason,
    )
    chosen = made[about.variant]
    return Served(chosen.engine, about, chosen.file)


def _by_tensorflow(
    saved_model: Path, precision: Precision, reason: str, *refused: Variant
) -> Served:
    _log.log(logging.WARNING if refused else logging.INFO, "TensorFlow serves it: %s", reason)
    about = ServedVariant(
        engine="tensorflow",
        variant=_EXACT,
        precision=precision,
        reason=reason,
        variants=refused,
    )
    return Served(SavedModel(saved_model), about, None)


class _Made(NamedTuple):
    """A variant: its file, and what computes it."""

    name: str
    file: Path
    engine: LiteRt

    @classmethod
    def of(cls, model: bytes, scratch: Path, name: str) -> _Made:
        """Write a variant and load it.

        Raises:
            ConversionError: LiteRT made it, and cannot load it all the same.
        """
        file = scratch / f"{name}.tflite"
        file.write_bytes(model)
        try:
            return cls(name, file, LiteRt(file))
        except ServingError as error:
            raise ConversionError(error.got) from error


def _quantizers(model: bytes, images: NDArray[np.uint8]) -> Mapping[str, Callable[[], bytes]]:
    return {
        "int8-dynamic": lambda: conversion.with_dynamic_range(model),
        "int8-full": lambda: conversion.with_full_integers(model, images),
    }


def _require_same(engine: Engine, saved_model: Path, images: NDArray[np.uint8]) -> None:
    """See that what was converted says the same as the SavedModel."""
    expected = export.predict(export.load(saved_model), images)
    difference = float(np.abs(engine.predict(images) - expected).max())
    if not difference <= _FURTHEST:  # it may be NaN
        raise ConversionError(f"its probabilities would be up to {difference:.2g} off")


def _measure(
    made: _Made,
    validation: StoredSplit,
    timed: NDArray[np.uint8],
    reference: NDArray[np.int64] | None = None,
) -> tuple[Variant, NDArray[np.int64]]:
    """Return a variant's figures, and the classes that it says: int64 `[N]`.

    Args:
        made: The variant.
        validation: What it is measured on.
        timed: The images that it is timed with: 64, or fewer where they are large.
        reference: The classes that float32 says; None for itself.
    """
    classes, labels = (np.empty(validation.count, np.int64) for _ in range(2))
    done = 0
    batches = validation.batches(rows_in_a_batch(validation.shape))
    for probabilities, of_images in predict_batches(made.engine, batches):
        progress.report(done, validation.count, doing=f"measuring {made.name}")
        rows = slice(done, done + len(of_images))
        classes[rows], labels[rows] = probabilities.argmax(axis=1), of_images
        done += len(of_images)
    figures = Variant(
        name=made.name,
        bytes=made.file.stat().st_size,
        milliseconds=_milliseconds(made.engine, timed[:1]),
        batch_milliseconds=_milliseconds(made.engine, timed) * _BATCH / len(timed),
        validation_accuracy=float((classes == labels).mean()),
        agreement=1.0 if reference is None else float((classes == reference).mean()),
    )
    return figures, classes


def _milliseconds(engine: Engine, images: NDArray[np.uint8]) -> float:
    """Return the least time on the processor that some images take: it computes in this thread."""
    return least_milliseconds(lambda: engine.predict(images), time.thread_time)
