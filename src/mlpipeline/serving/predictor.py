"""The model as KServe sees it: V1 and V2 requests in, predictions out."""

from __future__ import annotations

from typing import Any

from kserve import InferRequest, InferResponse, Model

from mlpipeline.learning.training import devices
from mlpipeline.serving import messages
from mlpipeline.serving.batching import Batcher
from mlpipeline.serving.model import PublishedModel


class Predictor(Model):  # type: ignore[misc]  # KServe is untyped
    """Serves one `PublishedModel` under a name."""

    def __init__(self, name: str, model: PublishedModel, *, max_batch: int = 64) -> None:
        """Make a predictor that is ready.

        Args:
            name: What the model is called in URLs.
            model: What predicts.
            max_batch: The most images that go through the model at once.
        """
        super().__init__(name)
        self.published = model
        threads = devices.cpu_count()
        self._batcher = Batcher(model.predict, max_batch=max_batch, threads=threads)
        self.ready = True

    def validate(self, payload: Any) -> Any:
        """Leave all checks to `predict`, whose errors say what to do."""
        return payload

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """Answer a request of either protocol, as `messages` describes them.

        Args:
            payload: The request.
            headers: The request's; not used.
            response_headers: The answer's; not used.

        Raises:
            InvalidInput: The request does not hold images that the model takes.
        """
        batch = messages.read(payload, self.published.input_shape)
        probabilities = await self._batcher.run(batch)
        return messages.answer(
            payload, probabilities, name=self.name, version=self.published.version
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        """Describe the input for the model's metadata."""
        shape = [-1, *self.published.input_shape]
        return [{"name": "images", "datatype": "UINT8", "shape": shape}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Describe the outputs for the model's metadata."""
        return messages.output_types(len(self.published.classes))
