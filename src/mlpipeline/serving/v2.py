"""V2 over REST where KServe's own endpoints fall short.

Those know no versions, call a binary answer JSON, and let FastAPI read the body, whose idea of JSON
depends on the Content-Type. They stay in place behind these, for what is not named here.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from typing import Any

import fastapi
import orjson
from fastapi import Request, Response
from kserve.constants.constants import PredictorProtocol
from kserve.errors import ModelNotReady

from mlpipeline.serving.dataplane import StrictDataPlane

_MODEL = "/v2/models/{model_name}"


class V2Endpoints:
    """Metadata, readiness and inference of a model, with or without a version in the address."""

    def __init__(self, dataplane: StrictDataPlane) -> None:
        """Make endpoints.

        Args:
            dataplane: What answers.
        """
        self._dataplane = dataplane

    def register(self, app: fastapi.FastAPI) -> None:
        """Add them to an application: before KServe's, as the first that fits an address answers.

        Args:
            app: The application.
        """
        for prefix in (_MODEL, _MODEL + "/versions/{model_version}"):
            # Not FastAPI's kind of route: see `SharedPortServer`.
            app.add_route(prefix + "/infer", self.infer, methods=["POST"])
            for path, endpoint in (("", self.metadata), ("/ready", self.ready)):
                app.add_api_route(prefix + path, endpoint, methods=["GET"], response_model=None)

    async def metadata(self, model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """Describe a model.

        Args:
            model_name: What the model is called in the URL.
            model_version: The version in the URL, if there is one.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: There is no such version of it.
        """
        return await self._dataplane.model_metadata(model_name, model_version)

    async def ready(self, model_name: str, model_version: str | None = None) -> dict[str, Any]:
        """Say that a model is ready.

        Args:
            model_name: What the model is called in the URL.
            model_version: The version in the URL, if there is one.

        Raises:
            ModelNotFound: There is no such model.
            ModelNotReady: It is not.
            VersionNotFound: There is no such version of it.
        """
        if not await self._dataplane.model_ready(model_name, model_version=model_version):
            raise ModelNotReady(model_name)
        return {"name": model_name, "ready": True}

    async def infer(self, request: Request) -> Response:
        """Answer an inference request, JSON or binary, whatever it is called.

        Args:
            request: The request, with the model's name and perhaps a version in its URL.

        Raises:
            InvalidInput: The request cannot be answered.
            ModelNotFound: There is no such model.
            ModelNotReady: It is not ready.
            VersionNotFound: There is no such version of it.
        """
        model_name: str = request.path_params["model_name"]
        model_version: str | None = request.path_params.get("model_version")
        await self.ready(model_name, model_version)
        headers = dict(request.headers)
        body = await request.body()
        asked, _ = self._dataplane.decode(
            body, headers, PredictorProtocol.REST_V2.value, model_name
        )
        asked.model_version = model_version
        answer, from_model = await self._dataplane.infer(model_name, asked, headers)
        content, about_content = self._dataplane.encode(model_name, answer, headers, {})
        binary = isinstance(content, bytes)
        return Response(
            content if binary else orjson.dumps(content),
            headers=from_model | about_content,
            media_type="application/octet-stream" if binary else "application/json",
        )
