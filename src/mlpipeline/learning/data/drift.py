"""Drift: whether what a model is asked, and what it says, is still like its validation split.

Four figures of an image are compared, none of which needs a label: the class that was predicted,
how sure the model was, and the mean and the contrast of the pixels. A fifth is there where people
have corrected answers. Each comparison has a probability that chance alone makes so much of a
difference, and all together raise a false alarm as seldom as one is told to. What is no chance but
small is no alarm either: of many thousand images any difference is significant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.data import statistics

LEAST = 20
"""The fewest images that anything is said about."""

MATTERS = 0.1
"""How large a difference must be, of any of the four: below it, populations count as stable."""

MORE_WRONG = 0.02
"""How many more of the answers must be wrong than on the validation split: two in a hundred."""

_BINS = 10  # of confidence
_DRAWS = 4_999
_HELD = 1 << 20  # counts of draws at a time
_TERMS = 100


class Sample(NamedTuple):
    """What is compared of some images, each array `[N]`.

    Attributes:
        predicted: The most probable class, int64.
        confidence: Its probability, 0 to 1.
        mean: The mean of the pixels, 0 to 1.
        contrast: Their standard deviation, 0 to 0.5.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    mean: NDArray[np.float64]
    contrast: NDArray[np.float64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Sample:
        """Return what is compared of images, given what the model says of them.

        Args:
            images: uint8 `[N, H, W]` or `[N, H, W, C]`.
            probabilities: float32 `[N, classes]`.
        """
        pixels = statistics.measure(images)
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(np.float64)
        return cls(predicted, confidence, pixels.mean, pixels.contrast)

    @classmethod
    def joined(cls, samples: list[Sample]) -> Sample:
        """Return several as one."""
        return cls(*(np.concatenate(each) for each in zip(*samples, strict=True)))

    def rows(self, places: NDArray[np.int64] | slice) -> Sample:
        """Return some rows of it."""
        return Sample(
            self.predicted[places],
            self.confidence[places],
            self.mean[places],
            self.contrast[places],
        )


class Difference(NamedTuple):
    """How much one figure differs.

    Attributes:
        what: The figure.
        measure: How it was compared.
        value: How large the difference is.
        limit: Below which it is no drift, however sure.
        chance: The probability that chance alone makes one so large.
        is_drift: Whether it is too large for both.
    """

    what: str
    measure: str
    value: float
    limit: float
    chance: float
    is_drift: bool


class Corrected(NamedTuple):
    """What people have said of the answers.

    Attributes:
        labelled: How many of the images have a label by now.
        wrong: How many of those were answered by another class.
        expected: The share of wrong answers on the validation split.
    """

    labelled: int
    wrong: int
    expected: float


def compare(
    reference: Sample,
    asked: Sample,
    *,
    classes: int,
    false_alarms: float,
    corrected: Corrected | None = None,
) -> list[Difference]:
    """Compare what a model was asked with what it was validated by.

    Args:
        reference: Its validation split.
        asked: What it was asked; `LEAST` images at least.
        classes: How many classes there are.
        false_alarms: How often anything is called drift where there is none: 0.01 is once in a
            hundred comparisons, at most.
        corrected: What people have said of the answers to `asked`; None where nobody has. Those
            that nobody has labelled count as right: people correct what is wrong.
    """
    psi, ks = "population stability index", "Kolmogorov-Smirnov distance"
    bounds = _quantiles(np.concatenate([reference.confidence, asked.confidence]))
    bins = len(bounds) + 1
    found = [
        (
            "predicted classes",
            psi,
            *stability(_counts(reference.predicted, classes), _counts(asked.predicted, classes)),
        ),
        (
            "confidence",
            psi,
            *stability(
                _counts(np.searchsorted(bounds, reference.confidence), bins),
                _counts(np.searchsorted(bounds, asked.confidence), bins),
            ),
        ),
        ("mean of pixels", ks, *_distance(reference.mean, asked.mean)),
        ("contrast of pixels", ks, *_distance(reference.contrast, asked.contrast)),
    ]
    limits = [MATTERS] * len(found)
    if corrected and corrected.labelled:
        images = len(asked.predicted)
        chance = _tail(corrected.wrong, images, corrected.expected)
        share = corrected.wrong / images
        found.append(("answers known to be wrong", "share of the images", share, chance))
        limits.append(corrected.expected + MORE_WRONG)
    most = false_alarms / len(found)  # Bonferroni: any of them raises the alarm
    return [
        Difference(what, measure, value, limit, chance, chance <= most and value >= limit)
        for (what, measure, value, chance), limit in zip(found, limits, strict=True)
    ]


def _tail(count: int, trials: int, share: float) -> float:
    """Return the chance of `count` or more of so many trials, each with the same share."""
    if count == 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    terms = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(share)
        + (trials - k) * math.log1p(-share)
        for k in range(count, trials + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what cuts values into parts of equal size: fewer where many values are the same.

    Of both samples together, or cutting itself would tell them apart.
    """
    bounds: NDArray[np.float64] = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return bounds


def _counts(places: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    return np.bincount(places, minlength=bins)


def stability(reference: NDArray[np.int64], asked: NDArray[np.int64]) -> tuple[float, float]:
    """Return the population stability index of two counts, and how likely chance makes it so large.

    Where both are samples of one population, any part of all images might have been the second one:
    many such parts are drawn, and their indices compared.

    Args:
        reference: How many there are of each kind, int64 `[K]`.
        asked: The same of those that are compared with them.
    """
    both = reference + asked
    random = np.random.default_rng(0)  # the same question has the same answer
    value, as_large = index(reference, asked), 0
    most = max(1, _HELD // len(both))
    for count in [most] * (_DRAWS // most) + [_DRAWS % most]:
        draws = random.multivariate_hypergeometric(both, asked.sum(), count, method="marginals")
        as_large += int((index(both - draws, draws) >= value - 1e-9).sum())
    return float(value), (as_large + 1) / (_DRAWS + 1)


def index(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the population stability index; half an image is added to each count, for none.

    Args:
        first: How many there are of each kind, int64 `[..., K]`.
        second: The same of those that are compared with them.
    """
    p, q = ((each + 0.5) / (each + 0.5).sum(axis=-1, keepdims=True) for each in (first, second))
    indices: NDArray[np.float64] = ((q - p) * np.log(q / p)).sum(axis=-1)
    return indices


def _distance(reference: NDArray[np.float64], asked: NDArray[np.float64]) -> tuple[float, float]:
    """Return the largest distance of two distribution functions, and the chance of one so large."""
    values = np.concatenate([reference, asked])
    shares = [
        np.searchsorted(np.sort(each), values, side="right") / len(each)
        for each in (reference, asked)
    ]
    return _with_chance(shares, len(reference), len(asked))


def distance(reference: NDArray[np.int64], asked: NDArray[np.int64]) -> tuple[float, float]:
    """Return the largest distance of two distribution functions, and the chance of one so large.

    What is known of the values is how many are in each bin, so it is that at the bins' bounds.

    Args:
        reference: How many are in each bin, int64 `[B]`.
        asked: The same of those that are compared with them.
    """
    shares = [np.cumsum(each) / each.sum() for each in (reference, asked)]
    return _with_chance(shares, int(reference.sum()), int(asked.sum()))


def _with_chance(
    shares: Sequence[NDArray[np.float64]], reference: int, asked: int
) -> tuple[float, float]:
    """Return the largest distance of two distribution functions of so many values each.

    See Press et al., Numerical Recipes, 14.3; values that are equal make the chance of one so large
    larger than it is.
    """
    value = float(np.abs(shares[0] - shares[1]).max())
    size = math.sqrt(reference * asked / (reference + asked))
    scaled = (size + 0.12 + 0.11 / size) * value
    if scaled < 0.2:  # the series below does not converge there, and the chance is 1
        return value, 1.0
    signs = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, _TERMS))
    return value, min(1.0, max(0.0, sum(signs)))
