"""`gate.json` and `forced.json`: whether a new version may take the place of the current one."""

from __future__ import annotations

from typing import ClassVar, Literal

from mlpipeline.store.schemas.document import Document, Part

Verdict = Literal["passed", "kept", "refused"]
Unit = Literal["share", "ms", "bytes"]


class Forced(Document):
    """The content of `forced.json`: that a run is to serve its version whatever the gate says.

    Attributes:
        who: Who wants it.
        reason: Why.
    """

    CALLED: ClassVar[str] = "order to serve whatever the gate says"

    who: str
    reason: str


class GateCheck(Part):
    """A figure of the new version beside that of the current one, and what the gate allows.

    Attributes:
        what: The figure, such as `accuracy` or `class Shirt`.
        unit: What it is counted in: `share` is from 0 to 1.
        new: The new version's figure.
        current: The current version's; None where nothing is current, or it was not compared.
        limit: The worst that the new version's may be; None where it may be anything.
        passed: Whether it is no worse than that.
    """

    what: str
    unit: Unit
    new: float
    current: float | None = None
    limit: float | None = None
    passed: bool = True

    def say(self, value: float | None) -> str:
        """Return a figure in this unit for people; a dash for one that there is not."""
        if value is None:
            return "\N{EN DASH}"
        if self.unit == "share":
            return f"{value:.2%}"
        return f"{value:.3f} ms" if self.unit == "ms" else f"{value:,.0f} bytes"

    @property
    def summary(self) -> str:
        """The figures in a line, such as `91.02%, current 93.44%, limit 92.44%, not passed`."""
        parts = [self.say(self.new)]
        parts += [f"current {self.say(self.current)}"] if self.current is not None else []
        parts += [f"limit {self.say(self.limit)}"] if self.limit is not None else []
        return ", ".join(parts if self.passed else [*parts, "not passed"])


class Judgement(Document):
    """Whether a new version may take the place of the current one.

    Attributes:
        version: The new version.
        current: The version that it was to take the place of; empty for none.
        verdict: `passed`, and so it is served; `kept`, and so the current one goes on; or
            `refused`, which is that with `required`: the run fails.
        reason: Why, in a line.
    """

    BY: ClassVar[str] = ""
    """The step that judges."""

    version: str
    current: str = ""
    verdict: Verdict
    reason: str

    @property
    def kept(self) -> str:
        """What stays in service, as a run's outcome says it; empty where the new version goes in.

        Such as `kept fashion-mnist-d2b7c6e5f4a39180`.
        """
        if self.verdict == "passed":
            return ""
        return f"kept {self.current}" if self.current else "kept nothing, as before"

    @property
    def summary(self) -> str:
        """What becomes of it and why, in a line."""
        return f"{self.kept or self.verdict}: {self.reason}"


class GateTable(Judgement):
    """The content of `gate.json`: what the gate has measured, and its verdict.

    Attributes:
        faults: What the gate has found against it, also where that did not matter.
        checks: Every figure; of many classes those that lost the most.
        images: How many images of the validation split both have seen; 0 where none was measured.
        not_compared: Why the current version could not be compared with; empty where it was.
        forced: Who has had it served in spite of the faults.
    """

    CALLED: ClassVar[str] = "gate's table"
    BY: ClassVar[str] = "gate"

    faults: tuple[str, ...] = ()
    checks: tuple[GateCheck, ...] = ()
    images: int = 0
    not_compared: str = ""
    forced: Forced | None = None
