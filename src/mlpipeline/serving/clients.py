"""Clients for every protocol that a replica speaks, one connection each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import orjson
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from mlpipeline.errors import ServingError

Images = npt.NDArray[np.uint8]

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


class Answer(NamedTuple):
    """What a replica said.

    Attributes:
        probabilities: float32 (N, classes).
        classes: int64 (N).
        replica: Who said it; a front, and after it the replicas that it asked.
        version: Of the model; V1 does not say.
    """

    probabilities: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    replica: str
    version: str = ""

    @property
    def replicas(self) -> list[str]:
        """Those that have computed it, without a front."""
        names = self.replica.split(", ")
        return names[1:] or names


class Client(AbstractContextManager["Client"], Protocol):
    """A connection to a model."""

    def predict(self, images: Images, timeout: float) -> Answer:
        """Predict images (N, ...).

        Raises:
            ServingError: There was no answer within `timeout` seconds, or it was a refusal.
        """


class _RestClient(AbstractContextManager["_RestClient"]):
    def __init__(self, base_url: str, name: str) -> None:
        self._name = name
        self._http = httpx.Client(base_url=base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

    def predict(self, images: Images, timeout: float) -> Answer:
        """Predict images (N, ...)."""
        body = orjson.dumps({"instances": images}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = self._post(f"/v1/models/{self._name}:predict", body, timeout)
        probabilities = np.array(orjson.loads(response.content)["predictions"], np.float32)
        return Answer(probabilities, probabilities.argmax(axis=1), _replica(response))


class V2JsonClient(_RestClient):
    """V2 over REST: a flat list of numbers."""

    def predict(self, images: Images, timeout: float) -> Answer:
        """Predict images (N, ...)."""
        tensor = _tensor(images) | {"data": images.reshape(-1)}
        body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = self._post(f"/v2/models/{self._name}/infer", body, timeout)
        described = orjson.loads(response.content)
        outputs = {
            output["name"]: np.array(output["data"], _dtype(output)).reshape(output["shape"])
            for output in described["outputs"]
        }
        return Answer(
            outputs["probabilities"],
            outputs["class"],
            _replica(response),
            described["model_version"],
        )


class V2BinaryClient(_RestClient):
    """V2 over REST with the binary tensor extension, both ways."""

    def predict(self, images: Images, timeout: float) -> Answer:
        """Predict images (N, ...)."""
        body, headers = binary_request(images)
        return binary_answer(self._post(f"/v2/models/{self._name}/infer", body, timeout, headers))


def binary_request(images: Images) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a V2 request in the binary tensor extension."""
    tensor = _tensor(images) | {"parameters": {"binary_data_size": images.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"content-type": "application/octet-stream", _LENGTH: str(len(header))}
    return header + images.tobytes(), headers


def binary_answer(response: httpx.Response) -> Answer:
    """Read the answer to such a request."""
    offset = int(response.headers[_LENGTH])
    described = orjson.loads(response.content[:offset])
    outputs = {}
    for output in described["outputs"]:
        size = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = _array(output, response.content[offset : offset + size])
        offset += size
    return Answer(
        outputs["probabilities"],
        outputs["class"],
        _replica(response),
        described["model_version"],
    )


class GrpcClient(AbstractContextManager["GrpcClient"]):
    """V2 over gRPC with raw contents."""

    def __init__(self, address: str, name: str) -> None:
        """Connect to HOST:PORT."""
        self._address = address
        self._name = name
        options = [
            # Channels share a connection otherwise, and so would always reach the same replica.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.service_config", json.dumps(_RETRIES)),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ]
        self._channel = grpc.insecure_channel(address, options)
        self._stub = services.GRPCInferenceServiceStub(self._channel)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def predict(self, images: Images, timeout: float) -> Answer:
        """Predict images (N, ...)."""
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
        return Answer(
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
