"""Whether a data set is as the configuration expects: judged by the figures in its card alone.

What is expected is part of no key, so a data set that is there already is judged anew by every run
that uses it. What is measured, `mlpipeline.learning.data.profile` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from mlpipeline.errors import ArtifactError, ExpectationError
from mlpipeline.learning.data import drift
from mlpipeline.plan.config import Config, Expectation, Expectations
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.dataset import SPLITS, DatasetCard, SplitName, SplitProfile
from mlpipeline.store.schemas.selection import ModelCard

_log = logging.getLogger(__name__)

_CHANCE = 0.01  # what chance makes more often than this is no drift
_ROUNDING = 1e-9  # shares are quotients

_VALUE = attrgetter("value")

# What is counted in a split's profile, and what is said of it.
_COUNTED: dict[Expectation, tuple[str, str]] = {
    "blank": ("blank", "are all of one colour"),
    "duplicates": ("repeated", "equal an earlier one of it"),
    "leakage": ("leaked", "are also in a split before it"),
    "contradictions": ("contradicted", "equal one of another class"),
}


@dataclass(frozen=True)
class Check:
    """What was found of one thing that is expected.

    Attributes:
        name: Its key in the configuration.
        value: The figure of the worst split.
        limit: What it may be: at least, for the balance, and at most, for all others.
        is_met: Whether it is no worse than that.
        said: What was found, for people.
        fails: Whether the run fails if it is not met.
    """

    name: Expectation
    value: float
    limit: float
    is_met: bool
    said: str
    fails: bool = False

    @property
    def bound(self) -> str:
        """Which side of the limit is good."""
        return "at least" if self.name == "balance" else "at most"


@dataclass(frozen=True)
class Judgement:
    """What was found of all that is expected.

    Attributes:
        checks: What could be looked at.
        against: The key of the data set that drift was measured against; empty for none.
        not_compared: Why drift could not be, if there is a data set to compare with.
    """

    checks: tuple[Check, ...]
    against: str = ""
    not_compared: str = ""

    @property
    def unmet(self) -> list[Check]:
        """What is not as expected."""
        return [check for check in self.checks if not check.is_met]

    @property
    def summary(self) -> str:
        """What is not as expected, in a line; empty where everything is."""
        return "; ".join(f"{check.name}: {check.said}" for check in self.unmet)

    def tell(self) -> None:
        """Log what is not as expected."""
        if self.not_compared:
            _log.warning("drift of the data is not known: %s", self.not_compared)
        for check in self.unmet:
            _log.warning("%s: %s, the limit is %g", check.name, check.said, check.limit)

    def require(self) -> None:
        """See that nothing is unmet that a run fails by.

        Raises:
            ExpectationError: Something is; names it all.
        """
        failed = [check for check in self.unmet if check.fails]
        if failed:
            found = "; ".join(f"{check.name}: {check.said}" for check in failed)
            limits = ", ".join(f"{check.name} {check.bound} {check.limit:g}" for check in failed)
            raise ExpectationError(
                f"the data is not as expected: {found}",
                expected=f"{limits}, as `expectations.fail` asks",
                remedy="mend the data; or change the limit in `expectations`, or leave it out of "
                "`fail`: what was ingested is published, and is not read again",
            )


def against_current(config: Config, workspace: Workspace) -> Config:
    """Return the configuration of a run that is about to begin: it names what data to compare with.

    That is the data set of the model's current version, whose answers people get, whatever it is
    called. Which version that is may change while the run goes on, so all of its steps are told.

    Args:
        config: A configuration, as its file has it; one that names a data set stays as it is.
        workspace: The folder of all artifacts.
    """
    if config.expectations.against:
        return config
    try:
        version = history.pointed_at(workspace, config.name)
        if not version:
            return config
        key = ModelCard.load(workspace.model(config.name, version).card).dataset_key
    except ArtifactError as error:
        _log.warning("drift of the data is not known: %s", error.got)
        return config
    asked = config.expectations.model_copy(update={"against": key})
    return config.model_copy(update={"expectations": asked})


def of(workspace: Workspace, asked: Expectations, key: str) -> Judgement:
    """Judge a published data set, and compare it with the one that the configuration names.

    Args:
        workspace: The folder of all artifacts.
        asked: What is expected.
        key: The data set.

    Raises:
        ArtifactError: Its card is missing or damaged. Where the other one's is, nothing is
            compared, and the judgement says so.
    """
    card = DatasetCard.load(workspace.dataset(key).card)
    if asked.against is None or asked.against == key:
        return judge(asked, card)
    try:
        last = DatasetCard.load(workspace.dataset(asked.against).card)
    except ArtifactError as error:
        return replace(judge(asked, card), not_compared=error.got)
    return replace(judge(asked, card, last), against=asked.against)


def judge(asked: Expectations, card: DatasetCard, last: DatasetCard | None = None) -> Judgement:
    """Say what of a data set is as expected.

    Args:
        asked: What is expected.
        card: The data set.
        last: The one that it is compared with; None for none.
    """
    found = _within(card) | (_drift(card, last) if last else {})
    checks = [
        Check(
            name,
            figure.value,
            limit,
            is_met=figure.is_within(limit, is_least=name == "balance"),
            said=figure.said,
            fails=name in asked.fail,
        )
        for name, figure in found.items()
        if (limit := getattr(asked, name)) is not None
    ]
    return Judgement(tuple(checks))


class _Figure(NamedTuple):
    """A figure of a data set, what it says to people, and how likely chance makes it so large.

    Of many classes this takes seconds to find out, so nobody asks who need not know.
    """

    value: float
    said: str
    chance: Callable[[], float] = lambda: 0.0

    def is_within(self, limit: float, *, is_least: bool) -> bool:
        if is_least:
            return self.value >= limit - _ROUNDING
        return self.value <= limit + _ROUNDING or self.chance() > _CHANCE


def _within(card: DatasetCard) -> dict[Expectation, _Figure]:
    """What there is to say of a data set by itself, of its worst split each."""
    filled = [split for split in SPLITS if card.counts[split]]
    found: dict[Expectation, _Figure] = {
        "balance": min((_least_class(card, split) for split in filled), key=_VALUE)
    }
    if card.profile is None:  # it is of an older version
        return found
    for name, (field, what) in _COUNTED.items():
        counts = {split: getattr(card.profile[split], field) for split in filled}
        # Of equal ones the last: what is wrong with test, no figure of the model tells.
        worst = max(reversed(filled), key=lambda split: counts[split] / card.counts[split])
        said = f"images of {worst} that {what}: {counts[worst]:,} of {card.counts[worst]:,}"
        found[name] = _Figure(counts[worst] / card.counts[worst], said)
    return found


def _least_class(card: DatasetCard, split: SplitName) -> _Figure:
    images = card.counts[split]
    least, label = min(zip(card.per_class[split], card.classes, strict=True))
    said = f"images of {split} that are of class {label}: {least:,} of {images:,}"
    return _Figure(least * len(card.classes) / images, said)


def _drift(card: DatasetCard, last: DatasetCard) -> dict[Expectation, _Figure]:
    """How the training images differ from those of another data set, by class and by pixels."""
    # By name: a class that is new, or gone, has none in one of them.
    classes = list(dict.fromkeys((*last.classes, *card.classes)))
    before, now = (
        np.array([_of_train(each).get(name, 0) for name in classes]) for each in (last, card)
    )
    value = float(drift.index(before, now))
    said = f"images of train by class: population stability index {value:.3f}"
    found: dict[Expectation, _Figure] = {
        "class_drift": _Figure(value, said, lambda: drift.stability(before, now)[1])
    }
    if card.profile and last.profile:
        profiles = last.profile["train"], card.profile["train"]
        figures = [_distance(*profiles, what) for what in ("means", "contrasts")]
        found["pixel_drift"] = max(figures, key=_VALUE)
    return found


def _distance(last: SplitProfile, now: SplitProfile, what: str) -> _Figure:
    value, chance = drift.distance(*(np.array(getattr(each, what)) for each in (last, now)))
    said = f"{what} of train's images: Kolmogorov-Smirnov distance {value:.3f}"
    return _Figure(value, said, lambda: chance)


def _of_train(card: DatasetCard) -> dict[str, int]:
    return dict(zip(card.classes, card.per_class["train"], strict=True))
