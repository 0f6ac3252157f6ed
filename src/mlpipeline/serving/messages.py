"""Both protocols' messages: images out of requests, and responses out of probabilities.

V1 is TensorFlow Serving's REST API, V2 the Open Inference Protocol:
https://www.tensorflow.org/tfx/serving/api_rest
https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput

from mlpipeline.serving import images
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.refusals import refusal


def read(payload: Any, shape: tuple[int, ...]) -> Images:
    """Return the images of a request, uint8 (N, *shape).

    Args:
        payload: V1: `{"instances": [image, ...]}`. V2: a single UINT8 tensor (N, *shape) of any
            name, as most clients make up their own.
        shape: The shape of one image.

    Raises:
        InvalidInput: It does not hold such images.
    """
    if isinstance(payload, InferRequest):
        return _read_tensor(payload, shape)
    if not isinstance(payload, dict) or "instances" not in payload:
        raise _no_instances(payload)
    return images.from_instances(payload["instances"], shape)


def response(
    payload: Any, probabilities: Probabilities, *, name: str, version: str
) -> dict[str, Any] | InferResponse:
    """Return the response to a request that `read` has read.

    Args:
        payload: The request.
        probabilities: Probabilities of its images, float32 (N, classes).
        name: What the model is called.
        version: Version of the model that gave these probabilities.

    Returns:
        V1: `{"predictions": probabilities}`, as TensorFlow Serving does. V2: the tensors
        `probabilities` FP32 (N, classes) and `class` INT64 (N).
    """
    if not isinstance(payload, InferRequest):
        # KServe's JSON encoder (orjson) writes the array itself, shortest digits of a float32.
        return {"predictions": probabilities}
    tensors = (probabilities, np.argmax(probabilities, axis=1))
    outputs = []
    for about, tensor in zip(_output_types(probabilities.shape[1]), tensors, strict=True):
        output = InferOutput(about["name"], list(tensor.shape), about["datatype"])
        output.set_data_from_numpy(tensor, binary_data=payload.use_binary_outputs)
        outputs.append(output)
    return InferResponse(
        response_id=payload.id or str(uuid.uuid4()),
        model_name=name,
        model_version=version,
        infer_outputs=outputs,
        use_binary_outputs=payload.use_binary_outputs,
        requested_outputs=payload.request_outputs,
    )


def metadata(
    name: str, *, version: str, digest: str, classes: Sequence[str], shape: Sequence[int]
) -> dict[str, Any]:
    """Describe a model, as `GET /v2/models/NAME` does.

    Neither KServe's response model nor the Open Inference Protocol has a field for the names of
    classes and the digest: they go where MLServer puts such things, `parameters`.

    Args:
        name: What the model is called.
        version: Version of the model.
        digest: SHA-256 of all that was published as that version.
        classes: Names of the classes, in the order of the probabilities.
        shape: Shape of one image.
    """
    return {
        "name": name,
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *shape]}],
        "outputs": _output_types(len(classes)),
        "versions": [version],
        "parameters": {"classes": list(classes), "digest": digest},
    }


def _output_types(classes: int) -> list[dict[str, Any]]:
    """Describe the tensors of a V2 response."""
    return [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "class", "datatype": "INT64", "shape": [-1]},
    ]


def _read_tensor(request: InferRequest, shape: tuple[int, ...]) -> Images:
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
