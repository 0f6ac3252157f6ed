"""The rule by which a new version may take the place of the current one. It needs figures only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlpipeline.errors import GateError
from mlpipeline.plan.config import Gate
from mlpipeline.store.schemas.gate import (
    Forced,
    GateCheck,
    GateTable,
    Judgement,
    Unit,
    Verdict,
)
from mlpipeline.store.schemas.rollout import RolloutTable

NOTHING_ASKED = "`gate:` asks for nothing"
IS_CURRENT = "it is the current version"
CHANCE = 2.0
"""How many standard deviations a loss must have that is more than chance."""
CLASSES_SHOWN = 25
"""Of more classes, those are in the table that lost the most."""
_FAULTS_IN_A_LINE = 2
_ROUNDING = 1e-9  # shares are quotients


@dataclass(frozen=True)
class Figures:
    """What was measured of a version.

    Attributes:
        hits: How many images of each class it recognized, in the order of the classes.
        milliseconds: What one image takes.
        bytes: The size of the files that are served.
    """

    hits: tuple[int, ...]
    milliseconds: float
    bytes: int


@dataclass(frozen=True)
class Validation:
    """The images that both versions were measured on.

    Attributes:
        classes: The names of the classes.
        images: How many images there are of each.
    """

    classes: tuple[str, ...]
    images: tuple[int, ...]


@dataclass(frozen=True)
class Current:
    """The version that is current.

    Attributes:
        version: Its name; empty where there is none.
        figures: What was measured of it; None where it could not be.
        not_compared: Why it could not; empty where it was, or nobody asked.
        is_other: Whether it is whole, but answers something else: other classes, other images.
    """

    version: str = ""
    figures: Figures | None = None
    not_compared: str = ""
    is_other: bool = False


def waved_through(version: str, current: str, reason: str) -> GateTable:
    """Return the table of a version that needs no measuring.

    Args:
        version: The new version.
        current: The current one; empty for none.
        reason: Why: `NOTHING_ASKED` or `IS_CURRENT`.
    """
    return GateTable(version=version, current=current, verdict="passed", reason=reason)


def judge(
    settings: Gate,
    version: str,
    new: Figures,
    validation: Validation,
    current: Current,
    forced: Forced | None = None,
) -> GateTable:
    """Say whether a new version may be served in place of the current one.

    Args:
        settings: What the gate asks for.
        version: The new version.
        new: What was measured of it.
        validation: On which images.
        current: The current version, and the same of it.
        forced: Who wants it served whatever is found, if anybody does.
    """
    old = current.figures
    checks = (
        _accuracy(settings, new, validation, old),
        *_classes(settings, new, validation, old),
        _at_most(
            "time of an image",
            "ms",
            new.milliseconds,
            old.milliseconds if old else None,
            limit=settings.milliseconds,
        ),
        _at_most("size", "bytes", new.bytes, old.bytes if old else None, limit=settings.bytes),
    )
    faults = [_fault(check) for check in checks if not check.passed]
    if settings.compares and current.is_other and settings.incomparable == "hold":
        faults.insert(0, current.not_compared)
    verdict: Verdict = "passed"
    if faults and not forced:
        verdict = "refused" if settings.required else "kept"
    reason = _in_a_line(faults) or "no worse than the gate allows"
    if faults and forced:
        reason = f"forced by {forced.who}, because {forced.reason}; against it: {reason}"
    return GateTable(
        version=version,
        current=current.version,
        verdict=verdict,
        reason=reason,
        faults=tuple(faults),
        checks=checks,
        images=sum(validation.images),
        not_compared=current.not_compared,
        forced=forced if faults else None,
    )


def _in_a_line(faults: Sequence[str]) -> str:
    """The first faults: one that has lost everything has lost every class, too."""
    left = len(faults) - _FAULTS_IN_A_LINE
    more = [f"and {left} more"] if left > 0 else []
    return "; ".join([*faults[:_FAULTS_IN_A_LINE], *more])


def refusal(said: Judgement) -> GateError:
    """Return the error of a run whose version was refused, by the gate or by its trial."""
    if isinstance(said, RolloutTable):
        return GateError(
            f"version {said.version} is held back: {said.reason}",
            expected="a version that stands its trial, as `rollout.required` is true",
            remedy="read the table of the trials in the report; to serve it all the same, leave "
            "`rollout` out of the configuration",
        )
    return GateError(
        f"version {said.version} is held back: {said.reason}",
        expected="a version that passes the gate, as `gate.required` is true",
        remedy="read the gate's table in the report; to serve it all the same, run it again by "
        "force, with a reason",
    )


def _accuracy(
    settings: Gate, new: Figures, validation: Validation, current: Figures | None
) -> GateCheck:
    """The larger of two limits counts: the minimum, and what is left of the current accuracy."""
    images = sum(validation.images)
    before = sum(current.hits) / images if current else None
    limits = [] if settings.minimum is None else [settings.minimum]
    if settings.worse_by is not None and before is not None:
        limits.append(before - settings.worse_by)
    limit = max(limits, default=None)
    accuracy = sum(new.hits) / images
    return GateCheck(
        what="accuracy",
        unit="share",
        new=accuracy,
        current=before,
        limit=limit,
        passed=limit is None or accuracy >= limit - _ROUNDING,
    )


def _classes(
    settings: Gate, new: Figures, validation: Validation, current: Figures | None
) -> Sequence[GateCheck]:
    if current is None:
        return ()
    checks = []
    pairs = zip(new.hits, current.hits, strict=True)
    for name, images, (hits, before) in zip(
        validation.classes, validation.images, pairs, strict=True
    ):
        if not images:  # nothing is known of it
            continue
        limit = None
        if settings.class_worse_by is not None:
            limit = before / images - settings.class_worse_by
        share = hits / images
        is_less = limit is not None and share < limit - _ROUNDING
        checks.append(
            GateCheck(
                what=f"class {name}",
                unit="share",
                new=share,
                current=before / images,
                limit=limit,
                passed=not (is_less and is_more_than_chance(before, hits, images)),
            )
        )
    if len(checks) > CLASSES_SHOWN:
        checks.sort(key=lambda check: (check.passed, check.new - (check.current or 0.0)))
    return checks[:CLASSES_SHOWN]


def is_more_than_chance(before: int, now: int, images: int) -> bool:
    """Whether fewer hits among so many images are more than the luck of the draw.

    It is the usual comparison of two shares, with the share of both together as the true one.

    Args:
        before: How many images were recognized.
        now: How many are.
        images: How many there are.
    """
    share = (before + now) / (2 * images)
    return before - now > CHANCE * math.sqrt(2 * images * share * (1 - share))


def _at_most(
    what: str, unit: Unit, new: float, current: float | None, *, limit: float | None
) -> GateCheck:
    passed = limit is None or new <= limit
    return GateCheck(what=what, unit=unit, new=new, current=current, limit=limit, passed=passed)


def _fault(check: GateCheck) -> str:
    """Such as `accuracy 91.02%, at least 92.44% must be (current: 93.44%)`."""
    before = "" if check.current is None else f" (current: {check.say(check.current)})"
    bound = "at least" if check.unit == "share" else "at most"
    return f"{check.what} {check.say(check.new)}, {bound} {check.say(check.limit)} must be{before}"
