"""KServe's gRPC server, bound to one host, with refusals that are not logged as crashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

from grpc import StatusCode, aio
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from kserve import InferRequest
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.utils.utils import to_headers

from mlpipeline.errors import ServingError
from mlpipeline.serving.health import HealthServicer
from mlpipeline.serving.metrics import REQUESTS
from mlpipeline.serving.refusals import Unavailable, VersionNotFound, explain, not_images, refusal
from mlpipeline.serving.room import Room

_SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


class SharedPortGrpcServer(GRPCServer):  # type: ignore[misc]  # KServe is untyped
    """KServe's gRPC server; gRPC shares a port between processes of itself.

    KServe's own listens on all addresses, logs each call and waits in `start`.
    """

    async def start(self, address: str, *, replica: str, max_message: int, room: Room) -> None:
        """Begin to answer; `stop` is KServe's.

        Args:
            address: HOST:PORT to listen on.
            replica: Name of this replica, which every response carries in the trailing metadata
                `x-served-by`.
            max_message: The most bytes a request or a response may have.
            room: What all requests share. gRPC hands a message on once all of it has come, and
                there is no asking how large it will be: before, it takes no room. So messages
                that are still coming are bounded one by one only. The number of calls is not:
                who stalls would keep everybody else away, probes too.

        Raises:
            ServingError: Another program has the port.
        """
        models = self._data_plane.model_registry.get_models()
        self._health = HealthServicer(self._data_plane, {_SERVICE, *models})
        self._server = aio.server(
            interceptors=(_Interceptor(replica, list(models), room),),
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", max_message),
                ("grpc.so_reuseport", 1),  # the default on Linux, and we depend on it
            ],
        )
        services.add_GRPCInferenceServiceServicer_to_server(
            _Servicer(self._data_plane, self._model_repository_extension), self._server
        )
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise port_in_use(address, error) from None
        await self._server.start()

    async def stop(self, sig: int | None = None) -> None:
        """Finish what has begun; who watches the health is told, and not waited for.

        Args:
            sig: KServe's; not used.
        """
        self._health.end()
        await super().stop(sig)


class _Servicer(InferenceServicer):  # type: ignore[misc]  # KServe is untyped
    async def ModelMetadata(  # noqa: N802  # the protocol's name
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        """Add the names of the classes and the digest, which the message has no field for."""
        metadata = await self._data_plane.model_metadata(request.name, request.version)
        parameters = metadata.pop("parameters")
        context.set_trailing_metadata(
            (("classes", json.dumps(parameters["classes"])), ("digest", parameters["digest"]))
        )
        return messages.ModelMetadataResponse(**metadata)

    async def ModelReady(  # noqa: N802  # the protocol's name
        self, request: messages.ModelReadyRequest, _: Any
    ) -> messages.ModelReadyResponse:
        """Look at the version, too."""
        ready = await self._data_plane.model_ready(request.name, model_version=request.version)
        return messages.ModelReadyResponse(ready=ready)

    async def ModelInfer(  # noqa: N802  # the protocol's name
        self, request: messages.ModelInferRequest, context: Any
    ) -> messages.ModelInferResponse:
        """Pass on the headers that a model gives its answer; KServe's own drops them."""
        response, headers = await self._data_plane.infer(
            request=self._read(request),
            headers=to_headers(context),
            model_name=request.model_name,
        )
        context.set_trailing_metadata(tuple(headers.items()))
        return response.to_grpc()

    def _read(self, request: messages.ModelInferRequest) -> InferRequest:
        try:
            self.validate_grpc_request(request)
            return InferRequest.from_grpc(request)
        except InvalidInput as error:
            raise not_images(str(error)) from None


class _Readable(NamedTuple):
    """A request, and how many bytes it came in."""

    message: Any
    size: int


class _Unreadable(NamedTuple):
    """What stands for a request that is no message of the protocol."""

    problem: str


class _Interceptor(ExceptionToStatusInterceptor):  # type: ignore[misc]  # KServe is untyped
    """Says which replica answered; turns our refusals into a status without a stack trace."""

    def __init__(self, replica: str, models: Sequence[str], room: Room) -> None:
        super().__init__()
        self._identity = ("x-served-by", replica)
        self._models = models
        REQUESTS.labels(models[0], "grpc", StatusCode.OK.name)  # from the beginning
        self._room = room

    async def intercept_service(
        self, continuation: Callable[..., Any], handler_call_details: Any
    ) -> Any:
        """Have bytes that are no message come to `intercept`; gRPC would log a stack trace."""
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None:
            return None
        return handler._replace(request_deserializer=_reading(handler.request_deserializer))

    async def intercept(
        self, method: Callable[..., Any], request: Any, context: Any, method_name: str
    ) -> Any:
        with _counted(self._models[0], context, method_name), self._room.share() as share:
            if hasattr(request, "__aiter__"):
                request = _each_readable(request)  # of reflection: they are small
            elif isinstance(request, _Unreadable):
                text = str(_no_message(request))
                await context.abort(StatusCode.INVALID_ARGUMENT, text, (self._identity,))
            else:
                request, size = request
                try:
                    share.take(size)
                except Unavailable as error:
                    await context.abort(StatusCode.UNAVAILABLE, str(error), (self._identity,))
            response = await super().intercept(method, request, context, method_name)
        # Not before the call: KServe reads the trailing metadata as if a client had sent it.
        context.set_trailing_metadata((self._identity, *(context.trailing_metadata() or ())))
        return response

    async def handle_exception(
        self, error: Exception, request: Any, context: Any, method_name: str
    ) -> None:
        for kind, code in _REFUSALS.items():
            if isinstance(error, kind):
                await context.abort(code, str(error), (self._identity,))
        if isinstance(error, ModelNotFound):
            await context.abort(StatusCode.NOT_FOUND, self._no_model(error), (self._identity,))
        if not isinstance(error, aio.AbortError):  # that is a servicer's own refusal
            await super().handle_exception(error, request, context, method_name)
        raise error

    def _no_model(self, error: ModelNotFound) -> str:
        served = ", ".join(self._models)
        return explain(str(error), expected=served, remedy="ask for a model that is served")


@contextlib.contextmanager
def _counted(model: str, context: Any, method_name: str) -> Iterator[None]:
    """Count how a request for predictions is answered in the body."""
    if not method_name.endswith("/ModelInfer"):
        yield
        return
    code = StatusCode.UNKNOWN  # what gRPC makes of an error that is none of its own
    try:
        yield
        code = StatusCode.OK
    except aio.AbortError:
        code = context.code()
        raise
    except asyncio.CancelledError:  # the client waits no longer
        code = StatusCode.CANCELLED
        raise
    finally:
        REQUESTS.labels(model, "grpc", code.name).inc()


def _reading(
    deserializer: Callable[[bytes], Any],
) -> Callable[[bytes], _Readable | _Unreadable]:
    def deserialize(content: bytes) -> _Readable | _Unreadable:
        try:
            return _Readable(deserializer(content), len(content))
        except Exception as error:  # whichever: they are the client's bytes
            return _Unreadable(str(error))

    return deserialize


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Unreadable):
            raise _no_message(request)
        yield request.message


def _no_message(request: _Unreadable) -> InvalidInput:
    return refusal(
        f"bytes that are no message of this method ({request.problem})",
        expected="a message as the server's reflection describes it",
        remedy="make the client from the protocol's definition of this server",
    )


_REFUSALS = {
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    VersionNotFound: StatusCode.NOT_FOUND,
    Unavailable: StatusCode.UNAVAILABLE,
}


def port_in_use(address: str, cause: Exception) -> ServingError:
    """Return the error for an address that cannot be listened on.

    Args:
        address: HOST:PORT.
        cause: What the system says.
    """
    return ServingError(
        f"cannot listen on {address}: {cause}",
        expected="a free port, or one that only replicas of this user share",
        remedy="stop what uses it (`ss -ltnp` names it) or choose another port",
    )
