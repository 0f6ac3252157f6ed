"""Checkpoints and history: what a resumed run finds is what the one before had left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.errors import MissingArtifactError
from mlpipeline.learning.model import models, optimization
from mlpipeline.learning.training.checkpoints import Checkpoints
from mlpipeline.learning.training.history import History
from mlpipeline.plan.config import Recipe
from mlpipeline.store.schemas.candidate import Epoch, TrainingHistory

IMAGES = np.random.default_rng(0).normal(0, 1, (8, 4, 4, 1)).astype(np.float32)


class Run:
    """A training run in small, with all that has a state: normalisation, dropout, momentum."""

    def __init__(self, folder: Path, *, seed: int, write: bool = True) -> None:
        keras.utils.set_random_seed(seed)
        self.model = keras.Sequential(
            [
                keras.Input(IMAGES.shape[1:]),
                models.FusedBatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(3),
            ]
        )
        recipe = Recipe(optimizer="adamw", learning_rate=0.1, ema=0.5)
        self.optimizer = optimization.build(recipe, steps=20)
        self.optimizer.build(self.model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.checkpoints = Checkpoints(
            folder, model=self.model, optimizer=self.optimizer, step=self.step, write=write
        )

    def train(self, steps: int) -> None:
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(self.model(IMAGES, training=True) ** 2)
            weights = self.model.trainable_variables
            self.optimizer.apply(tape.gradient(loss, [v.value for v in weights]), weights)
            self.step.assign_add(1)

    @property
    def state(self) -> list[NDArray[Any]]:
        return [np.array(v.numpy()) for v in (*self.model.variables, *self.optimizer.variables)]


def _equal(one: Run, other: Run) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.state, other.state, strict=True))


def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    first = Run(tmp_path, seed=1)
    first.train(2)
    first.checkpoints.save()
    first.train(3)

    resumed = Run(tmp_path, seed=2)
    assert not _equal(resumed, first)
    assert resumed.checkpoints.restore() == 2
    resumed.train(3)

    # Weights, moments, averages, the learning rate's place and the generators of dropout.
    assert _equal(resumed, first)
    assert int(resumed.step.numpy()) == 5


def test_the_state_of_dropout_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    first = Run(tmp_path, seed=1)
    first.train(1)
    first.checkpoints.save()
    drawn = first.model(IMAGES, training=True).numpy()

    resumed = Run(tmp_path, seed=2)
    resumed.checkpoints.restore()
    np.testing.assert_array_equal(resumed.model(IMAGES, training=True).numpy(), drawn)


def test_the_newest_checkpoint_is_restored(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=1)
    for _ in range(3):
        run.train(1)
        run.checkpoints.save()
    assert Run(tmp_path, seed=2).checkpoints.restore() == 3
    assert len(list(tmp_path.glob("*.index"))) == 2  # the oldest was removed


@pytest.mark.parametrize("file", ["ckpt-3.data-00000-of-00001", "ckpt-3.index"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        None,
    ],
    ids=["truncated", "empty", "altered", "missing"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    first = Run(tmp_path, seed=1)
    for _ in range(3):
        first.train(1)
        first.checkpoints.save()
    if damage is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))

    resumed = Run(tmp_path, seed=2)
    assert resumed.checkpoints.restore() == 2
    resumed.train(1)
    resumed.checkpoints.save()
    assert _equal(resumed, first)
    assert Run(tmp_path, seed=3).checkpoints.restore() == 3


@pytest.mark.parametrize("content", ["", 'model_checkpoint_path: "ckpt-'])
def test_the_file_that_names_the_newest_checkpoint_may_be_damaged_too(
    tmp_path: Path, content: str
) -> None:
    first = Run(tmp_path, seed=1)
    first.train(1)
    first.checkpoints.save()
    (tmp_path / "checkpoint").write_text(content)
    resumed = Run(tmp_path, seed=2)
    assert resumed.checkpoints.restore() == 1
    assert _equal(resumed, first)


def test_when_all_checkpoints_are_damaged_a_run_begins_anew(tmp_path: Path) -> None:
    first = Run(tmp_path, seed=1)
    first.train(1)
    first.checkpoints.save()
    (tmp_path / "ckpt-1.data-00000-of-00001").write_bytes(b"?")
    run = Run(tmp_path, seed=2)
    before = run.state
    assert run.checkpoints.restore() == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, run.state, strict=True))


def test_without_a_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    run = Run(tmp_path / "none", seed=1)
    before = run.state
    assert run.checkpoints.restore() == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, run.state, strict=True))


def test_only_the_chief_writes(tmp_path: Path) -> None:
    worker = Run(tmp_path, seed=1, write=False)
    worker.checkpoints.save()
    assert list(tmp_path.iterdir()) == []


def _epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        step=10 * number,
        loss=1 / number,
        accuracy=0.5,
        validation_loss=2.0,
        validation_accuracy=0.4,
        learning_rate=0.1,
        seconds=3.0 * number,
        cpu_seconds=6.0 * number,
    )


def _history(folder: Path, *epochs: int, write: bool = True) -> History:
    history = History(folder, write=write)
    for number in epochs:
        history.append(_epoch(number))
    history.save()
    return history


@pytest.mark.parametrize(
    ("step", "known"), [(30, [1, 2, 3]), (35, [1, 2, 3]), (29, [1, 2]), (5, []), (0, [])]
)
def test_a_resumed_history_has_the_epochs_before_the_checkpoint(
    tmp_path: Path, step: int, known: list[int]
) -> None:
    _history(tmp_path, 1, 2, 3)
    resumed = History(tmp_path, write=True)
    resumed.resume(step)
    assert resumed.epochs == [_epoch(number) for number in known]


def test_a_history_that_a_checkpoint_needs_is_missed(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"history\.json"):
        History(tmp_path, write=True).resume(10)


def test_only_the_chief_writes_the_history_and_its_curves(tmp_path: Path) -> None:
    _history(tmp_path, 1, write=False)
    assert list(tmp_path.iterdir()) == []
    _history(tmp_path, 1)
    assert TrainingHistory.load(tmp_path / "history.json").epochs == (_epoch(1),)


def _finish(history: History, step: int, cpu_seconds: float | None) -> Epoch:
    history.finish_epoch(
        step,
        training=[30.0, 15.0, 60.0],
        validation=[5.0, 8.0, 10.0],
        learning_rate=0.1,
        seconds=7.0,
        cpu_seconds=cpu_seconds,
    )
    return history.epochs[-1]


def test_the_figures_of_an_epoch_are_means_and_its_times_go_on_over_attempts(
    tmp_path: Path,
) -> None:
    _history(tmp_path, 1, 2)
    resumed = History(tmp_path, write=True)
    resumed.resume(20)
    third = _finish(resumed, step=30, cpu_seconds=9.0)
    assert (third.epoch, third.step) == (3, 30)
    assert (third.loss, third.accuracy) == (0.5, 0.25)
    assert (third.validation_loss, third.validation_accuracy) == (0.5, 0.8)
    # The second one's are 6 s and 12 s; to these is added what passed since this attempt began.
    assert (third.seconds, third.cpu_seconds) == (13.0, 21.0)
    assert _finish(resumed, step=40, cpu_seconds=9.0).seconds == 13.0


def test_processor_time_may_be_unknown(tmp_path: Path) -> None:
    history = History(tmp_path, write=True)
    assert _finish(history, step=10, cpu_seconds=None).cpu_seconds is None
    history.save()
    resumed = History(tmp_path, write=True)
    resumed.resume(10)
    assert _finish(resumed, step=20, cpu_seconds=None).cpu_seconds is None


def test_tensorboard_has_a_curve_of_every_figure(tmp_path: Path) -> None:
    _history(tmp_path, 1, 2)
    (events,) = (tmp_path / "tensorboard").iterdir()
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in tf.data.TFRecordDataset(str(events)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            point = (int(event.step), float(tf.make_ndarray(value.tensor)))
            curves.setdefault(value.tag, []).append(point)
    assert curves.keys() == asdict(_epoch(1)).keys() - {"epoch", "step"}
    assert curves["loss"] == [(10, 1.0), (20, 0.5)]
