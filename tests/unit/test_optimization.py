"""Optimizers: the schedule's shape, which weights decay, and the average that is kept of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.learning.model import models, optimization
from mlpipeline.learning.model.muon import orthogonal
from mlpipeline.learning.model.optimization import one_cycle
from mlpipeline.plan.config import Candidate, Recipe

PEAK, STEPS = 0.4, 200


def _rates(steps: int = STEPS) -> NDArray[np.float64]:
    schedule = one_cycle(PEAK, steps)
    return np.array([float(schedule(step)) for step in range(steps)])


def test_one_cycle_starts_low_peaks_after_a_quarter_and_ends_at_zero() -> None:
    rates = _rates()
    assert 0 < rates[0] < 0.05 * PEAK
    assert rates.argmax() == STEPS // 4 - 1
    assert rates.max() == pytest.approx(PEAK)
    assert rates[-1] == pytest.approx(0, abs=1e-7)


def test_one_cycle_rises_in_a_line_and_falls_as_a_half_cosine() -> None:
    rates = _rates()
    np.testing.assert_allclose(np.diff(rates[:50]), PEAK / 50, rtol=1e-3)
    assert (np.diff(rates[50:]) < 0).all()
    assert rates[124] == pytest.approx(PEAK / 2, rel=1e-3)  # half way down


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_is_never_negative_or_above_its_peak_however_short(steps: int) -> None:
    rates = _rates(steps)
    assert (rates >= 0).all()
    assert (rates <= np.float32(PEAK)).all()


@pytest.fixture
def model() -> keras.Model:
    """A model with a kernel, a bias, a gamma and a beta, all of them 1."""
    candidate = Candidate(model="batch_norm", options={"widths": [2], "deep": 0})
    model = models.build(candidate, (4, 4), 3)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    return model


def _steps(model: keras.Model, *gradients: float, **recipe: Any) -> keras.Optimizer:
    """Take a step with each of the gradients, the same for every weight."""
    optimizer = optimization.build(Recipe(schedule="constant", **recipe), steps=10)
    optimizer.build(model.trainable_variables)
    for gradient in gradients:
        optimizer.apply(
            [tf.fill(v.shape, gradient) for v in model.trainable_variables],
            model.trainable_variables,
        )
    return optimizer


def _values(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """The values of the weights of each kind."""
    kinds: dict[str, list[NDArray[np.float32]]] = {}
    for variable in model.trainable_variables:
        kinds.setdefault(variable.name, []).append(variable.numpy().ravel())
    assert kinds.keys() == {"kernel", "bias", "gamma", "beta"}
    return {kind: np.concatenate(values) for kind, values in kinds.items()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_weight_decay_shrinks_kernels_alone(model: keras.Model, optimizer: str) -> None:
    _steps(model, 0.0, optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    values = _values(model)
    np.testing.assert_allclose(values.pop("kernel"), 0.95, rtol=1e-6)
    assert all((value == 1).all() for value in values.values())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_without_weight_decay_nothing_shrinks(model: keras.Model, optimizer: str) -> None:
    _steps(model, 0.0, optimizer=optimizer, learning_rate=0.1)
    assert all((value == 1).all() for value in _values(model).values())


@pytest.mark.parametrize(
    ("optimizer", "moved"),
    # Adam's first step is the learning rate; Nesterov momentum adds 0.9 of the gradient to it.
    [("adam", 0.1), ("adamw", 0.1), ("sgd", 0.1 * 2 * 1.9)],
)
def test_a_step_moves_against_the_gradient(
    model: keras.Model, optimizer: str, moved: float
) -> None:
    _steps(model, 2.0, optimizer=optimizer, learning_rate=0.1)
    for value in _values(model).values():
        np.testing.assert_allclose(value, 1 - moved, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 1, 32), (3, 3, 32, 64), (1, 1, 64, 8), (5, 4, 60)])
def test_an_orthogonal_kernel_is_as_long_in_all_directions(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    matrix = np.asarray(orthogonal(tf.constant(kernel))).reshape(-1, shape[-1])
    lengths = np.linalg.svd(matrix, compute_uv=False)
    assert lengths.shape == (min(matrix.shape),)
    assert 0.5 < lengths.min() <= lengths.max() < 1.3
    u, _, v = np.linalg.svd(kernel.reshape(-1, shape[-1]), full_matrices=False)
    assert np.vdot(matrix, u @ v) / len(lengths) > 0.8  # and it points to where the kernel does


def test_muon_moves_convolutions_as_far_whatever_the_gradients_size(model: keras.Model) -> None:
    directions = np.random.default_rng(2)
    gradients = [directions.normal(size=v.shape) for v in model.trainable_variables]
    moved = []
    for scale in (1e-3, 1e3):
        optimizer = optimization.build(
            Recipe(schedule="constant", optimizer="muon", learning_rate=0.1), steps=10
        )
        before = [v.numpy() for v in model.trainable_variables]
        optimizer.apply(
            [tf.constant(g * scale, tf.float32) for g in gradients], model.trainable_variables
        )
        moved.append(
            [v.numpy() - b for v, b in zip(model.trainable_variables, before, strict=True)]
        )
    kernel = next(i for i, v in enumerate(model.trainable_variables) if len(v.shape) == 4)
    np.testing.assert_allclose(moved[0][kernel], moved[1][kernel], rtol=1e-3, atol=1e-6)
    assert np.vdot(moved[0][kernel], gradients[kernel]) < 0


def test_muon_treats_all_but_convolutions_as_sgd_does(model: keras.Model) -> None:
    weights = model.get_weights()
    ends = []
    for optimizer in ("sgd", "muon"):
        model.set_weights(weights)
        _steps(model, 2.0, -1.0, optimizer=optimizer, learning_rate=0.1)
        ends.append([v.numpy() for v in model.trainable_variables])
    for variable, of_sgd, of_muon in zip(model.trainable_variables, *ends, strict=True):
        assert np.allclose(of_sgd, of_muon) == (len(variable.shape) < 4)


def test_the_schedule_is_followed(model: keras.Model) -> None:
    optimizer = optimization.build(Recipe(schedule="one_cycle", learning_rate=PEAK), steps=20)
    optimizer.build(model.trainable_variables)
    rates = []
    for _ in range(20):
        rates.append(float(optimizer.learning_rate))
        zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
        optimizer.apply(zeros, model.trainable_variables)
    np.testing.assert_allclose(rates, _rates(20), rtol=1e-5, atol=1e-7)


def test_the_average_of_the_weights_is_kept_beside_them(model: keras.Model) -> None:
    optimizer = _steps(model, 1.0, 1.0, optimizer="adam", learning_rate=0.1, ema=0.75)
    for value in _values(model).values():  # of two steps of 0.1
        np.testing.assert_allclose(value, 0.8, atol=1e-5)

    optimizer.finalize_variable_values(model.trainable_variables)

    for value in _values(model).values():  # it begins with the first step's
        np.testing.assert_allclose(value, 0.75 * 0.9 + 0.25 * 0.8, atol=1e-5)


def test_without_an_average_nothing_is_kept(model: keras.Model) -> None:
    plain, averaging = _steps(model), _steps(model, ema=0.75)
    kept = len(averaging.variables) - len(plain.variables)
    assert kept == len(model.trainable_variables)
