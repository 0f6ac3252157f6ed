"""`summary.json`: what came of a batch prediction."""

from __future__ import annotations

from typing import ClassVar

from mlpipeline.store.schemas.document import Document


class PredictionSummary(Document):
    """What came of a batch prediction.

    Attributes:
        model: What the model is called.
        version: The version that predicted.
        files: The number of files in the folder.
        unreadable: How many of them are no images.
    """

    CALLED: ClassVar[str] = "summary of predictions"

    model: str
    version: str
    files: int
    unreadable: int
