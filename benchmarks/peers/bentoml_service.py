"""BentoML: a service with adaptive batching. `bentoml serve bentoml_service:Peer --port PORT`."""

from __future__ import annotations

import bentoml
import numpy as np
from engine import MOST, Classifier


@bentoml.service
class Peer:
    """One API, whose calls are put together by BentoML."""

    def __init__(self) -> None:
        """Load the model."""
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=MOST)
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Compute."""
        return self.classify(images)
