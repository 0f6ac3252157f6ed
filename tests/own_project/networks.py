"""Models of one's own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers

from mlpipeline.learning.model.models import FusedBatchNormalization


def strided(inputs: Any, *, width: int = 8) -> Any:
    """Two convolutions that halve the image."""
    x = layers.Conv2D(width, 3, strides=2, activation="relu")(inputs)
    x = layers.Conv2D(2 * width, 3, strides=2, activation="relu")(x)
    return layers.Dense(32, activation="relu")(layers.Flatten()(x))


def smooth(inputs: Any, *, width: int = 8) -> Any:
    """As `strided`, without a kink: a rounding error never decides which way a gradient goes.

    With ReLU or maximum pooling it does, on one processor and not on another, and float32's last
    digit becomes a difference of 1e-4 within a few steps.
    """
    x = layers.Conv2D(width, 3, strides=2, activation="tanh")(inputs)
    x = layers.Conv2D(2 * width, 3, strides=2, activation="tanh")(x)
    return layers.Dense(32, activation="tanh")(layers.Flatten()(x))


def with_a_state(inputs: Any) -> Any:
    """Batch normalisation keeps statistics, and dropout the state of its generator."""
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(inputs)
    x = layers.Flatten()(layers.ReLU()(FusedBatchNormalization()(x)))
    return layers.Dropout(0.3)(x)


def coarse(inputs: Any) -> Any:
    """So little work that reading the images is most of it."""
    return layers.Flatten()(layers.AveragePooling2D(16)(inputs))


class Bessel(layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A function that TensorFlow knows and LiteRT does not."""

    def call(self, inputs: Any) -> Any:
        """Return its values, between 0 and 1."""
        return tf.math.bessel_i0e(inputs)


def unusual(inputs: Any) -> Any:
    """For which LiteRT has no operation."""
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    return layers.Flatten()(Bessel()(x))
