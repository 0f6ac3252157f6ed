"""Pictures of any size and colour become images as a data set has them.

The same code prepares what is ingested, what `predict` is asked, and what batch prediction reads:
how is decided once, at ingestion, and recorded in the data set's and the model's card.
"""

from mlpipeline.image_files.decoding import formats
from mlpipeline.image_files.kind import (
    UNREADABLE,
    Fit,
    ImageKind,
    UnreadableImageError,
    content_of,
)
from mlpipeline.image_files.preparation import ImageFile, Preparation, has_dark_ground

__all__ = [
    "UNREADABLE",
    "Fit",
    "ImageFile",
    "ImageKind",
    "Preparation",
    "UnreadableImageError",
    "content_of",
    "formats",
    "has_dark_ground",
]
