"""What images are like: the figures, compared with NumPy's own image by image."""

from __future__ import annotations

import numpy as np
import pytest

from mlpipeline.learning.data import statistics


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (4, 4, 7)])
@pytest.mark.parametrize("values", [1, 50, 1 << 20])
def test_they_are_each_images_own(
    shape: tuple[int, ...], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_VALUES", values)
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    images[3], images[4] = 7, 255
    measured = statistics.measure(images)
    np.testing.assert_allclose(measured.mean, [image.mean() / 255 for image in images])
    np.testing.assert_allclose(
        measured.contrast, [image.std() / 255 for image in images], atol=1e-6
    )
    assert np.flatnonzero(measured.is_blank).tolist() == [3, 4]


def test_one_colour_is_blank_whatever_colour_and_almost_the_same_is_too() -> None:
    colour = np.full((3, 6, 6, 3), (200, 10, 90), np.uint8)
    colour[1, 2, 2] += 3  # as JPEG has it
    colour[2, 2, 2] += 4
    assert statistics.measure(colour).is_blank.tolist() == [True, True, False]
