"""The rule by which a version that is tried on real requests takes the place of the current one.

It needs figures only, which the current version's replicas count: see `serving.trial`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlpipeline.plan.config import Config, RequestLogging, Rollout, Trial
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.gate import GateCheck, Verdict
from mlpipeline.store.schemas.rollout import Mode, RolloutTable, TrialFigures, TrialTable
from mlpipeline.store.schemas.selection import ModelCard

QUANTILE = 0.9
"""Of a version's times, the one that counts."""
SPARE_SECONDS = 0.01
"""What a challenger may take longer whatever is asked for: so much is a busy machine's doing."""
SPARE_ON_THE_WAY_SECONDS = 0.05
"""The same with the way to it and back, which a champion's requests do not have."""
_SHORTEST, _FACTOR, _INTERVALS = 1e-4, 1.1, 140  # the longest are above a minute
_BOUNDS = [_SHORTEST * _FACTOR**power for power in range(_INTERVALS)]
_FAILURES = 3  # so many are no accident any more
_CHANCE = 2.0  # standard deviations


def interval(seconds: float) -> int:
    """Return which interval of a table of times some seconds are in; each is 10 % wide."""
    return bisect.bisect_left(_BOUNDS, seconds, hi=_INTERVALS - 1)


def quantile(times: Sequence[int], share: float = QUANTILE) -> float | None:
    """Return the seconds that a share of some requests took at most; None for no requests.

    Args:
        times: How many requests there were in each interval.
        share: The share, 0 to 1.
    """
    total = sum(times)
    for place, count in enumerate(itertools.accumulate(times)):
        if total and count >= share * total:
            return _BOUNDS[place]
    return None


@dataclass(frozen=True)
class State:
    """How a trial stands.

    Attributes:
        table: The figures, and what they say against the challenger.
        is_conclusive: Whether nothing that may still come could change that it is bad.
        untried: What is missing until the challenger counts as tried; empty for nothing.
    """

    table: TrialTable
    is_conclusive: bool
    untried: str


def assess(
    settings: Trial, mode: Mode, figures: Sequence[TrialFigures], *, seconds: float
) -> State:
    """Say how a trial stands.

    Args:
        settings: What the trial asks for.
        mode: Its mode.
        figures: What each replica of the champion has counted.
        seconds: How long it goes on.
    """
    tried = sum(each.tried for each in figures)
    failed = sum(each.failed for each in figures)
    images = sum(each.images for each in figures)
    agreed = sum(each.agreed for each in figures)
    checks = [
        GateCheck(
            what="failed requests",
            unit="share",
            new=failed / tried if tried else 0.0,
            limit=settings.errors,
            passed=failed <= settings.errors * tried,
        ),
        *_times(settings, figures),
        *_agreement(settings, images, agreed),
    ]
    faults = [_fault(check) for check in checks if not check.passed]
    if why := next((each.failure for each in figures if each.failure), ""):
        faults = [
            f"{fault}, the last one: {why}" if "failed" in fault else fault for fault in faults
        ]
    stopped = [
        f"{each.replica} has given up on it: {each.stopped}" for each in figures if each.stopped
    ]
    table = TrialTable(
        mode=mode,
        share=settings.share,
        seconds=round(seconds, 1),
        replicas=tuple(sorted({each.replica for each in figures})),
        requests=sum(each.requests for each in figures),
        tried=tried,
        images=images,
        dropped=sum(each.dropped for each in figures),
        checks=tuple(checks),
        faults=(*stopped, *faults),
    )
    is_failing = failed >= _FAILURES and tried >= settings.requests and not checks[0].passed
    is_conclusive = bool(stopped) or is_failing or _is_less_than_chance(settings, images, agreed)
    # Not what it was sent: of what it has not answered yet nothing is known.
    ended = failed + sum(sum(each.challenger_times) for each in figures)
    return State(table, is_conclusive, _missing(settings, table, ended, images))


def _missing(settings: Trial, table: TrialTable, ended: int, images: int) -> str:
    if ended < settings.requests:
        found = f"{ended} of {table.requests} requests in {table.seconds:g} s"
        return f"{table.mode}: {found}, at least {settings.requests} must be tried"
    if settings.agreement is not None and images < settings.requests:
        found = f"{images} images were compared, {table.dropped} requests were not"
        return f"{table.mode}: {found}, at least {settings.requests} must be"
    return ""


def verdict(
    settings: Rollout,
    version: str,
    current: str,
    trials: Sequence[TrialTable],
    *,
    fault: str = "",
    untried: str = "",
) -> RolloutTable:
    """Return the table of a roll-out that has ended.

    Args:
        settings: What it asks for.
        version: The new version.
        current: The current one.
        trials: What came of each trial.
        fault: What is against the version beside what the trials say; empty for nothing.
        untried: Why it was not tried enough; empty where it was.
    """
    faults = [fault] if fault else [f"{t.mode}: {f}" for t in trials for f in t.faults]
    reason, is_held = "; ".join(faults), bool(faults)
    if untried and not faults:
        is_held = settings.untried == "hold"
        reason = f"not tried: {untried}"
    if not reason:
        reason = "; ".join(map(_said, trials))
    held: Literal["refused", "kept"] = "refused" if settings.required else "kept"
    said: Verdict = held if is_held else "passed"
    return RolloutTable(
        version=version, current=current, verdict=said, reason=reason, trials=tuple(trials)
    )


def without_trial(settings: Config, workspace: Workspace, version: str) -> RolloutTable | None:
    """Return the table of a version that is not tried; None of one that is to be.

    Args:
        settings: The configuration.
        workspace: The folder of all artifacts.
        version: A registered version, which the gate has let pass.
    """
    current = registry.usable(workspace, settings.name)
    if not settings.rollout.trials:
        return waved_through(version, current, "`rollout:` asks for nothing")
    if not current:
        return waved_through(version, current, "nothing was current before")
    if current == version:
        return waved_through(version, current, "it is the current version")
    old, new = (ModelCard.load(workspace.model(settings.name, v).card) for v in (current, version))
    if old.classes != new.classes:
        said = f"it has other classes than {current}, so nothing can be compared"
        if settings.gate.incomparable == "hold":
            return verdict(settings.rollout, version, current, [], fault=said)
        return waved_through(version, current, f"not tried: {said}")
    return None


def of_challenger(settings: Config) -> Config:
    """Return the configuration that a version is tried by: its requests are others', so no log.

    Args:
        settings: The configuration.
    """
    serving = settings.serving.model_copy(update={"log": RequestLogging()})
    return settings.model_copy(update={"serving": serving})


def waved_through(version: str, current: str, reason: str) -> RolloutTable:
    """Return the table of a version that there was no reason to try."""
    return RolloutTable(version=version, current=current, verdict="passed", reason=reason)


def _said(trial: TrialTable) -> str:
    share = next((c.new for c in trial.checks if c.what == "same class"), None)
    same = "" if share is None else f", {share:.1%} of {trial.images:,} images the same"
    return f"{trial.mode}: {trial.tried:,} of {trial.requests:,} requests{same}"


def _times(settings: Trial, figures: Sequence[TrialFigures]) -> list[GateCheck]:
    """One that computes slowly says so itself; one that stands still is seen from outside alone."""
    old = quantile(_sum([each.champion_times for each in figures]))
    nine_of_ten = f"{QUANTILE:.0%} of requests"
    checks = [
        _at_most(
            f"time of {nine_of_ten}",
            quantile(_sum([each.challenger_times for each in figures])),
            old,
            slower_by=settings.slower_by,
            spare=SPARE_SECONDS,
        ),
        _at_most(
            "time with the way to it",
            quantile(_sum([each.round_trips for each in figures])),
            old,
            slower_by=settings.slower_by,
            spare=SPARE_ON_THE_WAY_SECONDS,
        ),
    ]
    return [check for check in checks if check]


def _at_most(
    what: str, new: float | None, old: float | None, *, slower_by: float | None, spare: float
) -> GateCheck | None:
    if new is None:
        return None
    limit = None if slower_by is None or old is None else slower_by * old + spare
    return GateCheck(
        what=what,
        unit="ms",
        new=new * 1000,
        current=None if old is None else old * 1000,
        limit=None if limit is None else limit * 1000,
        passed=limit is None or new <= limit,
    )


def _agreement(settings: Trial, images: int, agreed: int) -> list[GateCheck]:
    if not images:
        return []
    share, limit = agreed / images, settings.agreement
    passed = limit is None or share >= limit
    return [GateCheck(what="same class", unit="share", new=share, limit=limit, passed=passed)]


def _is_less_than_chance(settings: Trial, images: int, agreed: int) -> bool:
    """Whether both agree so seldom that more images would not change it."""
    if settings.agreement is None or images < settings.requests:
        return False
    limit = settings.agreement
    return agreed / images + _CHANCE * math.sqrt(limit * (1 - limit) / images) < limit


def _sum(tables: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in itertools.zip_longest(*tables, fillvalue=0)]


def _fault(check: GateCheck) -> str:
    """Such as `same class 11.20%, at least 80.00% must be`."""
    bound = "at least" if check.what == "same class" else "at most"
    before = "" if check.current is None else f" (current: {check.say(check.current)})"
    return f"{check.what} {check.say(check.new)}, {bound} {check.say(check.limit)} must be{before}"
