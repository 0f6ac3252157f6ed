"""KServe's gRPC server, bound to one host, with refusals that are not logged as crashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from grpc import StatusCode, aio
from kserve import InferRequest
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.utils.utils import to_headers

from mlpipeline.errors import ServingError
from mlpipeline.serving.refusals import Unavailable


class SharedPortGrpcServer(GRPCServer):  # type: ignore[misc]  # KServe is untyped
    """KServe's gRPC server; gRPC shares a port between processes of itself.

    KServe's own listens on all addresses, logs each call and waits in `start`.
    """

    async def start(self, address: str, *, replica: str, max_message: int) -> None:
        """Begin to answer; `stop` is KServe's.

        Args:
            address: HOST:PORT to listen on.
            replica: Name of this replica, which every response carries in the trailing metadata
                `x-served-by`.
            max_message: The most bytes a request or a response may have.

        Raises:
            ServingError: Another program has the port.
        """
        self._server = aio.server(
            interceptors=(_Interceptor(replica),),
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", max_message),
                ("grpc.so_reuseport", 1),  # the default on Linux, and we depend on it
            ],
        )
        services.add_GRPCInferenceServiceServicer_to_server(
            _Servicer(self._data_plane, self._model_repository_extension), self._server
        )
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise port_in_use(address, error) from None
        await self._server.start()


class _Servicer(InferenceServicer):  # type: ignore[misc]  # KServe is untyped
    async def ModelMetadata(  # noqa: N802  # the protocol's name
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        """Add the names of the classes and the digest, which the message has no field for."""
        metadata = await self._data_plane.model_metadata(request.name)
        parameters = metadata.pop("parameters")
        context.set_trailing_metadata(
            (("classes", json.dumps(parameters["classes"])), ("digest", parameters["digest"]))
        )
        return messages.ModelMetadataResponse(**metadata)

    async def ModelInfer(  # noqa: N802  # the protocol's name
        self, request: messages.ModelInferRequest, context: Any
    ) -> messages.ModelInferResponse:
        """Pass on the headers that a model gives its answer; KServe's own drops them."""
        self.validate_grpc_request(request)
        response, headers = await self._data_plane.infer(
            request=InferRequest.from_grpc(request),
            headers=to_headers(context),
            model_name=request.model_name,
        )
        context.set_trailing_metadata(tuple(headers.items()))
        return response.to_grpc()


class _Interceptor(ExceptionToStatusInterceptor):  # type: ignore[misc]  # KServe is untyped
    """Says which replica answered; turns our refusals into a status without a stack trace."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self._identity = ("x-served-by", replica)

    async def intercept(
        self, method: Callable[..., Any], request: Any, context: Any, method_name: str
    ) -> Any:
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
        await super().handle_exception(error, request, context, method_name)


_REFUSALS = {
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    ModelNotFound: StatusCode.NOT_FOUND,
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
