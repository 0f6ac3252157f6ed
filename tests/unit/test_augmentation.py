"""Augmentation: random views that are the same for the same seed, and no wilder than asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.learning.model.augmentation import augment
from mlpipeline.learning.model.export import preprocess
from mlpipeline.plan.config import Recipe

COUNT, HEIGHT, WIDTH = 64, 9, 7
# Every pixel of an image has another value, so that each can be found again; none is grey.
NUMBERS = 1 + np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH, 1)
IMAGES = np.repeat(NUMBERS[np.newaxis], COUNT, axis=0)


def _augmented(seed: tuple[int, int] = (1, 2), **recipe: Any) -> NDArray[np.float32]:
    views: NDArray[np.float32] = augment(tf.constant(IMAGES), Recipe(**recipe), seed, 0).numpy()
    return views


def _shifted(down: int, right: int) -> NDArray[np.float32]:
    """The image moved so far, its border repeated into what is free."""
    rows = np.clip(np.arange(HEIGHT) - down, 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) - right, 0, WIDTH - 1)
    return NUMBERS[rows][:, columns]


ALL: dict[str, Any] = {"flip": True, "shift": 2, "erase": 3}


@pytest.mark.parametrize("recipe", [{}, {"flip": True}, {"shift": 2}, {"erase": 3}, ALL], ids=str)
def test_shape_and_type_stay(recipe: dict[str, Any]) -> None:
    views = _augmented(**recipe)
    assert views.shape == IMAGES.shape
    assert views.dtype == np.float32


def test_nothing_asked_is_nothing_done() -> None:
    np.testing.assert_array_equal(_augmented(), IMAGES)


@pytest.mark.parametrize("recipe", [{"shift": 2}, {"erase": 3}, ALL], ids=str)
def test_the_same_seed_gives_the_same_views_and_another_one_others(recipe: dict[str, Any]) -> None:
    first = _augmented((1, 2), **recipe)
    np.testing.assert_array_equal(first, _augmented((1, 2), **recipe))
    assert (first != _augmented((1, 3), **recipe)).any()
    assert (first != _augmented((2, 2), **recipe)).any()


def test_views_are_the_same_within_a_graph() -> None:
    compiled = tf.function(lambda images, seed: augment(images, Recipe(**ALL), seed, 0))
    views = compiled(tf.constant(IMAGES), tf.constant([1, 2]))
    np.testing.assert_array_equal(views, _augmented((1, 2), **ALL))


def test_images_of_a_batch_are_drawn_each_by_itself() -> None:
    assert len({view.tobytes() for view in _augmented(**ALL)}) > COUNT // 2


@pytest.mark.parametrize("levels", [(0, 255), (0, 2, 4, 254), tuple(range(256))], ids=len)
def test_a_flip_mirrors_half_of_the_images_and_in_the_next_epoch_the_others(
    levels: tuple[int, ...],
) -> None:
    drawn = np.random.default_rng(3).choice(levels, (COUNT, HEIGHT, WIDTH, 1))
    images = preprocess(tf.constant(drawn, tf.uint8)).numpy()
    mirrored = []
    for epoch, seed in enumerate([(1, 2), (1, 3), (1, 4)]):
        views = augment(tf.constant(images), Recipe(flip=True), seed, tf.constant(epoch)).numpy()
        mirrored.append((views == images[:, :, ::-1]).all(axis=(1, 2, 3)))
        assert (views[~mirrored[-1]] == images[~mirrored[-1]]).all()
    assert 16 <= mirrored[0].sum() <= 48  # of 40,000 seeds of the images one falls outside
    np.testing.assert_array_equal(mirrored[1], ~mirrored[0])
    np.testing.assert_array_equal(mirrored[2], mirrored[0])


@pytest.mark.parametrize("limit", [1, 2])
def test_a_shift_moves_up_to_the_limit_in_each_direction_and_repeats_the_border(limit: int) -> None:
    steps = range(-limit, limit + 1)
    expected = {_shifted(down, right).tobytes() for down in steps for right in steps}
    views = {
        view.tobytes()
        for view in np.concatenate([_augmented((n, 0), shift=limit) for n in range(6)])
    }
    assert views == expected


def test_an_erasure_covers_one_square_of_at_most_the_size_with_grey() -> None:
    side, sizes = 3, set()
    for view in _augmented(erase=side):
        erased = view[:, :, 0] != NUMBERS[:, :, 0]
        assert (view[:, :, 0][erased] == 0).all()
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert erased.sum() == height * width  # one rectangle without gaps
        assert max(height, width) <= side
        sizes.add((int(height), int(width)))
    assert (side, side) in sizes
    assert len(sizes) > 1  # cut off at the border


def test_an_erasure_reaches_every_pixel() -> None:
    views = np.concatenate([_augmented((n, 0), erase=3) for n in range(6)])
    assert (views == 0).any(axis=0).all()


def test_colours_move_together() -> None:
    colours = np.concatenate([IMAGES, 100 + IMAGES, 200 + IMAGES], axis=3)
    views = augment(tf.constant(colours), Recipe(flip=True, shift=2), (1, 2), 0).numpy()
    np.testing.assert_array_equal(views[..., 1], views[..., 0] + 100)
    np.testing.assert_array_equal(views[..., 2], views[..., 0] + 200)
