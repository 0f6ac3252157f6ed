"""One replica: KServe's `ModelServer` on ports that it shares with the other replicas."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from fastapi.exceptions import FastAPIDeprecationWarning
from kserve import ModelServer
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING

from mlpipeline import addresses
from mlpipeline.serving.dataplane import FixedRepository, StrictDataPlane
from mlpipeline.serving.images_model import ImagesModel
from mlpipeline.serving.metrics import SharedMetrics
from mlpipeline.serving.page import Page
from mlpipeline.serving.rest import SharedPortServer
from mlpipeline.serving.room import Room
from mlpipeline.serving.rpc import SharedPortGrpcServer, port_in_use

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """Where and how a replica serves.

    Attributes:
        host: The address to listen on.
        http_port: The REST port; replicas on one machine share it.
        grpc_port: The gRPC port; shared as well.
        replica: Name of this replica, which every response carries.
        max_body: The most bytes of a REST body or a gRPC message.
        max_bodies: The most bytes of all requests that are being answered, and of REST's that are
            being received. JSON takes up to sixteen times as much once it is read: what a replica's
            memory has to allow for. gRPC's messages that are being received come on top of it.
        linger: Seconds to go on answering after SIGTERM. SIGINT does not linger.
        grace_period: Seconds after that to finish what has begun.
    """

    host: str
    http_port: int
    grpc_port: int
    replica: str
    max_body: int = 64 * 2**20
    max_bodies: int = 2 * 64 * 2**20
    linger: float = 1.0
    grace_period: int = 20


class ReplicaServer(ModelServer):  # type: ignore[misc]  # KServe is untyped
    """KServe's server with our data plane, sockets and shutdown."""

    def __init__(
        self,
        settings: ServerSettings,
        on_ready: Callable[[], None],
        page: Page | None = None,
        beside: AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            settings: Where and how it serves.
            on_ready: Called once it listens.
            page: What a browser sees at `/`; None for no page.
            beside: What goes on while it serves, in the same loop.
        """
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            enable_latency_logging=False,
            grace_period=settings.grace_period,
        )
        self._settings = settings
        self._on_ready = on_ready
        self._page = page
        self._beside = beside or nullcontext()
        self.dataplane = StrictDataPlane(self.registered_models)
        self.model_repository_extension = FixedRepository(self.registered_models)
        # KServe sets its own logging up only where there is none (`mlpipeline.logs`): then these
        # two would write a line for each request.
        for name in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
        warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # KServe's to mend, not ours

    def start(self, models: list[ImagesModel]) -> None:
        """Serve until SIGTERM or SIGINT, then stop everything in order.

        KServe's own handler of these signals removes the model first, so that requests under way
        get a 404; here uvicorn's catches them, see `SharedPortServer`.

        Args:
            models: What is served, each under its name.

        Raises:
            ServingError: A port is in use.
        """
        for model in models:
            self.register_model(model)
        settings = self._settings
        address = f"{settings.host}:{settings.http_port}"
        collectors = [collector for model in models for collector in model.collectors]
        self._metrics = SharedMetrics(address, settings.replica, collectors)
        self._room = Room(settings.max_bodies)
        self._rest_server = SharedPortServer(
            FASTAPI_APP_IMPORT_STRING,
            self.dataplane,
            self.model_repository_extension,
            settings.http_port,
            grace_period=settings.grace_period,
            replica=settings.replica,
            max_body=settings.max_body,
            room=self._room,
            linger=settings.linger,
            metrics=self._metrics,
            page=self._page,
            on_ready=self._begin,
        )
        self._grpc_server = SharedPortGrpcServer(
            settings.grpc_port,
            self.dataplane,
            self.model_repository_extension,
            kwargs={},
            grace_period=settings.grace_period,
        )
        # What there is by now stays: some hundred thousand objects, most of them modules'. To look
        # through them for garbage every other second stopped all requests for 0.2 s.
        gc.collect()
        gc.freeze()
        # KServe runs asyncio's own loop whatever `event_loop` says; uvicorn knows the faster one.
        with asyncio.Runner(loop_factory=self._rest_server.config.get_loop_factory()) as runner:
            runner.run(self._serve())
        _log.info("%s has stopped", settings.replica)

    def _begin(self) -> None:
        settings = self._settings
        names = ", ".join(self.registered_models.get_models())
        address = addresses.join(settings.host, settings.http_port)
        grpc = addresses.join(settings.host, settings.grpc_port)
        _log.info("%s serves %s on %s (REST) and %s (gRPC)", settings.replica, names, address, grpc)
        self._on_ready()

    async def _serve(self) -> None:
        settings = self._settings
        async with self._metrics.shared(), self._beside:
            with _shared_listener(settings.host, settings.http_port) as listener:
                await self._grpc_server.start(
                    addresses.join(settings.host, settings.grpc_port),
                    replica=settings.replica,
                    max_message=settings.max_body,
                    room=self._room,
                )
                await self._rest_server.serve(listener)
            await self._grpc_server.stop()


def _shared_listener(host: str, port: int) -> socket.socket:
    """Bind a socket that this user's other processes can bind too.

    The kernel deals new connections out between them: https://lwn.net/Articles/542629/
    """
    with ExitStack() as stack:
        try:
            family, address = addresses.resolve(host, port)
            listener = stack.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError as error:
            raise port_in_use(addresses.join(host, port), error) from None
        stack.pop_all()
        return listener
