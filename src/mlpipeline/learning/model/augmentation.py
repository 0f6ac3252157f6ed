"""Random views of training images, drawn statelessly: the same seed gives the same views.

Flipped and shifted views as in He et al., arXiv:1512.03385, section 4.2; an erased square as in
DeVries and Taylor, Cutout, arXiv:1708.04552, and Zhong et al., Random Erasing, arXiv:1708.04896.
Ours rather than Keras's layers, which keep a state of their own and treat a whole batch image by
image: what is drawn here follows from the step alone, and one gather moves all images.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlpipeline.plan.config import Recipe

_ERASED = 0.0  # mid-grey, as `export.preprocess` scales


def augment(images: Any, recipe: Recipe, seed: Any) -> Any:
    """Flip, shift and erase images at random, as far as the recipe says.

    Args:
        images: float32 [N, H, W, C].
        recipe: Whether to flip, how far to shift and how much to erase, both in pixels.
        seed: Random seed, two integers, shape [2].

    Returns:
        float32 [N, H, W, C]. What is moved in from outside repeats the border.
    """
    size, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.unstack(tf.random.stateless_uniform([5, size], seed))
    if recipe.flip or recipe.shift:
        # One gather moves every image its own way, much faster than image by image.
        rows, columns = tf.range(height)[tf.newaxis], tf.range(width)[tf.newaxis]
        if recipe.flip:
            columns = tf.where(draws[0][:, tf.newaxis] < 0.5, width - 1 - columns, columns)
        if recipe.shift:
            rows += _offsets(draws[1], recipe.shift)
            columns += _offsets(draws[2], recipe.shift)
        rows = tf.broadcast_to(tf.clip_by_value(rows, 0, height - 1), [size, height])
        columns = tf.broadcast_to(tf.clip_by_value(columns, 0, width - 1), [size, width])
        first = tf.range(size)[:, tf.newaxis] * height
        pixels = (first + rows)[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]
        images = tf.gather(tf.reshape(images, [-1, images.shape[3]]), pixels)
    if recipe.erase:
        covered_rows = _covered(draws[3], height, recipe.erase)[:, :, tf.newaxis, tf.newaxis]
        covered_columns = _covered(draws[4], width, recipe.erase)[:, tf.newaxis, :, tf.newaxis]
        images = tf.where(covered_rows & covered_columns, _ERASED, images)
    return images


def _offsets(draws: Any, limit: int) -> Any:
    """Return integers in [-limit, limit], shape [N, 1], from uniform draws in [0, 1), shape [N]."""
    return tf.cast(tf.floor(draws * (2 * limit + 1)), tf.int32)[:, tf.newaxis] - limit


def _covered(draws: Any, length: int, side: int) -> Any:
    """Return which positions a square of that side covers along one axis, bool [N, length].

    Its centre is anywhere, so that at the border part of it falls outside, as in Cutout.
    """
    start = tf.floor(draws * length)[:, tf.newaxis] - side // 2
    positions = tf.range(length, dtype=tf.float32)[tf.newaxis]
    return (positions >= start) & (positions < start + side)
