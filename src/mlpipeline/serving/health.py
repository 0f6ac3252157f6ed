"""gRPC's own health checking, which probes of Kubernetes and load balancers speak.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as messages
from grpc_health.v1 import health_pb2_grpc as services
from kserve.protocol.dataplane import DataPlane

from mlpipeline.serving.refusals import explain

_Status = messages.HealthCheckResponse
_LOOK_SECONDS = 0.5


class HealthServicer(services.HealthServicer):  # type: ignore[misc]  # it is untyped
    """Says whether a prediction would be answered, whenever it is asked.

    The servicer that comes with the protocol has to be told of each change.
    """

    def __init__(self, data_plane: DataPlane, names: Collection[str]) -> None:
        """Make a servicer.

        Args:
            data_plane: What knows.
            names: The services and models that may be asked for, beside the server as a whole.
        """
        self._data_plane = data_plane
        self._names = {"", *names}
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Say from now on that nothing is served, and let those go who watch."""
        self._ending.set()

    async def Check(  # noqa: N802  # the protocol's name
        self, request: messages.HealthCheckRequest, context: Any
    ) -> messages.HealthCheckResponse:
        """Tell the health once."""
        if request.service not in self._names:
            names = ", ".join(sorted(self._names - {""}))
            text = explain(
                f"the service {request.service!r}",
                expected=f"{names}, or no name for the whole server",
                remedy="ask for one of these",
            )
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
        return _Status(status=await self._status(request.service))

    async def Watch(  # noqa: N802  # the protocol's name
        self, request: messages.HealthCheckRequest, _: Any
    ) -> AsyncIterator[messages.HealthCheckResponse]:
        """Tell the health, and again whenever it changes."""
        told = None
        while told != (now := await self._status(request.service)) or not self._ending.is_set():
            if now != told:
                yield _Status(status=now)
            told = now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._ending.wait()

    async def _status(self, name: str) -> int:
        if name not in self._names:
            return int(_Status.SERVICE_UNKNOWN)
        ready = not self._ending.is_set() and await self._data_plane.ready()
        return int(_Status.SERVING if ready else _Status.NOT_SERVING)
