"""Keras: `fit`, as its guide has it. `python keras_fit.py float32|bfloat16 jit|nojit`."""

from __future__ import annotations

import sys
from typing import Any

import arrays
import keras
import tensorflow as tf
from keras import layers


def network() -> keras.Model:
    """Build our `batch_norm` of Keras's own layers."""

    def normalised(width: int, *, pool: bool) -> list[Any]:
        convolution = layers.Conv2D(width, 3, padding="same", use_bias=False)
        pooling = [layers.MaxPooling2D()] if pool else []
        return [convolution, *pooling, layers.BatchNormalization(momentum=0.9), layers.ReLU()]

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.RandomFlip("horizontal"),
            *normalised(32, pool=True),
            *normalised(64, pool=True),
            *normalised(64, pool=False),
            *normalised(64, pool=False),
            layers.Flatten(),
            layers.Dense(arrays.CLASSES, dtype="float32"),
        ]
    )


def main(precision: str, jit: str) -> None:
    """Train, and print how fast."""
    images, labels = arrays.load()
    keras.mixed_precision.set_dtype_policy(
        "mixed_bfloat16" if precision == "bfloat16" else "float32"
    )
    model = network()
    model.compile(
        keras.optimizers.SGD(
            arrays.LEARNING_RATE,
            momentum=arrays.MOMENTUM,
            nesterov=True,
            weight_decay=arrays.WEIGHT_DECAY,
        ),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=arrays.LABEL_SMOOTHING
        ),
        metrics=["accuracy"],
        jit_compile=jit == "jit",
    )
    targets = keras.utils.to_categorical(labels, arrays.CLASSES)
    data = tf.data.Dataset.from_tensor_slices((images, targets)).cache()
    data = data.shuffle(len(images)).batch(arrays.BATCH, drop_remainder=True)
    data = data.take(arrays.STEPS).prefetch(tf.data.AUTOTUNE)

    def train() -> float:
        return float(model.fit(data, epochs=1, verbose=0).history["loss"][0])

    arrays.measure(train)


if __name__ == "__main__":
    main(*sys.argv[1:])
