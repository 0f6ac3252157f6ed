"""Small models as training exports them, and SavedModels that it never would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlpipeline.learning.model.export import ExportableModel

SHAPE, CLASSES = (12, 10), 4


def convolutional(*, average_flip: bool = False) -> ExportableModel:
    """Return a network with random weights, always the same, of all that ours are made of."""
    random = keras.initializers.GlorotUniform  # not by a seed for all that comes after it
    inputs = keras.Input((*SHAPE, 1))
    convolution = keras.layers.Conv2D(
        8, 3, use_bias=False, padding="same", kernel_initializer=random(seed=3)
    )
    x = convolution(inputs)
    x = keras.layers.BatchNormalization(moving_variance_initializer="ones")(x)
    x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(x))
    logits = keras.layers.Dense(CLASSES, kernel_initializer=random(seed=4))(
        keras.layers.Flatten()(x)
    )
    return ExportableModel(keras.Model(inputs, logits), SHAPE, average_flip=average_flip)


def save(folder: Path, function: Callable[[Any], Any], specification: Any = None) -> Path:
    """Save a SavedModel that computes a function of uint8 `images`, or of something else."""
    module = tf.Module()
    given = specification or tf.TensorSpec([None, *SHAPE], tf.uint8, name="images")
    module.call = tf.function(function, [given])
    tf.saved_model.save(module, str(folder), {"serving_default": module.call})
    return folder
