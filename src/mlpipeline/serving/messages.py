"""Both protocols' messages: images out of requests, and responses out of probabilities.

V1 is TensorFlow Serving's REST API, V2 the Open Inference Protocol:
https://www.tensorflow.org/tfx/serving/api_rest
https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput

from mlpipeline.serving import images
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.refusals import not_images, refusal

_Value = TypeVar("_Value")

_OUTPUTS = {"probabilities": "FP32", "class": "INT64"}
_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class WantedOutput:
    """One tensor of a V2 response.

    Attributes:
        name: What it is called.
        binary: Whether it is to come as bytes; otherwise as numbers.
        top: How many of the most probable classes it is to name, by Triton's classification
            extension; None for the tensor as it is.
    """

    name: str
    binary: bool
    top: int | None = None


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
    if payload.get("signature_name", _SIGNATURE) != _SIGNATURE:
        raise refusal(
            f"`signature_name` {payload['signature_name']!r}",
            expected=f"{_SIGNATURE!r}, the only one that is served",
            remedy="leave it out",
        )
    return images.from_instances(payload["instances"], shape)


def let_go(payload: Any) -> None:
    """Take the images out of a request that `read` has read: JSON's lists are ten times as large.

    Args:
        payload: The request, which is held until it is answered.
    """
    if isinstance(payload, InferRequest):
        for tensor in payload.inputs:
            tensor.data = []
    else:
        del payload["instances"]


def outputs(payload: Any) -> list[WantedOutput]:
    """Return what a V2 request wants in its response, in that order; nothing for V1.

    Raises:
        InvalidInput: It wants what there is not.
    """
    if not isinstance(payload, InferRequest):
        return []
    if payload.from_grpc:  # raw for raw, typed for typed
        binary = payload.use_binary_outputs
    else:
        binary = _parameter(payload.parameters, "binary_data_output", bool) or False
    if not payload.request_outputs:
        return [WantedOutput(name, binary) for name in _OUTPUTS]
    names = [each.name for each in payload.request_outputs]
    if len(set(names)) < len(names) or not set(names) <= set(_OUTPUTS):
        raise refusal(
            f"a request for the outputs {names}",
            expected=f"{' or '.join(_OUTPUTS)}, each once",
            remedy="leave `outputs` out to get all; GET /v2/models/NAME describes them",
        )
    return [
        _wanted(each, binary, by_bytes=not payload.from_grpc) for each in payload.request_outputs
    ]


def response(
    payload: Any,
    wanted: Sequence[WantedOutput],
    probabilities: Probabilities,
    *,
    name: str,
    version: str,
    classes: Sequence[str] = (),
) -> dict[str, Any] | InferResponse:
    """Return the response to a request that `read` has read.

    Args:
        payload: The request.
        wanted: What `outputs` returned for it.
        probabilities: Probabilities of its images, float32 (N, classes).
        name: What the model is called.
        version: Version of the model that gave these probabilities.
        classes: Names of the classes; only needed where they are wanted.

    Returns:
        V1: `{"predictions": probabilities}`, as TensorFlow Serving does. V2: of the tensors
        `probabilities` FP32 (N, classes) and `class` INT64 (N) those that are wanted.
    """
    if not isinstance(payload, InferRequest):
        # KServe's JSON encoder (orjson) writes the array itself, shortest digits of a float32.
        return {"predictions": probabilities}
    tensors = {"probabilities": probabilities, "class": np.argmax(probabilities, axis=1)}
    made = []
    for each in wanted:
        tensor: npt.NDArray[Any] = tensors[each.name]
        datatype = _OUTPUTS[each.name]
        if each.top:
            tensor, datatype = _most_probable(probabilities, classes, each.top), "BYTES"
        output = InferOutput(each.name, list(tensor.shape), datatype)
        output.set_data_from_numpy(tensor, binary_data=each.binary)
        made.append(output)
    return InferResponse(
        response_id=payload.id or str(uuid.uuid4()),
        model_name=name,
        model_version=version,
        infer_outputs=made,
        use_binary_outputs=payload.use_binary_outputs,
        # They say to KServe's REST encoder which are binary; its gRPC encoder takes what is made.
        requested_outputs=[RequestedOutput(w.name, {"binary_data": w.binary}) for w in wanted],
    )


def metadata(
    name: str,
    *,
    version: str,
    digest: str,
    classes: Sequence[str],
    shape: Sequence[int],
    platform: str,
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
        platform: What computes it.
    """
    return {
        "name": name,
        "platform": platform,
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *shape]}],
        "outputs": _output_types(len(classes)),
        "versions": [version],
        "parameters": {"classes": list(classes), "digest": digest},
    }


def _output_types(classes: int) -> list[dict[str, Any]]:
    """Describe the tensors of a V2 response."""
    shapes = {"probabilities": [-1, classes], "class": [-1]}
    return [
        {"name": name, "datatype": datatype, "shape": shapes[name]}
        for name, datatype in _OUTPUTS.items()
    ]


def _wanted(asked: RequestedOutput, binary: bool, *, by_bytes: bool) -> WantedOutput:
    """Read one of a request's `outputs`.

    Args:
        asked: The output as it is asked for.
        binary: Whether it comes as bytes if it does not say.
        by_bytes: Whether it may say; over gRPC that has no meaning.
    """
    if by_bytes and (own := _parameter(asked.parameters, "binary_data", bool)) is not None:
        binary = own
    top = _parameter(asked.parameters, "classification", int)
    if top is not None and (top < 1 or asked.name != "probabilities"):
        raise refusal(
            f"`classification` {top} of the output {asked.name!r}",
            expected="how many of the most probable classes, of the output 'probabilities'",
            remedy="ask for one or more, or leave it out",
        )
    return WantedOutput(asked.name, binary, top)


def _parameter(parameters: Mapping[str, Any] | None, key: str, kind: type[_Value]) -> _Value | None:
    value = (parameters or {}).get(key)
    if value is None or type(value) is kind:
        return value
    raise refusal(
        f"the parameter `{key}`: {value!r}",
        expected={bool: "true or false", int: "a whole number"}[kind],
        remedy="mend it, or leave it out",
    )


def _most_probable(
    probabilities: Probabilities, classes: Sequence[str], count: int
) -> npt.NDArray[np.object_]:
    """Return `PROBABILITY:INDEX:CLASS` of the most probable classes, (N, min(count, classes)).

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    texts = [
        [f"{row[index]!s}:{index}:{classes[index]}" for index in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]
    return np.array(texts, dtype=np.object_)


def _read_tensor(request: InferRequest, shape: tuple[int, ...]) -> Images:
    if len(request.inputs) != 1 or request.inputs[0].datatype != "UINT8":
        got = [f"{tensor.name} {tensor.datatype}" for tensor in request.inputs]
        raise not_images(f"the inputs {got}")
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
