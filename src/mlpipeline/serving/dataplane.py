"""KServe's data plane, between its endpoints and the model, with stricter reading.

KServe's own reading lets a lie in a binary request, or a Content-Type it does not know, end in a
500; this one turns every unreadable request into an `InvalidInput`.
"""

from __future__ import annotations

from typing import Any

import orjson
from kserve import InferRequest, InferResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER, PredictorProtocol
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from mlpipeline.serving.images_model import ImagesModel
from mlpipeline.serving.refusals import refusal


class StrictDataPlane(DataPlane):  # type: ignore[misc]  # KServe is untyped
    """Reads V1 JSON, V2 JSON and V2 binary requests; CloudEvents are not spoken."""

    def decode(
        self,
        body: bytes | InferenceRequest,
        headers: dict[str, str],
        protocol_version: str = PredictorProtocol.REST_V1.value,
        model_name: str | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Read a request.

        Args:
            body: Bytes as they came, or what FastAPI has made of them.
            headers: The request's headers, with names in lower case.
            protocol_version: KServe's name of the protocol.
            model_name: What the model is called in the URL.

        Returns:
            The request, V1's as whatever JSON value it is, and no CloudEvent's attributes.

        Raises:
            InvalidInput: It cannot be read.
        """
        if isinstance(body, InferenceRequest):  # FastAPI has read it
            return InferRequest.from_inference_request(body, model_name), {}
        if protocol_version == PredictorProtocol.REST_V2.value:
            return _binary_request(body, headers, str(model_name)), {}
        return _json(body), {}

    def encode(
        self,
        model_name: str,
        response: dict[str, Any] | InferResponse,
        headers: dict[str, str],
        req_attributes: dict[str, Any],
    ) -> tuple[Any, dict[str, str]]:
        """Encode a response as KServe does, but not as a CloudEvent, whatever the headers say.

        Args:
            model_name: What the model is called in the URL.
            response: What the model returned.
            headers: The request's headers; not used.
            req_attributes: A CloudEvent's attributes; not used.

        Returns:
            The response's content and its headers.
        """
        encoded: tuple[Any, dict[str, str]] = super().encode(model_name, response, {}, {})
        return encoded

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Return a model's own metadata, which says more than KServe's.

        Args:
            model_name: What the model is called in the URL.

        Raises:
            ModelNotFound: There is no such model.
        """
        model: ImagesModel = self.get_model_from_registry(model_name)
        return model.metadata()


class FixedRepository(ModelRepositoryExtension):  # type: ignore[misc]  # KServe is untyped
    """Refuses to load or unload: KServe would let any client take the model away."""

    async def load(self, model_name: str) -> None:
        """Refuse to load a model.

        Args:
            model_name: What the model is called in the URL.

        Raises:
            InvalidInput: Always.
        """
        raise _fixed("load", model_name)

    async def unload(self, model_name: str) -> None:
        """Refuse to unload a model.

        Args:
            model_name: What the model is called in the URL.

        Raises:
            InvalidInput: Always.
        """
        raise _fixed("unload", model_name)


def _binary_request(body: bytes, headers: dict[str, str], model_name: str) -> InferRequest:
    """Read a V2 request in the binary tensor extension: JSON, then the bytes of its tensors."""
    length = _header_length(body, headers)
    header = _json(body[:length])
    tensors = header.get("inputs") if isinstance(header, dict) else None
    if isinstance(tensors, list):
        for tensor in tensors:  # KServe's request model insists on `data`
            if isinstance(tensor, dict):
                tensor.setdefault("data", [])
    try:
        request = InferRequest.from_inference_request(
            InferenceRequest.model_validate(header), model_name
        )
    except ValidationError as error:
        raise unreadable(error.errors()) from None
    for tensor in request.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or size < 0 or length + size > len(body):
            raise refusal(
                f"`binary_data_size` {size!r} with {len(body) - length} bytes left in the body",
                expected="the number of the tensor's bytes, which follow the JSON",
                remedy="send as many bytes after the JSON as its tensors claim",
            )
        tensor._raw_data = body[length : length + size]  # as `InferRequest(raw_inputs=...)` does
        length += size
    if length != len(body):
        raise refusal(
            f"{len(body) - length} bytes after the last tensor",
            expected="none",
            remedy="give each tensor its `binary_data_size`",
        )
    return request


def _header_length(body: bytes, headers: dict[str, str]) -> int:
    text = headers.get(INFERENCE_CONTENT_LENGTH_HEADER)
    if text is None:
        return len(body)  # JSON that did not call itself so
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= len(body)):
        raise refusal(
            f"{INFERENCE_CONTENT_LENGTH_HEADER}: {text} with a body of {len(body)} bytes",
            expected="the length of the JSON that the body begins with",
            remedy="count bytes, not characters",
        )
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise refusal(
            f"a body that is not JSON ({error})",
            expected="JSON (which has no NaN)",
            remedy="check the body; `curl --data @file` sends a file",
        ) from None


def unreadable(problems: Any) -> InvalidInput:
    """Return the refusal of a request that pydantic found wrong.

    Args:
        problems: What its `errors()` returned.
    """
    # FastAPI tries the body as an object and as bytes; that it is not bytes is no news.
    texts = {
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in problems
        if "bytes" not in problem["loc"]
    }
    return refusal(
        "; ".join(sorted(texts)) or "an unreadable body",
        expected='{"inputs": [{"name": "x", "shape": [N, ...], "datatype": "UINT8", "data": []}]}',
        remedy="mend the JSON, or send binary tensors as application/octet-stream with "
        f"{INFERENCE_CONTENT_LENGTH_HEADER}",
    )


def _fixed(verb: str, model_name: str) -> InvalidInput:
    return refusal(
        f"the request to {verb} {model_name}",
        expected="none: a replica serves one version for its whole life",
        remedy="publish another version and start replicas of it",
    )
