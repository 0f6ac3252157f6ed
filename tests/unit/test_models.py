"""The architectures: their sizes, their normalisation, and one's own among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.model import models
from mlpipeline.learning.model.models import ARCHITECTURES, FusedBatchNormalization
from mlpipeline.plan.config import Candidate

RANDOM = np.random.default_rng(5)
INPUTS = RANDOM.normal(3, 2, (32, 6, 6, 4)).astype(np.float32)
UPSTREAM = RANDOM.normal(0, 1, INPUTS.shape).astype(np.float32)


def _normalisation(kind: Any) -> Any:
    """A layer with weights other than those it begins with."""
    layer = kind()
    layer.build(INPUTS.shape)
    random = np.random.default_rng(7)
    layer.set_weights([random.uniform(0.5, 2, 4) for _ in range(4)])
    return layer


@pytest.fixture
def fused() -> Any:
    return _normalisation(FusedBatchNormalization)


@pytest.fixture
def reference() -> Any:
    return _normalisation(lambda: keras.layers.BatchNormalization(momentum=0.9))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_fused_normalisation_gives_what_that_of_keras_gives(
    fused: Any, reference: Any, training: bool
) -> None:
    np.testing.assert_allclose(
        fused(INPUTS, training=training), reference(INPUTS, training=training), atol=1e-4
    )


def test_fused_normalisation_has_the_gradients_of_that_of_keras(fused: Any, reference: Any) -> None:
    def gradients(layer: Any) -> list[Any]:
        inputs = tf.constant(INPUTS)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, training=True) * UPSTREAM)
        found = tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])
        return [gradient.numpy() for gradient in found]

    for own, expected in zip(gradients(fused), gradients(reference), strict=True):
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-3)


def test_fused_normalisation_keeps_the_moving_statistics_of_that_of_keras(
    fused: Any, reference: Any
) -> None:
    before = fused.moving_mean.numpy()
    for layer in (fused, reference):
        layer(INPUTS, training=True)
        layer(INPUTS, training=False)  # leaves them as they are
    assert np.abs(fused.moving_mean.numpy() - before).min() > 0.1
    np.testing.assert_allclose(fused.moving_mean, reference.moving_mean, rtol=1e-5)
    # The kernel's variance is the unbiased one: n / (n - 1) of that of Keras, n = 32 * 6 * 6.
    np.testing.assert_allclose(fused.moving_variance, reference.moving_variance, rtol=1e-3)


def test_fused_normalisation_computes_in_float32_whatever_its_input() -> None:
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    outputs = layer(tf.cast(INPUTS, tf.bfloat16), training=True)
    assert layer.gamma.dtype == layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(np.mean(tf.cast(outputs, tf.float32), (0, 1, 2)), 0, atol=0.02)


def _build(model: str, shape: tuple[int, ...] = (28, 28), **options: Any) -> keras.Model:
    return models.build(Candidate(model=model, options=options), shape, 10)


def _convolution(inputs: int, outputs: int, bias: int = 0) -> int:
    return 9 * inputs * outputs + bias * outputs


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # Convolutions, each by hand; a normalised one has a gamma and a beta for each output.
        ("cnn", _convolution(1, 32, 1) + _convolution(32, 64, 1) + (3136 + 1) * 128 + 129 * 10),
        ("dropout", _convolution(1, 32, 1) + _convolution(32, 64, 1) + (3136 + 1) * 128 + 129 * 10),
        (
            "batch_norm",
            _convolution(1, 32, 2)
            + _convolution(32, 64, 2)
            + 2 * _convolution(64, 64, 2)
            + (14 * 14 // 4 * 64 + 1) * 10,
        ),
        (
            "residual",
            _convolution(1, 32, 2)
            + _convolution(32, 64, 2)
            + 2 * _convolution(64, 64, 2)
            + _convolution(64, 96, 2)
            + 4 * _convolution(96, 96, 2)
            + (7 * 7 * 96 + 1) * 10,
        ),
        ("book_cnn", 93_322),  # as the book prints it
    ],
)
def test_an_architecture_has_the_parameters_that_its_layers_add_up_to(
    model: str, parameters: int
) -> None:
    built = _build(model)
    assert sum(int(np.prod(v.shape)) for v in built.trainable_variables) == parameters


@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
@pytest.mark.parametrize("shape", [(28, 28), (20, 28, 3)], ids=["grey", "colour"])
def test_an_architecture_gives_a_float32_logit_for_each_class(
    model: str, shape: tuple[int, ...]
) -> None:
    keras.utils.set_random_seed(1)  # by chance no logit might be below 0
    built = _build(model, shape)
    chance = np.random.default_rng(0)
    images: NDArray[np.float32] = chance.uniform(-1, 1, (3, *(*shape, 1)[:3])).astype(np.float32)
    logits = built(images, training=False).numpy()
    assert logits.shape == (3, 10)
    assert logits.dtype == np.float32
    assert (logits < 0).any()  # no softmax
    assert np.ptp(logits, axis=0).min() > 0


def test_options_are_arguments_of_the_architecture() -> None:
    small = _build("cnn", widths=[2], units=3)
    assert [v.shape for v in small.trainable_variables] == [
        *((3, 3, 1, 2), (2,)),
        *((14 * 14 * 2, 3), (3,)),
        *((3, 10), (10,)),
    ]


def test_dropout_differs_from_the_plain_network_in_training_alone() -> None:
    built = _build("dropout", widths=[2], units=8, rate=0.5)
    images = np.ones((1, 28, 28, 1), np.float32)
    calm, dropped = ([built(images, training=t).numpy() for _ in range(4)] for t in (False, True))
    assert np.ptp(calm, axis=0).max() == 0
    assert np.ptp(dropped, axis=0).max() > 0


@pytest.mark.parametrize("options", [{"depth": 3}, {"widths": 3}, {"rate": 0.1}], ids=str)
def test_options_that_do_not_fit_are_shown_with_the_model(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="model `cnn` with options") as raised:
        _build("cnn", **options)
    assert str(options) in raised.value.got


def test_an_unknown_model_gets_the_nearest_one() -> None:
    with pytest.raises(
        ConfigurationError, match=r"unknown model `resdual`; did you mean `residual`"
    ):
        _build("resdual")


def test_a_model_of_ones_own_is_named_by_its_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_models_of_this_test.py").write_text(
        "from keras import layers\n\n"
        "def tiny(inputs, *, pool=4):\n"
        "    return layers.Flatten()(layers.AveragePooling2D(pool)(inputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        built = _build("own_models_of_this_test:tiny", pool=14)
    finally:
        sys.modules.pop("own_models_of_this_test", None)
    assert built.name == "tiny"
    assert built.count_params() == (2 * 2 + 1) * 10


OWN = """
import keras
from keras import layers

def pooled(inputs, *, width=4):
    return layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3)(inputs))

def unpooled(inputs):
    return layers.Conv2D(4, 3)(inputs)

def nothing(inputs):
    layers.Flatten()(inputs)

def model(inputs):
    return keras.Model(inputs, layers.Flatten()(inputs))

def raising(inputs):
    return {}["no such key"]

def detached(inputs):
    return layers.Flatten()(keras.Input((2, 2)))

def deep(inputs):
    for _ in range(9):
        inputs = layers.MaxPooling2D()(inputs)
    return layers.Flatten()(inputs)
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "own_models_that_are_almost_right"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "options", "got", "expected"),
    [
        ("unpooled", {}, "returned ['N', 26, 26, 4]", "features [N, F]"),
        ("nothing", {}, "returned NoneType", "a Keras tensor"),
        ("model", {}, "returned Functional", "a Keras tensor"),
        ("detached", {}, "returned features of something else", "made of the images"),
        ("raising", {}, "KeyError: 'no such key' (", "layers that fit"),
        ("deep", {}, "ValueError", "layers that fit the images"),
        ("pooled", {"wdith": 3}, "takes (inputs, *, width=4)", "options that it takes"),
        ("pooled", {"width": "many"}, "'width': 'many'", "options that its function takes"),
    ],
)
def test_a_model_of_ones_own_that_is_almost_right_is_named(
    own_models: str, function: str, options: dict[str, Any], got: str, expected: str
) -> None:
    reference = f"{own_models}:{function}"
    with pytest.raises(ConfigurationError) as raised:
        _build(reference, **options)
    assert f"`{reference}`" in raised.value.got
    assert got in raised.value.got
    assert expected in raised.value.expected


def test_all_models_of_ones_own_are_checked_at_once(own_models: str) -> None:
    def candidate(function: str) -> Candidate:
        return Candidate(model=f"{own_models}:{function}")

    good = {"built-in": Candidate(model="cnn"), "good": candidate("pooled")}
    models.check(good, (28, 28, 3), 10)
    with pytest.raises(ConfigurationError, match="returned NoneType"):
        models.check(good | {"bad": candidate("nothing")}, (28, 28, 3), 10)
    bad = {"one": candidate("nothing"), "other": candidate("unpooled")}
    with pytest.raises(ConfigurationError) as raised:
        models.check(good | bad, (28, 28, 3), 10)
    assert raised.value.got.count("\n  - ") == 2
    assert "  - other: the function of model" in raised.value.got


def test_options_that_a_built_in_model_cannot_have_cost_one_candidate() -> None:
    """Its workers say so, and the run goes on without it: it may be one of a search."""
    models.check({"cnn": Candidate(model="cnn", options={"unit": 8})}, (28, 28), 10)


def test_trials_of_one_model_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(models, "build", lambda candidate, *_: built.append(candidate.options))
    trials = {
        f"{units}-{epochs}": Candidate(model="own:model", options={"units": units}, epochs=epochs)
        for units in (8, 16)
        for epochs in (1, 2, 3)
    }
    models.check(trials, (28, 28), 10)
    assert built == [{"units": 8}, {"units": 16}]


def test_a_peer_that_is_lost_while_a_model_is_built_is_no_fault_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(inputs: Any) -> Any:
        raise tf.errors.UnavailableError(None, None, "a peer is gone")

    monkeypatch.setitem(ARCHITECTURES, "cnn", lost)
    with pytest.raises(tf.errors.UnavailableError):
        _build("cnn")
