"""`looks/MODEL.json`: what a model was asked lately, beside what it was validated by."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from mlpipeline.store.schemas.document import Document, Part
from mlpipeline.store.schemas.run import Moment


class Spread(Part):
    """How a figure of images is spread.

    Attributes:
        quarter: What a quarter of the images is below.
        half: What half of them is below, the median.
        three_quarters: What three quarters of them are below.
    """

    quarter: float
    half: float
    three_quarters: float


class Looked(Part):
    """What is known of some images.

    Attributes:
        images: How many there are.
        predicted: How many of them were predicted to be of each class, in the order of `classes`.
        spreads: Their other figures, by what a `LookFigure` calls them.
    """

    images: int
    predicted: tuple[int, ...]
    spreads: dict[str, Spread]


class LookFigure(Part):
    """How much one figure of the requests differs from that of the validation split.

    Attributes:
        what: The figure, such as `confidence`.
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

    @property
    def by_chance(self) -> str:
        """The probability, for people."""
        return f"{self.chance:.4f}" if self.chance >= 0.0001 else "< 0.0001"

    @property
    def verdict(self) -> str:
        """What that comes to, in words."""
        if self.is_drift:
            return "drift"
        return "below the limit" if self.value < self.limit else "may be chance"


class LoggedVersion(Part):
    """What the log has of one version's requests.

    Attributes:
        version: The version.
        images: How many images it has answered.
        first: When it answered the first of them.
        last: When it answered the last of them.
    """

    version: str
    images: int
    first: Moment
    last: Moment


class Look(Document):
    """What was found when somebody looked at a model's requests last: figures, and no image.

    Attributes:
        model: The model's name.
        version: The version that was current.
        time: When that was.
        first: When the first image that was looked at was answered.
        last: When the last one was.
        classes: The names of its classes.
        asked: The images of requests.
        validation: Those of the version's validation split.
        false_alarms: How often this finds drift where there is none, at most.
        figures: The differences.
        logged: What the log has of each version in that period, or altogether: the current one
            first.
    """

    CALLED: ClassVar[str] = "look at a model's requests"

    model: str
    version: str
    time: Moment
    first: Moment
    last: Moment
    classes: tuple[str, ...]
    asked: Looked
    validation: Looked
    false_alarms: float
    figures: tuple[LookFigure, ...]
    logged: tuple[LoggedVersion, ...]

    @property
    def drifted(self) -> list[str]:
        """The figures that have drifted."""
        return [each.what for each in self.figures if each.is_drift]

    @property
    def is_drift(self) -> bool:
        """Whether any of them has."""
        return bool(self.drifted)

    @property
    def summary(self) -> list[str]:
        """What was compared, for people: a line each."""
        first, last = (
            datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M:%S")
            for moment in (self.first, self.last)
        )
        return [
            f"{self.version}: {self.asked.images:,} images of requests, {first} to {last} UTC,",
            f"against the {self.validation.images:,} of its validation split",
        ]

    @property
    def verdict(self) -> str:
        """What was found, in a line."""
        odds = f"an alarm where there is none: at most {self.false_alarms:g} of all looks"
        drifted = ", ".join(self.drifted)
        return f"drift: {drifted} ({odds})" if drifted else f"no drift ({odds})"
