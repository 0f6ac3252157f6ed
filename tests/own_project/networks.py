"""A model of one's own."""

from __future__ import annotations

from typing import Any

from keras import layers


def strided(inputs: Any, *, width: int = 8) -> Any:
    """Two convolutions that halve the image."""
    x = layers.Conv2D(width, 3, strides=2, activation="relu")(inputs)
    x = layers.Conv2D(2 * width, 3, strides=2, activation="relu")(x)
    return layers.Dense(32, activation="relu")(layers.Flatten()(x))
