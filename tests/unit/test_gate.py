"""The gate's rule: what may take the place of the current version, and what is said of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlpipeline.plan import gate
from mlpipeline.plan.config import Gate
from mlpipeline.plan.gate import Current, Figures, Validation, is_more_than_chance, judge
from mlpipeline.store.schemas.gate import Forced, GateTable

IMAGES = Validation(("shirt", "coat"), (500, 500))
FORCED = Forced(who="ann@laptop", reason="the old one is biased")
COMPARED: dict[str, Any] = {"worse_by": 0.01, "class_worse_by": 0.1}


def _figures(shirts: int = 450, coats: int = 450, **others: Any) -> Figures:
    figures: dict[str, Any] = {"hits": (shirts, coats), "milliseconds": 0.2, "bytes": 500_000}
    return Figures(**figures | others)


def _judge(
    settings: dict[str, Any],
    new: Figures,
    current: Current | Figures | None = None,
    forced: Forced | None = None,
) -> GateTable:
    if isinstance(current, Figures):
        current = Current("shirts-1", current)
    return judge(Gate(**settings), "shirts-2", new, IMAGES, current or Current(), forced)


@pytest.mark.parametrize("is_required", [False, True])
@pytest.mark.parametrize(
    ("settings", "new", "fault"),
    [
        (COMPARED, _figures(), ""),
        (COMPARED, _figures(500, 500), ""),
        (COMPARED, _figures(445, 445), ""),  # by a point, which is a little more as a float
        (
            COMPARED,
            _figures(445, 444),
            "accuracy 88.90%, at least 89.00% must be (current: 90.00%)",
        ),
        ({"worse_by": 0.0}, _figures(450, 449), "accuracy 89.90%, at least 90.00%"),
        ({"worse_by": 0.0}, _figures(450, 450), ""),
        (COMPARED, _figures(400, 500), ""),  # by ten points
        (
            COMPARED,
            _figures(399, 500),
            "class shirt 79.80%, at least 80.00% must be (current: 90.00%)",
        ),
        ({"worse_by": 0.01}, _figures(399, 501 - 1), ""),  # nobody asks for each class
        ({"class_worse_by": 0.1}, _figures(405, 405), ""),  # nor for all of them
        ({"minimum": 0.9}, _figures(), ""),
        ({"minimum": 0.95}, _figures(), "accuracy 90.00%, at least 95.00% must be"),
        (COMPARED | {"minimum": 0.95}, _figures(), "at least 95.00% must be (current: 90.00%)"),
        (COMPARED | {"minimum": 0.5}, _figures(440, 440), "at least 89.00% must be"),
        ({"milliseconds": 0.2}, _figures(), ""),
        (
            {"milliseconds": 0.2},
            _figures(milliseconds=0.21),
            "time of an image 0.210 ms, at most 0.200 ms must be",
        ),
        ({"bytes": 500_000}, _figures(), ""),
        (
            {"bytes": 500_000},
            _figures(bytes=500_001),
            "size 500,001 bytes, at most 500,000 bytes must be",
        ),
    ],
)
def test_what_is_worse_than_allowed_is_held_back_and_said(
    settings: dict[str, Any], new: Figures, fault: str, is_required: bool
) -> None:
    table = _judge(settings | {"required": is_required}, new, _figures())
    held = "refused" if is_required else "kept"
    assert table.verdict == (held if fault else "passed")
    assert fault in table.reason
    assert len(table.faults) == bool(fault)
    assert bool(table.faults) == any(not check.passed for check in table.checks)
    assert table.kept == ("kept shirts-1" if fault else "")


def test_every_fault_is_said_not_the_first_alone() -> None:
    settings = COMPARED | {"milliseconds": 0.1, "bytes": 1000}
    table = _judge(settings, _figures(300, 300), _figures())
    assert [fault.split(",")[0] for fault in table.faults] == [
        "accuracy 60.00%",
        "class shirt 60.00%",
        "class coat 60.00%",
        "time of an image 0.200 ms",
        "size 500",
    ]
    assert table.reason == "; ".join([*table.faults[:2], "and 3 more"]), "of which the line has two"
    two = _judge(COMPARED, _figures(399, 480), _figures())
    assert two.reason == "; ".join(two.faults)


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        (COMPARED, "passed"),
        (COMPARED | {"minimum": 0.89}, "passed"),
        (COMPARED | {"minimum": 0.91}, "kept"),
        (COMPARED | {"milliseconds": 0.1}, "kept"),
        (COMPARED | {"bytes": 10}, "kept"),
    ],
)
def test_the_first_version_is_compared_with_nothing_and_has_to_meet_the_limits(
    settings: dict[str, Any], verdict: str
) -> None:
    table = _judge(settings, _figures())
    assert table.verdict == verdict
    assert all(check.current is None for check in table.checks)
    assert table.kept == ("" if verdict == "passed" else "kept nothing, as before")


@pytest.mark.parametrize("incomparable", ["hold", "serve"])
def test_another_kind_of_model_is_held_back_unless_the_configuration_lets_it_pass(
    incomparable: str,
) -> None:
    other = Current("shirts-1", not_compared="version shirts-1 has other classes", is_other=True)
    table = _judge(COMPARED | {"incomparable": incomparable}, _figures(), other)
    assert table.verdict == ("kept" if incomparable == "hold" else "passed")
    assert table.not_compared == "version shirts-1 has other classes"
    assert ("other classes" in table.reason) == (incomparable == "hold")
    assert _judge({"minimum": 0.5}, _figures(), other).verdict == "passed", "nobody compares"


@pytest.mark.parametrize("incomparable", ["hold", "serve"])
def test_a_damaged_version_holds_nothing_back_but_the_limits_do(incomparable: str) -> None:
    damaged = Current("shirts-1", not_compared="it cannot be evaluated: a file is missing")
    settings = COMPARED | {"incomparable": incomparable}
    table = _judge(settings, _figures(), damaged)
    assert (table.verdict, table.not_compared) == ("passed", damaged.not_compared)
    assert _judge(settings | {"minimum": 0.99}, _figures(), damaged).verdict == "kept"


@pytest.mark.parametrize("is_required", [False, True])
def test_by_force_it_passes_and_who_and_why_is_kept_with_what_is_against_it(
    is_required: bool,
) -> None:
    settings = COMPARED | {"required": is_required}
    table = _judge(settings, _figures(300, 300), _figures(), FORCED)
    assert (table.verdict, table.forced, table.kept) == ("passed", FORCED, "")
    assert table.faults
    assert table.reason.startswith("forced by ann@laptop, because the old one is biased; ")
    unneeded = _judge(settings, _figures(), _figures(), FORCED)
    assert (unneeded.verdict, unneeded.forced) == ("passed", None), "no force was needed"


@pytest.mark.parametrize(
    ("images", "before", "now", "expected"),
    [
        (1, 1, 0, False),
        (2, 2, 0, False),
        (4, 4, 0, True),
        (10, 9, 7, False),
        (10, 10, 5, True),
        (500, 450, 425, True),
        (500, 450, 440, False),
        (500, 450, 450, False),
        (500, 450, 500, False),
        (500, 0, 0, False),
        (500, 500, 500, False),
    ],
)
def test_a_few_images_of_a_class_are_no_evidence(
    images: int, before: int, now: int, expected: bool
) -> None:
    assert is_more_than_chance(before, now, images) is expected
    validation = Validation(("rare", "other"), (images, 10_000))
    table = judge(
        Gate(class_worse_by=0.0),
        "shirts-2",
        Figures((now, 9_000), 0.1, 1),
        validation,
        Current("shirts-1", Figures((before, 9_000), 0.1, 1)),
    )
    assert (table.verdict == "kept") is expected


def test_a_class_without_images_is_left_out() -> None:
    validation = Validation(("shirt", "none"), (500, 0))
    figures = Figures((450, 0), 0.1, 1)
    table = judge(Gate(**COMPARED), "b", figures, validation, Current("a", figures))
    assert [check.what for check in table.checks] == [
        *("accuracy", "class shirt", "time of an image", "size")
    ]
    assert (table.verdict, table.images) == ("passed", 500)


def test_of_many_classes_those_that_lost_the_most_are_in_the_table_and_each_counts() -> None:
    count = 100
    validation = Validation(tuple(f"c{n}" for n in range(count)), (100,) * count)
    before = Figures((90,) * count, 0.1, 1)
    hits = [90] * count
    hits[70], hits[30], hits[99] = 40, 60, 85
    table = judge(
        Gate(class_worse_by=0.1),
        "b",
        Figures(tuple(hits), 0.1, 1),
        validation,
        Current("a", before),
    )
    shown = [check.what for check in table.checks if check.what.startswith("class")]
    assert len(shown) == gate.CLASSES_SHOWN
    assert shown[:3] == ["class c70", "class c30", "class c99"]
    assert [fault.split(" ")[1] for fault in table.faults] == ["c70", "c30"]


def test_whatever_is_found_a_verdict_follows_from_the_faults_alone() -> None:
    """Every combination of a comparison, a limit, a requirement and a force."""
    hits = (_figures(), _figures(440, 440), _figures(350, 500))
    for new, minimum, is_required, forced, current in itertools.product(
        hits, (None, 0.89, 0.99), (False, True), (None, FORCED), (None, _figures())
    ):
        settings = COMPARED | {"minimum": minimum, "required": is_required}
        table = _judge(settings, new, current, forced)
        accuracy = sum(new.hits) / 1000
        is_worse = current is not None and new is not hits[0]
        is_below = minimum is not None and accuracy < minimum
        held = "refused" if is_required else "kept"
        is_held = (is_worse or is_below) and not forced
        assert table.verdict == (held if is_held else "passed")
        assert bool(table.faults) == (is_worse or is_below)
        assert bool(table.forced) == bool(table.faults and forced)
        assert GateTable.parse(table.content(), origin="") == table


def test_nothing_is_asked_for_unless_the_configuration_does() -> None:
    assert not Gate().asks
    assert not Gate(required=True, incomparable="serve").asks
    for name in ("worse_by", "class_worse_by", "minimum", "milliseconds"):
        asking = Gate.model_validate({name: 0.5})
        assert asking.asks
        assert asking.compares == name.endswith("worse_by")
    assert Gate(bytes=1).asks
    table = gate.waved_through("b", "a", gate.NOTHING_ASKED)
    assert (table.verdict, table.summary) == ("passed", "passed: `gate:` asks for nothing")


def test_a_refusal_says_why_and_how_to_serve_it_all_the_same() -> None:
    table = _judge(COMPARED | {"required": True}, _figures(300, 300), _figures())
    error = str(gate.refusal(table))
    assert "version shirts-2 is held back: accuracy 60.00%" in error
    assert "by force" in error
