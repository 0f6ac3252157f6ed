"""Clients for every protocol that a replica speaks, one connection each.

KServe's own `InferenceRESTClient` and `InferenceGRPCClient` are not used: they are asynchronous,
where ours are called by many threads; they do not tell which replica has answered, which
verification counts (the gRPC one drops the trailing metadata); and they log a stack trace for each
call that fails.

Example:
    Predict the first image of a test split::

        with V2BinaryClient("http://127.0.0.1:8080", "fashion-mnist") as client:
            prediction = client.predict(images[:1], timeout=5.0)
        print(prediction.classes, prediction.replica)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import orjson
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from mlpipeline.errors import ServingError
from mlpipeline.serving.arrays import Images, Probabilities

_LENGTH = "inference-header-content-length"
_MAX_MESSAGE = 64 * 2**20

# A replica that stops tells its clients not to begin another call on their connection. One that is
# on its way already is answered CANCELLED by gRPC's core, not by the replica, and the server can do
# nothing about it. A prediction changes nothing, so the channel asks again, on a new connection.
_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["CANCELLED", "UNAVAILABLE"],
            },
        }
    ]
}


class Prediction(NamedTuple):
    """What a client is answered.

    Attributes:
        probabilities: float32 (N, classes).
        classes: int64 (N), the index of the most probable class of each image.
        replica: Name of the replica that answered; of a front, and after it, behind commas, those
            of the replicas that it asked.
        version: Version of the model; V1 does not say.
    """

    probabilities: Probabilities
    classes: npt.NDArray[np.int64]
    replica: str
    version: str = ""

    @property
    def replicas(self) -> list[str]:
        """Names of the replicas that have computed it, without a front."""
        names = self.replica.split(", ")
        return names[1:] or names


class Client(AbstractContextManager["Client"], Protocol):
    """A connection to a model."""

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Predict images.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C).
            timeout: Seconds to wait for the answer.

        Raises:
            ServingError: There was no answer within `timeout` seconds, or it was a refusal.
        """


class _RestClient(AbstractContextManager["_RestClient"]):
    """A connection to a REST port, which is opened by the first request."""

    def __init__(self, base_url: str, name: str) -> None:
        """Prepare a connection.

        Args:
            base_url: Address of the REST port, such as `http://127.0.0.1:8080`.
            name: What the model is called in URLs.
        """
        self._name = name
        self._http = httpx.Client(base_url=base_url, trust_env=False)  # no proxy

    def __enter__(self) -> Self:
        """Begin to use the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def _post(
        self, path: str, body: bytes, timeout: float, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        headers = headers or {"content-type": "application/json"}
        try:
            response = self._http.post(path, content=body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise _no_answer(f"{self._http.base_url}{path}", repr(error)) from error
        if response.status_code != httpx.codes.OK:
            text = f"{response.status_code} {response.text[:500]}"
            raise _no_answer(f"{self._http.base_url}{path}", text)
        return response


class V1Client(_RestClient):
    """V1 over REST: nested lists of numbers."""

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Predict images, as `Client` says."""
        body = orjson.dumps({"instances": images}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = self._post(f"/v1/models/{self._name}:predict", body, timeout)
        probabilities = np.array(orjson.loads(response.content)["predictions"], np.float32)
        return Prediction(probabilities, probabilities.argmax(axis=1), _replica(response))


class V2JsonClient(_RestClient):
    """V2 over REST: a flat list of numbers."""

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Predict images, as `Client` says."""
        tensor = _tensor(images) | {"data": images.reshape(-1)}
        body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = self._post(f"/v2/models/{self._name}/infer", body, timeout)
        described = orjson.loads(response.content)
        outputs = {
            output["name"]: np.array(output["data"], _dtype(output)).reshape(output["shape"])
            for output in described["outputs"]
        }
        return Prediction(
            outputs["probabilities"],
            outputs["class"],
            _replica(response),
            described["model_version"],
        )


class V2BinaryClient(_RestClient):
    """V2 over REST with the binary tensor extension, both ways."""

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Predict images, as `Client` says."""
        body, headers = binary_request(images)
        response = self._post(f"/v2/models/{self._name}/infer", body, timeout, headers)
        return binary_prediction(response)


def binary_request(images: Images) -> tuple[bytes, dict[str, str]]:
    """Return a V2 request in the binary tensor extension, whose response is to be binary, too.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

    Args:
        images: uint8 (N, H, W) or (N, H, W, C).

    Returns:
        The body and the headers.
    """
    tensor = _tensor(images) | {"parameters": {"binary_data_size": images.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"content-type": "application/octet-stream", _LENGTH: str(len(header))}
    return header + images.tobytes(), headers


def binary_prediction(response: httpx.Response) -> Prediction:
    """Read the response to a `binary_request`.

    Args:
        response: The response, with a status of success.

    Raises:
        LookupError: It is another service's response.
        TypeError: Likewise.
        ValueError: Likewise.
    """
    offset = int(response.headers[_LENGTH])
    described = orjson.loads(response.content[:offset])
    outputs = {}
    for output in described["outputs"]:
        size = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = _array(output, response.content[offset : offset + size])
        offset += size
    return Prediction(
        outputs["probabilities"],
        outputs["class"],
        _replica(response),
        described["model_version"],
    )


class GrpcClient(AbstractContextManager["GrpcClient"]):
    """V2 over gRPC with raw contents."""

    def __init__(self, address: str, name: str) -> None:
        """Prepare a connection.

        Args:
            address: HOST:PORT of the gRPC port.
            name: What the model is called.
        """
        self._address = address
        self._name = name
        options = [
            # Channels share a connection otherwise, and so would always reach the same replica.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.service_config", json.dumps(_RETRIES)),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ]
        self._channel = grpc.insecure_channel(address, options)
        self._stub = services.GRPCInferenceServiceStub(self._channel)

    def __exit__(self, *_: object) -> None:
        """Close the channel."""
        self._channel.close()

    def predict(self, images: Images, timeout: float) -> Prediction:
        """Predict images, as `Client` says."""
        tensor = messages.ModelInferRequest.InferInputTensor(**_tensor(images))
        request = messages.ModelInferRequest(
            model_name=self._name, inputs=[tensor], raw_input_contents=[images.tobytes()]
        )
        try:
            response, call = self._stub.ModelInfer.with_call(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _no_answer(self._address, f"{error.code()}: {error.details()}") from error
        outputs = {
            output.name: _array({"datatype": output.datatype, "shape": output.shape}, content)
            for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        replicas = [value for key, value in call.trailing_metadata() if key == "x-served-by"]
        return Prediction(
            outputs["probabilities"], outputs["class"], ", ".join(replicas), response.model_version
        )


def _tensor(images: Images) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}


def _array(output: Mapping[str, Any], content: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.frombuffer(content, _dtype(output)).reshape(output["shape"])
    return array


def _dtype(output: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype({"FP32": "<f4", "INT64": "<i8"}[output["datatype"]])


def _replica(response: httpx.Response) -> str:
    return str(response.headers.get("x-served-by", ""))


def _no_answer(address: str, reason: str) -> ServingError:
    return ServingError(
        f"no answer from {address}: {reason}",
        expected="a prediction",
        remedy="look at the log of the replicas",
    )
