"""The model as KServe sees it: V1 and V2 requests in, predictions out."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from mlpipeline.learning import devices
from mlpipeline.serving import images
from mlpipeline.serving.batching import Batcher
from mlpipeline.serving.model import Probabilities, PublishedModel
from mlpipeline.serving.refusals import refusal


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
        threads = devices.available_cpus()
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
        """Answer a request of either protocol.

        Args:
            payload: V1: `{"instances": [image, ...]}`. V2: a single UINT8 tensor (N, *shape) of
                any name, as most clients make up their own.
            headers: The request's; not used.
            response_headers: The answer's; not used.

        Returns:
            V1: `{"predictions": probabilities}`, as TensorFlow Serving does. V2: the tensors
            `probabilities` FP32 (N, classes) and `class` INT64 (N).

        Raises:
            InvalidInput: The request does not hold images that the model takes.
        """
        shape = self.published.input_shape
        if isinstance(payload, InferRequest):
            batch = _read_tensor(payload, shape)
            return self._respond(payload, await self._batcher.run(batch))
        if not isinstance(payload, dict) or "instances" not in payload:
            raise _no_instances(payload)
        batch = images.from_instances(payload["instances"], shape)
        # KServe's JSON encoder (orjson) writes the array itself, shortest digits of a float32.
        return {"predictions": await self._batcher.run(batch)}

    def get_input_types(self) -> list[dict[str, Any]]:
        """Describe the input for the model's metadata."""
        shape = [-1, *self.published.input_shape]
        return [{"name": "images", "datatype": "UINT8", "shape": shape}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Describe the outputs for the model's metadata."""
        return [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [-1, len(self.published.classes)],
            },
            {"name": "class", "datatype": "INT64", "shape": [-1]},
        ]

    def _respond(self, request: InferRequest, probabilities: Probabilities) -> InferResponse:
        tensors = (probabilities, np.argmax(probabilities, axis=1))
        outputs = []
        for about, tensor in zip(self.get_output_types(), tensors, strict=True):
            output = InferOutput(about["name"], list(tensor.shape), about["datatype"])
            output.set_data_from_numpy(tensor, binary_data=request.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            response_id=request.id or str(uuid.uuid4()),
            model_name=self.name,
            model_version=self.published.version,
            infer_outputs=outputs,
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )


def _read_tensor(request: InferRequest, shape: tuple[int, ...]) -> images.Images:
    if len(request.inputs) != 1 or request.inputs[0].datatype != "UINT8":
        got = [f"{tensor.name} {tensor.datatype}" for tensor in request.inputs]
        raise refusal(
            f"the inputs {got}",
            expected="one UINT8 tensor of raw pixels",
            remedy="send all images in one tensor [N,...]; GET /v2/models/NAME shows its shape",
        )
    (tensor,) = request.inputs
    # Raw bytes have no public name in KServe, and `as_numpy` crashes on bytes that do not fit.
    data = tensor.data if tensor._raw_data is None else tensor._raw_data
    return images.from_tensor(data, tensor.shape, shape)


def _no_instances(payload: Any) -> InvalidInput:
    kind = type(payload).__name__
    got = f"an object with {sorted(payload)}" if isinstance(payload, dict) else f"a {kind}"
    return refusal(
        got,
        expected='{"instances": [image, ...]}',
        remedy="name the list of images `instances`, or use V2: POST /v2/models/NAME/infer",
    )
