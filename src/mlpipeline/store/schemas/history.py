"""`models/NAME/changes.json`: which version of a model was current when, and why."""

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
        why: What that person has said.
    """

    version: str
    time: Moment
    how: Literal["published", "rolled back", "found"]
    by: str = ""
    why: str = ""

    @property
    def reason(self) -> str:
        """How, by whom and why, in words."""
        by = f" by {'run ' if self.how == 'published' else ''}{self.by}" if self.by else ""
        return f"{self.how}{by}{f': {self.why}' if self.why else ''}"


class ModelHistory(Document):
    """The versions of a model that were current: changes are added, and never taken away.

    Attributes:
        changes: All changes, the oldest first.
        planned: The change that was under way when this was written. It has taken place if its
            version is current; otherwise it never did.
    """

    CALLED: ClassVar[str] = "model's history"

    changes: tuple[Change, ...]
    planned: Change | None = None
