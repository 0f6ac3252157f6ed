"""Muon: momentum whose updates of a layer's kernel are made orthogonal.

A gradient's few large directions drown the others; of an orthogonal matrix all are of one length,
and the network learns from each. Jordan et al., Muon, 2024 (https://kellerjordan.github.io/posts/muon),
with the scale of Liu et al., arXiv:2502.16982. Keras's own `Muon` leaves kernels of convolutions to
AdamW, which is all of a network like ours.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

# Of the polynomial aX + bXX'X + cXX'XX'X, which takes singular values close to 1: Jordan et al.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 3
# Root mean square of a kernel's update, in learning rates: one rate is then right for both kinds.
# Tried with configs/default.yaml's `batch_norm`: docs/explain/recipes.md.
_UPDATE = 0.04


class Muon(keras.optimizers.SGD):  # type: ignore[misc]
    """Orthogonal updates for kernels of convolutions; Nesterov's momentum for all other weights.

    Others are biases, scales and dense layers: the last of these has classes for its columns.

    Args:
        **options: Those of `keras.optimizers.SGD`.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight: Keras calls it for each."""
        if not _is_of_a_convolution(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, momentum * self.momentum + gradient)
        update = orthogonal(gradient + self.momentum * momentum)
        largest = max(_as_matrix(variable.shape))
        self.assign_sub(variable, learning_rate * _UPDATE * math.sqrt(largest) * update)


def orthogonal(kernel: Any) -> Any:
    """Return the orthogonal matrix that is closest to a kernel, roughly, and quickly.

    Args:
        kernel: float32 [..., F]: all axes but the last are the rows of a matrix.

    Returns:
        float32 of the same shape; as a matrix its singular values are between 0.5 and 1.5, but for
        those that were below some hundredths of all.
    """
    rows, columns = _as_matrix(kernel.shape)
    matrix = tf.reshape(kernel, [rows, columns])
    if rows > columns:  # the products below are of the smaller side
        matrix = tf.transpose(matrix)
    matrix /= tf.norm(matrix) + 1e-7  # of all singular values none is above 1
    for _ in range(_ITERATIONS):
        square = tf.matmul(matrix, matrix, transpose_b=True)
        matrix = _A * matrix + tf.matmul(_B * square + _C * square @ square, matrix)
    if rows > columns:
        matrix = tf.transpose(matrix)
    return tf.reshape(matrix, kernel.shape)


def _as_matrix(shape: Any) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


def _is_of_a_convolution(variable: Any) -> bool:
    return len(variable.shape) > 2
