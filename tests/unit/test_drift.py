"""Drift: shifts are found, chance is not called one, and what cannot be compared is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlpipeline.learning.data import drift
from mlpipeline.learning.data.drift import Corrected, Sample

RANDOM = np.random.default_rng(0)


def population(
    count: int, *, mean: float = 0.4, classes: tuple[float, ...] = (0.5, 0.3, 0.2)
) -> Sample:
    """Draw images of a made-up kind."""
    return Sample(
        RANDOM.choice(len(classes), count, p=classes),
        RANDOM.beta(8, 2, count),
        RANDOM.normal(mean, 0.1, count),
        RANDOM.normal(0.2, 0.05, count),
    )


def drifted(reference: Sample, asked: Sample, false_alarms: float = 0.01) -> list[str]:
    found = drift.compare(reference, asked, classes=3, false_alarms=false_alarms)
    return [each.what for each in found if each.is_drift]


@pytest.mark.parametrize("count", [drift.LEAST, 200, 2_000])
def test_of_one_population_there_are_no_more_alarms_than_one_is_told(count: int) -> None:
    reference, looks = population(2_000), 60
    alarms = sum(bool(drifted(reference, population(count), 0.05)) for _ in range(looks))
    assert alarms <= 9  # 3 are expected; more than 9 come by chance once in a thousand times


def test_what_chance_makes_is_told_as_it_is() -> None:
    """Without a limit of size, so many looks are called drift as the level says."""
    reference = population(5_000)
    chances = [
        drift.compare(reference, population(300), classes=3, false_alarms=0.01) for _ in range(100)
    ]
    for place in range(4):
        low = np.mean([found[place].chance <= 0.2 for found in chances])
        assert 0.06 <= low <= 0.36, chances[0][place].what  # 0.2, and what chance makes of 100


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (lambda: population(400, classes=(0.2, 0.3, 0.5)), ["predicted classes"]),
        (lambda: population(400, mean=0.5), ["mean of pixels"]),
        (lambda: population(400)._replace(confidence=RANDOM.beta(3, 3, 400)), ["confidence"]),
        (
            lambda: population(400)._replace(contrast=RANDOM.normal(0.1, 0.05, 400)),
            ["contrast of pixels"],
        ),
    ],
    ids=["classes", "mean", "confidence", "contrast"],
)
def test_each_figure_that_differs_is_named_and_no_other(
    asked: Callable[[], Sample], expected: list[str]
) -> None:
    assert drifted(population(2_000), asked()) == expected


def test_what_is_no_chance_but_small_is_no_alarm() -> None:
    reference, asked = population(20_000), population(20_000, mean=0.41)
    (difference,) = (
        each
        for each in drift.compare(reference, asked, classes=3, false_alarms=0.01)
        if each.what == "mean of pixels"
    )
    assert difference.chance < 0.001
    assert 0.02 < difference.value < drift.MATTERS
    assert not difference.is_drift


def test_a_class_that_nobody_had_and_values_that_are_all_the_same_are_compared() -> None:
    same = Sample(np.zeros(50, np.int64), np.ones(50), np.ones(50), np.zeros(50))
    assert drifted(same, same) == []
    other = same._replace(predicted=np.full(50, 2), confidence=np.full(50, 0.5), mean=np.zeros(50))
    assert drifted(same, other) == ["predicted classes", "confidence", "mean of pixels"]


@pytest.mark.parametrize(
    ("corrected", "expected"),
    [
        (None, None),
        (Corrected(labelled=0, wrong=0, expected=0.1), None),
        (Corrected(labelled=30, wrong=0, expected=0.1), False),
        (Corrected(labelled=40, wrong=40, expected=0.1), False),  # as many as are expected
        (Corrected(labelled=56, wrong=56, expected=0.1), False),  # more, and maybe by chance
        (Corrected(labelled=70, wrong=70, expected=0.1), True),
        (Corrected(labelled=400, wrong=400, expected=1.0), False),
        (Corrected(labelled=400, wrong=1, expected=0.0), False),  # no chance, but small
        (Corrected(labelled=400, wrong=9, expected=0.0), True),
    ],
)
def test_answers_that_are_known_to_be_wrong_are_drift_where_they_are_too_many(
    corrected: Corrected | None, expected: bool | None
) -> None:
    reference, asked = population(2_000), population(400)
    found = drift.compare(reference, asked, classes=3, false_alarms=0.01, corrected=corrected)
    said = {each.what: each.is_drift for each in found}
    assert said.get("answers known to be wrong") == expected


def test_a_tail_of_the_binomial_distribution_is_the_textbooks() -> None:
    assert drift._tail(8, 10, 0.5) == pytest.approx((45 + 10 + 1) / 1024)
    assert drift._tail(1, 3, 0.2) == pytest.approx(1 - 0.8**3)
    assert drift._tail(900, 100_000, 0.01) == pytest.approx(0.9993, abs=0.0005)


def test_the_distance_is_the_textbooks() -> None:
    value, chance = drift._distance(np.arange(10.0), np.arange(10.0) + 4.5)
    assert value == pytest.approx(0.5)
    assert chance == pytest.approx(0.11, abs=0.02)  # SciPy's exact one is 0.168, its own 0.111


def test_the_index_is_the_textbooks() -> None:
    value, _ = drift.stability(np.array([5_000, 5_000]), np.array([700, 300]))
    assert value == pytest.approx(0.2 * np.log(1.4) + -0.2 * np.log(0.6), rel=0.01)


def test_many_classes_are_drawn_a_part_at_a_time_with_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = np.array([50, 60, 70]), np.array([12, 9, 20])
    whole = drift.stability(*counts)
    monkeypatch.setattr(drift, "_HELD", 100)
    assert drift.stability(*counts) == whole
    monkeypatch.setattr(drift, "_HELD", 1)
    assert drift.stability(*counts) == whole


def test_values_that_were_counted_differ_as_they_did() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 9, 500), random.integers(1, 10, 80)
    counts = np.bincount(first, minlength=10), np.bincount(second, minlength=10)
    assert drift.distance(*counts) == drift._distance(first.astype(float), second.astype(float))


def test_images_and_probabilities_become_what_is_compared() -> None:
    images = np.stack([np.zeros((2, 2)), np.full((2, 2), 255)]).astype(np.uint8)
    sample = Sample.of(images, np.array([[0.9, 0.1], [0.3, 0.7]], np.float32))
    assert sample.predicted.tolist() == [0, 1]
    np.testing.assert_allclose(sample.confidence, [0.9, 0.7], atol=1e-6)
    assert sample.mean.tolist() == [0, 1]
    assert sample.contrast.tolist() == [0, 0]
