"""What a run serves, or `mlpipeline serve`: replicas of one version at a time.

The ports are held to its end.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from mlpipeline.backends.local import replicas
from mlpipeline.backends.local.turns import turn
from mlpipeline.plan.config import Config
from mlpipeline.store.layout import Workspace

_LONGEST_WAIT_SECONDS = 3_600.0


class Service:
    """Serves while its body runs; another version takes the place of the one before."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        logs: Path,
        *,
        run: str = "",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Serve nothing yet.

        Args:
            config: The configuration.
            workspace: The folder of all artifacts.
            logs: The folder for a log of each replica.
            run: The name of the run.
            say: Called with whom it waits for.
        """
        self.version = ""
        """The version that is served; empty for none."""
        self._config, self._workspace, self._logs = config, workspace, logs
        self._run, self._say = run, say
        self._ports: AsyncExitStack | None = None
        self._replicas = AsyncExitStack()
        self._ended: asyncio.Task[None] | None = None
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Begin without a replica."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the replicas, then let the ports go."""
        self._is_over = True
        async with self._ports or AsyncExitStack():  # the replicas end first
            await self._replicas.aclose()

    async def hold_ports(self, *, seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """Hold the ports for replicas until the end, if they are not held yet.

        Another run of this workspace that has them is waited for: it ends by itself.

        Args:
            seconds: How long to wait for it.

        Raises:
            ProcessError: Something else uses one, or that run did not end in time.
        """
        if self._ports is not None:
            return
        settings = self._config.serving
        async with AsyncExitStack() as stack:
            for port in sorted((settings.port, settings.grpc_port)):  # not in each other's way
                lease = self._workspace.ports_lease(socket.gethostname(), port)
                what = f"port {port}"
                await stack.enter_async_context(
                    turn(what, lease, run=self._run, seconds=seconds, say=self._say)
                )
            stack.enter_context(replicas.reserved(settings))
            self._ports = stack.pop_all()

    def claim_ports(self) -> None:
        """Hold the ports until the end, without a lease: no run is to wait for what has no end.

        Raises:
            ProcessError: Something else uses one.
        """
        self._ports = AsyncExitStack()
        self._ports.enter_context(replicas.reserved(self._config.serving))

    async def roll(self, version: str) -> None:
        """Start a version's replicas; once all of them answer, end those of the version before.

        Args:
            version: A registered version of the configured model.

        Raises:
            ProcessError: A port is in use, or a replica did not become ready in time; the version
                before goes on.
        """
        await self.hold_ports()
        newer = AsyncExitStack()
        running = replicas.started(
            self._config, self._workspace, version, logs=self._logs, end_signal=self._end_signal
        )
        self._ended = await newer.enter_async_context(running)
        older, self._replicas, self.version = self._replicas, newer, version
        await older.aclose()

    def check(self) -> None:
        """Raise the error of a replica that has ended by itself."""
        if self._ended and self._ended.done():
            self._ended.result()

    def _end_signal(self) -> int:
        # In the end no replica is left that clients could change to: nobody waits until they have.
        return signal.SIGINT if self._is_over else signal.SIGTERM
