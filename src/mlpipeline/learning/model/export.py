"""The exported model: raw uint8 images in, class probabilities out.

It holds the preprocessing, so that serving cannot scale its input otherwise than training did. The
same function evaluates during training, so that what is measured is what is exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.learning.data.images import rows_in_a_batch

SIGNATURE = "serving_default"
INPUT, OUTPUT = "images", "probabilities"


def preprocess(images: Any) -> Any:
    """Scale uint8 images [N, H, W] or [N, H, W, C] to float32 [N, H, W, C] in [-1, 1]."""
    images = images if len(images.shape) == 4 else images[..., tf.newaxis]
    return tf.cast(images, tf.float32) / 127.5 - 1.0


class ExportableModel(tf.Module):  # type: ignore[misc]
    """A trained model as it is evaluated and served.

    Args:
        model: A Keras model from float32 images [N, H, W, C] to logits [N, classes].
        shape: Shape of an image, (H, W) or (H, W, C).
        average_flip: Average the probabilities of an image and of its mirror image.
        average_shift: Average them with those of the image moved by so many pixels up and to the
            left, and down and to the right, which together count as much as the image itself.
    """

    def __init__(
        self,
        model: keras.Model,
        shape: Sequence[int],
        *,
        average_flip: bool = False,
        average_shift: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self._average_flip = average_flip
        self._average_shift = average_shift
        specification = tf.TensorSpec([None, *shape], tf.uint8, name=INPUT)
        self._not_averaged = tf.function(self._of_the_image, input_signature=[specification])
        self.probabilities = self._not_averaged  # traced once for both
        if average_flip or average_shift:
            self.probabilities = tf.function(self._of_all_views, input_signature=[specification])

    def predict(self, images: NDArray[np.uint8], *, averaged: bool = True) -> NDArray[np.float32]:
        """Return the class probabilities, float32 [N, classes], of images uint8 [N, *shape].

        Args:
            images: The images.
            averaged: Whether to average, where the exported model does; it takes longer.
        """
        compute = self.probabilities if averaged else self._not_averaged
        return np.concatenate([compute(batch)[OUTPUT].numpy() for batch in _batches(images)])

    def save(self, folder: Path) -> None:
        """Write a SavedModel; `tf.saved_model.load` needs no Keras to serve it."""
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        archive.add_endpoint(SIGNATURE, self.probabilities)
        archive.write_out(str(folder), verbose=False)

    def _of_the_image(self, images: Any) -> dict[str, Any]:
        return {OUTPUT: self._softmax(preprocess(images))}

    def _of_all_views(self, images: Any) -> dict[str, Any]:
        views = self._views(preprocess(images))
        return {OUTPUT: tf.add_n([weight * self._softmax(view) for view, weight in views])}

    def _softmax(self, scaled: Any) -> Any:
        return tf.nn.softmax(self.model(scaled, training=False))

    def _views(self, images: Any) -> list[tuple[Any, float]]:
        """Return what is averaged, each with its weight: Jordan, arXiv:2404.00498, section 3.5."""
        views = [(images, 1.0)]
        if shift := self._average_shift:
            views = [(images, 0.5)] + [(_moved(images, by), 0.25) for by in (shift, -shift)]
        if self._average_flip:
            views = [(v, w / 2) for view, w in views for v in (view, view[:, :, ::-1])]
        return views


def _moved(images: Any, by: int) -> Any:
    """Move images up and to the left; what comes in repeats the border, as in training."""
    for axis in (1, 2):
        length = images.shape[axis]
        images = tf.gather(images, np.clip(np.arange(length) + by, 0, length - 1), axis=axis)
    return images


def load(folder: Path) -> Any:
    """Return the signature of a SavedModel: uint8 images → {"probabilities": float32}.

    Args:
        folder: What `ExportableModel.save` wrote.
    """
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[SIGNATURE]
    signature.keep_alive = loaded  # its variables live no longer than the object that holds them
    return signature


def predict(signature: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the class probabilities, float32 [N, classes], that a loaded signature gives.

    Args:
        signature: What `load` returned.
        images: uint8 [N, H, W] or [N, H, W, C].
    """
    batches = (tf.constant(batch) for batch in _batches(images))
    return np.concatenate([signature(**{INPUT: batch})[OUTPUT].numpy() for batch in batches])


def _batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    size = rows_in_a_batch(images.shape[1:])
    return (images[start : start + size] for start in range(0, len(images), size))
