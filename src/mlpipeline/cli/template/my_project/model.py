"""The models: functions from images, scaled to -1…1, to features.

The classifier is put behind.
"""

from typing import Any

from keras import layers


def small(inputs: Any, *, width: int = 16) -> Any:
    """Two convolutions that halve the image."""
    x = layers.Conv2D(width, 3, strides=2, activation="relu")(inputs)
    x = layers.Conv2D(2 * width, 3, strides=2, activation="relu")(x)
    return layers.Flatten()(x)
