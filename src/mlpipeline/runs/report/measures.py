"""Figures about a classifier's predictions, computed from labels and probabilities alone.

They are a few lines of NumPy each: scikit-learn and statsmodels have them too, but would be two
large libraries for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964  # 97.5 % quantile of the normal distribution: an interval of 95 %


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is recognized.

    Attributes:
        index: The class.
        images: The number of its images in the split.
        precision: The share of right ones among those predicted to be of it; None where it was
            never predicted.
        recall: The share of its images that are recognized; None where the split holds none.
        f1: The harmonic mean of both; None where neither is known.
    """

    index: int
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another.

    Attributes:
        label: The true class.
        predicted: The predicted class.
        images: The number of these images.
        share: Their share of all images of the true class, 0 to 1.
    """

    label: int
    predicted: int
    images: int
    share: float


@dataclass(frozen=True)
class Bin:
    """Images that the model was about equally sure of.

    Attributes:
        confidence: The mean probability of the predicted class.
        accuracy: The share of images that were predicted right.
        interval: The 95 % Wilson score interval of that share.
        images: The number of images.
    """

    confidence: float
    accuracy: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True)
class Calibration:
    """Whether the model is right as often as it is sure.

    Attributes:
        bins: The images by how sure the model was; empty bins are left out.
        error: The expected calibration error: the mean distance of confidence and accuracy over all
            images (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        confidence: The mean probability of the predicted class over all images.
        accuracy: The share of all images that were predicted right.
    """

    bins: Sequence[Bin]
    error: float
    confidence: float
    accuracy: float


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share.

    Unlike the normal approximation it is right near 0 and 1 and for few images. It always holds
    the share itself. (Wilson 1927, https://doi.org/10.2307/2276774.)

    Args:
        hits: The number of hits.
        total: The number of trials, at least one.
    """
    share, z2 = hits / total, _Z**2 / total
    centre = (share + z2 / 2) / (1 + z2)
    half_width = _Z / (1 + z2) * sqrt(share * (1 - share) / total + z2 / (4 * total))
    # Where all or none are right, one end is the share but for a last digit.
    return max(0.0, min(share, centre - half_width)), min(1.0, max(share, centre + half_width))


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count images by true class (row) and predicted class (column).

    Args:
        labels: The true classes: int64 `[images]`.
        predicted: The predicted classes: int64 `[images]`.
        classes: The number of classes.

    Returns:
        int64 `[classes, classes]`.
    """
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def per_class(matrix: NDArray[np.int64]) -> list[ClassFigures]:
    """Return every class's figures, the weakest class first.

    Args:
        matrix: A confusion matrix, as `confusion_matrix` returns it.
    """
    rows = []
    for index in range(len(matrix)):
        hits, images = int(matrix[index, index]), int(matrix[index].sum())
        predicted = int(matrix[:, index].sum())
        rows.append(
            ClassFigures(
                index,
                images,
                precision=hits / predicted if predicted else None,
                recall=hits / images if images else None,
                f1=2 * hits / (images + predicted) if images + predicted else None,
            )
        )
    return sorted(rows, key=lambda row: (1.0 if row.f1 is None else row.f1, row.index))


def coarse(matrix: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Join neighbouring classes, so that at most `most` groups of them remain.

    Args:
        matrix: A confusion matrix, as `confusion_matrix` returns it.
        most: How many groups there may be.

    Returns:
        The counts of images by true and predicted group: int64 `[groups, groups]`.
    """
    starts = np.arange(0, len(matrix), -(-len(matrix) // most))
    by_row: NDArray[np.int64] = np.add.reduceat(matrix, starts, axis=0)
    return np.add.reduceat(by_row, starts, axis=1)


def confusions(matrix: NDArray[np.int64], *, most: int = 8) -> list[Confusion]:
    """Return the most frequent mistakes, by ordered pair of classes.

    Args:
        matrix: A confusion matrix, as `confusion_matrix` returns it.
        most: How many to return at most.
    """
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(cell), len(matrix)) for cell in order]
    return [
        Confusion(label, predicted, int(count), float(count / matrix[label].sum()))
        for label, predicted in pairs
        if (count := wrong[label, predicted])
    ]


def calibrate(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], *, bins: int = 10
) -> Calibration:
    """Compare how sure the model was with how often it was right, in bins of equal width.

    Args:
        probabilities: The probability of each class: float32 `[images, classes]`.
        labels: The true classes: int64 `[images]`.
        bins: The number of bins.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = [
        Bin(
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
            interval=wilson_interval(int(right[inside].sum()), int(inside.sum())),
            images=int(inside.sum()),
        )
        for inside in (places == i for i in range(bins))
        if inside.any()
    ]
    distance = sum(b.images * abs(b.accuracy - b.confidence) for b in filled)
    return Calibration(
        filled, distance / len(labels), float(confidence.mean()), float(right.mean())
    )
