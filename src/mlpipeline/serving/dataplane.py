"""KServe's data plane, between its endpoints and the model, with stricter reading.

KServe's own reading lets a lie in a binary request, or a Content-Type it does not know, end in a
500; this one turns every unreadable request into an `InvalidInput`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any

import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER, PredictorProtocol
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from mlpipeline.serving import instances
from mlpipeline.serving.images_model import ImagesModel
from mlpipeline.serving.refusals import VersionNotFound, not_images, refusal

EXTENSIONS = ("binary_tensor_data", "classification")
"""Triton's names of the extensions of V2 that are spoken here.

https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KEY = re.compile(rb'"([^"]*)"\s*:')


class StrictDataPlane(DataPlane):  # type: ignore[misc]  # KServe is untyped
    """Reads V1 JSON, V2 JSON and V2 binary requests; CloudEvents are not spoken."""

    def decode(
        self,
        body: bytes,
        headers: dict[str, str],
        protocol_version: str = PredictorProtocol.REST_V1.value,
        model_name: str | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Read a request.

        Args:
            body: Bytes as they came, decompressed.
            headers: The request's headers, with names in lower case.
            protocol_version: KServe's name of the protocol.
            model_name: What the model is called in the URL.

        Returns:
            The request, V1's as whatever JSON value it is, and no CloudEvent's attributes.

        Raises:
            InvalidInput: It cannot be read.
        """
        if protocol_version == PredictorProtocol.REST_V2.value:
            return _v2_request(body, headers, str(model_name)), {}
        return instances.read(body) or _v1_request(body), {}

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

    def metadata(self) -> dict[str, Any]:
        """Describe the server: KServe's own says that models can be loaded and unloaded."""
        about: dict[str, Any] = super().metadata()
        return about | {"extensions": list(EXTENSIONS)}

    async def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> dict[str, Any]:
        """Return a model's own metadata, which says more than KServe's.

        Args:
            model_name: What the model is called in the URL.
            model_version: The version that is asked for, if one is.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: There is no such version of it.
        """
        model: ImagesModel = self.get_model_from_registry(model_name)
        metadata = model.metadata()
        (served,) = metadata["versions"]
        if model_version and model_version != served:
            raise VersionNotFound(model_name, model_version, served)
        return metadata

    async def model_ready(
        self,
        model_name: str,
        disable_predictor_health_check: bool = False,
        model_version: str | None = None,
    ) -> bool:
        """Return whether a model would answer.

        Args:
            model_name: What the model is called in the URL.
            disable_predictor_health_check: KServe's; not used.
            model_version: The version that is asked for, if one is.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: There is no such version of it.
        """
        ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        if ready and model_version:
            await self.model_metadata(model_name, model_version)
        return ready


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


def _v1_request(body: bytes) -> Any:
    """Read a V1 request, whatever JSON value it is, as lists: `instances` reads the usual ones."""
    request = _json(body)
    if isinstance(request, dict):
        _refuse_truth_values(body, [request.get("instances")])
    return request


def _v2_request(body: bytes, headers: dict[str, str], model_name: str) -> InferRequest:
    """Read a V2 request: JSON, and perhaps the bytes of its tensors behind it."""
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
    except InvalidInput as error:
        raise not_images(str(error)) from None
    _refuse_truth_values(body[:length], [tensor.data for tensor in request.inputs])
    for tensor in request.inputs:
        length = _take_bytes(tensor, body, length)
    if length != len(body):
        raise refusal(
            f"{len(body) - length} bytes after the last tensor",
            expected="none",
            remedy="give each tensor its `binary_data_size`",
        )
    return request


def _take_bytes(tensor: InferInput, body: bytes, start: int) -> int:
    """Give a tensor its bytes, if it has some, and return where they end."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return start
    if type(size) is not int or size < 0 or start + size > len(body):
        raise refusal(
            f"`binary_data_size` {size!r} with {len(body) - start} bytes left in the body",
            expected="the number of the tensor's bytes, which follow the JSON",
            remedy="send as many bytes after the JSON as its tensors claim, and "
            f"{INFERENCE_CONTENT_LENGTH_HEADER} with the length of the JSON",
        )
    if tensor.data:
        raise refusal(
            f"both `data` and `binary_data_size` of the tensor {tensor.name!r}",
            expected="one of them",
            remedy="leave out the one that does not hold the pixels",
        )
    tensor._raw_data = body[start : start + size]  # as `InferRequest(raw_inputs=...)` does
    return start + size


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
    text = text.removeprefix(codecs.BOM_UTF8)  # some editors and shells begin their files with it
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        got = f"a body that is not JSON ({error})"
        if text.startswith(_UTF_16):
            got = "a body in UTF-16"
        raise refusal(
            got,
            expected="JSON (which has no NaN), as UTF-8",
            remedy="check the body; `curl --data @file` sends a file",
        ) from None
    keys = _KEY.findall(text)
    if len(set(keys)) < len(keys) or b"\\" in text:  # perhaps in one object, so look closely
        try:
            json.loads(text, object_pairs_hook=_without_repetition, parse_int=float)
        except RecursionError:
            raise refusal(
                "JSON that is nested too deep",
                expected="lists as deep as an image has dimensions",
                remedy="check the body",
            ) from None
    return value


def _refuse_truth_values(text: bytes, lists: Sequence[Any]) -> None:
    """Refuse `true` and `false` among numbers: NumPy takes them for 1 and 0.

    Args:
        text: The JSON. It is looked at first, for one letter of each word: these are found at once,
            and what is mostly numbers hardly has them.
        lists: What should be numbers in it, in lists of lists of any depth.
    """
    if not ((b"u" in text and b"true" in text) or (b"f" in text and b"false" in text)):
        return
    todo = list(lists)
    while todo:
        values = todo.pop()
        if not isinstance(values, list):
            continue  # what it is instead is said where it is read
        for value in values if bool in map(type, values) else ():
            if isinstance(value, bool):
                raise refusal(
                    f"{json.dumps(value)} among the values of the images",
                    expected="integers 0..255",
                    remedy="send raw pixels, unscaled: 0 and 255 for black and white",
                )
        todo += [value for value in values if type(value) is list]


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that an object has twice: some readers take the first, some the last."""
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise refusal(
                f"an object that has {key!r} more than once",
                expected="each name once",
                remedy="leave out what is not meant",
            )
        keys.add(key)
    return dict(pairs)


def unreadable(problems: Any) -> InvalidInput:
    """Return the refusal of a request that pydantic found wrong.

    Args:
        problems: What its `errors()` returned.
    """
    texts = {
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in problems
    }
    return refusal(
        "; ".join(sorted(texts)),
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
