"""MLServer: a custom runtime, V2 JSON. `mlserver start .`, set up by the environment."""

from __future__ import annotations

from engine import Classifier
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Peer(MLModel):
    """What MLServer loads and calls."""

    async def load(self) -> bool:
        """Load the model."""
        self.classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute."""
        (images,) = (self.decode(each, default_codec=NumpyCodec) for each in payload.inputs)
        outputs = [NumpyCodec.encode_output("probabilities", self.classify(images))]
        return InferenceResponse(model_name=self.name, outputs=outputs)
