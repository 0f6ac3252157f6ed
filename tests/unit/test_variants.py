"""The gate of 8-bit integers: what may be served, and what is."""

from __future__ import annotations

from typing import Any

import pytest

from mlpipeline.plan.config import Precision
from mlpipeline.plan.variants import choose
from mlpipeline.store.schemas.selection import Variant

EXACT = Variant(
    name="float32",
    bytes=500,
    milliseconds=0.2,
    batch_milliseconds=12.0,
    validation_accuracy=0.9344,
    agreement=1.0,
)


def _int8(**others: Any) -> Variant:
    figures = {
        "name": "int8-full",
        "bytes": 130,
        "milliseconds": 0.1,
        "batch_milliseconds": 6.0,
        "validation_accuracy": 0.9340,
        "agreement": 0.996,
    }
    return Variant.model_validate(figures | others)


@pytest.mark.parametrize("precision", ["int8", "auto"])
@pytest.mark.parametrize(
    ("figures", "refused"),
    [
        ({}, ""),
        ({"validation_accuracy": 0.9334}, ""),  # by 0.1 points, in floating point a little more
        ({"validation_accuracy": 0.95}, ""),
        ({"agreement": 0.99}, ""),
        ({"validation_accuracy": 0.9333}, "validation accuracy 0.11 points lower, 0.1 may be"),
        ({"agreement": 0.9899}, "98.99% the same classes, 99% must be"),
        ({"agreement": 0.5, "validation_accuracy": 0.5}, "43.44 points lower, 0.1 may be; 50.00%"),
    ],
)
def test_8_bits_may_not_be_wrong_more_often(
    precision: Precision, figures: dict[str, float], refused: str
) -> None:
    served = choose(EXACT, [_int8(**figures)], precision)
    assert served.variant == ("float32" if refused else "int8-full")
    assert refused in served.variants[1].refused
    assert bool(served.variants[1].refused) == bool(refused)


@pytest.mark.parametrize(
    "figures", [{"milliseconds": 0.2}, {"milliseconds": 0.191}, {"batch_milliseconds": 12.5}]
)
def test_where_8_bits_are_not_faster_they_are_served_only_if_asked_for(
    figures: dict[str, float],
) -> None:
    assert choose(EXACT, [_int8(**figures)], "int8").variant == "int8-full"
    served = choose(EXACT, [_int8(**figures)], "auto")
    assert served.variant == "float32"
    assert "not faster here" in served.variants[1].refused
    assert served.reason == "no variant of 8-bit integers is fit"


def test_of_those_that_are_fit_the_one_that_agrees_most_is_served() -> None:
    quicker = _int8(name="int8-dynamic", milliseconds=0.05, agreement=0.995)
    served = choose(EXACT, [quicker, _int8()], "auto")
    assert (served.engine, served.variant) == ("litert", "int8-full")
    assert served.reason == "50% of float32's time, 99.60% the same classes"
    assert served.variants == (EXACT, quicker, _int8())
    wrong = _int8(validation_accuracy=0.9)
    assert choose(EXACT, [quicker, wrong], "auto").variant == "int8-dynamic"


def test_one_that_could_not_be_made_is_kept_with_its_reason() -> None:
    missing = Variant(name="int8-full", refused="cannot be made: it is odd")
    served = choose(EXACT, [missing], "int8")
    assert (served.variant, served.variants) == ("float32", (EXACT, missing))


def test_alone_float32_is_served_as_configured() -> None:
    served = choose(EXACT, [], "float32")
    assert (served.variant, served.reason) == ("float32", "as configured")
    assert served.variants == (EXACT,)
