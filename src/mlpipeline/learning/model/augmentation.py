"""Views of training images, drawn statelessly: the same seed gives the same views.

Mirrored in turns as in Jordan, arXiv:2404.00498, section 3.6; shifted as in He et al.,
arXiv:1512.03385, section 4.2; an erased square as in DeVries and Taylor, Cutout, arXiv:1708.04552,
and Zhong et al., Random Erasing, arXiv:1708.04896.
Ours rather than Keras's layers, which keep a state of their own and treat a whole batch image by
image: what is drawn here follows from the step alone, and one gather moves all images.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlpipeline.plan.config import Recipe

_ERASED = 0.0  # mid-grey, as `export.preprocess` scales


def augment(images: Any, recipe: Recipe, seed: Any, epoch: Any) -> Any:
    """Flip images in turns, shift and erase them at random, as far as the recipe says.

    Args:
        images: float32 [N, H, W, C].
        recipe: Whether to flip, how far to shift and how much to erase, both in pixels.
        seed: Random seed, two integers, shape [2].
        epoch: How often the images were seen before, an integer scalar.

    Returns:
        float32 [N, H, W, C]. What is moved in from outside repeats the border.
    """
    size, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.unstack(tf.random.stateless_uniform([4, size], seed))
    if recipe.flip or recipe.shift:
        # One gather moves every image its own way, much faster than image by image.
        rows, columns = tf.range(height)[tf.newaxis], tf.range(width)[tf.newaxis]
        if recipe.flip:
            mirrored = _mirrored(images, epoch)[:, tf.newaxis]
            columns = tf.where(mirrored, width - 1 - columns, columns)
        if recipe.shift:
            rows += _offsets(draws[0], recipe.shift)
            columns += _offsets(draws[1], recipe.shift)
        rows = tf.broadcast_to(tf.clip_by_value(rows, 0, height - 1), [size, height])
        columns = tf.broadcast_to(tf.clip_by_value(columns, 0, width - 1), [size, width])
        first = tf.range(size)[:, tf.newaxis] * height
        pixels = (first + rows)[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]
        images = tf.gather(tf.reshape(images, [-1, images.shape[3]]), pixels)
    if recipe.erase:
        covered_rows = _covered(draws[2], height, recipe.erase)[:, :, tf.newaxis, tf.newaxis]
        covered_columns = _covered(draws[3], width, recipe.erase)[:, tf.newaxis, :, tf.newaxis]
        images = tf.where(covered_rows & covered_columns, _ERASED, images)
    return images


def _mirrored(images: Any, epoch: Any) -> Any:
    """Return which images this epoch mirrors, bool [N]: half of them, and the next one the others.

    At random, some would be seen four times in a row the same way round. Which half one belongs to
    follows from its pixels, so that nothing needs to be kept for each image.
    """
    weights = tf.random.stateless_uniform(images.shape[1:], (0, 0), None, None, tf.int32)
    hashes = tf.reduce_sum(tf.bitcast(images, tf.int32) * weights, axis=[1, 2, 3])
    return tf.math.logical_xor(hashes < 0, epoch % 2 == 1)


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
