"""`models/NAME/changes.json`: which version of a model was current when, or held back, and why."""

from __future__ import annotations

from typing import ClassVar, Literal

from mlpipeline.store.schemas.document import Document, Part
from mlpipeline.store.schemas.run import Moment


class Change(Part):
    """A version became the current one.

    Attributes:
        version: The version.
        time: When it did.
        how: A run has `published` it; somebody has `rolled back` to it; or it was `found` to be
            current, and nobody has said why: an earlier release, or a person, has made it so.
        by: The name of the run, or who has rolled back; empty where that is not known.
        forced_by: Who has had it served though the gate held it back; empty where it did not.
        why: What that person has said.
    """

    version: str
    time: Moment
    how: Literal["published", "rolled back", "found"]
    by: str = ""
    forced_by: str = ""
    why: str = ""

    @property
    def reason(self) -> str:
        """How, by whom and why, in words."""
        by = f" by {'run ' if self.how == 'published' else ''}{self.by}" if self.by else ""
        forced = f", forced by {self.forced_by}" if self.forced_by else ""
        return f"{self.how}{by}{forced}{f': {self.why}' if self.why else ''}"


class HeldBack(Part):
    """A version was not let take the place of the current one.

    Attributes:
        version: The version.
        time: When it was judged.
        run: The name of the run; empty where somebody has called the step by hand.
        by: What has held it back: the gate, or its trial.
        why: What was found against it.
    """

    version: str
    time: Moment
    run: str = ""
    by: Literal["gate", "canary"] = "gate"
    why: str

    @property
    def reason(self) -> str:
        """In which run and why, in words."""
        return f"held back by the {self.by}{f' in run {self.run}' if self.run else ''}: {self.why}"


class ModelHistory(Document):
    """The versions of a model that were current, or held back: nothing of it is ever taken away.

    Attributes:
        changes: All changes, the oldest first.
        held_back: What the gate has held back, the oldest first.
        planned: The change that was under way when this was written. It has taken place if its
            version is current; otherwise it never did.
    """

    CALLED: ClassVar[str] = "model's history"

    changes: tuple[Change, ...]
    held_back: tuple[HeldBack, ...] = ()
    planned: Change | None = None
