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
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.rest.server import RESTServer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlpipeline.serving.dataplane import unreadable
from mlpipeline.serving.refusals import Unavailable, explain

_SETTLE_SECONDS = 0.5  # from a client's connection to its request


class SharedPortServer(RESTServer):  # type: ignore[misc]  # KServe is untyped
    """KServe's REST server on a socket that it is given."""

    def __init__(
        self,
        *arguments: Any,
        replica: str,
        max_body: int,
        linger: float,
        on_ready: Callable[[], None],
        **options: Any,
    ) -> None:
        """Take KServe's arguments and ours.

        Args:
            *arguments: Arguments of KServe's `RESTServer`.
            replica: Name of this replica, which every response carries in `x-served-by`.
            max_body: The most bytes a request's body may have.
            linger: Seconds to go on answering after SIGTERM.
            on_ready: Called once when it listens.
            **options: Options of KServe's `RESTServer`.
        """
        super().__init__(*arguments, **options)
        self._max_body = max_body
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

    def _register_endpoints(self, app: fastapi.FastAPI) -> None:
        # First come, first served: KServe's own endpoint drops the fields it does not know.
        app.add_api_route(
            "/v2/models/{model_name}", self.dataplane.model_metadata, response_model=None
        )
        super()._register_endpoints(app)

    def _add_middlewares(self, app: fastapi.FastAPI) -> None:
        # KServe adds one that times each request for its trace log. It takes 40 % of the time of
        # a request that does nothing, and /metrics has the times anyway.
        app.add_middleware(_BodyLimit, max_body=self._max_body)

    def _add_exception_handlers(self, app: fastapi.FastAPI) -> None:
        super()._add_exception_handlers(app)
        # KServe logs a stack trace for each bad request and leaves FastAPI's own errors alone.
        app.add_exception_handler(InvalidInput, _refuse_input)
        for kind in (Unavailable, ServerNotReady, ModelNotReady):
            app.add_exception_handler(kind, _refuse_for_now)
        app.add_exception_handler(ModelNotFound, self._refuse_model)
        app.add_exception_handler(RequestValidationError, _refuse_body)
        app.add_exception_handler(HTTPException, self._refuse_request)

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
        name = next(iter(self.dataplane.model_registry.get_models()))
        expected, remedy = {
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
                f"at most {self._max_body} bytes",
                "send fewer images at once, or binary tensors, which are smaller than JSON",
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


class _BodyLimit:
    """Refuses a request whose body is too large: by its own account, or as soon as it is."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length") if scope["type"] == "http" else "0"
        if length is None:  # sent in chunks; otherwise uvicorn reads no more than was announced
            receive = self._counting(receive)
        elif int(length) > self._max_body:
            receive = self._refusing
        await self._app(scope, receive, send)

    def _counting(self, receive: Receive) -> Receive:
        size = 0

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message if size <= self._max_body else await self._refusing()

        return counting

    async def _refusing(self) -> Message:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


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


async def _refuse_for_now(_: Request, error: Any) -> JSONResponse:
    return _error_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


async def _refuse_body(_: Request, error: Any) -> JSONResponse:
    return _error_response(HTTPStatus.BAD_REQUEST, str(unreadable(error.errors())))


def _error_response(
    status: int, text: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status, headers=headers)
