"""What a run serves: replicas of one version at a time, behind ports that are held to its end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Self

from mlpipeline.backends.local import replicas
from mlpipeline.plan.config import Config
from mlpipeline.store.layout import Workspace


class Service:
    """Serves while its body runs; another version takes the place of the one before."""

    def __init__(self, config: Config, workspace: Workspace, logs: Path) -> None:
        """Serve nothing yet.

        Args:
            config: The configuration.
            workspace: The folder of all artifacts.
            logs: The folder for a log of each replica.
        """
        self.version = ""
        """The version that is served; empty for none."""
        self._config, self._workspace, self._logs = config, workspace, logs
        self._ports: ExitStack | None = None
        self._replicas = AsyncExitStack()
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin without a replica."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the replicas, then let the ports go."""
        with self._ports or ExitStack():  # the replicas end first
            await self._replicas.aclose()

    def hold_ports(self) -> None:
        """Hold the ports for replicas until the end, if they are not held yet.

        Raises:
            ProcessError: One is in use.
        """
        if self._ports is None:
            with ExitStack() as stack:
                stack.enter_context(replicas.reserved(self._config.serving))
                self._ports = stack.pop_all()

    async def roll(self, version: str) -> None:
        """Start a version's replicas; once all of them answer, end those of the version before.

        Args:
            version: A registered version of the configured model.

        Raises:
            ProcessError: A port is in use, or a replica did not become ready in time; the version
                before goes on.
        """
        self.hold_ports()
        newer = AsyncExitStack()
        running = replicas.started(self._config, self._workspace, version, logs=self._logs)
        self._ended = await newer.enter_async_context(running)
        older, self._replicas, self.version = self._replicas, newer, version
        await older.aclose()

    def check(self) -> None:
        """Raise the error of a replica that has ended by itself."""
        if self._ended and self._ended.done():
            self._ended.result()
