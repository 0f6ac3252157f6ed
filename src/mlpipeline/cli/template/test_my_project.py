"""What must hold of the data and of the model."""

import keras
import numpy as np

from my_project.data import CLASSES, load
from my_project.model import small


def test_every_class_is_there_as_often() -> None:
    dataset = load()
    assert np.bincount(dataset.train.labels).tolist() == [500] * len(CLASSES)
    assert np.bincount(dataset.test.labels).tolist() == [100] * len(CLASSES)


def test_the_data_is_the_same_every_time() -> None:
    assert np.array_equal(load().train.images, load().train.images)


def test_the_model_makes_features_of_an_image() -> None:
    features = small(keras.Input((24, 24, 1)), width=4)
    assert features.shape == (None, 5 * 5 * 8)
