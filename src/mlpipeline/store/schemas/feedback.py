"""`feedback/snapshots/DIGEST.json`: the corrected labels that a run joins with its data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mlpipeline.errors import DamagedArtifactError
from mlpipeline.store.layout import FeedbackFolder
from mlpipeline.store.schemas.document import Document


@dataclass(frozen=True, order=True)
class Correction:
    """One image's label, as somebody saw it. They sort by time: the latest of an image holds.

    Attributes:
        time: When it was made, ISO 8601 in UTC.
        event: The id of the event that brought it.
        image: SHA-256 of the image's raw pixels, hexadecimal.
        label: The name of a class.
    """

    time: str
    event: str
    image: str
    label: str


class Snapshot(Document):
    """All corrections of a model when a run began.

    Attributes:
        corrections: The corrections, the earliest first.
    """

    CALLED: ClassVar[str] = "snapshot of corrections"

    corrections: tuple[Correction, ...]

    @property
    def digest(self) -> str:
        """The digest of the corrections, which is the file's name: 16 hexadecimal digits."""
        content = json.dumps([asdict(one) for one in self.corrections], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def keep(self, folder: FeedbackFolder) -> str:
        """Write the snapshot under its digest, unless it is there; return the digest."""
        if not (file := folder.snapshot(self.digest)).exists():
            self.save(file)
        return self.digest

    @classmethod
    def find(cls, folder: FeedbackFolder, digest: str) -> Snapshot:
        """Read the snapshot with a digest.

        Args:
            folder: The folder of corrected labels.
            digest: What `keep` has returned.

        Raises:
            MissingArtifactError: There is no such snapshot.
            DamagedArtifactError: It is not what was written.
        """
        snapshot = cls.load(file := folder.snapshot(digest))
        if snapshot.digest != digest:
            raise DamagedArtifactError(
                f"{file} is damaged: its content has the digest {snapshot.digest}",
                expected=f"{digest}, as in its name",
                remedy="remove it; the next run writes the corrections anew",
            )
        return snapshot

    @classmethod
    def _upgrade(cls, content: Any, version: int) -> Any:
        return {"corrections": content} if version == 0 and isinstance(content, list) else content
