"""`MANIFEST.json`: the files of an artifact, so that a missing or altered one is found."""

from __future__ import annotations

from typing import ClassVar

from mlpipeline.store.schemas.document import Document


class Manifest(Document):
    """The files of an artifact when it was published.

    Attributes:
        files: The SHA-256 of each file by its path below the artifact's folder.
    """

    CALLED: ClassVar[str] = "usable manifest"

    files: dict[str, str]
