"""KServe's REST server on a port that replicas share, with one form for every error."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import FrameType
from typing import Any

import fastapi
import uvicorn
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlpipeline.serving.bodies import CODINGS, LEAST_RATE, PAUSE_SECONDS, Bodies
from mlpipeline.serving.connections import HttpProtocol
from mlpipeline.serving.dataplane import unreadable
from mlpipeline.serving.metrics import REQUESTS, SharedMetrics
from mlpipeline.serving.page import Page, PageEndpoints
from mlpipeline.serving.refusals import Unavailable, VersionNotFound, explain
from mlpipeline.serving.room import Room
from mlpipeline.serving.v2 import V2Endpoints

_PREDICTIONS = (":predict", "/infer")  # what their paths end with, in V1 and V2
_SETTLE_SECONDS = 0.5  # from a client's connection to its request


class SharedPortServer(RESTServer):  # type: ignore[misc]  # KServe is untyped
    """KServe's REST server on a socket that it is given."""

    def __init__(
        self,
        *arguments: Any,
        replica: str,
        max_body: int,
        room: Room,
        linger: float,
        metrics: SharedMetrics,
        page: Page | None,
        on_ready: Callable[[], None],
        **options: Any,
    ) -> None:
        """Take KServe's arguments and ours.

        Args:
            *arguments: Arguments of KServe's `RESTServer`.
            replica: Name of this replica, which every response carries in `x-served-by`.
            max_body: The most bytes a request's body may have.
            room: What the bodies of all requests share.
            linger: Seconds to go on answering after SIGTERM.
            metrics: What `/metrics` tells.
            page: What a browser sees at `/`; None for no page.
            on_ready: Called once when it listens.
            **options: Options of KServe's `RESTServer`.
        """
        super().__init__(*arguments, **options)
        self._max_body, self._room = max_body, room
        self._metrics, self._page = metrics, page
        self.config.http = HttpProtocol
        self.config.ws = "none"
        self.config.headers = [("x-served-by", replica)]
        self.config.access_log = False
        self._server = _LingeringServer(self.config, linger, on_ready)

    async def serve(self, listener: socket.socket) -> None:
        """Answer on `listener` until SIGTERM or SIGINT; then finish what has begun.

        KServe's `start` has uvicorn open the port itself, and uvicorn opens it for one process
        only. The socket is the one thing that must differ for several.

        Args:
            listener: A bound socket.
        """
        self.create_application()
        await self._server.serve(sockets=[listener])

    @property
    def _model(self) -> str:
        """What is served: one model."""
        return str(next(iter(self.dataplane.model_registry.get_models())))

    def _register_endpoints(self, app: fastapi.FastAPI) -> None:
        # First come, first served: KServe's own follow. Those are FastAPI's, which looks at each
        # request for what to give to the endpoint: a fifth of the time of a quick prediction.
        app.add_route("/v1/models/{model_name}:predict", self._predict, methods=["POST"])
        V2Endpoints(self.dataplane).register(app)
        if self._page:
            PageEndpoints(self._page, self.dataplane).register(app)
        app.add_api_route("/metrics", self._tell_metrics, response_model=None)
        app.add_api_route(
            "/v1/models/{model_name}:explain",
            self._refuse_to_explain,
            methods=["POST"],
            response_model=None,
        )
        super()._register_endpoints(app)

    def _add_middlewares(self, app: fastapi.FastAPI) -> None:
        # KServe adds one that times each request for its trace log. It takes 40 % of the time of
        # a request that does nothing, and /metrics has the times anyway.
        app.add_middleware(Bodies, max_body=self._max_body, room=self._room)
        app.add_middleware(_Addresses)
        app.add_middleware(_Counted, model=self._model)

    def _add_exception_handlers(self, app: fastapi.FastAPI) -> None:
        super()._add_exception_handlers(app)
        # KServe logs a stack trace for each bad request and leaves FastAPI's own errors alone.
        app.add_exception_handler(InvalidInput, _refuse_input)
        for kind in (Unavailable, ServerNotReady, ModelNotReady):
            app.add_exception_handler(kind, _refuse_for_now)
        app.add_exception_handler(ModelNotFound, self._refuse_model)
        app.add_exception_handler(VersionNotFound, _refuse_version)
        app.add_exception_handler(RequestValidationError, _refuse_body)
        app.add_exception_handler(HTTPException, self._refuse_request)
        app.add_exception_handler(ClientDisconnect, _answer_nobody)

    async def _predict(self, request: Request) -> Response:
        endpoints = V1Endpoints(self.dataplane)
        response: Response = await endpoints.predict(request.path_params["model_name"], request)
        return response

    async def _tell_metrics(self, request: Request) -> Response:
        text, content_type = await self._metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def _refuse_to_explain(self, model_name: str) -> JSONResponse:
        self.dataplane.get_model_from_registry(model_name)  # another one is said not to be there
        text = explain(
            f"a request to explain {model_name}",
            expected="none: no explainer is served here",
            remedy=f"POST /v1/models/{model_name}:predict predicts",
        )
        return _error_response(HTTPStatus.NOT_FOUND, text)

    async def _refuse_model(self, request: Request, error: Any) -> JSONResponse:
        if request.url.path.endswith(":predict") and request.method == "GET":
            # KServe took it for a question after the readiness of a model called `NAME:predict`.
            return await self._refuse_request(
                request, HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})
            )
        names = ", ".join(self.dataplane.model_registry.get_models())
        text = explain(
            f"{request.method} {request.url.path}: no such model",
            expected=names,
            remedy="GET /v1/models lists what is served",
        )
        return _error_response(HTTPStatus.NOT_FOUND, text)

    async def _refuse_request(self, request: Request, error: Any) -> JSONResponse:
        name = self._model
        expected, remedy = {
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
                f"at most {self._max_body} bytes",
                "send fewer images at once, or binary tensors, which are smaller than JSON",
            ),
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
                f"{', '.join(CODINGS)}, or no Content-Encoding",
                "send the body as it is, or compressed by one of these",
            ),
            HTTPStatus.REQUEST_TIMEOUT: (
                f"{LEAST_RATE // 2**10} KiB/s on average after the first {PAUSE_SECONDS:.0f} s, "
                f"and no pause longer than {PAUSE_SECONDS:.0f} s",
                "send the whole body at once; on a slow line, fewer images in it",
            ),
            HTTPStatus.BAD_REQUEST: ("a readable body", "check that it is JSON, as UTF-8"),
        }.get(
            HTTPStatus(error.status_code),
            (
                f"POST /v1/models/{name}:predict or POST /v2/models/{name}/infer",
                "check address and method",
            ),
        )
        got = f"{request.method} {request.url.path}: {error.detail}"
        text = explain(got, expected=expected, remedy=remedy)
        return _error_response(error.status_code, text, error.headers)


class _Addresses:
    """Takes `HEAD` for `GET`, and an address with a slash at its end for the one without.

    FastAPI refuses the first, and redirects the second by a 307 that hardly any client follows
    with a body. uvicorn, which has the request as it came, sends no body in answer to `HEAD`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


class _Counted:
    """Counts how requests for predictions are answered."""

    def __init__(self, app: ASGIApp, model: str) -> None:
        self._app, self._model = app, model
        REQUESTS.labels(model, "rest", HTTPStatus.OK.value)  # from the beginning, not the first one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith(_PREDICTIONS):
            await self._app(scope, receive, send)
            return
        # Of an error that nobody handles, the layer around this one makes an answer.
        code = HTTPStatus.INTERNAL_SERVER_ERROR.value

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            REQUESTS.labels(self._model, "rest", code).inc()


class _LingeringServer(uvicorn.Server):
    """Goes on answering for a while after SIGTERM, and asks each client to connect anew.

    Kubernetes sends SIGTERM before every node has stopped sending requests here, and a client may
    be writing to a connection that has been idle: closed at once, both would see an error.
    """

    def __init__(self, config: uvicorn.Config, linger: float, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._linger = linger
        self._on_ready = on_ready
        self._end: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; unlike uvicorn's own, it does not raise the signal again afterwards."""
        if sig == signal.SIGTERM and self._end is None:
            self._end = time.monotonic() + self._linger
            goodbye = (b"connection", b"close")
            self.config.encoded_headers.append(goodbye)  # uvicorn reads these once a second ...
            self.server_state.default_headers.append(goodbye)  # ... so for this second too
        else:
            self.force_exit = self.should_exit  # the second Ctrl-C does not wait
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if self._end is not None and now >= self._end:
            for server in self.servers:  # other replicas on this port get the next clients ...
                server.close()
            # ... but one that has connected may still be about to ask.
            self.should_exit |= now >= self._end + _SETTLE_SECONDS
        return await super().on_tick(counter)


async def _refuse_input(_: Request, error: Any) -> JSONResponse:
    return _error_response(HTTPStatus.BAD_REQUEST, str(error))


async def _refuse_version(_: Request, error: Any) -> JSONResponse:
    return _error_response(HTTPStatus.NOT_FOUND, str(error))


async def _refuse_for_now(_: Request, error: Any) -> JSONResponse:
    text = str(error)
    if not isinstance(error, Unavailable):  # KServe's say less
        text = explain(
            text,
            expected="a model that answers",
            remedy="try again in some seconds; if that goes on, look at the log of the server",
        )
    return _error_response(HTTPStatus.SERVICE_UNAVAILABLE, text, {"retry-after": "1"})


async def _answer_nobody(_: Request, __: Any) -> Response:
    """A client that goes before its body has come is no error of ours, and gets no answer."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _refuse_body(_: Request, error: Any) -> JSONResponse:
    return _error_response(HTTPStatus.BAD_REQUEST, str(unreadable(error.errors())))


def _error_response(
    status: int, text: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status, headers=headers)
